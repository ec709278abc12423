"""AdamW (arXiv:1711.05101), and what all optimizers here have in common.

The update is PyTorch's function. Its class `torch.optim.AdamW` does the same, but loads PyTorch's compiler when it is
made, which takes seconds (docs/log.md, "A start without the compiler").
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

BETA1 = 0.9
EPS = 1e-6
"""As google-research/bert."""


class Optimizer:
    """Groups of parameters with their settings, and what is kept of each parameter from step to step."""

    reads_numbers = False
    """Whether an update waits for what it computes, so that it cannot be recorded."""

    def __init__(self, groups: Iterable[dict[str, Any]]) -> None:
        """Begin with nothing kept.

        Args:
            groups: Each with "params", a list, and its settings; "lr" is set before each step.
        """
        self.param_groups = [{"lr": 0.0, **group} for group in groups]
        self.state: dict[nn.Parameter, dict[str, Tensor]] = {}

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in (p for group in self.param_groups for p in group["params"]):
            parameter.grad = None


def is_fused(parameter: nn.Parameter) -> bool:
    """Whether PyTorch updates a parameter in one kernel, and counts its steps on its device."""
    return parameter.device.type in {"cpu", "cuda"}


class AdamW(Optimizer):
    """Adam with decoupled weight decay, the setting "weight_decay" of each group."""

    def __init__(self, groups: Iterable[dict[str, Any]], *, beta2: float) -> None:
        """Begin with no moments; `beta2` is the decay of the second one."""
        super().__init__(groups)
        self.beta2 = beta2

    @torch.no_grad()
    def step(self) -> None:
        """Update the parameters that have a gradient."""
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            states = [self._state(p) for p in parameters]
            adamw(
                parameters,
                [p.grad for p in parameters if p.grad is not None],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [],
                [state["step"] for state in states],
                fused=all(is_fused(p) for p in parameters),
                amsgrad=False,
                beta1=BETA1,
                beta2=self.beta2,
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                eps=EPS,
                maximize=False,
            )

    def _state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """What is kept of a parameter: both moments, and its steps, float32, on its device or else the CPU."""
        if parameter not in self.state:
            self.state[parameter] = {
                "step": torch.zeros((), device=parameter.device if is_fused(parameter) else "cpu"),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
        return self.state[parameter]


class StableAdamW(AdamW):
    """AdamW that takes a smaller step for a tensor whose update would exceed 1 (arXiv:2304.13013, section 3.5).

    The measure is the root mean square of gradient over root of second moment, which
    grows when the second moment is behind. Each group holds one parameter.
    """

    reads_numbers = True

    @torch.no_grad()
    def step(self) -> None:
        """Update the parameters that have a gradient."""
        rates = [group["lr"] for group in self.param_groups]
        measured = [self._update_size(group) for group in self.param_groups]
        sizes = torch.stack(measured).tolist() if measured else []
        for group, size in zip(self.param_groups, sizes, strict=True):
            group["lr"] /= max(1.0, size)
        super().step()
        for group, rate in zip(self.param_groups, rates, strict=True):
            group["lr"] = rate

    def _update_size(self, group: dict[str, Any]) -> Tensor:
        """One number, which the parameter's device need not have computed yet."""
        (parameter,) = group["params"]
        if parameter.grad is None:
            return torch.ones((), device=parameter.device, dtype=parameter.dtype)
        state, squared = self.state.get(parameter), parameter.grad.square()
        moment = (1 - self.beta2) * squared
        steps = torch.ones((), device=parameter.device, dtype=parameter.dtype)
        if state is not None:
            moment += self.beta2 * state["exp_avg_sq"]
            steps += state["step"].to(steps)
        moment /= 1 - self.beta2**steps
        size: Tensor = (squared / moment.clamp_(min=EPS**2)).mean().sqrt()
        return size
