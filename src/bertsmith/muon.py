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
            rate, decay = group["lr"], 1 - group["lr"] * group["weight_decay"]
            for matrices in alike([matrix for matrix in group["params"] if matrix.grad is not None]):
                gradients = [matrix.grad for matrix in matrices if matrix.grad is not None]
                momenta = [self._momentum(matrix) for matrix in matrices]
                torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
                ahead = torch._foreach_lerp(gradients, momenta, MOMENTUM)
                updates = orthogonal(torch.stack(ahead) if len(ahead) > 1 else ahead[0], self._products)
                size = rate * (RMS * sqrt(max(matrices[0].shape)))
                if isinstance(size, Tensor):  # as in a recorded step: not known to Python
                    updates, size = updates.to(matrices[0].dtype) * size, 1.0
                weights: list[Tensor] = [*matrices]
                torch._foreach_mul_(weights, decay)
                torch._foreach_add_(weights, list(updates.view(-1, *matrices[0].shape)), alpha=-size)

    def _momentum(self, matrix: nn.Parameter) -> Tensor:
        if matrix not in self.state:
            self.state[matrix] = {"momentum_buffer": torch.zeros_like(matrix)}
        return self.state[matrix]["momentum_buffer"]


def alike(matrices: list[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Those that are updated together: all of a shape on a GPU, where many small products wait for one another.

    On a CPU each alone, since one fills the cores and a stack of them would only be copied.
    """
    together: dict[torch.Size | int, list[nn.Parameter]] = {}
    for number, matrix in enumerate(matrices):
        together.setdefault(matrix.shape if matrix.is_cuda else number, []).append(matrix)
    return list(together.values())


def orthogonal(matrix: Tensor, products: torch.dtype) -> Tensor:
    """Bring the singular values of a matrix, or of each of several, near 1, between about 0.7 and 1.2.

    Args:
        matrix: [A, B] or [N, A, B], float.
        products: Their dtype.

    Returns:
        The same shape, of that dtype.
    """
    a, b, c = COEFFICIENTS
    add_product = torch.addmm if matrix.ndim == 2 else torch.baddbmm
    flat = matrix.to(products, copy=True)
    is_tall = matrix.shape[-2] > matrix.shape[-1]
    flat = flat.mT if is_tall else flat
    flat.div_(flat.norm(dim=(-2, -1), keepdim=True).clamp(min=EPS))
    for _ in range(ROUNDS):
        gram = flat @ flat.mT
        flat = add_product(flat, add_product(gram, gram, gram, beta=b, alpha=c), flat, beta=a)
    return flat.mT if is_tall else flat
