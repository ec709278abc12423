"""Which tokens are predicted, and what they become.

Works on rows (R rows of L places) in numpy, without a generator: each draw is a
hash of (seed, epoch, row, place), so masks do not depend on how rows are grouped.
"""

from dataclasses import dataclass
from math import ceil
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from bertsmith.data.keyed import Stream, keyed_bits, keyed_uniform
from bertsmith.data.packing import Int64Array
from bertsmith.data.rows import IGNORE_INDEX
from bertsmith.errors import require, suggestion

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]

Units = Literal["token", "word", "span"]
"""What is chosen as one: a piece, a whole word, or several pieces in a row."""

UNIT_OVERHANG = 8
"""Places kept free so that the last word or span of a row still fits. Longer ones may be passed over there."""

COVERING_BLOCK = 20
"""Places of the corpus among which the turns of covering masks are spread evenly: 15 % and 30 % of them are whole."""

SPAN_LENGTH = 3.8
"""Mean pieces of a span; lengths are geometric (arXiv:1907.10529, section 3.1)."""


class Masked(NamedTuple):
    """Rows with some tokens hidden."""

    input_ids: Int64Array
    """int64 [R, L]. What the model sees."""

    places: Int64Array
    """int64 [R, K]. Places in the row that are predicted, increasing; filled with 0."""

    labels: Int64Array
    """int64 [R, K]. The true ids; IGNORE_INDEX where `places` is only filled."""


def share_at(start: float, end: float | None, progress: float | FloatArray) -> Any:
    """Share of the tokens that are chosen when a run is so far, in [0, 1]; it moves in a line, or stays at `start`."""
    return start if end is None else start + (end - start) * progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Masking:
    """How tokens are chosen and hidden (arXiv:1810.04805, section 3.1, task 1).

    Of the chosen tokens 80 % become [MASK], 10 % a random token and 10 % stay.
    """

    mlm_probability: float
    """Share of the maskable tokens that are chosen, in (0, 1)."""

    mask_token_id: int
    replacement_ids: Int64Array
    """int64. Ids that a random token is drawn from: no special or unused ones."""

    end_probability: float | None = None
    """Share at the end of the run, to which `mlm_probability` moves in a line. None: it stays."""

    units: Units = "token"
    continues_word: BoolArray | None = None
    """bool [V]. Whether a piece continues a word; given where units are words."""

    covering: bool = False
    """Choose other tokens in each epoch, until nearly all have been, instead of anew; spans cover no better for it."""

    seed: int = 0

    def __post_init__(self) -> None:
        known = get_args(Units)
        require(self.units in known, f"mask_units is {self.units!r}{suggestion(str(self.units), known)}")
        for name in ("mlm_probability", "end_probability"):
            share = getattr(self, name)
            require(share is None or 0 < share < 1, f"{name} is {share}; give a share between 0 and 1, such as 0.15")

    def per_row(self, row_length: int) -> int:
        """K, the most predictions a row can have."""
        most = ceil(max(self.mlm_probability, self.end_probability or 0.0) * row_length)
        return min(row_length, most + (UNIT_OVERHANG if self.units != "token" else 0))

    def apply(
        self,
        input_ids: Int64Array,
        maskable: BoolArray,
        *,
        epoch: Int64Array,
        row: Int64Array,
        corpus_place: Int64Array | None = None,
        progress: float | FloatArray = 0.0,
    ) -> Masked:
        """Hide tokens.

        The number of chosen tokens in a row is its maskable tokens times the share,
        rounded up or down at random so that the share is right on average, and at
        least 1. Words and spans come as near to it as whole ones can: a row may have a few more or less, a short one
        none, and a word that is longer than `UNIT_OVERHANG` is seldom chosen, so that fewer are.

        Args:
            input_ids: int64 [R, L].
            maskable: bool [R, L]. False at special tokens and padding.
            epoch: int64 [R]. Epoch of each row: each has other masks.
            row: int64 [R]. Number of each row in its epoch.
            corpus_place: int64 [R, L]. Where each maskable token stands in the corpus; needed for `covering`.
            progress: float, or float [R]. How far the run is, in [0, 1].
        """
        key = (self.seed, epoch[:, None], row[:, None])
        place = np.arange(input_ids.shape[1])[None, :]
        share = share_at(self.mlm_probability, self.end_probability, progress)
        if self.covering:
            assert corpus_place is not None
            taken = epoch * (self.mlm_probability + share) / 2  # by the epochs before: the share moves in a line
            score = (self._turns(corpus_place) - np.reshape(taken, (-1, 1))) % 1.0
        else:
            score = keyed_uniform(*key, Stream.MASK, place)
        rounding = keyed_uniform(*key, Stream.MASK, -1)[:, 0]
        wanted = np.maximum(1, np.floor(share * maskable.sum(1) + rounding)).astype(np.int64)
        if self.units == "token":
            chosen = _lowest(np.where(maskable, score, 2.0), np.minimum(wanted, maskable.sum(1)))
        else:
            joined = self._joined(input_ids[:, 1:], key)
            inside = np.zeros_like(maskable)
            inside[:, 1:] = maskable[:, 1:] & maskable[:, :-1] & joined
            chosen = _lowest_units(maskable, inside, score, wanted, self.per_row(input_ids.shape[1]))

        fate = keyed_uniform(*key, Stream.FATE, place)
        draw = keyed_bits(*key, Stream.REPLACEMENT, place) % np.uint64(len(self.replacement_ids))
        corrupted = np.where(chosen & (fate < 0.8), self.mask_token_id, input_ids)
        swapped = chosen & (fate >= 0.8) & (fate < 0.9)
        corrupted = np.where(swapped, self.replacement_ids[draw.astype(np.int64)], corrupted)
        places = np.argsort(~chosen, axis=1, kind="stable")[:, : self.per_row(input_ids.shape[1])]
        filled = np.arange(places.shape[1])[None, :] < chosen.sum(1)[:, None]
        labels = np.where(filled, np.take_along_axis(input_ids, places, axis=1), IGNORE_INDEX)
        return Masked(corrupted, np.where(filled, places, 0), labels)

    def _turns(self, corpus_place: Int64Array) -> FloatArray:
        """When each place of the corpus is masked, in [0, 1): float64 [R, L]. Each epoch takes the next part of it.

        Those of a block of the corpus are spread evenly, so that a part of a row has about as many as the share wants;
        a row that had fewer would take some of the next part, and mask them again in the next epoch.
        """
        block = corpus_place[..., None] // COVERING_BLOCK * COVERING_BLOCK + np.arange(COVERING_BLOCK)
        draws = keyed_uniform(self.seed, Stream.MASK, block)
        own = keyed_uniform(self.seed, Stream.MASK, corpus_place)
        rank: FloatArray = (draws < own[..., None]).sum(-1) + own
        return rank / COVERING_BLOCK

    def _joined(self, input_ids: Int64Array, key: tuple[int | Int64Array, ...]) -> BoolArray:
        """Whether a piece, the first of a row left out, is one with the piece before it: bool [R, L - 1]."""
        if self.units == "word":
            assert self.continues_word is not None
            return np.asarray(self.continues_word[input_ids])
        return keyed_uniform(*key, Stream.SPAN, np.arange(input_ids.shape[1])[None, :]) < 1 - 1 / SPAN_LENGTH


