"""The folder of an export: it appears when it is whole and checked, or not at all; and the card that goes with it."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bertsmith import atomic
from bertsmith.errors import UserError
from bertsmith.output_folder import refuse_odd_name


@contextmanager
def staged(output: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `output` at the end. A mistake or an interruption leaves nothing.

    What a process that was killed left is removed by the next one with the same `output`.

    Args:
        output: Must not exist, or be an empty folder, or a link to one of these.

    Raises:
        UserError: It holds something, cannot be written, or cannot be replaced.
    """
    refuse_odd_name(output)
    output = Path(os.path.realpath(output))
    if output.is_dir() and (os.path.ismount(output) or output.samefile(os.curdir)):
        raise UserError(
            f"{output} is where a disk is mounted, or the folder this was started in, which no other can take the "
            "place of; name a folder in it with -o"
        )
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output} exists and is not empty, and nothing is overwritten; choose another folder with -o")
    _remove_leftovers(output)
    staging = output.with_name(f".{output.name}.{os.getpid()}{atomic.TEMPORARY_SUFFIX}")
    made = [place for place in output.parents if not place.exists()]
    try:
        staging.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"cannot write {output}: {error.strerror}; choose another folder with -o") from error
    lock = _hold(staging)
    try:
        yield staging
        if output.exists():
            output.rmdir()
        atomic.publish(staging, output)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if lock is not None:
            os.close(lock)
        with suppress(OSError):  # not empty, as it should be
            for place in made:
                place.rmdir()


def _remove_leftovers(output: Path) -> None:
    """Remove the folders that were filled for `output` and that no process holds, on this machine or another."""
    name = re.compile(rf"\.{re.escape(output.name)}\.\d+{re.escape(atomic.TEMPORARY_SUFFIX)}")
    for place in output.parent.glob(f".*{atomic.TEMPORARY_SUFFIX}"):
        if name.fullmatch(place.name) and (lock := _hold(place)) is not None:
            shutil.rmtree(place, ignore_errors=True)
            os.close(lock)


def _hold(folder: Path) -> int | None:
    """Lock a folder until what is returned is closed, which the end of the process does, too.

    Returns:
        A descriptor; None where another process holds the folder, it is a link, or folders cannot be locked, as on
        Windows and some disks of a network.
    """
    try:
        import fcntl

        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except (ImportError, OSError):
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def carried_card(folder: Path, *, library: str, task: str) -> str:
    """The card of a model for a folder of another form: its numbers, without the code that loads the first form.

    Args:
        folder: The Hugging Face folder.
        library: That loads the other form, as the hub calls it.
        task: What the other form is for, as the hub calls it.

    Returns:
        The card and an empty line after it; "" where there is none.
    """
    path = folder / "README.md"
    if not path.is_file():
        return ""
    card = path.read_text(encoding="utf-8", errors="replace")
    header = re.match(r"---\n.*?\n---\n", card, re.DOTALL)
    head, body = (header.group(), card[header.end() :]) if header else ("", card)
    for name, value in (("library_name", library), ("pipeline_tag", task)):
        head = re.sub(rf"^{name}:.*$", f"{name}: {value}", head, flags=re.MULTILINE)
    for part in (r"^## Use\n.*?(?=^## |\Z)", r"^```python\n.*?^```\n+"):
        body = re.sub(
            part,
            lambda found: "" if "path/to/this/folder" in found.group() else found.group(),
            body,
            flags=re.DOTALL | re.MULTILINE,
        )
    return f"{head}{body}".rstrip() + "\n\n"
