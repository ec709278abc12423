"""Where the sequences of a packed batch lie, and the way there from a padded one and back.

A packed batch is T tokens of N sequences, one after the other. Letters: B rows
of L places (padded), S places in a row of the attention matrix, D hidden; R rows
of `row_length` places, or of one sequence each where there are none, with Q queries.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from bertsmith.errors import require


class Layout(NamedTuple):
    """How the tokens become rows of equal length, for kernels that need a rectangle."""

    row_length: int
    """Places in a row (S)."""

    mask: Tensor | None
    """float [rows or 1, 1, 1 or S, S], added to the scores: 0 where a query sees a key, else -inf. None: all seen."""

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

    window: int | None = None
    """A token sees those of its sequence that are at most so many places away. None: it sees all."""

    queries: Tensor | None = None
    """int64 [R, Q]. The places whose attention is asked for, each in the row of its own that it stands in here: a row
    of `row_length` places, or where there are none a sequence. None: all. Made by `asked_by`."""

    layout: Layout | None = None
    """Filled in by `attention.prepare`."""


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
    starts = cu_seqlens[sequence_of_token(cu_seqlens, tokens)]
    return torch.arange(tokens, device=cu_seqlens.device) - starts


def first_tokens(hidden: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Hidden state of the first token of each sequence, float [T, D] -> [N, D]; zeros for an empty one."""
    first = torch.where(cu_seqlens.diff() > 0, cu_seqlens[:-1], len(hidden))
    return F.pad(hidden, (0, 0, 0, 1)).index_select(0, first)


def asked_by(packed: Packed, queries: Tensor | None, tokens: int) -> Packed:
    """The same batch of so many tokens where only some places ask.

    Raises:
        UserError: They are no places, or of another number of rows. Whether each lies in its row is not looked at.
    """
    if queries is not None:
        is_places = queries.dtype in (torch.int64, torch.int32)
        require(
            is_places, f"queries are {queries.dtype}; give places, as int64, such as mask.flatten().nonzero()[:, 0]"
        )
        rows, shape = _rows(packed, tokens), tuple(queries.shape)
        fits = len(shape) == 2 and shape[0] == rows
        require(
            fits, f"queries have the shape {shape} and the batch has {rows} rows; give [{rows}, any], or all as [M]"
        )
    return replace(packed, queries=queries)


def _rows(packed: Packed, tokens: int) -> int:
    """R of a batch of so many tokens."""
    return len(packed.cu_seqlens) - 1 if packed.row_length is None else tokens // packed.row_length


def first_places(packed: Packed, tokens: int) -> Tensor:
    """Place of the first token of each sequence, of an empty one that of any token: int64 [R, N / R].

    Raises:
        UserError: The N sequences cannot be as many in each row.
    """
    rows, sequences = _rows(packed, tokens), len(packed.cu_seqlens) - 1
    fits = sequences % max(1, rows) == 0
    require(fits, f"{sequences} sequences are not as many in each of {rows} rows; fill up with empty ones")
    first = packed.cu_seqlens[:-1].long()
    if packed.row_length is None:
        return first.clamp(max=tokens - 1)[:, None]
    last = torch.arange(packed.row_length - 1, tokens, packed.row_length, device=first.device)
    return first.view(rows, -1).minimum(last[:, None])


def pick(values: Tensor, places: Tensor | None) -> Tensor:
    """The values at some places, [T, ...] -> [R x Q, ...], or all."""
    return values if places is None else values.index_select(0, places.flatten())


def split_rows(values: Tensor, rows: int, count: int) -> tuple[Tensor, Tensor]:
    """Take rows apart after so many places of each: [rows x (count + n), D] -> [rows x count, D], [rows x n, D]."""
    values = values.view(rows, -1, values.shape[1])
    return values[:, :count].flatten(0, 1), values[:, count:].flatten(0, 1)


def mean_tokens(hidden: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Mean over the tokens of each sequence, float [T, D] -> [N, D]; zeros for an empty one."""
    sums = hidden.new_zeros(len(cu_seqlens) - 1, hidden.shape[1])
    sums = sums.index_add(0, sequence_of_token(cu_seqlens, len(hidden)), hidden)
    return sums / cu_seqlens.diff().clamp(min=1)[:, None]


def sequence_of_token(cu_seqlens: Tensor, tokens: int) -> Tensor:
    """Number of the sequence that each token is in, int64 [T]. No token is in an empty one."""
    index = torch.arange(tokens, dtype=torch.int32, device=cu_seqlens.device)
    return torch.searchsorted(cu_seqlens, index, right=True) - 1
