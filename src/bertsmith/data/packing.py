"""Which lengths share a row: bin packing on the histogram of lengths.

A corpus has millions of sequences but at most `row_length` different lengths,
so all sequences of one length are placed together. The cost depends on the
number of different lengths, not on the number of sequences (the idea of
Krell et al., arXiv:2107.02027, with best fit decreasing as the rule).
"""

from bisect import bisect_left, insort
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Int64Array = npt.NDArray[np.int64]


class Pattern(NamedTuple):
    """Rows that hold the same lengths."""

    lengths: tuple[int, ...]
    """Places of each sequence in the row, longest first."""

    rows: int
    """How many rows are filled like this."""

    def free(self, row_length: int) -> int:
        """Places of the row that stay empty."""
        return row_length - sum(self.lengths)


def pack(lengths: Int64Array, *, row_length: int, max_sequences: int) -> list[Pattern]:
    """Fill rows with whole sequences, best fit decreasing.

    Args:
        lengths: int64 [P]. Places each sequence needs, special tokens included,
            from 1 to `row_length`.
        row_length: Places in a row.
        max_sequences: A row holds at most so many sequences, so that the number
            of sequences in a batch has a bound.

    Returns:
        The patterns; their counts and lengths together hold each sequence once.
    """
    histogram = np.bincount(lengths, minlength=row_length + 1)
    closed: list[Pattern] = []
    open_rows: dict[int, list[Pattern]] = {}  # by free places
    free_sizes: list[int] = []  # the keys of open_rows, sorted

    def add(pattern: Pattern) -> None:
        free = pattern.free(row_length)
        if free == 0 or len(pattern.lengths) == max_sequences:
            closed.append(pattern)
            return
        if free not in open_rows:
            insort(free_sizes, free)
        open_rows.setdefault(free, []).append(pattern)

    for length in range(row_length, 0, -1):
        waiting = int(histogram[length])
        while waiting:
            where = bisect_left(free_sizes, length)
            if where == len(free_sizes):  # fits in no open row
                together = min(row_length // length, max_sequences, waiting)
                count = waiting // together
                add(Pattern((length,) * together, count))
                waiting -= together * count
                continue
            free = free_sizes[where]
            pattern = open_rows[free].pop()
            if not open_rows[free]:
                del open_rows[free]
                free_sizes.pop(where)
            used = min(waiting, pattern.rows)
            if used < pattern.rows:
                add(Pattern(pattern.lengths, pattern.rows - used))
            add(Pattern((*pattern.lengths, length), used))
            waiting -= used
    return closed + [pattern for patterns in open_rows.values() for pattern in patterns]


def number_of_rows(patterns: list[Pattern]) -> int:
    """Rows of all patterns together."""
    return sum(pattern.rows for pattern in patterns)


def padding_fraction(patterns: list[Pattern], row_length: int) -> float:
    """Share of all places that hold no token."""
    rows = number_of_rows(patterns)
    empty = sum(pattern.free(row_length) * pattern.rows for pattern in patterns)
    return empty / (rows * row_length) if rows else 0.0


class Slots(NamedTuple):
    """The places for sequences in all rows, in row order."""

    length: Int64Array
    """int64 [P]. Places of the sequence that goes here."""

    row_starts: Int64Array
    """int64 [rows + 1]. Row r holds the slots row_starts[r] to row_starts[r + 1]."""


def lay_out(patterns: list[Pattern]) -> Slots:
    """Write out the slots of every row."""
    lengths = [np.tile(np.array(p.lengths, dtype=np.int64), p.rows) for p in patterns]
    sizes = [np.full(p.rows, len(p.lengths), dtype=np.int64) for p in patterns]
    row_starts = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(np.concatenate(sizes))])
    return Slots(np.concatenate(lengths), row_starts)
