"""From rows with fields to documents: which field holds the text, and what each row becomes."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any, NamedTuple

from bertsmith.corpus.documents import SourceDocument, group_documents
from bertsmith.corpus.encoding import without_control
from bertsmith.corpus.layout import OTHER_ENDS, Document, Layout, is_wikitext, paragraphs, unwrap
from bertsmith.corpus.report import CorpusReport
from bertsmith.errors import suggestion

SAMPLE_ROWS = 100
"""Rows with text looked at to find the text field."""

MOST_SAMPLE_ROWS = 20_000
"""Rows looked at, with text or without: some files begin with many empty ones."""

TEXT_FIELDS = (
    *("text", "content", "body", "document", "article", "passage", "sentence", "review", "comment", "message"),
    *("abstract", "transcript", "description", "utterance", "tweet", "post", "note"),
)
"""Names that a text field usually has, the most usual first."""

_WORD_LETTERS = 12
"""Letters that strings in a list have on average, at most, if they are words of a text and not its sentences."""

_SURROGATE = re.compile("[\ud800-\udfff]")

Row = tuple[int, Any]
"""Number of a line or row, counted from 1, and its value: a text, a list of texts, or a mapping with fields."""


class Unusable(Exception):
    """A file that no text can be read from. Its message goes on from the file's name: "is empty", "has no ..."."""


class Opened(NamedTuple):
    """A file about to be read."""

    choice: str
    """What was decided about its content, for the user."""

    documents: Iterable[SourceDocument]
    """Its documents, once."""


def open_table(
    rows: Iterator[Row], text_field: str | None, document: Document, name: str, report: CorpusReport
) -> Opened:
    """Read rows of texts, or of fields of which one is the text.

    Args:
        rows: The rows in order.
        text_field: The field to take, or None to find it.
        document: What a document is; "auto" is a row, or what WikiText says if the rows are its lines.
        name: The file as shown to the user.
        report: Takes note of rows without text.

    Raises:
        Unusable: There is no row with text, or not the field that was named.
    """
    sample = sample_rows(rows, text_field)
    field, remark = choose_field([value for _, value in sample], text_field)
    chosen = f" (text field {field!r}{remark})" if field is not None else ""
    first = next((text for _, value in sample if (text := _text_of(value, field))), "")
    holds_wikitext = document == "auto" and is_wikitext(first.strip("\n").split("\n")[:1])
    one_per_row = document in ("auto", "line") and not holds_wikitext
    found = read_paragraphs(chain(sample, rows), field, name, report, count_empty=one_per_row)
    if one_per_row:
        return Opened(f"one document per row{chosen}", (SourceDocument(row) for row in found if row))
    if holds_wikitext:
        stream = paragraphs((line for row in found for line in row or [""]), Layout.WIKITEXT, document, 0)
        return Opened(f"{Layout.WIKITEXT.value}{chosen}", group_documents(stream))
    unit, ends = ("file", []) if document == "file" else ("block between empty rows", [None])
    joined = (paragraph for row in found for paragraph in row or ends)
    return Opened(f"one document per {unit}{chosen}", group_documents(joined))


def sample_rows(rows: Iterator[Row], text_field: str | None) -> list[Row]:
    """Take rows until enough of them have text in the wanted field, or in one with a usual name if there is one."""
    sample: list[Row] = []
    with_text = 0
    for row in islice(rows, MOST_SAMPLE_ROWS):
        sample.append(row)
        with_text += _has_text(row[1], text_field)
        if with_text == SAMPLE_ROWS:
            break
    return sample


def _has_text(value: Any, text_field: str | None) -> bool:
    if not isinstance(value, Mapping):
        return bool(_as_text(value))
    names = [text_field] if text_field is not None else [name for name in value if str(name).lower() in TEXT_FIELDS]
    return any(_as_text(value.get(name)) for name in names or value)


