"""Rotary positions (arXiv:2104.09864): a token's place turns its queries and keys, and adds nothing to them.

Letters: T tokens, H heads, K head_dim.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Rotation(NamedTuple):
    """By how much the vectors of each token turn."""

    cos: Tensor
    """float32 [T, 1, 1, K / 2]. Of the angle, one for each pair of dimensions."""

    sin: Tensor


def rotation(position_ids: Tensor, head_dim: int, theta: float) -> Rotation:
    """The angles of all tokens (arXiv:2104.09864, section 3.2.2).

    Args:
        position_ids: int64 [T].
        head_dim: K, even.
        theta: The pairs of dimensions turn by 1, theta^(-2 / K), theta^(-4 / K), ... a place.
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=position_ids.device) / head_dim
    angles = position_ids.float()[:, None, None, None] * (1.0 / theta**exponents)
    return Rotation(angles.cos(), angles.sin())


def rotate(vectors: Tensor, turn: Rotation) -> Tensor:
    """Turn vectors, so that the product of two of them depends on their distance and not on where they are.

    As in transformers the pairs that turn are dimensions k and k + K / 2. Computed in float32 or better.

    Args:
        vectors: float [T, any, H, K].
        turn: The angles.
    """
    first, second = vectors.chunk(2, -1)
    turned = (first * turn.cos - second * turn.sin, second * turn.cos + first * turn.sin)
    return torch.cat(turned, -1).to(vectors.dtype)
