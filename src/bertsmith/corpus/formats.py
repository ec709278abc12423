"""What a file is, by its name and its beginning, and its documents."""

from collections.abc import Iterator
from itertools import chain, dropwhile, islice
from typing import NamedTuple

from bertsmith.corpus.delimited import csv_rows
from bertsmith.corpus.documents import group_documents
from bertsmith.corpus.encoding import MAX_LINE_BYTES, lacks_mark, read_lines, wide_encoding
from bertsmith.corpus.files import Damage, FoundFile, read_blocks, why_binary
from bertsmith.corpus.layout import Document, Layout, detect_layout, paragraphs
from bertsmith.corpus.records import Opened, Row, Unusable, open_table
from bertsmith.corpus.report import CorpusReport
from bertsmith.corpus.tables import MAX_RECORD_BYTES, json_lines, json_rows, parquet_rows

_JSON_LINES = (".jsonl", ".ndjson", ".jsonlines")
_TABLES = (".csv", ".tsv")
PARQUET = (".parquet", ".pq")
RECORDS = (*_JSON_LINES, ".json", *_TABLES, *PARQUET)
"""Suffixes of files made of rows with fields. Any other file is read as plain text."""

_SAMPLE_LINES = 5_000
_SAMPLE_CHARACTERS = 1 << 18


class ReadOptions(NamedTuple):
    """What the user said about the text."""

    text_field: str | None = None
    document: Document = "auto"
    encoding: str | None = None


def open_file(file: FoundFile, options: ReadOptions, report: CorpusReport) -> Opened:
    """Look at the beginning of a file and decide how it is read.

    Raises:
        Unusable: There is no text in it that can be read.
    """
    if file.kind not in RECORDS:
        return _open_text(open_lines(file, options, report), options.document)
    is_parquet = file.kind in PARQUET
    rows = parquet_rows(file, options.text_field, report) if is_parquet else record_rows(file, options, report)
    return open_table(rows, options.text_field, options.document, file.name, report)


def record_rows(file: FoundFile, options: ReadOptions, report: CorpusReport) -> Iterator[Row]:
    """The rows of a table in text form or of JSON, with all their fields.

    Raises:
        Unusable: There is nothing in it that can be read.
    """
    lines = open_lines(file, options, report, max_line_bytes=MAX_RECORD_BYTES)
    if file.kind in _TABLES:
        return csv_rows(lines, file.kind, options.text_field, file.name, report)
    return (json_lines if file.kind in _JSON_LINES else json_rows)(lines, file.name, report)


def open_lines(
    file: FoundFile, options: ReadOptions, report: CorpusReport, *, max_line_bytes: int = MAX_LINE_BYTES
) -> Iterator[tuple[int, str]]:
    """The decoded lines of a file, in the encoding that the user named or that it is found to have."""
    blocks = read_blocks(file)
    try:
        head = next(blocks, b"")
    except Damage as damage:
        raise Unusable(str(damage)) from None
    if not head:
        raise Unusable("is empty")
    encoding = options.encoding
    if encoding is None:
        if what := why_binary(head):
            raise Unusable(f"is {what}" if ";" in what else f"is {what}, not text")
        encoding = wide_encoding(head)
    if lacks_mark(head, encoding):
        raise Unusable(f"has no byte-order mark, which {encoding} needs; name {encoding}-le or {encoding}-be")
    if encoding is not None:
        report.note_encoding(encoding)
    whole = chain([head], _until_damage(blocks, file.name, report))
    return read_lines(whole, encoding, file.name, report, max_line_bytes=max_line_bytes)


def _until_damage(blocks: Iterator[bytes], name: str, report: CorpusReport) -> Iterator[bytes]:
    """End the stream where the file is damaged, and count it."""
    try:
        yield from blocks
    except Damage as damage:
        report.skip(name, str(damage))


def _open_text(lines: Iterator[tuple[int, str]], document: Document) -> Opened:
    """Read plain text in the layout that its first part has."""
    texts = dropwhile(lambda line: not line.strip(), (line for _, line in lines))
    sample: list[str] = []
    size = 0
    for line in islice(texts, _SAMPLE_LINES):
        sample.append(line)
        size += len(line)
        if size > _SAMPLE_CHARACTERS:
            break
    if not sample:
        raise Unusable("has no text in it")
    layout, width = detect_layout(sample)
    stream = paragraphs(chain(sample, texts), layout, document, width)
    return Opened(_text_choice(layout, document), group_documents(stream))


def _text_choice(layout: Layout, document: Document) -> str:
    """Say what a document of a plain text is."""
    if document == "line":
        return "one document per line"
    if document == "auto" and layout in (Layout.WIKITEXT, Layout.SENTENCES):
        return str(layout.value)
    unit = "text between blank lines" if document == "blank-line" else "file"
    lines = layout if layout is Layout.WRAPPED else Layout.LINES
    return f"one document per {unit}, {lines.value}"
