"""From what the user named to blocks of bytes: finding files and undoing compression."""

import bz2
import gzip
import lzma
import os
import stat
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from bertsmith.errors import UserError, suggestion

BLOCK_BYTES = 1 << 20
"""Read at once. The memory of reading a text file is a few times this."""

COMPRESSED = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2", ".xz": "xz"}
"""Suffix of a compressed file -> what it is compressed with."""

_BINARY_STARTS = (
    (b"%PDF-", "a PDF"),
    (b"PK\x03\x04", "a ZIP archive or an Office document"),
    (b"\xd0\xcf\x11\xe0", "an Office document"),
    (b"{\\rtf", "a rich-text document"),
    (b"\x89PNG", "an image"),
    (b"\xff\xd8\xff", "an image"),
    (b"GIF8", "an image"),
    (b"SQLite format 3\x00", "a database"),
    (b"\x1f\x8b", "compressed, but its name does not end in .gz; rename it"),
    (b"\x28\xb5\x2f\xfd", "compressed, but its name does not end in .zst; rename it"),
    (b"BZh9", "compressed, but its name does not end in .bz2; rename it"),
    (b"\xfd7zXZ\x00", "compressed, but its name does not end in .xz; rename it"),
    (b"PAR1\x15", "a Parquet file, but its name does not end in .parquet; rename it"),  # PAR1 alone is a protein, too
    (b"ARROW1\x00", "an Arrow file; convert it to Parquet"),
    (b"\xff\xff\xff\xff", "an Arrow file; convert it to Parquet"),
)
_BOMS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")
_MAX_CONTROL_SHARE = 0.02
_CONTROL = bytes(set(range(32)) - set(b"\t\n\r\f\x1b")) + b"\x7f"


class SourceFile(NamedTuple):
    """A file of a corpus, for its fingerprint."""

    name: str
    """As shown to the user: relative to the folder that was named."""

    size: int
    """Bytes on the disk."""

    mtime_ns: int
    """Time of the last change, nanoseconds."""


class FoundFile(NamedTuple):
    """A file to read."""

    path: Path
    name: str
    """As shown to the user."""

    is_named: bool
    """The user named this very file, so a fault in it is an error. In a folder it is skipped and counted."""

    @property
    def folder(self) -> Path:
        """The folder that was named, or that the file is in."""
        return self.path.parents[self.name.count("/")]

    @property
    def kind(self) -> str:
        """Last suffix of the name without compression, lower case, such as ".jsonl"; "" if there is none."""
        path = Path(self.name)
        if path.suffix.lower() in COMPRESSED:
            path = path.with_suffix("")
        return path.suffix.lower()

    @property
    def compression(self) -> str | None:
        """One of "gzip", "zstd", "bz2", "xz", or None."""
        return COMPRESSED.get(Path(self.name).suffix.lower())

    def facts(self) -> SourceFile:
        """Name, size and time of the file."""
        try:
            found = self.path.stat()
        except OSError:  # such as a link to nowhere: it is reported when it is read
            return SourceFile(self.name, 0, 0)
        return SourceFile(self.name, found.st_size, found.st_mtime_ns)


class Damage(Exception):
    """A file that cannot be read from some place on. Its message goes on from the file's name: "is damaged ..."."""


def find_files(source: str) -> list[FoundFile]:
    """Find the files of one source.

    A folder is walked recursively, each folder's files by name before its
    folders. Hidden files and folders are left out, and a link back to a folder
    that was seen is not followed.

    Raises:
        UserError: The path does not exist or is no file, or the folder holds no file.
    """
    path = Path(os.path.expanduser(source))
    if path.is_dir():
        found = [FoundFile(file, _shown(file.relative_to(path)), False) for file in _walk(path)]
        if not found and _is_run(str(path), os.listdir(path)):
            raise UserError(f"folder {source} is a run, a model or prepared text, which is no text here; name the text")
        if not found:
            raise UserError(f"folder {source} has no file in it; name a folder or file with text")
        return found
    if not path.exists():
        raise UserError(f"{source} does not exist{_similar(path)}")
    if not path.is_file():
        raise UserError(f"{source} is not a file that can be read twice; save its text to a file first")
    return [FoundFile(path, _shown(Path(path.name)), True)]


def _shown(path: Path) -> str:
    """A path that can be printed, also if its name is no valid Unicode."""
    return os.fsencode(path.as_posix()).decode("utf-8", "replace")


