"""Settings that nobody gave, where they follow from the text, the preset and the budget.

Each is decided once, written to the run and read again on resume.
"""

from dataclasses import replace
from math import ceil, inf
from typing import Any

import torch

from bertsmith import distributed
from bertsmith.budget import MOST_STEPS, Clock, first_estimate
from bertsmith.config import changed
from bertsmith.data.batch import Batch, collate
from bertsmith.data.masking import share_at
from bertsmith.errors import UserError
from bertsmith.machine.device import require_memory
from bertsmith.machine.measure import Speed, compare_precisions, halving, seconds_per_micro_batch
from bertsmith.machine.memory import rows_that_fit, training_state
from bertsmith.machine.work import step_operations
from bertsmith.model.first_attention import can_begin_beside
from bertsmith.objective import sum_losses
from bertsmith.planning.from_settings import model_config, model_of, parameters_of
from bertsmith.planning.sizing import choose_size
from bertsmith.planning.stages import mean_rows, mean_work
from bertsmith.presets import FIRST_WEIGHTS, PRESETS, sizes_of
from bertsmith.replay import AnyRows
from bertsmith.run_folder import Run
from bertsmith.tokenizer import Tokenizer

TOKEN_GOAL = 50e6
MAX_EPOCHS = 20.0
"""Default length of a run: enough epochs for TOKEN_GOAL tokens, at least 1, at most MAX_EPOCHS."""

WARMUP_SHARE, FEWEST_WARMUP_STEPS, MOST_WARMUP_SHARE = 0.06, 150, 0.25
"""The rate rises over this share of the steps; in short runs over so many, but at most the last share (docs/log.md)."""

CONTINUED_RATE = 0.5
"""Of the preset's peak learning rate, where a run goes on from a model: more of what it knew stays (docs/log.md)."""

SPEED_ROWS = 16
"""Rows that the speed of a size is measured with on a CPU, at most."""

GPU_STEP_PLACES, GPU_GAIN = 8192, 1.3
"""A step on a GPU gets twice the rows, and twice again, up to so many places, as long as each time that many times as
many rows are computed in the same time."""


def decide_family(run: Run) -> None:
    """The preset of the family, where none was given; a budget may find another size of it.

    Raises:
        UserError: The family was given, and a preset or a model to go on from that is not of it.
    """
    model = run.config.model
    if "preset" not in run.origin:
        run.decide("default", preset=f"{model.family}-mini")
    family = run.config.model.preset.partition("-")[0]
    if run.origin.get("family", "default") == "default":
        run.decide("default", family=family)
    elif family != model.family:
        other = model.init or f"preset {model.preset}"
        raise UserError(f"family is '{model.family}', but {other} is of '{family}'; leave --family out")


def decide_objective(run: Run, manifest: dict[str, Any]) -> None:
    """Next sentences are worth predicting where most of the text has them, and the model has a head for them."""
    objective = run.config.training.objective
    if objective not in {"auto", "mlm"} and manifest["multi_sentence_fraction"] == 0:
        raise UserError(
            f"objective is '{objective}', but no section of this text has two sentences to make a pair of; "
            "give --objective mlm, or another --document"
        )
    if objective != "auto":
        return
    if not PRESETS[run.config.model.preset].has_next_sentence_head:
        run.decide("preset", objective="mlm")
    else:
        enough = manifest["multi_sentence_fraction"] >= 0.5
        run.decide("measured", objective="mlm+nsp" if enough else "mlm")


def decide_recipe(run: Run) -> None:
    """Take from the preset how it is trained, where nothing else was said."""
    recipe = dict(PRESETS[run.config.model.preset].recipe)
    given = {"mlm_probability", "end_probability"} & run.origin.keys()  # they belong together
    if given or run.config.training.replay is not None:  # rows of two texts have no falling share
        recipe.pop("mlm_probability", None)
        recipe.pop("end_probability", None)
    if run.config.model.init is not None:
        recipe.pop("muon_scale", None)  # how fast a model forgets was measured without it (docs/log.md)
        for of_new_weights, _ in FIRST_WEIGHTS:
            recipe.pop(of_new_weights, None)
    run.decide("preset", **{name: value for name, value in recipe.items() if name not in run.origin})


