"""How long the pieces are that sections are cut into, one piece for each training sequence.

Lengths are decided once for a run, from the lengths of the sections and the
seed. Which tokens a piece holds changes with each epoch (`examples.py`); the
lengths do not, so the number of rows in an epoch is a constant, and the step
number alone says which epoch and row it stands for.
"""

from typing import NamedTuple

import numpy as np

from bertsmith.data.keyed import Stream, keyed_bits, keyed_uniform
from bertsmith.data.packing import Int64Array, Pattern, number_of_rows, pack, padding_fraction

MIN_PIECE = 8
"""Tokens below which no piece is made on purpose: so little context teaches nothing."""

PADDING_GOAL = 0.01
"""Share of empty places above which more pieces are cut, to fill them."""

MAX_ROUNDS = 8


class Pieces(NamedTuple):
    """The pieces of all sections. Those of one section hold each of its tokens once."""

    section: Int64Array
    """int64 [P], not decreasing. The section a piece is cut from."""

    length: Int64Array
    """int64 [P]. Tokens of the piece, special tokens not counted."""


class Cut(NamedTuple):
    """What `cut_sections` decides."""

    pieces: Pieces
    patterns: list[Pattern]
    max_sequences: int
    """Most sequences in one row."""


def cut_sections(
    section_lengths: Int64Array, *, row_length: int, special_tokens: int, short_probability: float, seed: int
) -> Cut:
    """Decide the lengths of all pieces so that rows of `row_length` places are full.

    Most pieces fill a row. A share of `short_probability` is shorter, so that the
    model meets short inputs too (arXiv:1810.04805, appendix A.2). Where whole
    pieces leave more than 1 % of the places empty, some are cut to fill them.

    Args:
        section_lengths: int64 [S]. Tokens of each section.
        row_length: Places in a row.
        special_tokens: Places of a sequence that are no text, 2 or 3.
        short_probability: Share of the sequences that are shorter than a row, in [0, 1).
        seed: Decides which pieces are short.
    """
    capacity = row_length - special_tokens
    pieces = _windows(section_lengths, capacity)
    pieces = _shorten(pieces, capacity, short_probability, seed)
    max_sequences, patterns = _pack(pieces.length + special_tokens, row_length)
    for attempt in range(MAX_ROUNDS):
        if padding_fraction(patterns, row_length) <= PADDING_GOAL:
            break
        finer = _cut_to_fit(pieces, patterns, row_length, special_tokens, (seed, attempt))
        finer_patterns = pack(finer.length + special_tokens, row_length=row_length, max_sequences=max_sequences)
        if number_of_rows(finer_patterns) >= number_of_rows(patterns):
            break
        pieces, patterns = finer, finer_patterns
    return Cut(pieces, patterns, max_sequences)


