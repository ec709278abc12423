"""What is measured before step 1: precision, micro-batch and compiling.

The results are written to the run's config.toml and read again on resume: two
measurements could differ, and then the continued run would not be the same run.
"""

import os
import shutil
import time
from collections.abc import Callable
from math import inf
from pathlib import Path
from tempfile import gettempdir
from typing import Any, NamedTuple

import torch
from torch import nn

from bertsmith import distributed
from bertsmith.batch import Batch
from bertsmith.errors import UserError
from bertsmith.objective import sum_losses
from bertsmith.step import SumLosses, autocast
from bertsmith.work import synchronize

FASTER = 1.05
"""A choice must win by this factor, so that noise does not decide."""

SECONDS_PER_CHOICE = 0.5

HOPELESS = 5.0
"""A precision whose first pass takes so many times that of the other is not looked at again."""

COMPILE_SECONDS = 60.0
"""What compiling costs at most, seen on two CPU cores; it must win back several times that."""


def find_device(name: str) -> torch.device:
    """The device to compute on; "auto" takes CUDA, then Apple's GPU, then the CPU.

    Raises:
        UserError: A device was named that this machine does not have.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name != "auto" and not available[name]:
        usable = ", ".join(kind for kind, there in available.items() if there)
        raise UserError(f"device is '{name}', which this machine does not have; it has {usable}")
    kind = next(kind for kind, there in available.items() if there) if name == "auto" else name
    return torch.device(kind, distributed.local_rank()) if kind == "cuda" else torch.device(kind)


def set_threads(threads: int | None) -> int:
    """Use so many CPU threads, all cores shared between the local ranks when None. torchrun would set 1."""
    threads = threads or max(1, len(_usable_cores()) // distributed.local_world_size())
    torch.set_num_threads(threads)
    return threads


def _usable_cores() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def seconds_per_micro_batch(
    model: nn.Module, losses: SumLosses, batch: Any, precision: str, *, hopeless: float = inf
) -> float:
    """Time of one forward and backward pass: the fastest of as many as fit into half a second, at least 3.

    Args:
        model: Its gradients are forgotten.
        losses: The objective, compiled or not.
        batch: On the model's device.
        precision: "float32" or "bfloat16".
        hopeless: Seconds; a first pass that takes longer is the last.
    """
    times: list[float] = []
    started = time.perf_counter()
    while len(times) < 4 or time.perf_counter() - started < SECONDS_PER_CHOICE:
        before = time.perf_counter()
        with autocast(batch.input_ids.device, precision):
            sums = losses(model, batch)
        sums.losses.sum().backward()  # type: ignore[no-untyped-call]
        synchronize(batch.input_ids.device)
        times.append(time.perf_counter() - before)
        if times[0] > hopeless:
            break
    model.zero_grad(set_to_none=True)
    return min(times[1:] or times)  # the first one warms up


class Speed(NamedTuple):
    """A way to compute, and its time."""

    precision: str
    seconds: float
    """Of a micro-batch."""


def fastest(model: nn.Module, batch: Any, losses: SumLosses = sum_losses) -> Speed:
    """Bfloat16 where this machine is faster with it, else float32."""
    full = seconds_per_micro_batch(model, losses, batch, "float32")
    if batch.input_ids.is_cuda and not torch.cuda.is_bf16_supported():
        return Speed("float32", full)
    half = seconds_per_micro_batch(model, losses, batch, "bfloat16", hopeless=HOPELESS * full)
    return Speed("bfloat16", half) if full > FASTER * half else Speed("float32", full)


def best_micro_batch(model: nn.Module, rows: int, make_batch: Callable[[int], Batch], precision: str) -> int:
    """Rows to compute at once: of `rows`, its half, ... the smallest that is as fast as any and fits into memory.

    Few rows at once take little memory, and beyond some number more of them are no faster.

    Args:
        rows: Rows of one step on this rank.
        make_batch: Makes a batch of so many rows, on the model's device.
        precision: "float32" or "bfloat16".
    """
    found: dict[int, float] = {}
    size = rows
    while size >= 1 and size >= rows // 8:
        if rows % size == 0 and _fits(model, make_batch(1), size):
            try:
                found[size] = seconds_per_micro_batch(model, sum_losses, make_batch(size), precision) / size
            except torch.cuda.OutOfMemoryError:
                model.zero_grad(set_to_none=True)
        size //= 2
    return min((size for size in found if found[size] < FASTER * min(found.values())), default=1)


def _fits(model: nn.Module, one_row: Batch, rows: int) -> bool:
    """Whether a CPU micro-batch stays within half of the free memory. On a GPU trying is safe and exact."""
    if one_row.input_ids.device.type != "cpu":
        return True
    return rows * activation_bytes(model, one_row) < free_memory() / 2


def activation_bytes(model: nn.Module, batch: Batch) -> int:
    """Bytes that autograd keeps for a batch, counted in one forward pass."""
    seen: dict[int, int] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        sums = sum_losses(model, batch)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    del sums
    return sum(size for pointer, size in seen.items() if pointer not in weights)


def free_memory() -> int:
    """Bytes this process may still take: its share of the machine's free memory, or less where a cgroup says so."""
    pages = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 2**62
    try:
        meminfo = Path("/proc/meminfo").read_text(encoding="ascii")
        pages = int(meminfo.split("MemAvailable:")[1].split()[0]) * 1024
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        if limit != "max":
            used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii"))
            pages = min(pages, int(limit) - used)
    except (OSError, IndexError, ValueError):  # not Linux, or no cgroup of version 2
        pass
    return pages // distributed.local_world_size()