def decide_by_budget(run: Run, clock: Clock, rows: AnyRows, tokenizer: Tokenizer, device: torch.device) -> None:
    """Choose the size, if none was given, the schedule, and the number of steps, which the clock will correct."""
    training, budget = run.config.training, clock.budget
    assert budget is not None
    if "schedule" not in run.origin:
        run.decide("preset", schedule="trapezoid")

    def sized(preset: str) -> Run:
        probe = replace(run, config=changed(run.config, preset=preset), origin={})
        decide_shape(probe)
        return probe

    found: dict[str, tuple[bool, int]] = {}

    def seconds_per_row(preset: str) -> float:
        """All processes together."""
        speed, count = speed_on_device(sized(preset), tokenizer, rows, device)
        is_half = bool(distributed.from_main(speed.precision == "bfloat16"))
        found[preset] = is_half, int(distributed.from_main(count))
        return distributed.from_main(speed.seconds) / distributed.world_size()

    def operations_per_row(preset: str) -> float:
        return distributed.from_main(row_operations(sized(preset), tokenizer, device))

    amount = budget.operations or distributed.from_main(clock.left())
    price_per_row = seconds_per_row if budget.operations is None else operations_per_row
    is_open = run.origin["preset"] == "default"
    sizes = sizes_of(run.config.model.family) if is_open else (run.config.model.preset,)
    choice = choose_size(sizes, amount, training.sequence_length, price_per_row)
    if is_open:
        run.decide("measured", preset=choice.preset)
    if choice.preset in found:
        _take_measured(run, *found[choice.preset])
    decide_shape(run)
    price = choice.price_per_row * (run.config.training.global_batch_size or 1)
    if budget.operations is not None:
        price = mean_work(model_config(run, tokenizer), run.config.training)
    if amount / price >= MOST_STEPS:
        raise UserError(
            f"budget is '{training.budget}', which {choice.preset} would spend in {amount / price:.0e} steps; give less"
        )
    steps = amount / price
    tokens = steps * (run.config.training.global_batch_size or 1) * training.sequence_length
    run.decide("measured", steps=max(1, int(steps / _more_rows(run, tokens))))


def _more_rows(run: Run, tokens: float) -> float:
    """Give the steps of a run over so many tokens the rows that suit it, and tell how many times as many they are."""
    number = run.config.training.global_batch_size or 1
    if run.origin.get("global_batch_size") != "preset" or run.config.model.init is not None:
        return 1.0  # what is best for a model that goes on was not measured
    rows = PRESETS[run.config.model.preset].rows_of_step(tokens)
    if rows != number:
        run.decide("default", global_batch_size=rows)
    return rows / number


def _take_measured(run: Run, is_half: bool, rows: int) -> None:
    """What was found while the speed of a size was measured, where it was not given."""
    if run.config.training.precision == "auto":
        run.decide("measured", precision="bfloat16" if is_half else "float32")
    if run.config.training.global_batch_size is None and rows > PRESETS[run.config.model.preset].global_batch_size:
        run.decide("measured", global_batch_size=rows)


def row_operations(run: Run, tokenizer: Tokenizer, device: torch.device) -> float:
    """Floating-point operations that a run spends on a row, in the mean; infinite where its model does not fit."""
    training = run.config.training
    try:
        require_memory(parameters_of(run, tokenizer), device)
    except UserError:
        return inf
    length = training.sequence_length
    predictions = share_at(training.mlm_probability, training.end_probability, 0.5) * length
    return step_operations(model_config(run, tokenizer), tokens=length, row_length=length, predictions=predictions)


def speed_on_device(run: Run, tokenizer: Tokenizer, rows: AnyRows, device: torch.device) -> tuple[Speed, int]:
    """The time of a row with the model of a run, and the rows of a step that it is the time of.

    A GPU computes many rows in nearly the time of few, and a model learns as much from a token in a larger step, as far
    as that was tried (docs/log.md, "More rows where they cost nothing"), so there a step gets more than the preset has.
    """
    number = run.config.training.global_batch_size or 1
    speed = row_speed(run, tokenizer, rows, device)
    if device.type != "cuda" or run.origin.get("global_batch_size") != "preset":
        return speed, number
    while 2 * number * run.config.training.sequence_length <= GPU_STEP_PLACES:
        larger = replace(run, config=changed(run.config, global_batch_size=2 * number))
        its_speed = row_speed(larger, tokenizer, rows, device)
        if its_speed.seconds * GPU_GAIN > speed.seconds:
            break
        speed, number = its_speed, 2 * number
    return speed, number


