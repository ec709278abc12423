"""Rows of two texts in one stream: the user's, and a share of general text, so that it is not forgotten.

Which text a row is of, and which of its rows, is a function of the row's number
alone: row n is of the general text where the whole part of n x share grows, as in
Bresenham's line. So a run goes on anywhere at once, as with one text.
"""

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from hashlib import sha256
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bertsmith.config import DataConfig
from bertsmith.corpus import open_corpus
from bertsmith.data.examples import Course, TrainingRows
from bertsmith.data.rows import IGNORE_INDEX, Row
from bertsmith.data.shards import Shards, open_shards
from bertsmith.errors import UserError
from bertsmith.prepare import prepare
from bertsmith.prepare.adopt import prepared_source
from bertsmith.reporter import Reporter
from bertsmith.tokenizer import load_tokenizer

REPLAY = "replay"
"""Folder in the run, prepared as the text is."""


class MixedRows:
    """Stands for the `TrainingRows` of a text of which a share is another text."""

    def __init__(self, main: TrainingRows, replay: TrainingRows, share: float) -> None:
        """Mix two.

        Args:
            main: Rows of the text; an epoch is one of these.
            replay: Rows of the general text, of the same length and masking; begun again when all are read.
            share: Of the rows that are of `replay`, in (0, 1).
        """
        self.main, self.replay = main, replay
        self.share = Fraction(share).limit_denominator(1_000_000)
        self.source = main.source
        self.rows_per_epoch = max(1, round(main.rows_per_epoch / (1 - self.share)))
        self.course: Course | None = None
        self._sequences = max(main.max_sequences, replay.max_sequences)

    def __len__(self) -> int:
        return self.rows_per_epoch

    def __getitem__(self, number: int) -> Row:
        """Row `number`, counted over all epochs."""
        return self.__getitems__([number])[0]

    def __getitems__(self, numbers: list[int]) -> list[Row]:
        """Several rows at once."""
        places = [self._place(number) for number in numbers]
        rows = {
            text: iter(text.__getitems__([number for owner, number in places if owner is text]))
            for text in (self.main, self.replay)
        }
        return [self._with_room(next(rows[text])) for text, _ in places]

    def _place(self, number: int) -> tuple[TrainingRows, int]:
        """The text that a row is of, and its number there."""
        before = int(number * self.share)  # rows of the replay
        is_replay = int((number + 1) * self.share) > before
        return (self.replay, before) if is_replay else (self.main, number - before)

    def _with_room(self, row: Row) -> Row:
        """A row with as many places for sequences as the other text needs: empty ones before the last."""
        more = self._sequences + 1 - len(row.lengths)
        if not more:
            return row
        lengths = np.insert(row.lengths, [len(row.lengths) - 1] * more, 0)
        labels = np.insert(row.next_sentence_label, [len(row.next_sentence_label) - 1] * more, IGNORE_INDEX)
        return row._replace(lengths=lengths, next_sentence_label=labels)


AnyRows = TrainingRows | MixedRows


def refuse_missing(text: str) -> None:
    """See that the general text can be opened, before any work is done.

    Raises:
        UserError: It cannot.
    """
    try:
        if prepared_source(DataConfig(text=(text,))) is None:
            open_corpus((text,))
    except UserError as error:
        raise UserError(f"replay is {text}: {error}") from error


def prepare_replay(
    folder: Path, text: str, data: DataConfig, reporter: Reporter, *, sequence_length: int, keep_existing: bool
) -> None:
    """Turn the general text into RUN/replay/, with the tokenizer of the run.

    Args:
        folder: The run, its own text prepared.
        text: A file or folder, or one that was prepared.
        data: How the run's own text is read; of it only the held-out share and the processes count.
        reporter: Who to tell.
        sequence_length: Places in a row.
        keep_existing: As of `prepare`.

    Raises:
        UserError: The text cannot be read, is too small, or was prepared with another tokenizer.
    """
    config = DataConfig(text=(text,), workers=data.workers)
    if prepared_source(config) is None:
        share = data.validation_fraction
        config = replace(config, tokenizer=str(folder / "tokenizer"), validation_fraction=share)
    try:
        prepared = prepare(
            config,
            folder / REPLAY,
            report=lambda line: reporter.say(f"replay: {line}"),
            progress=reporter.progress,
            keep_existing=keep_existing,
            sequence_length=sequence_length,
        )
    except UserError as error:
        raise UserError(f"replay is {text}: {error}") from error
    ours, theirs = (load_tokenizer(each).fingerprint() for each in (folder / "tokenizer", prepared.tokenizer_folder))
    if ours != theirs:
        raise UserError(
            f"replay is {text}, which was prepared with another tokenizer; give the text itself, or prepare it with "
            f"--tokenizer {folder / 'tokenizer'}"
        )
    if not keep_existing:
        _warn_of_held_out(folder, reporter)


def _warn_of_held_out(folder: Path, reporter: Reporter) -> None:
    """Say so where the general text holds what the run is measured on."""
    ours, theirs = open_shards(folder / "data", "validation"), open_shards(folder / REPLAY / "data", "train")
    marks = _marks(ours)
    held_out = set(_hashes(ours, np.arange(len(marks))))
    known = held_out.intersection(_hashes(theirs, np.flatnonzero(np.isin(_marks(theirs), marks))))
    if known:
        reporter.warn(
            f"{len(known):,} of the {len(held_out):,} held-out sections stand in the replay, too, so they are learnt "
            "from and the held-out loss will be too low; take them out of either"
        )


def _marks(shards: Shards) -> npt.NDArray[np.int64]:
    """A number for each section, from its length and ends: equal where sections are, and seldom elsewhere."""
    starts, ends = shards.section_starts[:-1], shards.section_starts[1:]
    return (ends - starts) << 42 ^ shards.take(starts) << 21 ^ shards.take(ends - 1)


def _hashes(shards: Shards, sections: npt.NDArray[np.int64]) -> Iterator[bytes]:
    """The ids of some sections, each as a hash: both texts have one tokenizer."""
    for section in sections:
        start, end = shards.section_starts[section : section + 2]
        yield sha256(shards.take(np.arange(start, end)).tobytes()).digest()
