"""Data sets of the Hugging Face hub.

Not tested where there is no network: what is tested is that a missing library
and a name that is not a hub id are refused.
"""

import re
from collections.abc import Iterator
from typing import Any

from bertsmith.corpus.records import Row
from bertsmith.errors import UserError, first_line

_KNOWN = {
    "wikitext-2": ("Salesforce/wikitext", "wikitext-2-raw-v1"),
    "wikitext-103": ("Salesforce/wikitext", "wikitext-103-raw-v1"),
}
_HUB_ID = re.compile(r"([\w-][\w.-]*/[\w-][\w.-]*)(?::([\w.-]+))?")


def hub_id(source: str) -> tuple[str, str | None] | None:
    """Repository and configuration that a source names, None if it cannot be a hub id.

    Args:
        source: "wikitext-2", "wikitext-103", "user/name" or "user/name:configuration".
    """
    if source in _KNOWN:
        return _KNOWN[source]
    match = _HUB_ID.fullmatch(source)
    return (match[1], match[2]) if match else None


def hub_rows(source: str) -> Iterator[Row]:
    """Rows of the train split of a data set, streamed from the hub.

    Raises:
        UserError: The `datasets` library is not installed, or the data set cannot be had.
    """
    repository, configuration = hub_id(source) or (source, None)
    data: Any
    try:
        from datasets import load_dataset
    except ImportError:
        raise UserError(
            f"{source} does not exist here, and to get it from the hub `datasets` is needed: pip install bertsmith[hf]"
        ) from None
    try:
        data = load_dataset(repository, configuration, split="train", streaming=True)
    except Exception as error:  # whatever it raises means that there is no data set
        raise UserError(f"{source} cannot be loaded from the hub: {first_line(error)}") from error
    yield from enumerate(data, 1)
