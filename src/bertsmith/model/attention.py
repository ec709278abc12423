"""Attention inside the sequences of a packed batch, and the way there from a padded one.

A packed batch is T tokens of N sequences, one after the other. Nothing outside
this file knows which kernel computes attention. Letters: B rows of L places
(padded), H heads, K head_dim, S places in a row of the attention matrix.
"""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from bertsmith.model.dropout import dropout

HALF = (torch.bfloat16, torch.float16)


class Layout(NamedTuple):
    """How the tokens become rows of equal length, for kernels that need a rectangle. The same for all layers."""

    row_length: int
    """Places in a row (S)."""

    mask: Tensor | None
    """float [rows, 1, 1 or S, S], added to the scores: 0 where a query sees a key, else -inf. None: it sees all."""

    places: Tensor | None
    """int64 [T]. Where each token goes in the flattened rows. None: the tokens are the rows already."""


@dataclass(frozen=True, slots=True)
class Packed:
    """Where the sequences of a packed batch begin and end."""

    cu_seqlens: Tensor
    """int32 [N + 1]. Sequence n is tokens cu_seqlens[n] to cu_seqlens[n + 1]; the last value is T. Sequences
    may be empty, so that N can be a constant."""

    max_seqlen: int
    """Longest sequence, in tokens, or any number above; at least 1. Not read when `row_length` is given."""

    row_length: int | None = None
    """Places in a block that no sequence crosses the end of; T is a multiple of it. Then every shape is known
    without looking at the lengths, which is what torch.compile needs. None: sequences lie anywhere."""

    layout: Layout | None = None
    """Filled in by `prepare`."""


def unpad(values: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor, Packed]:
    """Drop the padding of a batch.

    Args:
        values: [B, L, ...].
        attention_mask: [B, L], not 0 at real tokens, which may lie anywhere in the row. None: all are real,
            which is then known without looking at a tensor.

    Returns:
        The real tokens [T, ...], their places in the flattened batch int64 [T] (what `pad` needs to undo
        this), and the boundaries of the B sequences, one a row.
    """
    batch, length = values.shape[:2]
    values, device = values.flatten(0, 1), values.device
    if attention_mask is None:
        cu_seqlens = torch.arange(batch + 1, dtype=torch.int32, device=device) * length
        return values, torch.arange(batch * length, device=device), Packed(cu_seqlens, length, length)
    is_real = attention_mask != 0
    indices = is_real.flatten().nonzero().squeeze(1)
    lengths = is_real.sum(1)
    cu_seqlens = F.pad(lengths.cumsum(0), (1, 0)).int()
    longest = max([1, *lengths.tolist()])
    row_length = length if len(indices) == batch * length else None
    return values[indices], indices, Packed(cu_seqlens, longest, row_length)


def pad(values: Tensor, indices: Tensor, shape: tuple[int, int]) -> Tensor:
    """Put tokens back to where `unpad` took them from: [T, ...] -> [B, L, ...], zeros at padding."""
    batch, length = shape
    padded = values.new_zeros(batch * length, *values.shape[1:]).index_copy(0, indices, values)
    return padded.view(batch, length, *values.shape[1:])


def place_in_sequence(cu_seqlens: Tensor, tokens: int) -> Tensor:
    """Places of all tokens, counted from 0 in each sequence, int64 [T]."""
    starts = cu_seqlens[_sequence_of_token(cu_seqlens, tokens)]
    return torch.arange(tokens, device=cu_seqlens.device) - starts


