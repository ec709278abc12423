"""Files that are there whole or not at all, whenever the process is killed.

Everything is written under a temporary name in the same folder, flushed to the
disk and renamed. Readers look only at final names.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

TEMPORARY_SUFFIX = ".tmp"
"""Ends the name of everything that is not finished. Such files may be removed at any time."""


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file in one step: afterwards `path` has its old content or the new one, never a part."""
    staging = path.with_name(path.name + TEMPORARY_SUFFIX)
    try:
        with staging.open("wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(staging, path)
    except OSError:
        staging.unlink(missing_ok=True)  # a full disk must not be left fuller
        raise
    sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text in one step.

    File names may hold bytes that are no UTF-8, which Python gives as lone surrogates; they are written as escapes, as
    JSON has them.
    """
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file in one step, keys in the order given."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, empty where it is missing or damaged: for what a run can do without."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


@contextmanager
def growing(path: Path, mode: str, **options: Any) -> Iterator[IO[Any]]:
    """Open a file that is written bit by bit, and is there when the block ends without an error.

    Args:
        path: Its final name, or a link to it; until then it ends in `.tmp`, and after an error it is gone.
        mode: As of `open`, for writing.
        **options: As of `open`.

    Yields:
        The open file.

    Raises:
        FileExistsError: Another process has written `path` meanwhile.
    """
    path = path.resolve()
    staging = path.with_name(f"{path.name}.{os.getpid()}{TEMPORARY_SUFFIX}")  # another process may write the same
    try:
        with staging.open(mode, **options) as handle:
            yield handle
        sync_file(staging)
        if path.exists():
            raise FileExistsError(f"{path} was written by another command meanwhile; choose another file with -o")
        staging.rename(path)
    finally:
        staging.unlink(missing_ok=True)


def publish(staging: Path, final: Path) -> None:
    """Make a fully written folder visible in one step.

    A crash leaves `final` whole or absent: a rename within one filesystem is atomic.

    Raises:
        FileExistsError: `final` exists. Finished folders are never overwritten.
    """
    if final.exists():
        raise FileExistsError(f"{final} already exists")
    for path in staging.rglob("*"):
        sync_folder(path) if path.is_dir() else sync_file(path)
    sync_folder(staging)
    os.rename(staging, final)
    sync_folder(final.parent)


def sync_file(path: Path) -> None:
    """Wait until a file's content is on the disk."""
    with path.open("rb") as handle:
        os.fsync(handle.fileno())


def sync_folder(path: Path) -> None:
    """Wait until a folder's entries are on the disk, so that a rename survives a power cut."""
    if os.name == "nt":  # Windows has no such call, and needs none
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def next_free(folder: Path) -> Path:
    """FOLDER itself, or FOLDER-2, FOLDER-3, ...: the first that does not exist yet."""
    number, candidate = 1, folder
    while candidate.exists():
        number += 1
        candidate = folder.with_name(f"{folder.name}-{number}")
    return candidate


def remove_leftovers(folder: Path) -> None:
    """Remove what an interrupted write left in `folder`."""
    for path in folder.glob(f"*{TEMPORARY_SUFFIX}"):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """Hash of a file's content, in hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