def choose_field(rows: Sequence[Any], wanted: str | None) -> tuple[str | None, str]:
    """Find the field that holds the text.

    It is the one that was named; else the first whose name is usual for text;
    else the one with the longest values on average, of those that look like text.

    Args:
        rows: The first rows.
        wanted: The field that the user named.

    Returns:
        Its name, None if the rows are texts themselves, and a remark on the fields that were passed over.

    Raises:
        Unusable: There is none, or not the one that was named.
    """
    if not rows:
        raise Unusable("has no row that can be read")
    mappings = [row for row in rows if isinstance(row, Mapping)]
    names = list(dict.fromkeys(name for row in mappings for name in row))
    texts = {name: [text for row in mappings if (text := _as_text(row.get(name)))] for name in names}
    texts = {name: values for name, values in texts.items() if values}
    if not texts and any(_as_text(row) is not None for row in rows):
        return None, ""
    if wanted is not None and wanted not in names:
        raise Unusable(f"has no field {wanted!r}{suggestion(wanted, map(printable, names)) if names else ''}")
    if not texts or (wanted is not None and wanted not in texts):
        holds = f"; its fields are {', '.join(map(printable, names[:20]))}" if names else ""
        holds += "; make one string of each text" if _nested(names, mappings) else ""
        raise Unusable(f"has no text in {f'field {wanted!r}' if wanted else 'any field'}{holds}")
    usual = {name.lower(): name for name in reversed(list(texts))}
    by_name = next((usual[name] for name in TEXT_FIELDS if name in usual), None)
    if wanted or by_name:
        return wanted or by_name, ""
    passed_over = "', '".join(_nested(names, mappings))
    remark = f", '{passed_over}' left out as objects" if passed_over else ""
    if len(texts) == 1:
        return next(iter(texts)), remark
    return _most_like_text(texts), f", chosen by its content{remark}"


def _nested(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The fields that hold objects, such as the messages of a conversation."""

    def holds_objects(value: Any) -> bool:
        return isinstance(value, Mapping) or (
            isinstance(value, list) and any(isinstance(each, Mapping) for each in value)
        )

    return [printable(name) for name in names if any(holds_objects(row.get(name)) for row in rows)]


def _most_like_text(texts: Mapping[str, Sequence[str]]) -> str:
    """The field with the longest values on average, of those that differ from row to row and hold several words."""

    def likeness(name: str) -> tuple[bool, bool, float]:
        values = texts[name]
        differ = len(set(values)) > len(values) / 2
        worded = sum(" " in value.strip() or not value.isascii() for value in values) > len(values) / 2
        return differ, worded, sum(map(len, values)) / len(values)

    return max(texts, key=likeness)


def printable(name: object) -> str:
    """A field name that can be printed, whatever is in it."""
    return repr(str(name))[1:-1]


def _as_text(value: Any) -> str | None:
    """A text, several joined by line ends, or words joined by spaces, nulls left out; None for anything else."""
    if isinstance(value, str):
        return value
    given = [item for item in value if item is not None] if isinstance(value, list) else []
    if not given or not all(isinstance(item, str) for item in given):
        return None
    return (" " if _are_words(given) else "\n").join(given)


def _are_words(items: Sequence[str]) -> bool:
    """Whether strings are words that make a text: short, without white space, and few of them end a sentence."""
    ended = sum(len(item) > 1 and item[-1] in f".!?{OTHER_ENDS}" for item in items)
    is_short = sum(map(len, items)) <= _WORD_LETTERS * len(items)
    return is_short and 2 * ended < len(items) and all(len(item.split()) < 2 for item in items)


def _text_of(row: Any, field: str | None) -> str | None:
    return _as_text(row.get(field) if isinstance(row, Mapping) else row)


def read_paragraphs(
    rows: Iterable[Row], field: str | None, name: str, report: CorpusReport, *, count_empty: bool
) -> Iterator[list[str]]:
    """The paragraphs of each row's text.

    A row without text, or with half a character (a lone surrogate, which no
    tokenizer can take), is skipped and counted; an empty one if `count_empty`.

    Yields:
        A list for each row that could be read, empty if it is white space.
    """
    missing = f"no text in field {field!r}" if field is not None else "neither text nor an object with fields"
    for number, row in rows:
        text = _text_of(row, field)
        if text is None:
            report.skip(f"{name}:{number}", missing)
            continue
        found = unwrap(text)
        if not all(map(str.isprintable, found)):  # a quick test that most text passes
            if any(map(_SURROGATE.search, found)):
                report.skip(f"{name}:{number}", "half a character (a lone surrogate)")
                continue
            found = [clean for paragraph in found if (clean := without_control(paragraph).strip())]
        if count_empty and not found:
            report.skip(f"{name}:{number}", "empty text")
        yield found