def first_tokens(hidden: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Hidden state of the first token of each sequence, float [T, D] -> [N, D]; zeros for an empty one."""
    first = torch.where(cu_seqlens.diff() > 0, cu_seqlens[:-1], len(hidden))
    return F.pad(hidden, (0, 0, 0, 1)).index_select(0, first)


def prepare(packed: Packed, hidden: Tensor, *, num_heads: int, dropout_p: float) -> Packed:
    """Work out once a forward pass what the attention of every layer needs.

    Args:
        packed: The boundaries.
        hidden: float [T, D]. Input of the first layer.
        num_heads: H.
        dropout_p: As `attend` will be given it.
    """
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    if _can_use_varlen(hidden.device, dtype, hidden.shape[1] // num_heads, dropout_p):
        return packed
    return replace(packed, layout=_lay_out(packed, hidden.shape[0], dtype))


def attend(q: Tensor, k: Tensor, v: Tensor, packed: Packed, *, dropout_p: float = 0.0) -> Tensor:
    """Softmax attention inside each sequence of a packed batch (arXiv:1706.03762, section 3.2.1).

    Args:
        q: float [T, H, K]. Queries; keys and values have the same shape.
        k: Keys.
        v: Values.
        packed: The boundaries, through `prepare` when there are several layers.
        dropout_p: Chance that a weight is set to 0, in [0, 1).

    Returns:
        float [T, H, K].
    """
    if _can_use_varlen(q.device, q.dtype, q.shape[2], dropout_p):
        longest = packed.row_length or packed.max_seqlen
        out = varlen_attn(q, k, v, packed.cu_seqlens, packed.cu_seqlens, longest, longest)
        assert isinstance(out, Tensor)  # a pair only where the log-sum-exp is asked for
        return out
    layout = packed.layout or _lay_out(packed, q.shape[0], q.dtype)
    num_sequences = packed.cu_seqlens.shape[0] - 1
    q, k, v = (_to_rows(x, layout, num_sequences).transpose(1, 2) for x in (q, k, v))  # each [rows, H, S, K]
    out = _attend_rows(q, k, v, layout.mask, dropout_p).transpose(1, 2).flatten(0, 1)
    return out if layout.places is None else out.index_select(0, layout.places)


def _can_use_varlen(device: torch.device, dtype: torch.dtype, head_dim: int, dropout_p: float) -> bool:
    """Whether FlashAttention takes the packed tokens as they are: Ampere or later, half precision, no dropout."""
    if device.type != "cuda" or dtype not in HALF or dropout_p > 0 or head_dim % 8 or head_dim > 256:
        return False
    return bool(torch.cuda.get_device_properties(device).major >= 8)


def _sequence_of_token(cu_seqlens: Tensor, tokens: int) -> Tensor:
    """Number of the sequence that each token is in, int64 [T]. No token is in an empty one."""
    index = torch.arange(tokens, dtype=torch.int32, device=cu_seqlens.device)
    return torch.searchsorted(cu_seqlens, index, right=True) - 1


def _lay_out(packed: Packed, tokens: int, dtype: torch.dtype) -> Layout:
    """Make rows: the blocks of `row_length` places, or one row for each sequence when there are no blocks."""
    cu_seqlens, num_sequences = packed.cu_seqlens, packed.cu_seqlens.shape[0] - 1
    if packed.row_length is not None:
        if num_sequences * packed.row_length == tokens:  # no block is without a sequence, so each is one whole
            return Layout(packed.row_length, None, None)
        sequence = _sequence_of_token(cu_seqlens, tokens).view(-1, 1, packed.row_length)
        return Layout(packed.row_length, _additive(sequence[..., :, None] == sequence[..., None, :], dtype), None)
    row = _sequence_of_token(cu_seqlens, tokens)
    places = row * packed.max_seqlen + place_in_sequence(cu_seqlens, tokens)
    lengths = cu_seqlens.diff().clamp(min=1)  # an empty sequence sees one zero: a softmax over nothing is NaN
    seen = torch.arange(packed.max_seqlen, device=row.device) < lengths[:, None]
    mask = _additive(seen[:, None, None, :], dtype)
    return Layout(packed.max_seqlen, mask, places)


def _additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros_like(seen, dtype=dtype).masked_fill(~seen, -math.inf)


def _to_rows(x: Tensor, layout: Layout, num_sequences: int) -> Tensor:
    """[T, H, K] -> [rows, S, H, K], zeros where there is no token."""
    if layout.places is None:
        return x.view(-1, layout.row_length, *x.shape[1:])
    return pad(x, layout.places, (num_sequences, layout.row_length))


def _attend_rows(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout_p: float) -> Tensor:
    """Attention over [rows, H, S, K], by the fused kernel or by two products around a softmax.

    On a CPU the fused kernel is the slower one for short rows and for half precision. Forward and backward,
    4,096 tokens, 4 heads of 64, two AVX512-BF16 cores, milliseconds compiled (eager is alike):

        rows       32 x 128   16 x 256   8 x 512   2 x 2048
        float32    fused 17   28         54        194
                   plain 14   25         63        283
        bfloat16   fused 26   28         44        140
                   plain  7   11         16        112

    The plain way keeps S x S weights a head, so long rows are the fused kernel's. With dropout a CPU has none.
    """
    longest_plain = 1024 if q.dtype in HALF else 256
    if q.device.type != "cpu" or (q.shape[2] > longest_plain and dropout_p == 0):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout_p)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    scores = scores if mask is None else scores + mask
    return dropout(scores.softmax(-1), dropout_p) @ v
