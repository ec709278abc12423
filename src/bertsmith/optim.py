"""AdamW, or Muon for the matrices of the blocks, and the learning rate of each step."""

from collections.abc import Iterable
from math import ceil, cos, pi
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from bertsmith import distributed
from bertsmith.adamw import AdamW, StableAdamW
from bertsmith.errors import require, suggestion
from bertsmith.muon import Muon

Schedule = Literal["linear", "cosine", "constant", "trapezoid"]


def parameter_groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Split those that are trained into those that decay, the matrices, and those that do not: biases and LayerNorm."""
    trained = [p for p in parameters if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]


class MuonWithAdamW:
    """Two optimizers that act as one: Muon for some matrices, AdamW for everything else.

    Muon's updates have the size of AdamW's times a scale, so one learning rate serves both.
    Each rank updates some of Muon's matrices and gets the others from their ranks.
    """

    def __init__(self, adamw: AdamW, muon: Muon) -> None:
        muon.state = adamw.state  # one dictionary by parameter, for checkpoints
        self._adamw, self._muon = adamw, muon
        self.reads_numbers = adamw.reads_numbers
        self.state = adamw.state
        self.param_groups = [*adamw.param_groups, *muon.param_groups]
        matrices = [p for group in muon.param_groups for p in group["params"]]
        self._matrices_of_rank = divide_evenly(matrices, distributed.world_size())

    @torch.no_grad()
    def step(self) -> None:
        """Update all parameters from their gradients."""
        self._adamw.step()
        for rank, matrices in enumerate(self._matrices_of_rank):
            if rank != distributed.rank():
                for matrix in matrices:
                    matrix.grad = None  # Muon passes over it
        self._muon.step()
        distributed.share(self._matrices_of_rank)

    @torch.no_grad()
    def collect(self) -> None:
        """Get the other ranks' state, for a checkpoint; all ranks must call this."""
        for matrices in self._matrices_of_rank:
            for matrix in matrices:
                self.state.setdefault(matrix, {"momentum_buffer": torch.zeros_like(matrix)})
        distributed.share([[self.state[m]["momentum_buffer"] for m in part] for part in self._matrices_of_rank])

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self._adamw.zero_grad()
        self._muon.zero_grad()


def divide_evenly(matrices: list[nn.Parameter], parts: int) -> list[list[nn.Parameter]]:
    """Divide matrices into parts of about equal work, the same way on every rank."""
    divided: list[list[nn.Parameter]] = [[] for _ in range(parts)]
    work = [0] * parts
    for matrix in sorted(matrices, key=lambda m: -m.numel() * min(m.shape)):
        least = work.index(min(work))
        divided[least].append(matrix)
        work[least] += matrix.numel() * min(matrix.shape)
    return divided


def is_of_muon(name: str, parameter: nn.Parameter) -> bool:
    """Whether Muon updates a parameter: a matrix of the blocks. Embeddings, heads, biases and norms are AdamW's."""
    return ".blocks." in name and parameter.ndim == 2


AnyOptimizer = AdamW | MuonWithAdamW


def make_optimizer(
    model: nn.Module,
    *,
    weight_decay: float,
    beta2: float,
    kind: Literal["adamw", "muon"] = "adamw",
    clip_updates: bool = False,
    precision: str = "bfloat16",
    muon_scale: float = 1.0,
) -> AnyOptimizer:
    """Make the optimizer; its learning rate is set before each step by `set_learning_rate`.

    Args:
        model: On its device.
        weight_decay: Of the matrices (arXiv:1711.05101); biases and LayerNorm have none.
        beta2: AdamW's decay of the second moment.
        kind: "muon" uses Muon for the matrices inside `blocks`; embeddings, heads, biases and norms stay with AdamW.
        clip_updates: Use `StableAdamW` for AdamW.
        precision: Of Muon's products, "bfloat16", or "float32": as the weights.
        muon_scale: Learning rate of Muon's matrices, as a multiple of that of the others.
    """
    chosen = {p for name, p in model.named_parameters() if kind == "muon" and is_of_muon(name, p)}
    groups = parameter_groups((p for p in model.parameters() if p not in chosen), weight_decay)
    if clip_updates:
        groups = [group | {"params": [p]} for group in groups for p in group["params"]]
    adamw = (StableAdamW if clip_updates else AdamW)(groups, beta2=beta2)
    if kind == "adamw":
        return adamw
    matrices = [p for p in model.parameters() if p in chosen]  # in the model's order, the same in every process
    products = torch.bfloat16 if precision == "bfloat16" else next(model.parameters()).dtype
    return MuonWithAdamW(adamw, Muon(matrices, weight_decay=weight_decay, products=products, scale=muon_scale))


def set_learning_rate(optimizer: AnyOptimizer, learning_rate: float) -> None:
    """Give the next step its learning rate; Muon's matrices get a multiple of it."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group.get("scale", 1.0)


def step_at(optimizer: AnyOptimizer, rates: Tensor) -> None:
    """`optimizer.step` with its learning rates on its device, where a recording finds those of its step.

    Args:
        optimizer: Its own rates are left as they are.
        rates: float32 [groups].
    """
    own = [group["lr"] for group in optimizer.param_groups]
    for group, rate in zip(optimizer.param_groups, rates.unbind(), strict=True):
        group["lr"] = rate
    try:
        optimizer.step()
    finally:
        for group, rate in zip(optimizer.param_groups, own, strict=True):
            group["lr"] = rate


def learning_rate_at(
    step: int, *, peak: float, warmup_steps: int, max_steps: int, schedule: Schedule, decay_share: float = 0.3
) -> float:
    """Learning rate of optimizer step `step`, counted from 0.

    Rises in a line to `peak` (arXiv:1810.04805, appendix A.2), then falls to 0 in
    a line or a cosine, stays, or stays and falls to 0 in a line over the last
    `decay_share` of the steps (arXiv:2106.04560, section 3.5). The first step already learns: it gets
    peak / warmup_steps, not 0; after the last, at `max_steps`, it is 0, but for "constant".

    Raises:
        UserError: The schedule is unknown.
    """
    known = get_args(Schedule)
    require(schedule in known, f"schedule is {schedule!r}{suggestion(str(schedule), known)}")
    rise = (step + 1) / max(1, warmup_steps)
    if schedule == "constant":
        return peak * min(1.0, rise)
    if max_steps < warmup_steps:  # a budget has shortened the run until it must fall before it has risen
        schedule = "trapezoid"
    falling = ceil(decay_share * max_steps) if schedule == "trapezoid" else max_steps - warmup_steps
    left = min(1.0, max(0, max_steps - step) / max(1, falling))
    if schedule == "trapezoid":
        return peak * min(left, rise)
    if step < warmup_steps:
        return peak * rise
    return peak * ((1 - cos(pi * left)) / 2 if schedule == "cosine" else left)
