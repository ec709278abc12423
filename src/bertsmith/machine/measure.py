"""What is measured before step 1: precision and micro-batch; `compiling.py` does it for compiling.

The results are written to the run's config.toml and read again on resume: two
measurements could differ, and then the continued run would not be the same run.
"""

import time
from collections.abc import Callable
from math import inf
from typing import Any, NamedTuple, TypeVar

import torch
from torch import nn

from bertsmith.data.batch import Batch
from bertsmith.errors import UserError
from bertsmith.machine.memory import MakeBatch, even_part
from bertsmith.machine.work import product_rate, seconds_of_one
from bertsmith.objective import sum_losses
from bertsmith.recorder import Recorder, directly, recorder_on
from bertsmith.step import SumLosses, add_gradients

FASTER = 1.05
"""A choice must win by this factor, so that noise does not decide."""

SECONDS_PER_CHOICE, MOST_SECONDS_PER_CHOICE = 0.4, 0.8
"""Passes are timed for the first; up to four of them until the second, and one at least after that which warms up."""

LONG_PASS = 1.5
"""Seconds. After one that took so long on a CPU warming up matters no more, unless it was compiled in that time. The
first pass of a kind on a GPU loads the code of its kernels, for seconds, and the second is recorded."""

MOST_PASSES = 20
"""Enough to time, however short they are: on a GPU there shall be time for larger micro-batches, too."""

MOST_SECONDS_FOR_ROWS = 1.5
"""After this long no larger micro-batch is tried."""

PROBE_ROWS, PROBE_SECONDS = 16, 0.2
"""Precisions are compared with so many rows at once, at most, or as many as take so long in float32."""

GPU_PROBE_PLACES = 1 << 15
"""A GPU with memory of its own is given rows of so many tokens: a pass of few takes the time that Python needs to ask
for it, however it is computed."""

LONG_ROW, CLEAR_GAIN = 0.5, 1.5
"""Where one row takes a processor so many seconds in float32, products are most of them: if these are so many times
as fast in bfloat16, it is taken, and its one pass is timed once. Passes of few rows would say little more: all weights
are converted for them."""

LONG_GPU_PASS = 0.02
"""Seconds. Products are most of such a pass on a GPU, too, and one in float32 would take several times as long."""

HOPELESS = 5.0
"""A precision whose products take so many times those of the other is not looked at in a model."""

Result = TypeVar("Result")


def seconds_per_micro_batch(model: nn.Module, losses: SumLosses, batch: Any, precision: str) -> float:
    """Time of one forward and backward pass: the fastest of a few, after one to warm up, or one and one that records.

    Args:
        model: Its gradients are forgotten.
        losses: The objective, compiled or not.
        batch: On the model's device.
        precision: "float32" or "bfloat16".
    """
    times: list[float] = []
    can_record = isinstance(batch, Batch)  # as in pretraining
    recorder = recorder_on(next(model.parameters()).device, model.parameters()) if can_record else None
    warm = 1 if recorder is None else 2
    try:
        while not _are_enough(times[warm:]):
            times.append(_time_pass(model, losses, batch, precision, recorder))
            if recorder is not None and recorder.lacked_room and len(batch) > 1:
                raise torch.OutOfMemoryError("no room to record so many rows")
            if is_on_cpu(model) and times[0] > LONG_PASS and losses is sum_losses:
                break
    finally:  # a GPU without room must have it again
        model.zero_grad(set_to_none=True)
    return min(times[warm:] or times)


def _are_enough(times: list[float]) -> bool:
    """Whether a choice has been timed for long enough, by the seconds of its passes."""
    seconds = MOST_SECONDS_PER_CHOICE if len(times) < 4 else SECONDS_PER_CHOICE
    return len(times) >= MOST_PASSES or (len(times) > 0 and sum(times) >= seconds)


def is_on_cpu(model: nn.Module) -> bool:
    """Whether a model is computed by the processor that asks for it."""
    return next(model.parameters()).device.type == "cpu"


def has_own_memory(model: nn.Module) -> bool:
    """Whether a model is on a GPU of which too much memory may be asked; Apple's share that of the processor."""
    return next(model.parameters()).device.type not in {"cpu", "mps"}


def _time_pass(model: Any, losses: SumLosses, batch: Any, precision: str, recorder: Recorder | None = None) -> float:
    """Of a pass as the steps of a run do it: on a GPU recorded and replayed from the second on."""

    def work() -> None:
        if recorder is not None:
            recorder.begin_step([batch])
        (recorder or directly)("pass", lambda batch: add_gradients(model, losses, precision, batch, 1.0), batch)

    return seconds_of_one(work, batch.input_ids.device)


class Speed(NamedTuple):
    """A way to compute, and its time."""

    precision: str
    seconds: float
    """Of a micro-batch."""


