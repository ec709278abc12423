"""Rows of JSON and Parquet files."""

import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from bertsmith.corpus.files import Damage, FoundFile, read_blocks
from bertsmith.corpus.records import SAMPLE_ROWS, Row, Unusable, choose_field, sample_rows
from bertsmith.corpus.report import CorpusReport

MAX_RECORD_BYTES = 1 << 28
"""A record is held in memory. One longer than 256 MB is cut and will not parse."""

_MAX_WHOLE_CHARACTERS = 1 << 28

_Lines = Iterable[tuple[int, str]]

_decode_json = json.JSONDecoder(strict=False).decode  # not strict: a tab or line end inside a text is forgiven


def json_lines(lines: _Lines, name: str, report: CorpusReport) -> Iterator[Row]:
    """The values of JSON lines. Blank lines are passed over; lines that do not parse are skipped and counted.

    A file of one array of objects, or of JSON over many lines, is read as what it is.

    Raises:
        Unusable: It begins like JSON over many lines and is none.
    """
    filled = ((number, line) for number, line in lines if line and not line.isspace())
    first = list(islice(filled, 2))
    whole = _is_whole([line for _, line in first])
    yield from (json_rows if whole else _each_line)(chain(first, filled), name, report)


def _is_whole(lines: Sequence[str]) -> bool:
    """Whether a file that should be JSON lines begins like one value: "[", "{" or "[{...}," alone, or one array."""
    texts = [line.strip() for line in lines]
    if not texts or any(map(_parses, texts[1:])):
        return False
    first = texts[0]
    opens = first in ("[", "{") or (first.startswith("[") and first.endswith(","))
    return opens or (len(texts) == 1 and re.match(r"\[\s*{", first) is not None)


def _each_line(lines: _Lines, name: str, report: CorpusReport) -> Iterator[Row]:
    """The values of lines, and a note of those that have none."""
    for number, line in lines:
        try:
            yield number, _decode_json(line)
        except (ValueError, RecursionError):
            report.skip(f"{name}:{number}", "not valid JSON")


def json_rows(lines: _Lines, name: str, report: CorpusReport) -> Iterator[Row]:
    """The rows of a .json file: JSON lines, or one array or object over many lines.

    The first lines tell which: if half of them are whole values, the file is
    JSON lines, of which some may be broken. Of an object with one list in it, the list's items are the rows; one
    of columns, each a list or with values by number, is a table as pandas writes it, and so is one of rows by number.

    Raises:
        Unusable: The file is one value of more than 268 million characters, or not JSON at all.
    """
    filled = ((number, line) for number, line in lines if line and not line.isspace())
    first = list(islice(filled, SAMPLE_ROWS))
    lines = chain(first, filled)
    opens = first and first[0][1].strip() in ("[", "{")
    if len(first) > 1 and not opens and sum(_parses(line) for _, line in first) >= len(first) / 2:
        yield from _each_line(lines, name, report)
        return
    text: list[str] = []
    size = 0
    for _, line in lines:
        text.append(line)
        size += len(line)
        if size > _MAX_WHOLE_CHARACTERS:
            raise Unusable("is one JSON value of more than 256 MB; convert it to JSON lines, one object a line")
    try:
        value = _decode_json("\n".join(text))
    except (ValueError, RecursionError):
        raise Unusable("is not valid JSON, neither as a whole nor line by line") from None
    yield from enumerate(_items(value), 1)


def _parses(line: str) -> bool:
    """Whether a line is a whole JSON object or array."""
    try:
        return isinstance(_decode_json(line), dict | list)
    except (ValueError, RecursionError):
        return False


