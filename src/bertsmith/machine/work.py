"""How much work a step is, and how much a machine can do: the share of the peak.

Counted are the matrix products that training cannot do without: 6 operations for
each weight and token (2 forward, 4 backward), attention inside the rows or the window, and, at the
masked tokens alone, the vocabulary and what the last block does but for its keys and values. LayerNorm, GELU, softmax,
the optimizer and anything computed twice count as nothing, so 100 % is out of reach.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

from bertsmith.model import AnyConfig, multiply_adds, multiply_adds_of_query

CPU_SHAPES = ((4096, 768, 3072), (4096, 4096, 4096))
GPU_SHAPES = ((8192, 8192, 8192),)
"""Products [a, b] x [b, c] that the rate of a machine is measured with."""

ENOUGH_SECONDS = 15.0
"""Something slow is not timed again after this long."""

LOOK_SHAPE, NEXT_SHAPE, MOST_SECONDS = (64, 768, 768), (512, 768, 3072), 2.0
"""A small product first, then larger ones, none that would take longer than this at the best rate so far. A processor
that multiplies bfloat16 in software would take minutes; one with other programs on it may be 20 times as slow in the
small product, whose threads wait for each other, as in a large one."""


def step_operations(config: AnyConfig, *, tokens: int, row_length: int, predictions: float) -> float:
    """Floating-point operations of one forward and backward pass.

    Args:
        config: Shape of the model.
        tokens: Token places of the batch.
        row_length: Places in a row, taken to be one sequence.
        predictions: Places at which the vocabulary is scored. The first tokens that next sentences are told from, for
            which the last block is computed, too, are not counted.
    """
    head = config.hidden_size * (config.hidden_size + config.vocab_size)
    unneeded = (tokens - predictions) * multiply_adds_of_query(config, row_length)
    return 6.0 * (tokens * multiply_adds(config, row_length) - unneeded + predictions * head)


def seconds_of(work: Callable[[], object], device: torch.device, *, repeats: int = 3) -> float:
    """The fastest of a few runs, fewer where they are slow, after one to warm up."""
    times: list[float] = []
    while len(times) < 2 or (len(times) <= repeats and sum(times) < ENOUGH_SECONDS):
        times.append(seconds_of_one(work, device))
    return min(times[1:])


def seconds_of_one(work: Callable[[], object], device: torch.device) -> float:
    """Of one run, all of it done."""
    before = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - before


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def matrix_rate(device: torch.device, precision: str, *, quick: bool = False) -> float:
    """Operations a second in matrix products, the best of some large ones that there is memory for.

    Args:
        device: Where.
        precision: "float32" or "bfloat16".
        quick: Only the first of the large shapes, for a look of a few tenths of a second.
    """
    best = product_rate(device, precision)
    large = (GPU_SHAPES if device.type == "cuda" else CPU_SHAPES)[: 1 if quick else None]
    for shape in (NEXT_SHAPE, *large):
        if operations_of(shape) / best <= MOST_SECONDS:
            with suppress(torch.OutOfMemoryError):  # of a GPU on which a run has its place already
                best = max(best, product_rate(device, precision, shape))
    return best


def product_rate(device: torch.device, precision: str, shape: tuple[int, int, int] = LOOK_SHAPE) -> float:
    """Operations a second in the product [a, b] x [b, c] of one shape."""
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    a, b, c = shape
    left, right = torch.randn(a, b, device=device).to(dtype), torch.randn(b, c, device=device).to(dtype)
    return operations_of(shape) / seconds_of(lambda: left @ right, device)


def operations_of(shape: tuple[int, int, int]) -> float:
    """Multiplications and additions of a product."""
    a, b, c = shape
    return 2.0 * a * b * c


def copy_rate(device: torch.device) -> float:
    """Bytes a second that are read and written when a large tensor is copied."""
    source = torch.ones(1 << 26, device=device)
    target = torch.empty_like(source)
    seconds = seconds_of(lambda: target.copy_(source), device)
    return 2.0 * source.numel() * source.element_size() / seconds


def joules_of(work: Callable[[], object], device: torch.device) -> float | None:
    """Energy of the processor (RAPL) or GPU (NVML) during some work, None where the machine does not report it."""
    if device.type == "cuda":
        try:
            seconds = seconds_of_one(work, device)
            return torch.cuda.power_draw(device) / 1e3 * seconds
        except Exception:  # NVML's Python package is missing, or the driver does not tell
            return None
    counters = sorted(Path("/sys/class/powercap").glob("intel-rapl:?/energy_uj"))
    if not counters:
        return None
    try:
        first = [int(counter.read_text(encoding="ascii")) for counter in counters]
        work()
        used = sum(int(c.read_text(encoding="ascii")) - one for c, one in zip(counters, first, strict=True)) / 1e6
    except (OSError, ValueError):  # only root may read them
        return None
    return used if used > 0 else None  # one of them began anew
