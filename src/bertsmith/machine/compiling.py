"""Compiled losses: whether there is a compiler, and whether a run is long enough for it to pay."""

import os
import shutil
from pathlib import Path
from tempfile import gettempdir

import torch
from torch import nn

from bertsmith.data.batch import Batch
from bertsmith.machine.measure import seconds_per_micro_batch
from bertsmith.objective import sum_losses
from bertsmith.step import SumLosses

COMPILE_SECONDS = {"cpu": 60.0, "mps": 60.0, "cuda": 40.0}
"""What compiling costs, seen on two quiet CPU cores; on busy ones it took four times as long. Beside an H100 it took
25 s for bert-base and 39 s for modern-base (docs/log.md). On Apple's GPUs it was not measured."""

TIMES_COMPILING = {"cpu": 15.0, "mps": 5.0, "cuda": 5.0}
"""Compiling is looked at where the run takes so many times that: a CPU gains 0 to 25 % by it, an H100 25 to 37 %
(docs/benchmarks.md), and what it gains must win its cost back twice."""


def has_compiler(device: torch.device) -> bool:
    """Whether torch.compile can build code here: C++ for a CPU; for a GPU the C around its kernels."""
    known = ("CXX", "g++", "clang++") if device.type == "cpu" else ("CC", "gcc", "clang")
    return any(shutil.which(name) for name in (os.environ.get(known[0], known[1]), *known[1:]))


def compiled_losses() -> SumLosses:
    """`sum_losses` compiled for the constant shapes of a run."""
    keep_instruction_sets_apart()
    torch.use_deterministic_algorithms(torch.are_deterministic_algorithms_enabled())  # the compiler, too
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


def worth_compiling(
    model: nn.Module, batch: Batch, precision: str, *, micro_batches: int, plain: float | None = None
) -> bool:
    """Whether compiling makes the whole run faster, measured.

    Args:
        model: On its device.
        batch: A micro-batch of the run.
        precision: "float32" or "bfloat16".
        micro_batches: Micro-batches the run has in all.
        plain: Seconds of one that is not compiled, where they are known.
    """
    plain = plain or seconds_per_micro_batch(model, sum_losses, batch, precision)
    device = batch.input_ids.device
    kind = device.type
    if plain * micro_batches < TIMES_COMPILING[kind] * COMPILE_SECONDS[kind] or not has_compiler(device):
        return False
    try:
        compiled = seconds_per_micro_batch(model, compiled_losses(), batch, precision)
    except Exception:  # a broken compiler must not stop a run that can do without; many kinds are raised
        return False
    return (plain - compiled) * micro_batches > 2 * COMPILE_SECONDS[kind]
