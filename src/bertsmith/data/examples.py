"""Shards to training rows: which tokens stand in which row of which epoch.

A row is `sequence_length` places that hold one full sequence or several shorter
whole ones, [CLS] A [SEP] or [CLS] A [SEP] B [SEP]. Every token of the corpus
stands in exactly one row of each epoch. A row is a pure function of (data,
seed, number of the row), counted over all epochs from 0, so a run can go on
anywhere at once, and any number of workers or processes makes the same rows.

Letters: P pieces (sequences) in an epoch, R rows asked for, L places in a row,
S most sequences in a row, K most predictions in a row.
"""

from collections.abc import Callable
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, get_args

import numpy as np
import numpy.typing as npt

from bertsmith.data.cutting import cut_sections
from bertsmith.data.keyed import Stream, keyed_bits
from bertsmith.data.masking import Masking, Units
from bertsmith.data.packing import Int64Array, lay_out
from bertsmith.data.pairing import Origin, Pairs, make_pairs, order_pairs
from bertsmith.data.rows import IGNORE_INDEX, Row
from bertsmith.data.shards import open_shards
from bertsmith.errors import require, suggestion
from bertsmith.tokenizer import load_tokenizer


class TokenSource(Protocol):
    """What rows are made from; `bertsmith.data.shards.Shards` is one."""

    num_tokens: int
    section_starts: Int64Array
    section_document: Int64Array
    sentence_starts: Int64Array

    def take(self, places: Int64Array) -> Int64Array:
        """Token ids at places of the corpus."""


class SpecialIds(NamedTuple):
    """Ids of the tokens that are no text."""

    pad: int
    cls: int
    sep: int


Objective = Literal["mlm", "mlm+nsp", "mlm+sop"]
"""Masked tokens alone, with next sentences, or with the order of sentences."""


SHORTEST = 16
"""Least places of a row, as for the settings of a run."""