def require_memory(parameters: int, device: torch.device) -> None:
    """See that a model can be trained here at all, before it is made.

    Args:
        parameters: Numbers in the model. Each is kept four times in float32: weight, gradient and two moments.
        device: Where it is trained.

    Raises:
        UserError: It does not fit.
    """
    needed = 16 * parameters
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    else:
        free = free_memory()
    if needed > free:
        raise UserError(
            f"a model of {parameters / 1e6:,.0f} M parameters needs {needed / 1e9:,.1f} GB for its training "
            f"state alone and {free / 1e9:,.1f} GB are free; choose a smaller --preset or --vocab-size"
        )


def has_compiler() -> bool:
    """Whether torch.compile can build CPU code here."""
    return any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "g++", "clang++"))


def compiled_losses() -> SumLosses:
    """`sum_losses` compiled for the constant shapes of a run."""
    keep_instruction_sets_apart()
    return torch.compile(sum_losses, dynamic=False)


def keep_instruction_sets_apart() -> None:
    """Give compiled code a folder for each instruction set of the processor.

    PyTorch's cache of compiled code does not tell instruction sets apart, and code for another one, as after
    ATEN_CPU_CAPABILITY=avx2, corrupts memory (torch 2.13).
    """
    user = os.getuid() if hasattr(os, "getuid") else "user"
    cache = Path(os.environ.get("TORCHINDUCTOR_CACHE_DIR") or Path(gettempdir()) / f"torchinductor_{user}")
    instructions = torch.backends.cpu.get_cpu_capability()
    if cache.name != instructions:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache / instructions)


def worth_compiling(model: nn.Module, batch: Batch, precision: str, *, micro_batches: int) -> bool:
    """Whether compiling makes the whole run faster, measured.

    Args:
        model: On its device.
        batch: A micro-batch of the run.
        precision: "float32" or "bfloat16".
        micro_batches: Micro-batches the run has in all.
    """
    plain = seconds_per_micro_batch(model, sum_losses, batch, precision)
    if plain * micro_batches < 5 * COMPILE_SECONDS or (not batch.input_ids.is_cuda and not has_compiler()):
        return False
    try:
        compiled = seconds_per_micro_batch(model, compiled_losses(), batch, precision)
    except Exception:  # a broken compiler must not stop a run that can do without; many kinds are raised
        return False
    return (plain - compiled) * micro_batches > 2 * COMPILE_SECONDS