def _pack(lengths: Int64Array, row_length: int) -> tuple[int, list[Pattern]]:
    """Pack with the smallest bound on the sequences in a row that costs no room."""
    most = max(4, row_length // 3)
    bound = int(np.clip(np.ceil(2 * row_length / lengths.mean()), 4, most))
    while True:
        patterns = pack(lengths, row_length=row_length, max_sequences=bound)
        is_bound = any(len(p.lengths) == bound and p.free(row_length) >= int(lengths.min()) for p in patterns)
        if bound == most or not is_bound or padding_fraction(patterns, row_length) <= PADDING_GOAL:
            return bound, patterns
        bound = min(2 * bound, most)


def _windows(section_lengths: Int64Array, capacity: int) -> Pieces:
    """Cut each section into full pieces and one with what remains."""
    full, rest = np.divmod(section_lengths, capacity)
    counts = full + (rest > 0)
    section = np.repeat(np.arange(len(section_lengths)), counts)
    length = np.full(len(section), capacity, dtype=np.int64)
    last = np.cumsum(counts) - 1
    has_rest = rest > 0
    length[last[has_rest]] = rest[has_rest]
    tiny = has_rest & (full > 0) & (rest < MIN_PIECE) & (capacity >= 2 * MIN_PIECE)
    length[last[tiny] - 1] -= MIN_PIECE - rest[tiny]  # the piece before lends what is missing
    length[last[tiny]] = MIN_PIECE
    return Pieces(section, length)


def _shorten(pieces: Pieces, capacity: int, short_probability: float, seed: int) -> Pieces:
    """Cut some of the full pieces in two at a random place."""
    if capacity < 2 * MIN_PIECE:
        return pieces
    index = np.arange(len(pieces.length))
    # Each cut piece becomes two short ones, so this share of pieces gives that share of sequences.
    share = short_probability / (2 - short_probability)
    chosen = (pieces.length == capacity) & (keyed_uniform(seed, Stream.CUT, index) < share)
    width = capacity - 2 * MIN_PIECE + 1
    first = MIN_PIECE + (keyed_bits(seed, Stream.CUT, index, 1) % np.uint64(width)).astype(np.int64)
    return _split(pieces, index[chosen], first[chosen])


def _split(pieces: Pieces, index: Int64Array, first: Int64Array) -> Pieces:
    """Cut the pieces at `index` into one of `first` tokens and the rest. A piece may be named once."""
    counts = np.ones(len(pieces.length), dtype=np.int64)
    counts[index] = 2
    length = np.repeat(pieces.length, counts)
    places = (np.cumsum(counts) - counts)[index]
    length[places] = first
    length[places + 1] -= first
    return Pieces(np.repeat(pieces.section, counts), length)


def _cut_to_fit(
    pieces: Pieces, patterns: list[Pattern], row_length: int, special_tokens: int, key: tuple[int, int]
) -> Pieces:
    """Dissolve the emptiest rows and cut their pieces to the free places of the others.

    The free places of the rows that stay are laid on a line, the pieces of the
    dissolved rows on another, and the pieces are cut where a free place ends.
    """
    patterns = sorted(patterns, key=lambda pattern: pattern.free(row_length))
    row = np.repeat(np.arange(len(patterns)), [pattern.rows for pattern in patterns])  # its pattern; emptiest last
    free = np.array([pattern.free(row_length) for pattern in patterns])
    content = row_length - free - special_tokens * np.array([len(pattern.lengths) for pattern in patterns])
    room = np.where(free >= special_tokens + MIN_PIECE, free - special_tokens, 0)
    offered = np.cumsum(room[row]) - room[row]  # by the rows before each
    wanted = np.cumsum(content[row][::-1])[::-1]  # by each row and those after it
    first_dissolved = int(np.count_nonzero(wanted > offered))

    dissolved: dict[int, int] = {}  # how many pieces of each length
    for pattern, rows in zip(patterns, np.bincount(row[first_dissolved:], minlength=len(patterns)), strict=True):
        for length in pattern.lengths:
            tokens = length - special_tokens
            dissolved[tokens] = dissolved.get(tokens, 0) + int(rows)
    rooms = room[row[:first_dissolved]]
    rooms = rooms[rooms > 0]
    rooms = rooms[np.argsort(keyed_bits(*key, Stream.CUT, np.arange(len(rooms)), 2), kind="stable")]
    return _cut_at(pieces, _choose(pieces, dissolved, key), np.cumsum(rooms))


def _choose(pieces: Pieces, wanted: dict[int, int], key: tuple[int, int]) -> Int64Array:
    """Pick so many pieces of each length, in a keyed order. Returns their indices, sorted."""
    order = np.lexsort((keyed_bits(*key, Stream.CUT, np.arange(len(pieces.length)), 3), pieces.length))
    ordered = pieces.length[order]
    chosen = []
    for length, number in sorted(wanted.items()):
        start = int(np.searchsorted(ordered, length))
        chosen.append(order[start : start + number])
    return np.sort(np.concatenate(chosen)) if chosen else np.zeros(0, dtype=np.int64)


def _cut_at(pieces: Pieces, chosen: Int64Array, ends: Int64Array) -> Pieces:
    """Lay the chosen pieces on a line and cut them at `ends`, sparing cuts that would leave a sliver."""
    piece_ends = np.cumsum(pieces.length[chosen])
    owner = np.searchsorted(piece_ends, ends, side="left")
    inside = owner < len(chosen)
    ends, owner = ends[inside], owner[inside]
    offset = ends - (piece_ends - pieces.length[chosen])[owner]
    good = (offset >= MIN_PIECE) & (pieces.length[chosen][owner] - offset >= MIN_PIECE)
    section = np.concatenate([pieces.section, pieces.section[chosen][owner[good]]])
    cut_places = np.concatenate(
        [np.cumsum(pieces.length), (np.cumsum(pieces.length) - pieces.length)[chosen][owner[good]] + offset[good]]
    )
    order = np.argsort(cut_places, kind="stable")
    return Pieces(section[order], np.diff(cut_places[order], prepend=0))
