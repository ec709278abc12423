"""Dropout (Srivastava et al. 2014) with cheap random numbers on a CPU.

PyTorch draws a number of 32 bits or more for each element, one after the other,
which costs as much as a matrix product. Here 16 bits decide on an element, four
elements a draw. On a GPU PyTorch's own is fused and fast.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = 1 << 16
"""A chance is rounded to a multiple of 1 / LEVELS."""


def dropout(values: Tensor, chance: float) -> Tensor:
    """Set elements to 0 with some chance and scale the others up, so that the mean stays.

    Args:
        values: float, any shape.
        chance: In [0, 1).
    """
    if values.device.type != "cpu" or chance == 0:
        return F.dropout(values, chance)
    dropped = min(max(1, round(chance * LEVELS)), LEVELS - 1)
    keep = random_levels(values.detach()) >= dropped - LEVELS // 2
    return torch.where(keep, values * (LEVELS / (LEVELS - dropped)), 0)


@torch.library.custom_op("bertsmith::random_levels", mutates_args=(), tags=(torch.Tag.nondeterministic_seeded,))
def random_levels(like: Tensor) -> Tensor:
    """int16 of the shape of `like`, uniform over all values, from PyTorch's generator.

    An operator of its own, so that compiled code takes the same numbers: the
    compiler's own generator is as slow as PyTorch's. `like` as an argument keeps it
    from taking two calls for one.
    """
    count = like.numel()
    draws = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    return draws.view(torch.int16)[:count].view(like.shape)


@random_levels.register_fake
def _(like: Tensor) -> Tensor:
    return like.new_empty(like.shape, dtype=torch.int16)


class Dropout(nn.Module):
    """`dropout` while training, nothing in evaluation."""

    def __init__(self, chance: float) -> None:
        super().__init__()
        self.chance = chance

    def forward(self, values: Tensor) -> Tensor:
        """Any shape, kept."""
        return dropout(values, self.chance) if self.training and self.chance else values
