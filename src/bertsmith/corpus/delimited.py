"""Rows of tables in text form: commas, tabs, quotes as they should be and as they are."""

import csv
import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, count, islice
from typing import Literal

from bertsmith.corpus.records import SAMPLE_ROWS, TEXT_FIELDS, Row
from bertsmith.corpus.report import CorpusReport

_Lines = Iterable[tuple[int, str]]
_MAX_CELL_CHARACTERS = 1 << 26
_MAX_LINES_AGAIN = 32
"""Lines that a row may take of those that a quote before it took in vain, so that time grows with the file alone."""

_MOST_ALIKE = 0.8
"""Share of the rows of a table, broken ones among them, that have the same number of cells, at least."""

UNCLOSED = "a quote is not closed: its line is read as it stands"
_DELIMITERS = ",;\t|"
_COLUMN_NAME = re.compile(r"[^\W\d][\w .:/()#%+-]{0,39}")
_SEPARATOR = re.compile(r'"?sep=([,;\t|])"?', re.IGNORECASE)
"""A first line by which Excel is told what stands between cells."""

_MARKED_INSIDE = re.compile(r'(?:^|[,;\t|])"[^"\n]*\\"(?![,;\t|]|$)', re.MULTILINE)
_DOUBLED_INSIDE = re.compile(r'[^,;\t|\n"\\]""|""[^,;\t|\n"]|\\"""(?:[,;\t|]|$)', re.MULTILINE)
_ESCAPED = re.compile(r'\\(["\\])')
"""Inside a quoted cell a quote after a backslash, or two quotes; and what the first kind of tables escapes."""


def csv_rows(lines: _Lines, kind: str, text_field: str | None, name: str, report: CorpusReport) -> Iterator[Row]:
    """The rows of a table in text form, as mappings from column to cell.

    The delimiter is a tab in .tsv, else the one of , ; tab | that is most
    frequent in the first line, or that this line names ("sep=;"). The first row
    names the columns if it holds the wanted or a usual name, numbers from 0, or
    only short names; else they are "1", "2", ..., as many as the shortest row has cells where rows differ (commas in
    a text without quotes), and empty rows at the top are rows. A .tsv in which all lines have
    the same number of tabs, and some, has no quoted fields. Quotes in cells may be escaped by a backslash.
    Cells that a row has more than there are columns belong to the text, where a column has a usual name for it,
    else to the last column.

    Args:
        lines: The lines of the file.
        kind: ".csv" or ".tsv".
        text_field: The column that the user named.
        name: The file as shown to the user.
        report: Takes note of rows that cannot be parsed.
    """
    csv.field_size_limit(_MAX_CELL_CHARACTERS)
    lines = iter(lines)
    sample = list(islice(lines, SAMPLE_ROWS))
    first = next((line for _, line in sample if line.strip()), "")
    if named := _SEPARATOR.fullmatch(first.strip(" ")):
        sample = [(number, "" if line == first else line) for number, line in sample]
    delimiter = named[1] if named else "\t" if kind == ".tsv" else max(_DELIMITERS, key=first.count)
    tabs = Counter(line.count("\t") for _, line in sample if line.strip())
    is_quoted = delimiter != "\t" or len(tabs) > 1 or not any(tabs)
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if is_quoted else csv.QUOTE_NONE
    text = (line for _, line in chain(sample, lines))
    if is_quoted and _escapes_quotes("\n".join(line for _, line in sample)):
        text = (_ESCAPED.sub(lambda found: found[1].replace('"', '""'), line) for line in text)
    parsed = _parsed(text, delimiter, quoting, name, report)
    rows = ((number, cells if is_quoted else [_unquoted(cell) for cell in cells]) for number, cells in parsed)
    empty: list[tuple[int, list[str]]] = []  # above the names of columns, or rows if there are none
    for row in rows:
        if any(row[1]):
            break
        empty.append(row)
    else:
        return
    beginning = [row, *islice(rows, SAMPLE_ROWS - 1)]
    is_header = _names_columns([cells for _, cells in beginning], text_field)
    top = beginning[0][1]
    columns = _distinct(top) if is_header else list(map(str, range(1, _width(beginning) + 1)))
    wide = next((place for place, name in enumerate(columns) if name.lower() in TEXT_FIELDS), len(columns) - 1)
    for number, cells in chain(beginning[1:] if is_header else [*empty, *beginning], rows):
        while len(cells) > len(columns) and not cells[-1]:  # some programs end each line with a delimiter
            cells = cells[:-1]
        if (more := len(cells) - len(columns)) > 0:
            cells = [*cells[:wide], delimiter.join(cells[wide : wide + more + 1]), *cells[wide + more + 1 :]]
        yield number, dict(zip(columns, cells, strict=False))


def _width(rows: Sequence[tuple[int, Sequence[str]]]) -> int:
    """Columns of a table without names: cells of its first row, or of its shortest where rows differ much."""
    widths = [len(cells) for _, cells in rows]
    return min(widths) if _differ(widths) else widths[0]


def _differ(widths: Sequence[int]) -> bool:
    """Whether rows have so different numbers of cells that commas in their texts must have cut them."""
    return max(Counter(widths).values()) < _MOST_ALIKE * len(widths)


