"""Token shards: prepared text on disk, mapped into memory.

A folder holds the splits "train" and "validation", each as files such as
`train-00000.safetensors`, and `manifest.json`, which is written last and names
every shard with its size and hash. One shard is one file, so that it is there
whole or not at all. Its tensors:

    ids               [T]      uint16, or uint32 when the vocabulary has more than 65,536 pieces
    sentence_starts   [N]      uint32, places in this shard at which a sentence starts
    section_starts    [S + 1]  uint32, places in this shard at which a section starts; last, T
    section_document  [S]      int64, ordinal of the document each section was cut from

`Shards` joins the shards of a split: token places then count through all of them.
"""

import json
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save

from bertsmith.atomic import sha256
from bertsmith.data.packing import Int64Array
from bertsmith.errors import UserError, require, suggestion

Split = Literal["train", "validation"]

MANIFEST = "manifest.json"
MAX_OPEN_SHARDS = 256
"""Shards mapped at once by a process. Each costs a file handle, and systems often allow 1,024."""

_DTYPES: dict[str, np.dtype[Any]] = {"U16": np.dtype("<u2"), "U32": np.dtype("<u4"), "I64": np.dtype("<i8")}
_TENSORS = frozenset({"ids", "sentence_starts", "section_starts", "section_document"})
_MAX_HEADER = 1 << 16


class ShardContent(NamedTuple):
    """One shard; shapes and dtypes as above."""

    ids: npt.NDArray[np.unsignedinteger]
    sentence_starts: npt.NDArray[np.integer]
    section_starts: npt.NDArray[np.integer]
    section_document: Int64Array


class TensorPlace(NamedTuple):
    """Where a tensor stands in a file."""

    dtype: np.dtype[Any]
    length: int
    offset: int
    """Bytes from the start of the file."""


def shard_name(split: str, number: int) -> str:
    """File name of one shard."""
    return f"{split}-{number:05d}.safetensors"


def id_dtype(vocab_size: int) -> type[np.uint16] | type[np.uint32]:
    """The smallest type that holds every token id."""
    return np.uint16 if vocab_size <= 1 << 16 else np.uint32


def pack_shard(content: ShardContent) -> bytes:
    """Bytes of a shard file. Equal contents give equal bytes."""
    return save(
        {
            "ids": content.ids,
            "sentence_starts": content.sentence_starts.astype(np.uint32),
            "section_starts": content.section_starts.astype(np.uint32),
            "section_document": content.section_document.astype(np.int64),
        },
        metadata={"format": "bertsmith-shard-1"},
    )


def read_layout(path: Path) -> dict[str, TensorPlace]:
    """Read the header of a shard and hold it against the size of the file.

    Raises:
        UserError: The file is missing, shortened or no shard.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as handle:
            header_size = int.from_bytes(handle.read(8), "little")
            if not 2 <= header_size <= min(_MAX_HEADER, size - 8):
                raise ValueError(f"its {size:,} bytes hold no header")
            header = json.loads(handle.read(header_size))
        header.pop("__metadata__", None)
        if set(header) != _TENSORS:
            raise ValueError("its header names other tensors")
        layout = {name: _tensor_place(entry, 8 + header_size) for name, entry in header.items()}
        expected = max(place.offset + place.length * place.dtype.itemsize for place in layout.values())
        if size != expected:
            raise ValueError(f"it has {size:,} of {expected:,} bytes")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged(path, error) from error
    return layout


def _tensor_place(entry: dict[str, Any], base: int) -> TensorPlace:
    """Read one tensor's entry of a safetensors header; `base` is where the data begins."""
    dtype, (length,), (begin, end) = _DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
    if begin < 0 or end - begin != length * dtype.itemsize:
        raise ValueError("its header contradicts itself")
    return TensorPlace(dtype, length, base + begin)


def damaged(path: Path, why: object) -> UserError:
    """The error that names a damaged file and what helps."""
    reason = "it is missing" if isinstance(why, FileNotFoundError) else str(why)
    return UserError(
        f"{path} is damaged: {reason}; prepare again with the same command (only damaged shards are made anew, "
        "from the same text)"
    )


@lru_cache(maxsize=MAX_OPEN_SHARDS)
def _mapped(path: Path, place: TensorPlace) -> npt.NDArray[Any]:
    """Map one tensor of a file, read-only."""
    if place.length == 0:  # an empty map is refused by the system
        return np.empty(0, place.dtype)
    return np.memmap(path, place.dtype, mode="r", offset=place.offset, shape=(place.length,))


def read_shard(path: Path) -> ShardContent:
    """Read a shard; `ids` is mapped, the rest is loaded.

    Raises:
        UserError: The file is damaged.
    """
    return _content(path, read_layout(path))


def _content(path: Path, layout: dict[str, TensorPlace]) -> ShardContent:
    tables = {}
    for name in ("sentence_starts", "section_starts", "section_document"):
        place = layout[name]
        tables[name] = np.fromfile(path, place.dtype, count=place.length, offset=place.offset)
    return ShardContent(ids=_mapped(path, layout["ids"]), **tables)