def _walk(root: Path) -> Iterator[Path]:
    """All visible files under a folder, and the folders that cannot be listed: reading them will say why."""
    seen: set[tuple[int, int]] = set()
    closed: list[Path] = []
    for folder, folders, files in os.walk(root, followlinks=True, onerror=lambda e: closed.append(Path(e.filename))):
        facts = os.stat(folder)
        if (facts.st_dev, facts.st_ino) in seen or _is_run(folder, files):
            folders.clear()
            continue
        seen.add((facts.st_dev, facts.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths = (Path(folder, name) for name in sorted(files) if not name.startswith("."))
        yield from (path for path in paths if not _would_block(path))
    yield from closed


def _is_run(folder: str, files: list[str]) -> bool:
    """Whether a folder is a run, a prepared text, a tokenizer or a model, which are nobody's text.

    `pretrain .` writes into ./runs, and `prepare . -o ready` is at work there while it reads.
    """
    names = set(files)
    saved = {"tokenizer.json", "tokenizer_config.json"} <= names or {"config.json", "model.safetensors"} <= names
    prepared = any(Path(folder, "data", name).exists() for name in ("manifest.json", "state.json"))
    return saved or prepared or {".lock", "config.toml"} <= names


def _would_block(path: Path) -> bool:
    """Whether a path is a pipe, socket or device, which could be waited on for ever."""
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except OSError:  # a link to nowhere: reading it will say so
        return False


def _similar(path: Path) -> str:
    """Which file beside a missing one was probably meant."""
    try:
        beside = os.listdir(path.parent)
    except OSError:
        beside = []
    return suggestion(path.name, beside, cutoff=0.75, otherwise="check the path")


def unique(files: Sequence[FoundFile]) -> list[FoundFile]:
    """Drop files that were found before, through another source or a link."""
    seen: dict[tuple[int, int] | Path, FoundFile] = {}
    for file in files:
        seen.setdefault(_identity(file.path), file)
    return list(seen.values())


def _identity(path: Path) -> tuple[int, int] | Path:
    try:
        found = path.stat()
    except OSError:
        return path
    return found.st_dev, found.st_ino


_BROKEN = (OSError, EOFError, ValueError, lzma.LZMAError, zlib.error)
"""What the decompressors raise on a damaged stream."""


def read_blocks(file: FoundFile) -> Iterator[bytes]:
    """The decompressed content of a file.

    Yields:
        Blocks of at most `BLOCK_BYTES`.

    Raises:
        Damage: The file cannot be opened, or the compressed stream is broken.
            Everything before the damage has been yielded.
    """
    position = 0
    try:
        with closing(_open(file)) as stream:
            while block := _read(stream, BLOCK_BYTES):
                position += len(block)
                yield block
            return
    except OSError as error:
        raise Damage(f"cannot be read: {error.strerror or error}") from error
    except Damage:
        rest = _rest_before_damage(file, position)
        if not rest and not position:
            raise Damage(
                "is damaged or cut off before any text; get the file again, or rename it if it is not compressed"
            ) from None
        yield from filter(None, [rest])
        raise


def _read(stream: Any, size: int) -> bytes:
    """Read at most `size` bytes; an error of a decompressor becomes `Damage`."""
    try:
        return bytes(stream.read(size))
    except _BROKEN as error:
        raise Damage("is damaged or cut off; only the text before the damage was used") from error


def _rest_before_damage(file: FoundFile, position: int) -> bytes:
    """What a failed read lost: the bytes between the last whole block and the damage."""
    rest = bytearray()
    try:
        with closing(_open(file)) as stream:
            while position > 0:
                position -= len(_read(stream, min(position, BLOCK_BYTES)))
            while byte := _read(stream, 1):
                rest += byte
    except (OSError, Damage):
        pass
    return bytes(rest)


def _open(file: FoundFile) -> Any:
    """Open a file for reading its decompressed bytes."""
    match file.compression:
        case "gzip":
            return gzip.open(file.path)
        case "bz2":
            return bz2.open(file.path)
        case "xz":
            return lzma.open(file.path)
        case "zstd":
            import pyarrow

            return pyarrow.input_stream(file.path.open("rb"), compression="zstd")
    return file.path.open("rb")


def why_binary(head: bytes) -> str | None:
    """Say what a file is that is not text.

    A stray NUL byte does not make a binary file; a share of control characters above 2 % does.

    Args:
        head: Its first bytes.

    Returns:
        "a PDF", "an image", ..., with what to do after a semicolon where that can be said, or None for text.
    """
    for start, what in _BINARY_STARTS:
        if head.startswith(start):
            return what
    if head[257:262] == b"ustar":
        return "a tar archive, which must be unpacked"
    if head.startswith(_BOMS):
        return None
    controls = len(head) - len(head.translate(None, _CONTROL))
    is_text = controls <= _MAX_CONTROL_SHARE * len(head)
    return None if is_text else "binary data, not text; if it is text, save it as UTF-8 or name its --encoding"