class Course(NamedTuple):
    """How far a run is at each row; without one, rows are those of a run's beginning."""

    first_row: int
    first_step: int
    rows_per_step: int
    max_steps: int

    def at(self, numbers: Int64Array) -> npt.NDArray[np.float64]:
        """Share of the steps that come before the step of each row."""
        return (self.first_step + (numbers - self.first_row) // self.rows_per_step) / self.max_steps


class _Epoch(NamedTuple):
    """One epoch: the sequences in slot order, and the rows in the order they are read."""

    pairs: Pairs
    order: Int64Array


class TrainingRows:
    """The rows of a run, by number. Serves as the dataset of a torch `DataLoader`."""

    def __init__(
        self,
        source: TokenSource,
        *,
        sequence_length: int,
        objective: Objective,
        special: SpecialIds,
        masking: Masking,
        short_sequence_probability: float = 0.1,
        seed: int = 0,
        total_rows: int | None = None,
    ) -> None:
        """Decide the lengths of all sequences.

        Args:
            source: Token ids with the bounds of sections and sentences.
            sequence_length: L.
            objective: With or without pairs of sentences.
            special: Ids of [PAD], [CLS], [SEP].
            masking: How tokens are hidden; its seed is its own.
            short_sequence_probability: Share of the sequences shorter than a row.
            seed: Decides the order, the cuts and the pairs.
            total_rows: What `len()` says; one epoch when not given.

        Raises:
            UserError: The objective is unknown, or no text fits into so short a row.
        """
        known = get_args(Objective)
        require(objective in known, f"objective is {objective!r}{suggestion(str(objective), known)}")
        require(sequence_length >= SHORTEST, f"sequence_length is {sequence_length}; give {SHORTEST} places or more")
        self.source = source
        self.sequence_length = sequence_length
        self.objective = objective
        self.special = special
        self.masking = masking
        self.seed = seed
        cut = cut_sections(
            np.diff(source.section_starts),
            row_length=sequence_length,
            special_tokens=2 if objective == "mlm" else 3,
            short_probability=short_sequence_probability,
            seed=seed,
        )
        self.pieces = cut.pieces
        self.max_sequences = cut.max_sequences
        slots = lay_out(cut.patterns)
        self._row_starts = slots.row_starts
        self._slots_by_length = np.argsort(slots.length, kind="stable")
        self.rows_per_epoch = len(slots.row_starts) - 1
        self.total_rows = total_rows or self.rows_per_epoch
        self.course: Course | None = None
        """Where in the run the rows are read; a changing share of masked tokens needs it."""

        documents = np.bincount(source.section_document, weights=np.diff(source.section_starts).astype(np.float64))
        self._one_document = bool(documents.max() > source.num_tokens / 2)

    def __len__(self) -> int:
        return self.total_rows

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_epoch"}

    def __getitem__(self, number: int) -> Row:
        """Row `number`, counted over all epochs."""
        return self.__getitems__([number])[0]

    def __getitems__(self, numbers: list[int]) -> list[Row]:
        """Several rows at once, which is faster; a `DataLoader` calls this."""
        wanted = np.asarray(numbers, dtype=np.int64)
        epochs, in_epoch = np.divmod(wanted, self.rows_per_epoch)
        rows: dict[int, Row] = {}  # by their place among `numbers`
        for epoch in np.unique(epochs):
            where = np.flatnonzero(epochs == epoch)
            rows |= zip(where.tolist(), self._build(int(epoch), in_epoch[where]), strict=True)
        return [rows[place] for place in range(len(numbers))]

    @cached_property
    def _epoch(self) -> Callable[[int], _Epoch]:
        """The plan of an epoch; two are kept, since a step may straddle two."""
        return lru_cache(maxsize=2)(self._plan_epoch)

    def _plan_epoch(self, epoch: int) -> _Epoch:
        """Decide which tokens each piece holds, the pairs, and which piece goes into which slot."""
        section, length = self.pieces
        index = np.arange(len(length))
        order = np.lexsort((keyed_bits(self.seed, epoch, Stream.WINDOW, index), section))
        starts = np.empty_like(length)
        starts[order] = np.cumsum(length[order]) - length[order]  # the sections tile the corpus
        if self.objective == "mlm+sop":
            pairs = order_pairs(starts, length, self.source.sentence_starts, seed=self.seed, epoch=epoch)
        elif self.objective == "mlm+nsp":
            origin = Origin(self.source.section_document[section], section, self._one_document)
            pairs = make_pairs(starts, length, self.source.sentence_starts, origin, seed=self.seed, epoch=epoch)
        else:
            nothing = np.zeros_like(length)
            pairs = Pairs(starts, length, nothing, nothing, np.full_like(length, IGNORE_INDEX))
        by_length = np.lexsort((keyed_bits(self.seed, epoch, Stream.SLOT, index), length))
        piece = np.empty_like(index)
        piece[self._slots_by_length] = by_length
        rows = np.argsort(keyed_bits(self.seed, epoch, Stream.ROW, np.arange(self.rows_per_epoch)), kind="stable")
        return _Epoch(Pairs(*(part[piece] for part in pairs)), rows)

    def _build(self, epoch: int, numbers: Int64Array) -> list[Row]:
        """Make rows of one epoch."""
        plan = self._epoch(epoch)
        row = plan.order[numbers]
        counts = self._row_starts[row + 1] - self._row_starts[row]
        owner = np.repeat(np.arange(len(row)), counts)  # which of the rows a sequence stands in
        rank = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
        slot = self._row_starts[row][owner] + rank
        pairs = Pairs(*(part[slot] for part in plan.pairs))
        has_second = pairs.second_length > 0
        size = pairs.first_length + pairs.second_length + 2 + has_second

        lengths = np.zeros((len(row), self.max_sequences + 1), dtype=np.int64)
        lengths[owner, rank] = size
        begin = owner * self.sequence_length + (np.cumsum(lengths, axis=1) - lengths)[owner, rank]
        lengths[:, -1] = self.sequence_length - lengths.sum(1)
        next_sentence_label = np.full(lengths.shape, IGNORE_INDEX, dtype=np.int64)
        next_sentence_label[owner, rank] = pairs.label

        shape = (len(row), self.sequence_length)
        input_ids = np.full(shape[0] * shape[1], self.special.pad, dtype=np.int64)
        token_type_ids = np.zeros_like(input_ids)
        maskable = np.zeros(input_ids.shape, dtype=np.bool_)
        second = begin + pairs.first_length + 2
        source = np.concatenate([pairs.first_start, pairs.second_start[has_second]])
        target = np.concatenate([begin + 1, second[has_second]])
        length = np.concatenate([pairs.first_length, pairs.second_length[has_second]])
        places = _ranges(target, length)
        corpus_place = np.zeros_like(input_ids)
        corpus_place[places] = _ranges(source, length)
        input_ids[places] = self.source.take(corpus_place[places])
        maskable[places] = True
        input_ids[begin] = self.special.cls
        input_ids[begin + pairs.first_length + 1] = self.special.sep
        input_ids[(begin + size - 1)] = self.special.sep
        token_type_ids[_ranges(second[has_second], pairs.second_length[has_second] + 1)] = 1
        position_ids = np.tile(np.arange(self.sequence_length), len(row))
        position_ids[_ranges(begin, size)] -= np.repeat(begin - owner * self.sequence_length, size)

        masked = self.masking.apply(
            input_ids.reshape(shape),
            maskable.reshape(shape),
            epoch=np.full(len(row), epoch),
            row=numbers,
            corpus_place=corpus_place.reshape(shape),
            progress=self.course.at(epoch * self.rows_per_epoch + numbers) if self.course else 0.0,
        )
        parts = (masked.input_ids, token_type_ids.reshape(shape), position_ids.reshape(shape), lengths)
        return [Row(*row) for row in zip(*parts, next_sentence_label, masked.places, masked.labels, strict=True)]


def open_rows(
    folder: str | Path,
    split: Literal["train", "validation"] = "train",
    *,
    sequence_length: int = 128,
    objective: Objective = "mlm+nsp",
    mlm_probability: float = 0.15,
    end_probability: float | None = None,
    mask_units: Units = "token",
    mask_covering: bool = False,
    short_sequence_probability: float = 0.1,
    seed: int = 0,
    total_rows: int | None = None,
) -> TrainingRows:
    """Open the rows of a prepared folder: a run, or what `bertsmith prepare` wrote.

    Args:
        folder: Holds data/ and tokenizer/.
        split: Which part of the text.
        sequence_length: Places in a row.
        objective: With or without pairs of sentences.
        mlm_probability: Share of the tokens to predict.
        end_probability: That share at the end of the run; where a run ends the attribute `course` of the rows says.
        mask_units: Choose single pieces, whole words or spans.
        mask_covering: Choose other tokens in each epoch, until all have been; spans cover no better for it.
        short_sequence_probability: Share of the sequences shorter than a row.
        seed: Decides order, cuts, pairs and masks.
        total_rows: What `len()` says; one epoch when not given.

    Raises:
        UserError: The folder is not prepared, or damaged, or an argument has a value that it can't have.
    """
    folder = Path(folder)
    require(folder.is_dir(), f"{folder} is no folder; give a run, or what `bertsmith prepare` wrote")
    tokenizer = load_tokenizer(folder / "tokenizer")
    masking = Masking(
        mlm_probability=mlm_probability,
        mask_token_id=tokenizer.mask_token_id,
        replacement_ids=tokenizer.ordinary_ids(),
        end_probability=end_probability,
        units=mask_units,
        continues_word=tokenizer.continues_word() if mask_units == "word" else None,
        covering=mask_covering,
        seed=seed,
    )
    return TrainingRows(
        open_shards(folder / "data", split),
        sequence_length=sequence_length,
        objective=objective,
        special=SpecialIds(tokenizer.pad_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id),
        masking=masking,
        short_sequence_probability=short_sequence_probability,
        seed=seed,
        total_rows=total_rows,
    )


def _ranges(starts: Int64Array, lengths: Int64Array) -> Int64Array:
    """All numbers from starts[i] to starts[i] + lengths[i], for each i in turn, in one array."""
    offsets = np.cumsum(lengths) - lengths
    return np.repeat(starts - offsets, lengths) + np.arange(int(lengths.sum()))
