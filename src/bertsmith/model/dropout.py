"""Dropout (Srivastava et al. 2014) with cheap random numbers on a CPU.

PyTorch draws a number of 32 bits or more for each element, one after the other,
which costs as much as a matrix product. Here a number is a hash of the place of its
element and of a seed, so that many are made at once, in compiled code within the loop
that uses them, and again in the backward pass instead of being kept. On a GPU
PyTorch's own is fused and fast.

Places are those in a whole step: so what is dropped does not depend on how many of its rows are computed at once,
nor on how many processes share them.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = 1 << 16
"""A chance is rounded to a multiple of 1 / LEVELS."""

_STEP, _FIRST, _SECOND = -1640531535, -2048144789, -1028477387
"""Odd factors: 2**32 over the golden ratio, and those of MurmurHash3's 32-bit finaliser, as signed numbers."""

_AT_ONCE = 1 << 17
"""Elements of a pass of eager code: as many as stay in a cache."""


class _Rows:
    """Those that are computed now."""

    first = 0
    number = 1


def set_rows(first: int, number: int) -> None:
    """Say which rows of the step the next elements belong to; all tensors hold the same number of elements for each.

    Args:
        first: Counted in the step.
        number: How many.
    """
    _Rows.first, _Rows.number = first, number


def dropout(values: Tensor, chance: float, *, source: Tensor | None = None) -> Tensor:
    """Set elements to 0 with some chance and scale the others up, so that the mean stays.

    Args:
        values: float, any shape.
        chance: In [0, 1).
        source: What `values` were made from. Compiled code makes them in the loop that drops some, if it need not
            write them first; a tensor that is written anyway has to be named then.
    """
    if values.device.type != "cpu" or chance == 0:
        return F.dropout(values, chance)
    dropped = min(max(1, round(chance * LEVELS)), LEVELS - 1)
    seeds = draw_seeds((values if source is None else source).detach())
    if torch.compiler.is_compiling():
        return _DropTwice.apply(values, seeds, dropped)  # type: ignore[no-any-return, no-untyped-call]
    return _drop(values, seeds, dropped)


def _drop(values: Tensor, seeds: Tensor, dropped: int) -> Tensor:
    """Drop elements with a chance of dropped / LEVELS."""
    return torch.where(_levels(values.shape, seeds) >= dropped, values * (LEVELS / (LEVELS - dropped)), 0)


class _DropTwice(torch.autograd.Function):
    """`_drop` whose backward pass makes the numbers again: in compiled code that is cheaper than writing a mask."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, seeds: Tensor, dropped: int) -> Tensor:
        ctx.save_for_backward(seeds)
        ctx.dropped = dropped
        return _drop(values, seeds, dropped)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (seeds,) = ctx.saved_tensors
        return _drop(gradient, same_seeds(seeds), ctx.dropped), None, None


@torch.library.custom_op("bertsmith::draw_seeds", mutates_args=(), tags=(torch.Tag.nondeterministic_seeded,))
def draw_seeds(unlike: Tensor) -> Tensor:
    """int32 [2] from PyTorch's generator.

    An operator of its own, so that compiled code takes the same numbers. The argument, what is dropped from, keeps the
    compiler from taking two calls for one, and says how many elements of the step come before it: places count from
    there.
    """
    seeds = torch.empty(2, dtype=torch.int32).random_(-(1 << 31), (1 << 31) - 1)
    seeds[0] += _wrapped(_Rows.first * (unlike.numel() // _Rows.number))
    return seeds


@draw_seeds.register_fake
def _(unlike: Tensor) -> Tensor:
    return unlike.new_empty(2, dtype=torch.int32)


@torch.library.custom_op("bertsmith::same_seeds", mutates_args=())
def same_seeds(seeds: Tensor) -> Tensor:
    """A copy that the compiler does not know to be one, or it would keep the mask of the forward pass."""
    return seeds.clone()


@same_seeds.register_fake
def _(seeds: Tensor) -> Tensor:
    return torch.empty_like(seeds)


def _levels(shape: Sequence[int], seeds: Tensor) -> Tensor:
    """int32 of a shape, uniform in [0, LEVELS)."""
    if torch.compiler.is_compiling():
        places = torch.zeros((), dtype=torch.int32)
        stride = 1
        for size in reversed(shape):
            places = torch.arange(size, dtype=torch.int32).view(-1, *[1] * places.dim()) * _wrapped(stride) + places
            stride *= size
        return _hash(places, seeds)
    count = torch.Size(shape).numel()
    first = torch.arange(min(count, _AT_ONCE), dtype=torch.int32) * _STEP
    parts = [_hash(first[: count - start] + _wrapped(start), seeds) for start in range(0, count, _AT_ONCE)]
    return torch.cat(parts).view(shape) if parts else first.view(shape)


def _wrapped(place: int) -> int:
    """A place times _STEP, as a signed number of 32 bits, which products of such numbers give by themselves."""
    return (place * _STEP + (1 << 31)) % (1 << 32) - (1 << 31)


def _hash(places: Tensor, seeds: Tensor) -> Tensor:
    """The lower 16 bits of MurmurHash3's finaliser of places times _STEP, with a seed before each round."""
    mixed = places + seeds[0]
    mixed ^= (mixed >> 16) & 0xFFFF
    mixed *= _FIRST
    mixed += seeds[1]
    mixed ^= (mixed >> 13) & 0x7FFFF
    mixed *= _SECOND
    mixed ^= mixed >> 16
    mixed &= 0xFFFF
    return mixed


class Dropout(nn.Module):
    """`dropout` while training, nothing in evaluation."""

    def __init__(self, chance: float) -> None:
        super().__init__()
        self.chance = chance

    def forward(self, values: Tensor) -> Tensor:
        """Any shape, kept."""
        return dropout(values, self.chance) if self.training and self.chance else values