def _lowest(score: FloatArray, count: Int64Array) -> BoolArray:
    """Mark the `count` lowest scores of each row. score [R, L], count [R]."""
    order = np.argsort(score, axis=1, kind="stable")
    chosen = np.zeros(score.shape, dtype=np.bool_)
    np.put_along_axis(chosen, order, np.arange(score.shape[1])[None, :] < count[:, None], axis=1)
    return chosen


def _lowest_units(
    maskable: BoolArray, inside: BoolArray, score: FloatArray, wanted: Int64Array, most: int
) -> BoolArray:
    """Mark whole words or spans in the order of their score until `wanted` tokens are reached.

    Args are [R, L] but for `wanted` [R]; `inside` marks tokens joined to the one before.
    The one that crosses the number is taken with the chance that keeps the
    mean number of tokens right, unless it would not fit into `most`.
    """
    places = np.broadcast_to(np.arange(inside.shape[1]), inside.shape)
    start = np.maximum.accumulate(np.where(inside, -1, places), axis=1)
    unit_score = np.where(maskable, np.take_along_axis(score, start, axis=1), 2.0)
    order = np.lexsort((places, start, unit_score), axis=1)  # units stay together
    first = np.take_along_axis(start, order, axis=1)
    is_first = np.ones_like(maskable)
    is_first[:, 1:] = first[:, 1:] != first[:, :-1]
    before = np.maximum.accumulate(np.where(is_first, places, 0), axis=1)  # tokens of earlier units
    is_last = np.ones_like(maskable)
    is_last[:, :-1] = is_first[:, 1:]
    after = np.minimum.accumulate(np.where(is_last, places + 1, places.shape[1])[:, ::-1], axis=1)[:, ::-1]
    coin = np.take_along_axis(score, first, axis=1) * 2.0**20 % 1.0  # low bits, independent of the order
    crossing = (before < wanted[:, None]) & (after > wanted[:, None])
    take = after <= wanted[:, None]
    take |= crossing & (coin * (after - before) < wanted[:, None] - before) & (after <= most)
    take &= np.take_along_axis(maskable, order, axis=1)
    chosen = np.zeros_like(maskable)
    np.put_along_axis(chosen, order, take, axis=1)
    return chosen
