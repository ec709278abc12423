"""AdamW with its parameter groups, and the learning rate of each step."""

from math import cos, pi
from typing import Literal

import torch
from torch import nn

ADAM_BETA1 = 0.9
ADAM_EPS = 1e-6
"""As google-research/bert."""


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Split the parameters into those that decay, the matrices, and those that do not: biases and LayerNorm."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


def make_optimizer(model: nn.Module, *, weight_decay: float, beta2: float) -> torch.optim.AdamW:
    """AdamW (arXiv:1711.05101). Its learning rate is set before each step by `set_learning_rate`."""
    fused = next(model.parameters()).device.type in {"cuda", "cpu"}
    return torch.optim.AdamW(
        parameter_groups(model, weight_decay), lr=0.0, betas=(ADAM_BETA1, beta2), eps=ADAM_EPS, fused=fused
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Give the next step its learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def learning_rate_at(
    step: int, *, peak: float, warmup_steps: int, max_steps: int, schedule: Literal["linear", "cosine", "constant"]
) -> float:
    """Learning rate of optimizer step `step`, counted from 0.

    Rises in a line to `peak` (arXiv:1810.04805, appendix A.2), then falls to 0 in
    a line or a cosine, or stays. The first step already learns: it gets
    peak / warmup_steps, not 0; after the last, at `max_steps`, it is 0.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    if schedule == "constant":
        return peak
    left = max(0, max_steps - step) / max(1, max_steps - warmup_steps)
    return peak * (left if schedule == "linear" else (1 - cos(pi * left)) / 2)