def row_speed(run: Run, tokenizer: Tokenizer, rows: AnyRows, device: torch.device) -> Speed:
    """Measure the time of a row with the model of a run; infinite where it does not fit into memory.

    With no more rows than are computed at once: a GPU takes hardly longer for many than for few.
    """

    def first_rows(count: int) -> Batch:
        return collate(rows.__getitems__(list(range(count)))).to(device)

    training = run.config.training
    precision = training.precision
    try:
        require_memory(parameters_of(run, tokenizer), device)
        model = model_of(run, tokenizer).to(device)
        state = training_state(model, optimizer=training.optimizer, averaged=training.average_decay > 0)
        share = ceil((training.global_batch_size or 1) / distributed.world_size())
        most = min(rows_that_fit(model, first_rows, precision, state=state), training.micro_batch_size or share, share)
        if precision == "auto":
            speed, count = compare_precisions(model, first_rows, most)
        else:
            seconds, count = halving(
                most if device.type == "cuda" else min(SPEED_ROWS, most),
                lambda rows: seconds_per_micro_batch(model, sum_losses, first_rows(rows), precision),
            )
            speed = Speed(precision, seconds)
    except UserError:
        return Speed("float32" if precision == "auto" else precision, inf)
    return speed._replace(seconds=speed.seconds / count)


def decide_shape(run: Run) -> None:
    """Fill in the model's shape, the learning rate and the rows of a step from the preset."""
    preset, model, training = PRESETS[run.config.model.preset], run.config.model, run.config.training
    shape = preset.shape(model.hidden_size)
    run.decide("preset", **{name: value for name, value in shape.items() if getattr(model, name) is None})
    if training.learning_rate is None:
        rate = preset.muon_rate if training.optimizer == "muon" else preset.adamw_rate
        run.decide("preset", learning_rate=rate * (CONTINUED_RATE if model.init else 1))
    if training.global_batch_size is None:
        run.decide("preset", global_batch_size=preset.global_batch_size)


def decide_first_attention(run: Run, tokenizer: Tokenizer) -> None:
    """Where heads are too narrow to begin beside each token they begin at random, as the preset of another size would.

    Raises:
        UserError: They were asked to begin beside each token.
    """
    config = model_config(run, tokenizer)
    if run.config.training.attention_init != "neighbours" or can_begin_beside(config):
        return
    if run.origin["attention_init"] == "flag":
        heads = config.num_attention_heads
        raise UserError(
            f"attention_init is 'neighbours', for which heads of {config.hidden_size // heads} dimensions are too "
            f"narrow; give {'fewer --num-attention-heads, or ' if heads > 1 else ''}--attention-init normal"
        )
    run.decide("preset", attention_init="normal")


def decide_length(run: Run, rows: AnyRows) -> None:
    """Fill in the number of steps, the warm-up and how often the held-out loss is measured."""
    training = run.config.training
    if training.steps is None:
        epochs = training.epochs or min(MAX_EPOCHS, max(1.0, round(TOKEN_GOAL / rows.source.num_tokens)))
        _more_rows(run, epochs * rows.source.num_tokens)
        steps = max(1, ceil(epochs * rows.rows_per_epoch / mean_rows(run.config.training)))
        run.decide("default", steps=steps)
    steps = run.config.training.steps or 1
    is_given = run.origin.get("warmup_steps") != "default"  # a budget may end a run before it has warmed up
    at_first = first_estimate(run.folder) or steps  # a budget may have made a run shorter since
    if is_given and training.warmup_steps is not None and training.warmup_steps > at_first:
        raise UserError(
            f"warmup_steps is {training.warmup_steps:,} and the run has {steps:,} steps: the learning rate would never "
            "reach its peak; give fewer, or leave it out"
        )
    if training.warmup_steps is None:
        run.decide("default", warmup_steps=default_warmup(steps))
    if training.validation_every is None:
        run.decide("default", validation_every=max(1, ceil(steps / 10)))


def default_warmup(steps: int) -> int:
    """Steps in which the learning rate rises, in a run of so many."""
    return round(max(WARMUP_SHARE * steps, min(FEWEST_WARMUP_STEPS, MOST_WARMUP_SHARE * steps)))
