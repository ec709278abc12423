"""Rotary positions (arXiv:2104.09864): a token's place turns its queries and keys, and adds nothing to them.

Letters: T tokens, H heads, K head_dim.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from bertsmith.model.packed import Packed, asked_by, pick


class Rotation(NamedTuple):
    """By how much the vectors of each token turn."""

    cos: Tensor
    """float32 [T, 1, K / 2]. Of the angle, one for each pair of dimensions."""

    sin: Tensor

    def at(self, places: Tensor | None) -> "Rotation":
        """That of the tokens at some places, or of all."""
        return Rotation(pick(self.cos, places), pick(self.sin, places))


class Reach(NamedTuple):
    """What all layers of one kind share: which tokens see each other, and how queries and keys are turned."""

    packed: Packed
    turn: Rotation

    def asked_by(self, queries: Tensor | None) -> "Reach":
        """The same where only some places ask; as the function `asked_by`."""
        return Reach(asked_by(self.packed, queries, len(self.turn.cos)), self.turn)


def rotation(position_ids: Tensor, head_dim: int, theta: float) -> Rotation:
    """The angles of all tokens (arXiv:2104.09864, section 3.2.2).

    Args:
        position_ids: int64 [T].
        head_dim: K, even.
        theta: The pairs of dimensions turn by 1, theta^(-2 / K), theta^(-4 / K), ... a place.
    """
    is_compiled = torch.compiler.is_compiling() and position_ids.is_cuda
    return Rotation(*(kept_angles if is_compiled else _angles)(position_ids, head_dim, theta))


def _angles(position_ids: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the angles, each as in `Rotation`."""
    angles = position_ids.float()[:, None, None] * rotary_frequencies(head_dim, theta, position_ids.device)
    return angles.cos(), angles.sin()


def rotary_frequencies(head_dim: int, theta: float, device: torch.device | None = None) -> Tensor:
    """By how much each pair of dimensions turns a place, float32 [K / 2], falling from 1."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim
    return 1.0 / theta**exponents


@torch.library.custom_op("bertsmith::kept_angles", mutates_args=())
def kept_angles(position_ids: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """`_angles`, into which the compiler does not look: for a GPU it would compute them again in every layer, twice."""
    return _angles(position_ids, head_dim, theta)


@kept_angles.register_fake
def _(position_ids: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:  # noqa: ARG001
    shape = (len(position_ids), 1, (head_dim + 1) // 2)
    return position_ids.new_empty(shape, dtype=torch.float32), position_ids.new_empty(shape, dtype=torch.float32)


def rotate(vectors: Tensor, turn: Rotation) -> Tensor:
    """Turn vectors, so that the product of two of them depends on their distance and not on where they are.

    As in transformers the pairs that turn are dimensions k and k + K / 2. Computed in float32 or better.

    Args:
        vectors: float [T, H, K].
        turn: The angles.
    """
    first, second = vectors.chunk(2, -1)
    turned = (first * turn.cos - second * turn.sin, second * turn.cos + first * turn.sin)
    return torch.cat(turned, -1).to(vectors.dtype)
