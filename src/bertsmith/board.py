"""The same numbers as in metrics.jsonl, as TensorBoard files, where that is installed."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bertsmith.errors import first_line

SECONDS_BETWEEN = 0.2
"""Points are no denser: a step of a small model on a GPU takes 2 ms, and its dozen numbers took TensorBoard 0.4."""


class Board:
    """Writes TensorBoard files. They are a picture of the run, so what goes wrong here ends them and not the run."""

    def __init__(self, folder: Path, *, first_step: int, warn: Callable[[str], None]) -> None:
        """Go on at `first_step`; do nothing where TensorBoard is not installed."""
        self._folder = folder
        self._warn = warn
        self._writer: Any = None
        self._last = -SECONDS_BETWEEN
        if find_spec("tensorboard") is None:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except Exception as error:  # a part of it is missing, or too old: of many kinds
            warn(f"TensorBoard does not load here ({first_line(error)}); going on without")
            return
        with self._ended_by_a_full_disk():
            self._writer = SummaryWriter(str(folder), purge_step=first_step + 1)

    def write(self, values: dict[str, Any]) -> None:
        """Add the numbers of a step, if the last were long ago or something was measured on held-out text."""
        now = time.monotonic()
        is_due = now - self._last >= SECONDS_BETWEEN or any(name.startswith("validation_") for name in values)
        if self._writer is None or not is_due:
            return
        self._last = now
        with self._ended_by_a_full_disk():
            for name, value in values.items():
                if name != "step" and isinstance(value, int | float):
                    self._writer.add_scalar(name, value, values["step"])

    def close(self) -> None:
        """Finish the files."""
        with self._ended_by_a_full_disk():
            if self._writer is not None:
                self._writer.close()

    @contextmanager
    def _ended_by_a_full_disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:  # the writer's own thread hands it on at a later call
            self._writer = None
            self._warn(f"{self._folder} could not be written: {error.strerror or error}; going on without TensorBoard")