def _escapes_quotes(sample: str) -> bool:
    """Whether quotes inside quoted cells have a backslash before them, as MySQL writes them, and are never doubled."""
    return bool(_MARKED_INSIDE.search(sample)) and not _DOUBLED_INSIDE.search(sample)


def _distinct(cells: Sequence[str]) -> list[str]:
    """Names of columns; one that stands again is called name.1, name.2, ..., as pandas calls it."""
    given = [cell.strip() for cell in cells]
    names: list[str] = []
    for name in given:
        others = (f"{name}.{number}" for number in count(1))
        names.append(name if name not in names else next(each for each in others if each not in {*given, *names}))
    return names


def _parsed(
    lines: Iterable[str], delimiter: str, quoting: Literal[0, 3], name: str, report: CorpusReport
) -> Iterator[tuple[int, list[str]]]:
    """Rows with the number of their last line; a row that cannot be parsed is skipped and counted.

    A quote that is opened and not closed would swallow the lines after it, up to the next quote or the end: then its
    line is read as it stands, and the others by themselves. Quotes that stand where none should are forgiven, also in
    a cell of several lines, unless each of its lines could be a row.
    """
    source = _Source(iter(lines))
    number = width = 0
    is_noted = False
    reader = csv.reader(source, delimiter=delimiter, quoting=quoting, strict=True)
    while True:
        try:
            cells = next(reader)
            is_whole = not source.is_at_end  # where no quote is open a row ends before another line is asked for
        except StopIteration:
            return
        except csv.Error:
            is_whole = False
        if not is_whole:
            reader = csv.reader(source, delimiter=delimiter, quoting=quoting, strict=True)
            forgiven = [] if source.is_at_end else _read(source.taken, delimiter, csv.QUOTE_MINIMAL)
            if len(forgiven) == 1 and _is_one_row(source.taken, delimiter, len(forgiven[0]), width):
                cells = forgiven[0]
            else:
                first = source.give_back_all_but_the_first()
                cells = next(iter(_read([first], delimiter, csv.QUOTE_NONE)), [])
                if not cells:
                    report.skip(f"{name}:{number + 1}", "cannot be parsed")
                elif not is_noted:
                    is_noted = True
                    report.choices[UNCLOSED] = report.choices.get(UNCLOSED, 0) + 1
        number += len(source.taken)
        source.taken.clear()
        if cells:
            width = len(cells)
            yield number, cells


def _is_one_row(lines: Sequence[str], delimiter: str, cells: int, width: int) -> bool:
    """Whether lines that can be read as one row of so many cells are one; the row before had `width` cells."""
    alone = {len(row) for line in lines[1:] for row in _read([line], delimiter, csv.QUOTE_MINIMAL)}
    return not alone or (cells == width and alone != {width})


def _read(lines: Sequence[str], delimiter: str, quoting: Literal[0, 3]) -> list[list[str]]:
    """What a forgiving parser makes of lines; nothing where it makes nothing of them."""
    try:
        return list(csv.reader((f"{line}\n" for line in lines), delimiter=delimiter, quoting=quoting))
    except csv.Error:
        return []


class _Source:
    """Lines for the parser, which can be given back to be read again."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._again: deque[str] = deque()
        self.taken: list[str] = []
        """Those of the row that is read now."""

        self.is_at_end = False
        """There is no other line, or none that this row may take."""

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self._again:
            line = self._again.popleft() if len(self.taken) < _MAX_LINES_AGAIN else None
        else:
            line = next(self._lines, None)
        if line is None:
            self.is_at_end = True
            raise StopIteration
        self.taken.append(line)
        return f"{line}\n"

    def give_back_all_but_the_first(self) -> str:
        """The first line of the row; the others will be read again."""
        first, *rest = self.taken
        self._again.extendleft(reversed(rest))
        self.taken[1:] = []
        self.is_at_end = False
        return first


def _names_columns(rows: Sequence[Sequence[str]], text_field: str | None) -> bool:
    """Whether the first row of a table names its columns. A name is no value of its column, a label mostly is."""
    names = [cell.strip() for cell in rows[0]]
    numbered = [str(number) for number in range(len(names))]  # as pandas writes columns without names
    if names in (numbered, ["", *numbered[:-1]]) or any(name.lower() in TEXT_FIELDS for name in names):
        return True
    is_named = text_field in names
    if is_named and text_field not in [*numbered[1:], str(len(names))]:  # else it may be a label and a place
        return True
    others = [[cell.strip() for cell in row] for row in rows[1:]]
    others = [row for row in others if row != names]  # a table that was put together repeats them
    if any(cell == name != "" for row in others for name, cell in zip(names, row, strict=False)):
        return False
    if is_named:
        return True
    widths = list(map(len, rows[1:]))
    is_cut = any(cell.startswith(" ") for cell in rows[0])
    if is_cut and min(widths, default=len(names)) < len(names) < max(widths) and _differ(widths):
        return False  # a text, since a space follows its commas, like those below
    most_words = 4 if len(names) > 1 else 2  # one column alone may well be texts without a name
    given = list(filter(None, names))  # spreadsheets leave columns without a name
    return len(set(given)) == len(given) and all(
        not name or (_COLUMN_NAME.fullmatch(name) and len(name.split()) <= most_words) for name in names
    )


def _unquoted(cell: str) -> str:
    """A cell without the quotes around it."""
    return cell[1:-1].replace('""', '"') if len(cell) > 1 and cell[0] == cell[-1] == '"' else cell
