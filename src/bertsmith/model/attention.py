"""Attention inside the sequences of a packed batch.

Nothing outside this file knows which kernel computes attention. Letters: T
tokens, D hidden, H heads, K head_dim, S places in a row of the attention matrix, R rows
with Q queries each.
"""

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bertsmith.model.dropout import dropout
from bertsmith.model.packed import Layout, Packed, pad, pick, place_in_sequence, sequence_of_token

if torch.cuda.is_available():  # it brings PyTorch's compiler along, a second to import that a CPU need not wait
    from torch.nn.attention.varlen import varlen_attn

HALF = (torch.bfloat16, torch.float16)
AMPERE, HOPPER = 8, (9, 0)
"""Compute capabilities: the major number, and both."""

LONGEST_SHORT_ROW = 512
"""Places in a row; longer ones were not measured."""


def prepare(packed: Packed, hidden: Tensor, *, num_heads: int, dropout_p: float, window: int | None = None) -> Packed:
    """Work out once a forward pass what the attention of all layers with the same window needs.

    Args:
        packed: The boundaries.
        hidden: float [T, D]. Input of the first layer.
        num_heads: H.
        dropout_p: As `attend` will be given it.
        window: Farthest place that a token sees, counted on each side; None: its whole sequence.
    """
    packed = replace(packed, window=window)
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    if _can_use_varlen(packed, hidden.device, dtype, hidden.shape[1] // num_heads, dropout_p):
        return packed
    return replace(packed, layout=_lay_out(packed, hidden.shape[0], dtype))


def project(qkv: nn.Linear, hidden: Tensor, queries: Tensor | None, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Make queries, keys and values; queries of some places alone where these are given.

    Args:
        qkv: The three projections in one matrix, [3 D, D].
        hidden: float [T, D].
        queries: As in `Packed`, int64 [R, Q].
        num_heads: H.

    Returns:
        Queries, float [T, H, K] or [R x Q, H, K], keys and values, each [T, H, K].
    """
    if queries is None:
        q, k, v = qkv(hidden).unflatten(-1, (3, num_heads, -1)).unbind(1)
        return q, k, v
    width = hidden.shape[1]
    of_queries, of_all = (
        (qkv.weight[rows], None if qkv.bias is None else qkv.bias[rows]) for rows in (slice(width), slice(width, None))
    )
    heads = (num_heads, width // num_heads)
    k, v = F.linear(hidden, *of_all).view(len(hidden), 2, *heads).unbind(1)
    return F.linear(pick(hidden, queries), *of_queries).view(queries.numel(), *heads), k, v


def attend(q: Tensor, k: Tensor, v: Tensor, packed: Packed, *, dropout_p: float = 0.0) -> Tensor:
    """Softmax attention inside each sequence of a packed batch (arXiv:1706.03762, section 3.2.1).

    With a window a token sees its neighbours alone (arXiv:2004.05150, section 3.1).

    Args:
        q: float [T, H, K], or [R x Q, H, K] where `packed.queries` says which places ask. Queries.
        k: float [T, H, K]. Keys; values have the same shape.
        v: Values.
        packed: The boundaries and the window, through `prepare` when there are several layers.
        dropout_p: Chance that a weight is set to 0, in [0, 1).

    Returns:
        float, shaped as `q`.
    """
    tokens, queries = k.shape[0], packed.queries
    if _can_use_varlen(packed, q.device, q.dtype, q.shape[2], dropout_p):
        longest = packed.row_length or packed.max_seqlen
        window = (-1, -1) if packed.window is None else (packed.window, packed.window)
        q = q if queries is None else _among_all(q, queries.flatten(), tokens)
        out = varlen_attn(q, k, v, packed.cu_seqlens, packed.cu_seqlens, longest, longest, window_size=window)
        assert isinstance(out, Tensor)  # a pair only where the log-sum-exp is asked for
        return pick(out, queries)
    layout = packed.layout or _lay_out(packed, tokens, q.dtype)
    num_sequences = packed.cu_seqlens.shape[0] - 1
    k, v = (_to_rows(x, layout, num_sequences).transpose(1, 2) for x in (k, v))  # each [R, H, S, K]
    rows = _to_rows(q, layout, num_sequences) if queries is None else q.view(*queries.shape, *q.shape[1:])
    mask = layout.mask if queries is None else _mask_of(queries, layout)
    out = _attend_rows(rows.transpose(1, 2), k, v, mask, dropout_p).transpose(1, 2).flatten(0, 1)
    return out if queries is not None else pick(out, layout.places)


def _among_all(q: Tensor, places: Tensor, tokens: int) -> Tensor:
    """Queries [M, ...] put to their places [M], [T, ...]; of several at one place, which are equal, the first.

    The other places, whose output is not looked at, take one of them, too: each another one, since the backward pass
    sums what goes back to the same.
    """
    numbers = torch.arange(len(places), device=q.device)
    others = torch.arange(tokens, device=q.device) % len(places)
    return q.index_select(0, others.scatter_reduce(0, places, numbers, "amin", include_self=False))


def _mask_of(queries: Tensor, layout: Layout) -> Tensor | None:
    """What these queries [R, Q] see: float [R, 1, 1 or Q, S]."""
    mask = layout.mask
    if mask is None or mask.shape[2] == 1:
        return mask
    row = torch.arange(len(queries), device=queries.device)[:, None]
    places = queries if layout.places is None else layout.places[queries]
    return mask.expand(len(queries), -1, -1, -1)[row, 0, places % layout.row_length][:, None]


def _can_use_varlen(packed: Packed, device: torch.device, dtype: torch.dtype, head_dim: int, dropout_p: float) -> bool:
    """Whether FlashAttention takes the packed tokens as they are: Ampere or later, half precision, no dropout.

    Not short rows on Hopper, where PyTorch takes cuDNN's kernel, the faster one in spite of a mask. On other cards it
    may take a slower one, so there nothing changes. Forward and backward, rows of real text, 12 heads of 64 in
    bfloat16, an H100, PyTorch 2.11, milliseconds:

        rows                          64 x 512   64 x 512, window of 64   256 x 128   256 x 128, window of 64
        varlen                        1.88       1.60                     1.16        1.27
        a mask, cuDNN                 1.18       1.18                     0.81        1.01
        a mask, memory-efficient      2.20       2.30                     0.73        0.86
    """
    if device.type != "cuda" or dtype not in HALF or dropout_p > 0 or head_dim % 8 or head_dim > 256:
        return False
    card = torch.cuda.get_device_properties(device)
    is_short = packed.row_length is not None and packed.row_length <= LONGEST_SHORT_ROW
    has_fast_rows = (card.major, card.minor) == HOPPER and torch.version.hip is None and head_dim <= 128
    return bool(card.major >= AMPERE) and not (is_short and has_fast_rows)


def _lay_out(packed: Packed, tokens: int, dtype: torch.dtype) -> Layout:
    """Make rows: the blocks of `row_length` places, or one row for each sequence when there are no blocks."""
    cu_seqlens, num_sequences = packed.cu_seqlens, packed.cu_seqlens.shape[0] - 1
    length, device = packed.row_length or packed.max_seqlen, cu_seqlens.device
    seen: Tensor | None = None  # bool, shaped as the mask; None where every query sees the whole row
    places: Tensor | None = None
    if packed.row_length is None:
        row = sequence_of_token(cu_seqlens, tokens)
        places = row * length + place_in_sequence(cu_seqlens, tokens)
        lengths = cu_seqlens.diff().clamp(min=1)  # an empty sequence sees one zero: a softmax over nothing is NaN
        seen = (torch.arange(length, device=device) < lengths[:, None])[:, None, None, :]
    elif num_sequences * length != tokens:  # else no block is without a sequence, so each is one whole
        sequence = sequence_of_token(cu_seqlens, tokens).view(-1, 1, length)
        seen = sequence[..., :, None] == sequence[..., None, :]
    if packed.window is not None and packed.window < length - 1:
        place = torch.arange(length, device=device)
        distance = (place[:, None] - place).abs()
        near = (distance <= packed.window)[None, None]
        seen = near if seen is None else near & (seen | (distance == 0))  # far padding sees itself, not nothing
    mask = None if seen is None else torch.zeros_like(seen, dtype=dtype).masked_fill(~seen, -math.inf)
    return Layout(length, mask, places)


def _to_rows(x: Tensor, layout: Layout, num_sequences: int) -> Tensor:
    """[T, H, K] -> [rows, S, H, K], zeros where there is no token."""
    if layout.places is None:
        return x.view(-1, layout.row_length, *x.shape[1:])
    return pad(x, layout.places, (num_sequences, layout.row_length))


def _attend_rows(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout_p: float) -> Tensor:
    """Attention over [R, H, S, K], Q or S queries a row, by the fused kernel or by two products around a softmax.

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
    if q.device.type != "cpu" or (k.shape[2] > longest_plain and dropout_p == 0):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout_p)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    scores = scores if mask is None else scores + mask
    return dropout(scores.softmax(-1), dropout_p, source=scores) @ v
