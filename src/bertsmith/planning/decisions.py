"""Settings that nobody gave, where they follow from the text and the preset.

Each is decided once, written to the run and read again on resume.
"""

from math import ceil
from typing import Any

from bertsmith.budget import first_estimate
from bertsmith.errors import UserError
from bertsmith.model.first_attention import can_begin_beside
from bertsmith.planning.from_settings import model_config
from bertsmith.planning.stages import mean_rows
from bertsmith.presets import FIRST_WEIGHTS, PRESETS
from bertsmith.replay import AnyRows
from bertsmith.reporter import counted
from bertsmith.run_folder import Run
from bertsmith.tokenizer import Tokenizer

TOKEN_GOAL = 50e6
MAX_EPOCHS = 20.0
"""Default length of a run: enough epochs for TOKEN_GOAL tokens, at least 1, at most MAX_EPOCHS."""

WARMUP_SHARE, FEWEST_WARMUP_STEPS, MOST_WARMUP_SHARE = 0.06, 150, 0.25
"""The rate rises over this share of the steps; in short runs over so many, but at most the last share (docs/log.md)."""

CONTINUED_RATE = 0.5
"""Of the preset's peak learning rate, where a run goes on from a model: more of what it knew stays (docs/log.md)."""


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


def more_rows(run: Run, tokens: float) -> float:
    """Give the steps of a run over so many tokens the rows that suit it, and tell how many times as many they are."""
    number = run.config.training.global_batch_size or 1
    if run.origin.get("global_batch_size") != "preset" or run.config.model.init is not None:
        return 1.0  # what is best for a model that goes on was not measured
    rows = PRESETS[run.config.model.preset].rows_of_step(tokens)
    if rows != number:
        run.decide("default", global_batch_size=rows)
    return rows / number


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
        more_rows(run, epochs * rows.source.num_tokens)
        steps = max(1, ceil(epochs * rows.rows_per_epoch / mean_rows(run.config.training)))
        run.decide("default", steps=steps)
    steps = run.config.training.steps or 1
    is_given = run.origin.get("warmup_steps") != "default"  # a budget may end a run before it has warmed up
    at_first = first_estimate(run.folder) or steps  # a budget may have made a run shorter since
    if is_given and training.warmup_steps is not None and training.warmup_steps > at_first:
        raise UserError(
            f"warmup_steps is {training.warmup_steps:,} and the run has {counted(steps, 'step')}: the learning rate "
            "would never reach its peak; give fewer, or leave it out"
        )
    if training.warmup_steps is None:
        run.decide("default", warmup_steps=default_warmup(steps))
    if training.validation_every is None:
        run.decide("default", validation_every=max(1, ceil(steps / 10)))


def default_warmup(steps: int) -> int:
    """Steps in which the learning rate rises, in a run of so many."""
    return round(max(WARMUP_SHARE * steps, min(FEWEST_WARMUP_STEPS, MOST_WARMUP_SHARE * steps)))
