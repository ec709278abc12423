"""What a budget of time or work buys: the size of the model, the rows of a step, and the number of steps.

The size is the largest that sees enough tokens for its weights, by a rule from few runs (docs/benchmarks.md, "Sizes
and tokens").
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from math import ceil, inf
from typing import NamedTuple

import torch

from bertsmith import distributed
from bertsmith.budget import MOST_STEPS, Clock
from bertsmith.config import changed
from bertsmith.data.masking import share_at
from bertsmith.errors import UserError
from bertsmith.machine.device import require_memory
from bertsmith.machine.measure import Speed, compare_precisions, halving, seconds_per_micro_batch
from bertsmith.machine.memory import rows_that_fit, training_state
from bertsmith.machine.work import step_operations
from bertsmith.model import architecture
from bertsmith.objective import sum_losses
from bertsmith.planning.decisions import decide_shape, more_rows
from bertsmith.planning.from_settings import first_rows, model_config, model_of, parameters_of
from bertsmith.planning.stages import mean_work
from bertsmith.presets import PRESETS, sizes_of
from bertsmith.replay import AnyRows
from bertsmith.run_folder import Run
from bertsmith.tokenizer import Tokenizer

TOKENS_PER_PARAMETER = 3.5
"""Tokens that a size must see for each weight of its blocks. In the time in which modern-mini sees 2.3, modern-tiny
ends lower; in which it sees 3.9, modern-mini does. One seed, English Wikipedia."""

SPEED_ROWS = 16
"""Rows that the speed of a size is measured with on a CPU, at most."""

GPU_STEP_PLACES, GPU_GAIN = 8192, 1.3
"""A step on a GPU gets twice the rows, and twice again, up to so many places, as long as each time that many times as
many rows are computed in the same time."""


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
    run.decide("measured", steps=max(1, int(steps / more_rows(run, tokens))))


class Choice(NamedTuple):
    """A size, and what it costs."""

    preset: str
    price_per_row: float
    """In the unit of the budget: seconds, or floating-point operations."""


def block_weights(preset: str) -> int:
    """Weights of the matrices of the blocks."""
    shape = PRESETS[preset]
    feed_forward = architecture(shape.model_type).feed_forward_matrices * shape.intermediate_size
    return shape.num_hidden_layers * shape.hidden_size * (4 * shape.hidden_size + feed_forward)


def choose_size(sizes: Sequence[str], budget: float, row_length: int, price_per_row: Callable[[str], float]) -> Choice:
    """The largest size that sees enough tokens; the smallest if none does.

    Args:
        sizes: Names of presets, smallest first.
        budget: For the steps, in seconds or operations.
        row_length: Places in a row.
        price_per_row: Tells what a row costs with a size, in the same unit. A size that is surely too large is not
            asked for.
    """
    chosen = Choice(sizes[0], price_per_row(sizes[0]))
    for preset in sizes[1:]:
        needed = TOKENS_PER_PARAMETER * block_weights(preset)
        if budget / chosen.price_per_row * row_length < needed:  # it cannot be cheaper than the smaller one
            break
        each = price_per_row(preset)
        if budget / each * row_length < needed:
            break
        chosen = Choice(preset, each)
    return chosen


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
    make_batch = partial(first_rows, rows, device=device)
    training = run.config.training
    precision = training.precision
    try:
        require_memory(parameters_of(run, tokenizer), device)
        model = model_of(run, tokenizer).to(device)
        state = training_state(model, optimizer=training.optimizer, averaged=training.average_decay > 0)
        share = ceil((training.global_batch_size or 1) / distributed.world_size())
        most = min(rows_that_fit(model, make_batch, precision, state=state), training.micro_batch_size or share, share)
        if precision == "auto":
            speed, count = compare_precisions(model, make_batch, most)
        else:
            seconds, count = halving(
                most if device.type == "cuda" else min(SPEED_ROWS, most),
                lambda rows: seconds_per_micro_batch(model, sum_losses, make_batch(rows), precision),
            )
            speed = Speed(precision, seconds)
    except UserError:
        return Speed("float32" if precision == "auto" else precision, inf)
    return speed._replace(seconds=speed.seconds / count)
