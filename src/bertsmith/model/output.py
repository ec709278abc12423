"""What an encoder gives, and what its heads make of it; the same for all architectures.

Letters: B rows of L places, T tokens of N packed sequences, M masked tokens, D hidden, V vocabulary.
"""

from typing import NamedTuple

from torch import Tensor


class BertOutput(NamedTuple):
    """What the encoder gives."""

    sequence_output: Tensor
    """float [B, L, D], zeros at padding, or [T, D] when packed. Output of the last block."""

    pooled_output: Tensor | None
    """float [B, D] or [N, D], of a zero vector where a sequence has no token. None when there is no pooler."""

    hidden_states: tuple[Tensor, ...] | None = None
    """The embeddings and the output of each block, shaped as `sequence_output`, if asked for."""


class BertPretrainingOutput(NamedTuple):
    """What the two tasks guess."""

    mlm_logits: Tensor
    """float [M, V] at the places asked for, else [B, L, V], or [T, V] when packed."""

    nsp_logits: Tensor | None
    """float [B, 2], or [N, 2] when packed: 0 follows, 1 random. None when the model has no such head."""
