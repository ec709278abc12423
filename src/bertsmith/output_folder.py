"""Folders that a command writes: made, kept from others' files, and locked."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from bertsmith import atomic
from bertsmith.errors import UserError

CONFIG = "config.toml"
"""Marks a run of `pretrain`, and holds its settings."""

FINETUNE = "finetune.json"
"""The same of `finetune`."""

LOCK = ".lock"
LOCK_ATTEMPTS = 5
"""Tenths of a second to wait for a lock."""

_held: list[TextIO] = []


def _let_go() -> None:
    """In a process that was forked, as those that load rows are: it would hold the lock of one that was killed."""
    while _held:
        _held.pop().close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


def make_folder(folder: Path, *, owned_by: tuple[str, ...] = ()) -> None:
    """Make an output folder, or see that it is empty or holds what this program wrote.

    Args:
        folder: Where to write.
        owned_by: Names of which one shows that the folder is ours.

    Raises:
        UserError: It holds something else, is not writable, or has a name that libraries cannot open.
    """
    refuse_odd_name(folder)
    try:
        if folder.exists() and not any((folder / name).exists() for name in owned_by):
            if not folder.is_dir():
                raise UserError(f"the output folder {folder} is a file; choose another with -o")
            if any(path.name != LOCK for path in folder.iterdir()):
                raise UserError(f"the output folder {folder} holds something else; choose another with -o")
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f"probe{atomic.TEMPORARY_SUFFIX}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"cannot write to the output folder {folder}: {error.strerror}; choose another with -o"
        ) from error


def refuse_odd_name(folder: Path) -> None:
    """Refuse a path with bytes that are no UTF-8, which the libraries that write weights cannot open.

    Raises:
        UserError: It has some.
    """
    try:
        os.path.abspath(folder).encode()
    except UnicodeEncodeError as error:
        raise UserError(f"the output folder {str(folder)!a} is no valid UTF-8; choose another with -o") from error


@contextmanager
def new_folder(folder: Path, *, owned_by: tuple[str, ...]) -> Iterator[None]:
    """Make an output folder as `make_folder` does, and take it away again when a mistake kept it from being used.

    Only what this command made goes, folders above it that are empty too: a folder that was
    there before stays, and so does one that holds more than the settings of the command.

    Raises:
        UserError: As `make_folder`.
    """
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    make_folder(folder, owned_by=owned_by)
    try:
        yield
    except UserError:
        if folder in made and folder.exists() and not any(path.name not in (CONFIG, LOCK) for path in folder.iterdir()):
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):  # one above it holds something else by now
                for above in made[1:]:
                    above.rmdir()
        raise


def refuse_run(folder: Path) -> None:
    """Keep other commands from writing into a run, its folders, or a model.

    Raises:
        UserError: The folder is one.
    """
    parent = folder.resolve().parent
    for place in (folder, *([parent] if (parent / LOCK).exists() else [])):
        if (place / CONFIG).exists():
            raise UserError(f"{place} is a run, which has its own tokenizer and shards; give another folder with -o")
    if (folder / "config.json").exists():
        raise UserError(f"{folder} holds a model, whose files would be replaced; give another folder with -o")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from working on the same run; a killed process leaves no lock.

    Raises:
        UserError: Another process works on it.
    """
    if os.name == "nt":  # no flock there
        yield
        return
    import fcntl

    with (folder / LOCK).open("w") as handle:
        for attempt in range(LOCK_ATTEMPTS):  # `bertsmith info` holds it for a moment
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if attempt + 1 == LOCK_ATTEMPTS:
                    raise UserError(
                        f"another process is working on {folder}; wait for it, or choose another folder with -o"
                    ) from error
                time.sleep(0.1)
        _held.append(handle)
        try:
            yield
        finally:
            _held.remove(handle)
