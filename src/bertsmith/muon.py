"""Muon: an optimizer for matrices that makes its updates orthogonal (Jordan et al. 2024, "Muon").

The same as `torch.optim.Muon`, whose products are always in bfloat16: a processor without it computes them in
software, and a step takes 15 times as long (docs/log.md, "Muon without bfloat16"). Here they have the precision
of the run.
"""

from collections.abc import Iterable
from math import sqrt

import torch
from torch import Tensor, nn

from bertsmith.adamw import Optimizer

MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic iteration: steep at 0, so that few rounds bring all singular values near 1."""

ROUNDS = 5
EPS = 1e-7
RMS = 0.2
"""Root mean square of an update, about that of AdamW's (arXiv:2502.16982, section 2.2)."""


class Muon(Optimizer):
    """Muon with Nesterov momentum and decoupled weight decay; its learning rate is set before each step."""

    def __init__(
        self, matrices: Iterable[nn.Parameter], *, weight_decay: float, products: torch.dtype, scale: float = 1.0
    ) -> None:
        """Begin with no momentum.

        Args:
            matrices: Parameters [A, B].
            weight_decay: Times the learning rate is taken off the matrices.
            products: Of the iteration: bfloat16, or float32.
            scale: What `optim.set_learning_rate` multiplies the learning rate with.
        """
        super().__init__([{"params": list(matrices), "weight_decay": weight_decay, "scale": scale}])
        self._products = products

    @torch.no_grad()
    def step(self) -> None:
        """Update the matrices that have a gradient."""
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                if matrix not in self.state:
                    self.state[matrix] = {"momentum_buffer": torch.zeros_like(matrix.grad)}
                momentum = self.state[matrix]["momentum_buffer"]
                momentum.lerp_(matrix.grad, 1 - MOMENTUM)
                update = orthogonal(matrix.grad.lerp(momentum, MOMENTUM), self._products)
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.add_(update, alpha=-group["lr"] * (RMS * sqrt(max(matrix.shape))))


def orthogonal(matrix: Tensor, products: torch.dtype) -> Tensor:
    """Bring the singular values of a matrix near 1, between about 0.7 and 1.2.

    Args:
        matrix: [A, B], float.
        products: Their dtype.

    Returns:
        [A, B] of that dtype.
    """
    a, b, c = COEFFICIENTS
    flat = matrix.to(products, copy=True)
    if matrix.shape[0] > matrix.shape[1]:
        flat = flat.T
    flat.div_(flat.norm().clamp(min=EPS))
    for _ in range(ROUNDS):
        gram = flat @ flat.T
        flat = torch.addmm(flat, torch.addmm(gram, gram, gram, beta=b, alpha=c), flat, beta=a)
    return flat.T if matrix.shape[0] > matrix.shape[1] else flat