def fastest(model: nn.Module, batch: Any, losses: SumLosses = sum_losses, *, full: float | None = None) -> Speed:
    """Bfloat16 where this machine is faster with it, else float32; `full`: seconds of a pass in it, where known.

    Another program may hold up all passes of one precision, and a wrong choice costs hours: so one that contradicts
    what products alone gain is looked at a second time.
    """

    def seconds(precision: str) -> float:
        return seconds_per_micro_batch(model, losses, batch, precision)

    gain = half_gain(batch.input_ids.device)
    half = seconds("bfloat16") if has_own_memory(model) and gain >= CLEAR_GAIN else 0.0
    if half > LONG_GPU_PASS:
        return Speed("bfloat16", half)
    full = full or seconds("float32")
    if gain * HOPELESS <= 1:
        return Speed("float32", full)
    half = half or seconds("bfloat16")
    if (full > FASTER * half) != (gain > FASTER):
        half, full = min(half, seconds("bfloat16")), min(full, seconds("float32"))
    return Speed("bfloat16", half) if full > FASTER * half else Speed("float32", full)


def has_fast_half(device: torch.device) -> bool:
    """Whether bfloat16 may pay."""
    return half_gain(device) * HOPELESS > 1


def half_gain(device: torch.device) -> float:
    """How many times as fast products in bfloat16 are: without support in software, up to a hundred times as slow.

    A processor is asked on one thread: beside other programs a short product of several waits for the last of them.
    """
    if device.type == "cuda":
        return inf if torch.cuda.is_bf16_supported() else 0.0
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return product_rate(device, "bfloat16") / product_rate(device, "float32")
    finally:
        torch.set_num_threads(threads)


def compare_precisions(model: nn.Module, make_batch: MakeBatch, most: int) -> tuple[Speed, int]:
    """The faster precision, measured with a few rows, and how many they were.

    Args:
        model: On its device.
        make_batch: Makes the batches.
        most: Rows that fit.
    """
    one = make_batch(1)
    rows, full = min(most, max(1, GPU_PROBE_PLACES // one.row_length)), None
    if not has_own_memory(model):
        seconds = _time_pass(model, sum_losses, one, "float32")
        if seconds > LONG_ROW and is_on_cpu(model) and half_gain(one.input_ids.device) >= CLEAR_GAIN:
            seconds = _time_pass(model, sum_losses, one, "bfloat16")
            model.zero_grad(set_to_none=True)
            return Speed("bfloat16", seconds), 1
        seconds = min(seconds, _time_pass(model, sum_losses, one, "float32"))
        model.zero_grad(set_to_none=True)
        rows = max(1, min(most, PROBE_ROWS, int(PROBE_SECONDS / seconds)))
        full = seconds if rows == 1 else None
    return halving(rows, lambda count: fastest(model, make_batch(count), full=full))


def halving(rows: int, attempt: Callable[[int], Result]) -> tuple[Result, int]:
    """Try with so many rows, half of them, ... until a GPU has room for them: the result, and the rows.

    Raises:
        UserError: It has none for one row.
    """
    while True:
        try:
            return attempt(rows), rows
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
        if rows == 1:
            raise UserError(
                "the memory of the GPU is too small for one row at a time; choose a smaller --preset or a shorter "
                "--sequence-length"
            )
        rows //= 2


class MicroBatch(NamedTuple):
    """Rows to compute at once, and their time."""

    rows: int
    seconds: float


def best_micro_batch(
    model: nn.Module, rows: int, make_batch: MakeBatch, precision: str, *, most: int, state: int = 0
) -> MicroBatch:
    """Of an eighth of the rows, a quarter, half and all, the smallest that is as fast as any and fits into memory.

    Few rows at once take little memory, and beyond some number more of them are no faster. A GPU, whose memory has no
    other use, and which waits for Python at each pass, gets all, or half, ... until they fit beside the state.

    Args:
        model: On its device.
        rows: Rows of one step on this rank.
        make_batch: Makes the batches.
        precision: "float32" or "bfloat16".
        most: Rows at once that fit a CPU's memory (`rows_that_fit`), at least 1.
        state: Bytes of `training_state`, for which a GPU must have room besides. The gradients among them are made by
            what is measured, too, so this is more than enough.
    """

    def seconds_of_rows(count: int) -> float:
        return seconds_per_micro_batch(model, sum_losses, make_batch(count), precision)

    def beside_the_state(count: int) -> float:
        _reserved = torch.empty(state, dtype=torch.uint8, device=next(model.parameters()).device)
        return seconds_of_rows(count)

    if has_own_memory(model):
        seconds, fitting = halving(rows, beside_the_state)
        return MicroBatch(fitting, seconds)
    found: dict[int, float] = {}
    sizes = [rows // part for part in (8, 4, 2, 1) if rows % part == 0]
    started = time.perf_counter()
    for size in [size for size in sizes if size <= most] or [even_part(rows, most)]:
        if found and time.perf_counter() - started > MOST_SECONDS_FOR_ROWS:
            break
        seconds, fitting = halving(size, seconds_of_rows)
        if fitting < size and found:
            break
        found[fitting] = seconds
    least = min(seconds / size for size, seconds in found.items())
    return min(MicroBatch(size, seconds) for size, seconds in found.items() if seconds / size < FASTER * least)
