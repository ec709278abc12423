"""From rows with fields to labelled examples: text checked, labels read, the kind of task told.

What a file lacks is said with its name and line. A row without text or label is
left out and counted; a label that contradicts its row or its column is an error.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bertsmith.corpus.report import CorpusReport
from bertsmith.errors import UserError
from bertsmith.finetuning.config import FinetuneConfig, Kind
from bertsmith.finetuning.tasks.cells import is_missing, lists_of, number_of, numbers_of, words_of
from bertsmith.finetuning.tasks.rows import Columns, choose_columns, open_rows, peek
from bertsmith.tokenizer import replace_surrogates

MOST_DIFFERENT = 50
"""So many labels are taken as they are; more are only believed if most come again."""

LARGEST_NUMBER = 1e36
"""Of a regression. A model gives float32 numbers, which end at 3e38, and an answer may be some deviations off."""

LEAST_RESOLUTION = 32
"""Numbers that float32 tells apart, at the mean, within a standard deviation. An answer is rounded to them a few times,
and so by a tenth of a deviation at most, which no model comes near."""

Text = str | tuple[str, ...]
Label = str | float | tuple[str, ...]


class Example(NamedTuple):
    """One labelled row."""

    number: int
    """Line or row of its file, from 1."""

    text: Text
    """A text, or the words of a sentence for tagging."""

    pair: str | None
    label: Label
    """A label; a number for regression; labels, or the tag of each word."""


@dataclass(slots=True)
class LabelledFile:
    """The usable rows of one file."""

    path: str
    columns: Columns
    kind: Kind
    examples: list[Example]
    notes: list[str] = field(default_factory=list)
    """What was left out, a line each."""


def read_labelled(path: str, config: FinetuneConfig, columns: Columns | None, kind: Kind | None) -> LabelledFile:
    """Read a labelled file.

    Args:
        path: As the user gave it.
        config: Names of columns, task and separator, where given.
        columns: Those of the training file, for the others.
        kind: Known from the training file, for the others.

    Raises:
        UserError: It cannot be read, or a label makes no sense.
    """
    report = CorpusReport()
    wanted = columns or Columns(config.text or "", config.text_pair, config.label)
    rows = open_rows(path, report, column=wanted.label or wanted.text, words=True)
    sample, rows = peek(rows)
    chosen = choose_columns(path, sample, wanted, labelled=True)
    chosen = chosen if columns is None else columns
    found: list[_Row] = []
    for number, fields in rows:
        text, label = fields.get(chosen.text), fields.get(chosen.label or "")
        pair = fields.get(chosen.pair) if chosen.pair else None
        problem = _missing(text, label, config.label_separator) or (chosen.pair and _missing(pair, 0, None))
        if problem:
            report.skip(f"{path}:{number}", problem)
        else:
            found.append(_Row(number, text, pair, label))
    if kind in (None, "multi-label", "tagging") and config.task in ("auto", "multi-label", "tagging"):
        found = _with_lists(path, found, report)
    kind = kind or (tell_kind(found, config) if found else None)
    if kind == "regression":
        found = _with_numbers(path, found, report)
    if not found or kind is None:
        why = f" ({report.skipped_examples[0]})" if report.skipped_examples else ""
        raise UserError(f"{path} has no row with text and label{why}; {chosen.describe()} were read")
    examples = [_example(path, row, kind, config.label_separator) for row in found]
    counts = report.skipped_reasons.items()
    notes = [
        f"{example} ({count:,} row{'' if count == 1 else 's'} left out)"
        for example, (_, count) in zip(report.skipped_examples, counts, strict=True)
    ]
    return LabelledFile(path, chosen, kind, examples, notes)


class _Row(NamedTuple):
    """One row as its file has it."""

    number: int
    text: Any
    pair: Any
    label: Any


def _missing(text: Any, label: Any, separator: str | None) -> str | None:
    """What a row lacks, None when nothing. An empty cell that could hold several labels is a row that has none."""
    if is_missing(text) or (isinstance(text, str | list) and not (text.strip() if isinstance(text, str) else text)):
        return "empty text"
    if is_missing(label) or (isinstance(label, str) and not label.strip() and separator is None):
        return "no label"
    return None


def _with_lists(path: str, rows: Sequence[_Row], report: CorpusReport) -> list[_Row]:
    """Rows of a table whose label cells, and then perhaps whose text cells, spell lists; without empty texts."""
    before = [row.label for row in rows]
    labels = lists_of(before)
    texts = [row.text for row in rows]
    if labels != before:
        texts = lists_of(texts)
    kept = []
    for row, text, label in zip(rows, texts, labels, strict=True):
        if text == []:
            report.skip(f"{path}:{row.number}", "empty text")
        else:
            kept.append(row._replace(text=text, label=label))
    return kept


def _with_numbers(path: str, rows: Sequence[_Row], report: CorpusReport) -> list[_Row]:
    """Rows with labels as numbers; those that spell a missing one are left out and counted."""
    kept = []
    for row, label in zip(rows, numbers_of([row.label for row in rows]), strict=True):
        if label is None:
            report.skip(f"{path}:{row.number}", "no label")
        else:
            kept.append(row._replace(label=label))
    return kept


def tell_kind(rows: Sequence[_Row], config: FinetuneConfig) -> Kind:
    """The kind of task, from what the columns hold, unless it was given."""
    if config.task != "auto":
        return config.task
    if isinstance(rows[0].text, list) and (isinstance(rows[0].label, list) or all(map(_has_tag_for_each, rows))):
        return "tagging"
    if config.label_separator is not None or any(isinstance(row.label, list) for row in rows):
        return "multi-label"
    numbers = numbers_of([row.label for row in rows])
    has_fractions = any(isinstance(number, float) and number % 1 for number in numbers)
    if has_fractions and not any(isinstance(number, str) for number in numbers):
        return "regression"
    return "classification"


def _has_tag_for_each(row: _Row) -> bool:
    return isinstance(row.text, list) and len(words_of(row.label)) == len(row.text)


def _example(path: str, row: _Row, kind: Kind, separator: str | None) -> Example:
    number, text, pair, label = row
    place = f"{path}:{number}"
    if kind == "tagging":
        words, tags = words_of(text), words_of(label)
        if len(words) != len(tags):
            raise UserError(f"{place} has {len(words)} words and {len(tags)} tags; give each word one tag")
        names = tuple(map(label_name, tags))
        if "" in names:
            raise UserError(
                f"{place}: the word {str(words[names.index('')])!r} has an empty tag; give each word one tag"
            )
        return Example(number, tuple(replace_surrogates(str(word)) for word in words), None, names)
    return Example(number, as_text(text, place), as_text(pair, place) if pair is not None else None,
                   _label(label, place, kind, separator))  # fmt: skip


def _label(label: Any, place: str, kind: Kind, separator: str | None) -> Label:
    if kind == "multi-label":
        parts = label.split(separator) if isinstance(label, str) and separator else label
        if not isinstance(parts, list):
            raise UserError(
                f"{place}: the label {label!r} is no list; give JSON lists, or say with --label-separator what "
                "stands between two labels"
            )
        if any(isinstance(part, list | dict) for part in parts):
            raise UserError(
                f"{place}: the label {str(label)[:40]!r} is no list of names; give spans as words with a tag each"
            )
        return tuple(dict.fromkeys(filter(None, (label_name(part) for part in parts))))
    if isinstance(label, list | dict):
        raise UserError(f"{place}: the label is {str(label)[:40]!r}; give one value, or --task multi-label")
    if kind == "regression":
        if not isinstance(label, float):
            raise UserError(f"{place}: {label!r} is no number; repair it, or give --task classification")
        if abs(label) > LARGEST_NUMBER:
            raise UserError(f"{place}: a model gives no numbers like {label!r}, only up to 1e36; divide all labels")
        return label
    return label_name(label)


def as_text(value: Any, place: str) -> str:
    """A field as a text; a list of texts is joined by line ends."""
    if isinstance(value, list):
        return replace_surrogates("\n".join(map(str, value)))
    if isinstance(value, dict):
        raise UserError(f"{place}: the text is an object with fields; name a column with text, with --text")
    return replace_surrogates(str(value))


def label_name(value: Any) -> str:
    """How a label is called: 1.0 and "1" are the label "1"; true in JSON is "True", as pandas writes it to a table.

    What is not there, in a list of labels, has no name.
    """
    if is_missing(value):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return replace_surrogates(str(value)).strip()


def names_of(label: Label) -> tuple[str, ...]:
    """The labels of an example; none for a number."""
    return () if isinstance(label, float) else (label,) if isinstance(label, str) else label


def find_labels(file: LabelledFile, kind: Kind) -> tuple[str, ...]:
    """All labels of the training file, in a fixed order: numbers by value, "O" first, else by name.

    Raises:
        UserError: There is only one, or so many that the column holds no labels.
    """
    counts = Counter(name for example in file.examples for name in names_of(example.label))
    column = f"column {file.columns.label!r} of {file.path}"
    if kind == "regression":
        values = {example.label for example in file.examples}
        if len(values) < 2:
            raise UserError(f"{column} has the value {values.pop()} in every row; there is nothing to learn from it")
        _refuse_unresolved(column, np.array([example.label for example in file.examples], dtype=np.float64))
        return ("score",)
    if not counts or (len(counts) < 2 and kind != "multi-label"):
        only = f"only the label {next(iter(counts))!r}" if counts else "no label"
        raise UserError(f"{column} has {only}; a task needs at least two, name another column with --label")
    if kind != "tagging" and len(counts) > max(MOST_DIFFERENT, len(file.examples) // 2):
        raise UserError(
            f"{column} has {len(counts):,} different labels in {len(file.examples):,} rows; "
            "name the column of the labels with --label, or give --task regression for numbers"
        )
    return tuple(sorted(counts, key=lambda name: (name != "O" or kind != "tagging", number_of(name) or 0.0, name)))


def _refuse_unresolved(column: str, numbers: npt.NDArray[np.float64]) -> None:
    """Refuse numbers that differ too little for their size to be told apart by a model."""
    step = float(np.spacing(np.float32(abs(numbers.mean()))))
    if numbers.std() < LEAST_RESOLUTION * step:
        raise UserError(
            f"{column} has numbers around {numbers.mean():.10g} that differ by some {numbers.std():.3g}, but a model "
            f"gives float32 numbers, which are {step:.3g} apart there; subtract a constant from all labels"
        )


def refuse_unseen(file: LabelledFile, labels: Iterable[str], source: str) -> None:
    """See that a file has no label that the training rows lack.

    Raises:
        UserError: It has.
    """
    known = set(labels)
    for example in file.examples:
        for name in names_of(example.label):
            if name not in known:
                raise UserError(
                    f"{file.path}:{example.number} has the label {name!r}, which no row of {source} has"
                    f"{_close(name, known)}; add such rows, or take this one out"
                )


def _close(name: str, known: Iterable[str]) -> str:
    close = get_close_matches(name, sorted(known), n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def label_counts(examples: Sequence[Example], labels: Sequence[str]) -> Mapping[str, int]:
    """How often each label was given."""
    counts = Counter(name for example in examples for name in names_of(example.label))
    return {name: counts[name] for name in labels}
