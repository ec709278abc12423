"""The folder of an export: it appears when it is whole and checked, or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bertsmith import atomic
from bertsmith.errors import UserError
from bertsmith.output_folder import refuse_odd_name


@contextmanager
def staged(output: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `output` at the end. A mistake or an interruption leaves nothing.

    Args:
        output: Must not exist, or be an empty folder.

    Raises:
        UserError: It holds something, or cannot be written.
    """
    refuse_odd_name(output)
    output = Path(os.path.abspath(output))
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output} exists and is not empty, and nothing is overwritten; choose another folder with -o")
    staging = output.with_name(f".{output.name}.{os.getpid()}{atomic.TEMPORARY_SUFFIX}")
    try:
        staging.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"cannot write {output}: {error.strerror}; choose another folder with -o") from error
    try:
        yield staging
        if output.exists():
            output.rmdir()
        atomic.publish(staging, output)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
