"""Where the time of a step goes, by kind of work, as PyTorch's profiler sees it."""

import os
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch

from bertsmith.machine.work import synchronize

KINDS = (
    ("attention", ("bmm", "softmax", "attention", "flash", "sdpa", "dot_do_o", "convert_dq")),
    ("matrix products", ("aten::mm", "addmm", "gemm", "cutlass", "nvjet", "splitk")),
    ("LayerNorm", ("layer_norm", "gammabeta")),
    ("GELU", ("gelu",)),
    ("optimizer", ("adam", "muon", "optimizer", "foreach", "multi_tensor", "lerp")),
    ("fused by the compiler", ("compiledfxgraph", "cpp_fused", "triton")),
    ("loss", ("crossentropy", "exp_", "aten::max", "gather", "scatter", "aten::log")),
    ("copies and casts", ("copy", "fill", "cat", "zero", "memset", "memcpy")),
    ("embeddings", ("embedding", "index")),
    ("element by element", ("elementwise", "reduce_kernel")),
)
"""Kinds of work by what the names of the profiler's events contain, the first that fits."""


def kinds_of_work(step: Callable[[], None], device: torch.device) -> dict[str, float]:
    """Share of a step's time by kind of work, the largest first, as PyTorch's profiler sees it."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler tells the terminal when it begins and ends
    with torch.profiler.profile(activities=activities, acc_events=True) as profile:
        step()
        synchronize(device)
    times: dict[str, float] = defaultdict(float)
    for event in profile.key_averages():
        spent = spent_time(event, device.type)
        times[kind_of(event.key)] += spent
    total = sum(times.values())
    return {kind: time / total for kind, time in sorted(times.items(), key=lambda pair: -pair[1])}


def kind_of(event: str) -> str:
    """The kind of work that an event of the profiler is, by its name."""
    return next((kind for kind, parts in KINDS if any(part in event.lower() for part in parts)), "everything else")


def spent_time(event: Any, device_type: str) -> float:
    """Time of an event of the profiler itself. On a GPU kernels alone count: what calls them names their time again."""
    if device_type != "cuda":
        return float(event.self_cpu_time_total)
    is_kernel = "CUDA" in str(event.device_type) and not getattr(event, "is_user_annotation", False)
    return float(event.self_device_time_total) if is_kernel else 0.0