def _items(value: Any) -> list[Any]:
    """The rows of a JSON value."""
    if isinstance(value, dict):
        columns = list(value.values())
        if columns and all(isinstance(each, dict) and each and all(map(str.isdecimal, each)) for each in columns):
            numbers = dict.fromkeys(number for column in columns for number in column)
            return [{name: column.get(number) for name, column in value.items()} for number in numbers]
        if len(columns) > 1 and all(map(_is_column, columns)) and len(set(map(len, columns))) == 1:
            return [dict(zip(value, row, strict=True)) for row in zip(*columns, strict=True)]
        if columns and all(map(str.isdecimal, value)):
            return columns
        lists = [item for item in value.values() if isinstance(item, list) and item and isinstance(item[0], dict)]
        return lists[0] if len(lists) == 1 else [value]
    return value if isinstance(value, list) else [value]


def _is_column(value: Any) -> bool:
    """Whether a JSON value is a list of single values, more than one."""
    return isinstance(value, list) and len(value) > 1 and not any(isinstance(item, list | dict) for item in value)


def parquet_rows(file: FoundFile, text_field: str | None, report: CorpusReport) -> Iterator[Row]:
    """The rows of a Parquet file, with the column of the text alone.

    Raises:
        Unusable: It is no Parquet file, or has no text column, or not the one that was named.
    """
    import pyarrow as pa

    with tempfile.TemporaryFile() as copy:
        source: Any = file.path
        if file.compression:  # Parquet is read from its end
            try:
                for block in read_blocks(file):
                    copy.write(block)
            except Damage as damage:
                why = "is damaged or cut off; get the file again" if "damaged" in str(damage) else str(damage)
                raise Unusable(why) from None  # of half a Parquet file nothing can be used
            source = copy
        table, sample = _open_parquet(source, text_field)
        chosen, _ = choose_field([value for _, value in sample], text_field)
        yield from sample
        number = 0
        try:
            for batch in table.iter_batches(1_000, columns=[chosen]):
                for value in batch.column(0).to_pylist():
                    number += 1
                    if number > len(sample):
                        yield number, {chosen: decoded(value)}
        except (OSError, ValueError, pa.ArrowException):
            report.skip(f"{file.name}:{number + 1}", "damaged from this row on")


def _open_parquet(source: Any, text_field: str | None) -> tuple[Any, list[Row]]:
    """Open a Parquet file, and read its first rows with the columns of text.

    Raises:
        Unusable: It is none, or damaged, or has no text.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(open_for_arrow(source) if isinstance(source, Path) else source)
    except (OSError, ValueError):
        raise Unusable("is not a Parquet file, or damaged") from None
    columns = [field.name for field in table.schema_arrow if _holds_text(field.type)]
    if text_field in table.schema_arrow.names and text_field not in columns:
        raise Unusable(f"has no text in field {text_field!r}; its fields with text are {', '.join(columns)}")
    if not columns:
        types = ", ".join(f"{field.name} ({field.type})" for field in list(table.schema_arrow)[:5])
        raise Unusable(f"has no column of text: {types}; make one of strings")
    try:
        rows = (row for batch in table.iter_batches(SAMPLE_ROWS, columns=columns) for row in batch.to_pylist())
        texts = ({name: decoded(value) for name, value in row.items()} for row in rows)
        return table, sample_rows(enumerate(texts, 1), text_field)
    except (OSError, ValueError, pa.ArrowException):
        raise Unusable("is a damaged Parquet file") from None


def open_for_arrow(path: Path) -> Any:
    """A file that Arrow reads by itself, whatever its name; the name alone it takes only when that is UTF-8.

    Raises:
        OSError: It is not there, or may not be read.
    """
    import pyarrow as pa

    return pa.OSFile(os.fsencode(path))


def decoded(value: Any) -> Any:
    """A text that some programs write as bytes; None if they are no text."""
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _holds_text(kind: Any) -> bool:
    """Whether a column of this type holds texts or lists of texts, or bytes, which may be texts."""
    from pyarrow import types

    if types.is_dictionary(kind) or types.is_list(kind) or types.is_large_list(kind):
        kind = kind.value_type
    is_bytes = types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)
    return bool(is_bytes or types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))
