"""Labelled files as rows with fields: tables, JSON lines, Parquet, and columns of words and tags (CoNLL).

A row is a number and a mapping. In columns of words each sentence is one row,
its fields are lists named "1", "2", ... after the columns, and the number is
that of its first line. A file of plain text has one row a line, with the field
"text".
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any, NamedTuple

from bertsmith.corpus.files import Damage, FoundFile, find_files, read_blocks
from bertsmith.corpus.formats import PARQUET, RECORDS, ReadOptions, open_lines, record_rows
from bertsmith.corpus.records import Unusable, choose_field, printable
from bertsmith.corpus.report import CorpusReport
from bertsmith.corpus.tables import decoded, open_for_arrow
from bertsmith.errors import UserError, suggestion
from bertsmith.finetuning.tasks.cells import class_names, named

Fields = Mapping[str, Any]
NumberedRow = tuple[int, Fields]

LABEL_FIELDS = ("label", "labels", "score", "class", "category", "topic", "target", "sentiment", "tags", "ner_tags")
"""Names that a label usually has, the most usual first."""

WORD_FIELDS = ("tokens", "words")
"""Names that a list of words usually has."""

MOST_COLUMNS = 12
"""Of a file of words; more words in every line are sentences."""

CONLLU_COLUMNS = 10
"""Of CoNLL-U, where no column is that of the label more than others."""

PAIR_FIELD = "text_pair"

PAIRS = {"sentence1": "sentence2", "text1": "text2", "question1": "question2", "premise": "hypothesis"}
"""Names that two texts usually have that belong together."""

_BESIDE_WORDS = re.compile(r"\d+[-.]\d+")
"""Number of a line of CoNLL-U that is no word of its own: words written as one, which follow it, or an omitted one."""

_SAMPLE_ROWS = 100
_SAMPLE_LINES = 2_000


class Columns(NamedTuple):
    """Which fields are read."""

    text: str
    pair: str | None
    label: str | None

    def describe(self) -> str:
        """In words."""
        pair = f" and {self.pair!r}" if self.pair else ""
        return f"text {self.text!r}{pair}" + (f", label {self.label!r}" if self.label else "")


def open_rows(
    path: str, report: CorpusReport, *, column: str | None = None, words: bool | None = None
) -> Iterator[NumberedRow]:
    """Read a file, row by row.

    Args:
        path: A file; its suffix says what it is, anything unknown is plain text or columns of words.
        report: Takes note of rows that cannot be read.
        column: A column that was named, by which the header of a table is known.
        words: Whether plain text is columns of words; None: if it looks like them.

    Returns:
        The rows; nothing is held but what is being read.

    Raises:
        UserError: The file is not there, or is not what its name says.
    """
    if os.path.isdir(os.path.expanduser(path)):
        raise UserError(f"{path} is a folder; name one file with rows")
    (file,) = find_files(path)
    try:
        rows = iter(_rows_of(file, report, column, words))
        first = next(rows, None)
        if first is None:
            raise Unusable("has no row that can be read")
    except Unusable as error:
        hint = "" if ";" in str(error) else "; name a file with rows"
        raise UserError(f"{path} {error}{hint}") from None
    return chain([first], rows)


def _rows_of(file: FoundFile, report: CorpusReport, column: str | None, words: bool | None) -> Iterable[NumberedRow]:
    options = ReadOptions(text_field=column)
    if file.kind in PARQUET:
        return _parquet_rows(file)
    if file.kind == ".tsv" and words is not False and _is_divided_columns(file, options):
        return _sentences(open_lines(file, options, report), file.name)
    if file.kind in RECORDS:
        return _mappings(record_rows(file, options, report), file.name, report)
    lines = open_lines(file, options, report)
    sample = list(islice(lines, _SAMPLE_LINES))
    if words is None:
        words = _looks_like_columns([line for _, line in sample])
    lines = chain(sample, lines)
    return _sentences(lines, file.name) if words else ((n, {"text": line}) for n, line in lines)


class _Shape(NamedTuple):
    """What the lines of a file of words have in common."""

    width: int
    """Columns; 0 where no line tells."""

    has_tabs: bool

    def is_word(self, line: str) -> bool:
        """Whether a line is a word, or should be; else it is a comment or the begin of a document."""
        if line.startswith("-DOCSTART-"):
            return False
        cells = cells_of(line)
        is_alike = ("\t" in line) == self.has_tabs and len(cells) == self.width
        return is_alike or not line.startswith("#") or len(cells) == 1 or not self.width


def _shape_of(lines: Sequence[str]) -> _Shape:
    """As the first line has it that is no comment."""
    first = next((line for line in lines if line.strip() and not line.startswith(("#", "-DOCSTART-"))), "")
    return _Shape(len(cells_of(first)), "\t" in first)


def _looks_like_columns(lines: Sequence[str]) -> bool:
    """Whether all lines have the same few columns, and tabs or blank lines between sentences."""
    shape = _shape_of(lines)
    widths = {len(cells_of(line)) for line in lines if line.strip() and shape.is_word(line)}
    is_divided = any("\t" in line for line in lines) or any(not line.strip() for line in lines)
    return len(widths) == 1 and max(widths) <= MOST_COLUMNS and is_divided


def _is_divided_columns(file: FoundFile, options: ReadOptions) -> bool:
    """Whether a file that is called a table is columns of words: blank lines stand between its sentences."""
    lines = open_lines(file, options, CorpusReport())
    sample = "\n".join(line for _, line in islice(lines, _SAMPLE_LINES)).strip().splitlines()
    return any(not line.strip() for line in sample) and _looks_like_columns(sample)


def _mappings(rows: Iterable[tuple[int, Any]], name: str, report: CorpusReport) -> Iterator[NumberedRow]:
    for number, value in rows:
        if isinstance(value, Mapping | str):
            yield number, {"text": value} if isinstance(value, str) else value
        else:
            report.skip(f"{name}:{number}", "not an object with fields")


def _parquet_rows(file: FoundFile) -> Iterator[NumberedRow]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        packed = file.compression  # Parquet is read from its end
        table = pq.ParquetFile(pa.BufferReader(b"".join(read_blocks(file))) if packed else open_for_arrow(file.path))
        classes = class_names(table.schema_arrow.metadata)
        values = chain.from_iterable(batch.to_pylist() for batch in table.iter_batches(1_000))
        for number, value in enumerate(values, 1):
            value |= {name: named(value[name], names) for name, names in classes.items() if name in value}
            yield number, {name: decoded(cell) for name, cell in value.items()}
    except (OSError, ValueError, Damage, pa.ArrowException):
        raise UserError(f"{file.path} is not a Parquet file, or damaged; write it again") from None


def cells_of(line: str) -> list[str]:
    """The columns of a line of words: between tabs, or where there are none between spaces; others are in words."""
    line = line.rstrip("\r\n")
    return line.split("\t") if "\t" in line else [cell for cell in line.split(" ") if cell]


def _sentences(lines: Iterator[tuple[int, str]], name: str) -> Iterator[NumberedRow]:
    """Sentences between blank lines, each a list for each column. Comments ("# ...") may stand before each.

    Raises:
        UserError: A line has another number of columns than the first, or the file is a table.
    """
    sample = list(islice(lines, _SAMPLE_LINES))
    shape = _shape_of([line for _, line in sample])
    refuse_table([line for _, line in sample], shape, name)
    sentence: list[list[str]] = []
    began, width = 0, 0
    for number, line in chain(sample, lines, [(0, "")]):
        cells = cells_of(line) if line.strip() else []
        if cells and (sentence or shape.is_word(line)) and cells[0] != "-DOCSTART-":
            width = width or len(cells)
            if len(cells) != width:
                raise UserError(
                    f"{name}:{number} has {len(cells)} columns and the lines before {width}: "
                    "a word or a tag is missing; give each word its tag"
                )
            began = began or number
            sentence.append(cells)
        elif sentence:
            words = zip(*_without_other_lines(sentence), strict=True)
            yield began, {str(n): list(column) for n, column in enumerate(words, 1)}
            sentence, began = [], 0


def _without_other_lines(sentence: list[list[str]]) -> list[list[str]]:
    """The lines of a sentence that are words: all of them, but for CoNLL-U."""
    words = [cells for cells in sentence if len(cells) != CONLLU_COLUMNS or not _BESIDE_WORDS.fullmatch(cells[0])]
    return words if words and _is_count([cells[0] for cells in words]) else sentence


def _is_count(cells: Any) -> bool:
    """Whether a column has the number of each word."""
    return isinstance(cells, list) and cells == [str(number) for number in range(1, len(cells) + 1)]


def refuse_table(lines: Sequence[str], shape: _Shape, name: str) -> None:
    """Refuse texts where words are looked for.

    Raises:
        UserError: No blank line divides sentences, and lines have cells of several words, or none like the others.
    """
    filled = [line for line in lines if line.strip()]
    is_divided = len(filled) < len("\n".join(lines).strip().splitlines())
    cells = [cells_of(line) for line in filled]
    is_uneven = shape.width > 0 and sum(len(each) == shape.width for each in cells) <= len(cells) / 2
    if not is_divided and (is_uneven or any(" " in cell.strip() for each in cells for cell in each)):
        raise UserError(
            f"{name} is no file of words and tags, a word a line and a blank line after each sentence; "
            "call a table .csv or .tsv"
        )


def choose_columns(path: str, sample: Sequence[Fields], wanted: Columns, *, labelled: bool) -> Columns:
    """Find the fields that hold text, second text and label.

    Args:
        path: The file, for what is said about it.
        sample: The first rows.
        wanted: Fields that the user named, "" or None where not.
        labelled: Whether there has to be a label.

    Raises:
        UserError: A field is not there, or cannot be told.
    """
    text, pair, label = wanted
    names = list(dict.fromkeys(name for row in sample for name in row))
    lower = {name.lower(): name for name in reversed(names)}
    for name in filter(None, (text, pair, label if labelled else None)):
        if name not in names:
            raise UserError(f"{path} has no column {name!r}{suggestion(name, map(printable, names))}")
    is_columns = names == [str(n) for n in range(1, len(names) + 1)] and isinstance(sample[0].get("1"), list)
    is_counted = is_columns and len(names) > 1 and all(_is_count(row.get("1")) for row in sample)
    words = ("2" if is_counted else "1") if is_columns else ""
    if labelled and not label:
        last = None if is_counted and len(names) == CONLLU_COLUMNS else names[-1]
        label = last if is_columns else next((lower[n] for n in LABEL_FIELDS if n in lower), None)
        if label in (None, words):
            raise UserError(
                f"{path} has no column named 'label'; name it with --label: {', '.join(map(printable, names))}"
            )
    if pair is None:
        text, pair = _usual_pair(names, text, label)
    if not text:
        text = words or next((lower[n] for n in WORD_FIELDS if n in lower), "")
    if not text:
        others = [name for name in names if name not in (label, pair)]
        named = [name for name in others if name.lower() == "text"]  # also an empty one: no other column is meant
        rows = [{name: row[name] for name in named or others if name in row} for row in sample]
        try:
            text = choose_field(rows, None)[0] or "text"
        except Unusable as error:
            raise UserError(f"{path} {error}; name the text with --text") from None
    if text in (pair, label):
        raise UserError(f"column {text!r} of {path} is named twice; text, second text and label are different columns")
    return Columns(text, pair, label)


def _usual_pair(names: Sequence[str], text: str, label: str | None) -> tuple[str, str | None]:
    """The text, if it was named or belongs to a pair, and the second one."""
    first = next((name for name, second in PAIRS.items() if {name, second} <= {*names} - {label}), None)
    if first and not text:
        return first, PAIRS[first]
    has_pair = PAIR_FIELD in names and PAIR_FIELD not in (text, label)
    # a column must be left for the first text
    return text, PAIR_FIELD if has_pair and len(names) > (1 if label is None else 2) else None


def peek(rows: Iterator[NumberedRow]) -> tuple[list[Fields], Iterator[NumberedRow]]:
    """The fields of the first rows, and all rows."""
    sample = list(islice(rows, _SAMPLE_ROWS))
    return [fields for _, fields in sample], chain(sample, rows)
