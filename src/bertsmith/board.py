"""The same numbers as in metrics.jsonl, as TensorBoard files, where that is installed."""

import time
from collections.abc import Callable
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
        self._attempt(self._open, SummaryWriter, first_step + 1)

    def write(self, values: dict[str, Any]) -> None:
        """Add the numbers of a step, if the last were long ago or something was measured on held-out text."""
        now = time.monotonic()
        if now - self._last >= SECONDS_BETWEEN or any(name.startswith("validation_") for name in values):
            self._last = now
            self._attempt(self._add, values)

    def close(self) -> None:
        """Finish the files."""
        self._attempt(self._close)

    def _open(self, kind: Any, purge_step: int) -> None:
        self._writer = kind(str(self._folder), purge_step=purge_step)

    def _add(self, values: dict[str, Any]) -> None:
        for name, value in values.items():
            if self._writer is not None and name != "step" and isinstance(value, int | float):
                self._writer.add_scalar(name, value, values["step"])

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def _attempt(self, action: Callable[..., None], *arguments: Any) -> None:
        try:
            action(*arguments)
        except OSError as error:  # a full disk; the writer's own thread hands it on at a later call
            self._writer = None
            self._warn(f"{self._folder} could not be written: {error.strerror or error}; going on without TensorBoard")