class Shards:
    """One split as a single sequence of tokens; read-only. Pickled as its place on disk."""

    num_tokens: int
    section_starts: Int64Array
    """[S + 1]. Places at which a section starts; last, `num_tokens`."""

    section_document: Int64Array
    """[S]. Ordinal of the document each section was cut from; never falls."""

    sentence_starts: Int64Array
    """[N]. Places at which a sentence starts, rising. Every section start is one."""

    def __init__(self, folder: Path, split: str, files: list[str]) -> None:
        """Open the shard files of a split, in their order.

        Raises:
            UserError: A file is damaged.
        """
        self.folder = folder
        self.split = split
        self._paths = [folder / file for file in files]
        layouts = [read_layout(path) for path in self._paths]
        self._places = [layout["ids"] for layout in layouts]
        self._starts = np.cumsum([0, *(place.length for place in self._places)], dtype=np.int64)
        self.num_tokens = int(self._starts[-1])
        contents = [_content(path, layout) for path, layout in zip(self._paths, layouts, strict=True)]
        shifted = list(zip(contents, self._starts[:-1], strict=True))
        nothing = np.empty(0, dtype=np.int64)
        self.sentence_starts = np.concatenate([nothing, *(c.sentence_starts + start for c, start in shifted)])
        section_starts = [nothing, *(c.section_starts[:-1] + start for c, start in shifted), self._starts[-1:]]
        self.section_starts = np.concatenate(section_starts)
        self.section_document = np.concatenate([nothing, *(c.section_document for c in contents)])

    def __reduce__(self) -> tuple[Any, ...]:
        return open_shards, (self.folder, self.split)

    def take(self, places: Int64Array) -> Int64Array:
        """Token ids at the given places.

        Args:
            places: int64, any shape, each in [0, num_tokens).

        Returns:
            int64, of the same shape.
        """
        flat = places.ravel()
        shard = np.searchsorted(self._starts, flat, side="right") - 1
        order = np.argsort(shard, kind="stable")
        bounds = np.flatnonzero(np.diff(shard[order], prepend=-1, append=len(self._places)))
        ids = np.empty(flat.shape, dtype=np.int64)
        for first, end in pairwise(bounds):
            here = order[first:end]
            number = shard[here[0]]
            ids[here] = _mapped(self._paths[number], self._places[number])[flat[here] - self._starts[number]]
        return ids.reshape(places.shape)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a folder of shards.

    Raises:
        UserError: It is missing or damaged.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        for split in manifest["splits"].values():
            if not all({"file", "size", "sha256"} <= set(shard) for shard in split["shards"]):
                raise ValueError
    except FileNotFoundError as error:
        raise UserError(f"{folder} holds no prepared text ({MANIFEST} is missing); run `bertsmith prepare`") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged(path, "it cannot be read") from error
    return dict(manifest)


def open_shards(folder: Path, split: str) -> Shards:
    """Map a split, after its sizes and headers were held against the manifest.

    Args:
        folder: What holds `manifest.json`, such as RUN/data.
        split: "train" or "validation".

    Raises:
        UserError: A file is missing, damaged, or not the one that the manifest names.
    """
    splits = read_manifest(folder)["splits"]
    require(split in splits, f"split is {split!r}{suggestion(split, splits)}")
    facts = splits[split]
    _mapped.cache_clear()  # a file may have been made again under its old name
    for shard in facts["shards"]:
        check_size(folder / shard["file"], shard["size"])
    shards = Shards(folder, split, [shard["file"] for shard in facts["shards"]])
    if shards.num_tokens != facts["tokens"]:
        raise damaged(folder / MANIFEST, f"it counts {facts['tokens']:,} tokens, its shards {shards.num_tokens:,}")
    return shards


def check_size(path: Path, size: int) -> None:
    """Hold the size of a file against its manifest.

    Raises:
        UserError: The file is missing or has another size.
    """
    try:
        found = path.stat().st_size
    except OSError as error:
        raise damaged(path, error) from error
    if found != size:
        raise damaged(path, f"it has {found:,} of {size:,} bytes")


def verify(folder: Path, *, full: bool = True) -> list[str]:
    """Hold every shard against the manifest.

    Args:
        folder: What holds `manifest.json`.
        full: Compare hashes; otherwise sizes and headers alone, which reads almost nothing.

    Returns:
        Names of the files that are missing or damaged, in the order of the manifest.

    Raises:
        UserError: The manifest itself is missing or damaged.
    """
    splits = read_manifest(folder)["splits"].values()
    return [shard["file"] for split in splits for shard in split["shards"] if not _is_whole(folder, shard, full)]


def _is_whole(folder: Path, shard: dict[str, Any], full: bool) -> bool:
    path = folder / shard["file"]
    try:
        check_size(path, shard["size"])
        read_layout(path)
    except UserError:
        return False
    return not full or sha256(path) == shard["sha256"]
