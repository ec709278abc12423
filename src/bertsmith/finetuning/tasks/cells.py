"""What cells of labelled rows spell: nothing, lists as pandas writes them to a table, numbers with decimal commas."""

import ast
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

_ARRAY = re.compile(r"""\[\s*(?:(?:'[^']*'|"[^"]*")\s*)*\]""")
_ARRAY_ITEM = re.compile(r"""'([^']*)'|"([^"]*)\"""")
_WHOLE_OR_COMMA = re.compile(r"[-+]?\d*(?:,(\d+))?")
_NO_NUMBER = frozenset({"", "nan", "na", "n/a", "#n/a", "<na>", "null", "none"})
"""What stands in tables for a number that is missing, as pandas reads them."""


def is_missing(value: Any) -> bool:
    """Whether a field is not there: null, or the NaN that Parquet and JSON have in its place."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def list_of(cell: Any) -> list[Any] | None:
    """The list that a cell spells, as JSON, Python or NumPy writes lists of texts; None where it spells none."""
    text = cell.strip() if isinstance(cell, str) else ""
    if not (text.startswith("[") and text.endswith("]")):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        if _ARRAY.fullmatch(text):  # no commas: Python would join its texts to one
            return [one or other for one, other in _ARRAY_ITEM.findall(text)]
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
    return value if isinstance(value, list) else None


def lists_of(cells: Sequence[Any]) -> list[Any]:
    """The lists that a column spells; the cells as they are where one of them spells none."""
    if not cells or list_of(cells[0]) is None:
        return list(cells)
    lists = [list_of(cell) for cell in cells]
    return list(cells) if any(each is None for each in lists) else lists


def words_of(value: Any) -> list[Any]:
    """The words of a sentence: of a list, also one that a cell spells, or between white space; "" for a missing one."""
    if isinstance(value, list):
        return ["" if is_missing(each) else each for each in value]
    spelt = list_of(value)
    if spelt is not None and all(isinstance(each, str) for each in spelt):
        return spelt
    return str(value).split()


def class_names(metadata: Mapping[bytes, bytes] | None) -> dict[str, list[str]]:
    """Names of the classes that columns of a Parquet file hold as numbers, where `datasets` wrote it.

    Args:
        metadata: Of its schema.
    """
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"].items()
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}
    found = {}
    for column, feature in features:
        inner = feature
        while isinstance(inner, dict) and "feature" in inner:  # of a list
            inner = inner["feature"]
        if isinstance(inner, dict) and inner.get("_type") == "ClassLabel" and isinstance(inner.get("names"), list):
            found[column] = list(map(str, inner["names"]))
    return found


def named(value: Any, names: Sequence[str]) -> Any:
    """The class of a number, or of each of a list; None where the number is -1, which stands for none there."""
    if isinstance(value, list):
        return [named(each, names) for each in value]
    is_class = isinstance(value, int) and not isinstance(value, bool) and value < len(names)
    return (names[value] if value >= 0 else None) if is_class else value


def number_of(value: Any) -> float | None:
    """A finite number, or None."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and not isinstance(value, bool) else None


def numbers_of(cells: Sequence[Any]) -> list[float | str | None]:
    """A column as numbers.

    Decimal commas are read where all cells are whole or have one, unless all of these could be thousands.

    Args:
        cells: Values of any type.

    Returns:
        For each cell its number, None where it spells a missing one, the text of the cell where it spells neither.
    """
    given = [cell for cell in cells if not _spells_nothing(cell)]
    parts = [_WHOLE_OR_COMMA.fullmatch(cell.strip()) if isinstance(cell, str) else None for cell in given]
    ends = {len(part[1]) for part in parts if part and part[1]}
    has_commas = all(parts) and bool(ends) and ends != {3}

    def read(cell: Any) -> float | str | None:
        if _spells_nothing(cell):
            return None
        value = number_of(cell.replace(",", ".") if has_commas else cell)
        return str(cell) if value is None else value

    return [read(cell) for cell in cells]


def _spells_nothing(cell: Any) -> bool:
    return is_missing(cell) or (isinstance(cell, str) and cell.strip().lower() in _NO_NUMBER)
