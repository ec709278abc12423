"""Sentence pairs: which second halves change places, with those of other pieces or with their own first halves.

Each piece is cut at a sentence end into A and B. For next sentences, the B parts
of half of the pieces are exchanged, two and two, between pieces of different documents whose B
are equally long; where one document is more than half of the text, between parts of it, too, that
are no neighbours. So no token is repeated or lost, every sequence keeps its
length, the labels are balanced, and the lengths say nothing about the label. For
sentence order, A and B of half of the pieces change places.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bertsmith.data.keyed import Stream, keyed_bits, keyed_uniform
from bertsmith.data.packing import Int64Array
from bertsmith.data.rows import IGNORE_INDEX

FOLLOWS, RANDOM = 0, 1
"""next_sentence_label, as in google-research/bert."""

SWAPPED = 1
"""The same label for sentence order."""

ATTEMPTS = 8


class Pairs(NamedTuple):
    """Where the two parts of each sequence come from; all int64 [P]."""

    first_start: Int64Array
    """Place of A's first token in the corpus."""

    first_length: Int64Array
    """Tokens of A."""

    second_start: Int64Array
    """Place of B's first token in the corpus."""

    second_length: Int64Array
    """Tokens of B; 0 where the piece holds no sentence end to cut at."""

    label: Int64Array
    """FOLLOWS, RANDOM or SWAPPED, or IGNORE_INDEX where there is no B."""


class Origin(NamedTuple):
    """Which pieces may not be partners; int64 [P]."""

    document: Int64Array
    section: Int64Array
    one_document: bool
    """One document holds most of the text, so partners may also be distant sections of one document."""

    def apart(self, i: Int64Array, j: Int64Array) -> npt.NDArray[np.bool_]:
        """Whether piece j is no continuation of piece i, elementwise."""
        other_document: npt.NDArray[np.bool_] = self.document[i] != self.document[j]
        if not self.one_document:
            return other_document
        distant: npt.NDArray[np.bool_] = np.abs(self.section[i] - self.section[j]) >= 2
        return other_document | distant


def make_pairs(
    starts: Int64Array, lengths: Int64Array, sentence_starts: Int64Array, origin: Origin, *, seed: int, epoch: int
) -> Pairs:
    """Cut the pieces into sentence pairs (arXiv:1810.04805, section 3.1, task 2).

    Args:
        starts: int64 [P]. Place of each piece's first token in the corpus.
        lengths: int64 [P]. Tokens of each piece.
        sentence_starts: int64. Places where a sentence starts, increasing.
        origin: Where each piece comes from.
        seed: Of the run.
        epoch: Each epoch cuts and exchanges anew.

    Returns:
        The pairs. Half of the pieces that have a B are labelled RANDOM, fewer
        only where not enough partners of other documents were found.
    """
    ends = starts + lengths
    low = np.searchsorted(sentence_starts, starts, side="right")
    high = np.searchsorted(sentence_starts, ends, side="left")
    can = np.flatnonzero(high > low)
    boundary = ends.copy()
    partner = np.full(len(starts), -1, dtype=np.int64)
    free = can
    for attempt in range(ATTEMPTS):
        if len(free) < 2 or len(can) - len(free) >= len(can) // 2 > 0:
            break
        draw = keyed_uniform(seed, epoch, Stream.SENTENCE, attempt, free)
        choice = low[free] + (draw * (high[free] - low[free])).astype(np.int64)
        boundary[free] = sentence_starts[choice]
        i, j = _couples(free, (ends - boundary)[free], keyed_bits(seed, epoch, Stream.PARTNER, attempt, free))
        good = origin.apart(i, j)
        i, j = i[good], j[good]
        partner[i], partner[j] = j, i
        free = can[partner[can] < 0]
    if len(can) == 1:
        boundary[can] = sentence_starts[low[can]]

    leader = can[partner[can] > can]  # one of each couple
    order = np.argsort(keyed_bits(seed, epoch, Stream.NEGATIVE, leader), kind="stable")
    leader = leader[order][: len(can) // 4]
    exchanged = np.concatenate([leader, partner[leader]])
    second_start = boundary.copy()
    second_start[exchanged] = boundary[partner[exchanged]]
    label = np.full(len(starts), IGNORE_INDEX, dtype=np.int64)
    if len(exchanged):  # with one answer only there is nothing to tell apart
        label[can] = FOLLOWS
        label[exchanged] = RANDOM
    return Pairs(starts, boundary - starts, second_start, ends - boundary, label)


def order_pairs(
    starts: Int64Array, lengths: Int64Array, sentence_starts: Int64Array, *, seed: int, epoch: int
) -> Pairs:
    """Cut the pieces into two parts and let half of them change places (arXiv:1909.11942, section 3.1).

    Arguments are those of `make_pairs`.
    """
    ends = starts + lengths
    low = np.searchsorted(sentence_starts, starts, side="right")
    high = np.searchsorted(sentence_starts, ends, side="left")
    can = np.flatnonzero(high > low)
    draw = keyed_uniform(seed, epoch, Stream.SENTENCE, 0, can)
    boundary = ends.copy()
    boundary[can] = sentence_starts[low[can] + (draw * (high - low)[can]).astype(np.int64)]
    pairs = Pairs(
        starts.copy(), boundary - starts, boundary.copy(), ends - boundary, np.full_like(starts, IGNORE_INDEX)
    )
    pairs.label[can] = FOLLOWS
    swap = can[np.argsort(keyed_bits(seed, epoch, Stream.ORDER, can), kind="stable")[: len(can) // 2]]
    pairs.first_start[swap], pairs.first_length[swap] = boundary[swap], (ends - boundary)[swap]
    pairs.second_start[swap], pairs.second_length[swap] = starts[swap], (boundary - starts)[swap]
    pairs.label[swap] = SWAPPED
    return pairs


def _couples(pieces: Int64Array, size: Int64Array, key: npt.NDArray[np.uint64]) -> tuple[Int64Array, Int64Array]:
    """Put pieces of equal size together, two and two, in a keyed order."""
    order = np.lexsort((key, size))
    sizes = size[order]
    new_group = np.r_[True, sizes[1:] != sizes[:-1]]
    group_start = np.maximum.accumulate(np.where(new_group, np.arange(len(sizes)), 0))
    even = (np.arange(len(sizes)) - group_start) % 2 == 0
    first = np.flatnonzero(even[:-1] & ~new_group[1:])
    return pieces[order[first]], pieces[order[first + 1]]
