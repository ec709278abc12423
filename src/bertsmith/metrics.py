"""The record of a run: files of lines, one for each step."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from math import inf
from pathlib import Path
from typing import Any

from bertsmith.board import Board
from bertsmith.errors import UserError

METRICS, FILLINGS, EVALUATION = "metrics.jsonl", "fillings.jsonl", "evaluation.json"
MEASURED = "measured.json"

_BLOCK_BYTES = 1 << 16


class MetricsLog:
    """Writes one JSON object for each step, each step once, also over interruptions."""

    def __init__(self, run: Path, *, first_step: int, warn: Callable[[str], None]) -> None:
        """Open the log of a run that goes on at `first_step`; `warn` is told where TensorBoard's files end early.

        Lines of that step and later ones, written after the checkpoint that the
        run goes on from, are removed: those steps are done again.
        """
        self.path = run / METRICS
        cut_after(self.path, first_step)
        self._handle = self.path.open("a", encoding="utf-8")
        self._board = Board(run / "tensorboard", first_step=first_step, warn=warn)
        self.error: OSError | None = None
        """Why a line could not be written, such as a full disk. The run saves its state then, if it can, and ends."""

    def write(self, values: dict[str, Any]) -> None:
        """Append the values of one step; `values["step"]` counts finished steps."""
        try:
            self._handle.write(json.dumps(values) + "\n")
            self._handle.flush()
        except OSError as error:
            self.error = error
        self._board.write(values)

    def refuse_error(self, step: int) -> None:
        """End a run whose state of `step` is saved.

        Raises:
            UserError: A line could not be written.
        """
        if self.error is not None:
            raise UserError(
                f"{self.path} could not be written: {self.error.strerror}; the state of step {step:,} is saved: make "
                "room and give the same command again"
            )

    def close(self) -> None:
        """Finish the files."""
        try:
            self._handle.close()
        except OSError as error:  # it tries once more to write what it holds
            self.error = error
        self._board.close()


def cut_after(path: Path, step: int) -> None:
    """Cut a log behind the line of `step`, reading it from its end, so that a long log costs no more."""
    if not path.exists():
        return
    with path.open("r+b") as handle:
        end = handle.seek(0, os.SEEK_END)
        tail = b""
        while True:
            start = max(0, end - _BLOCK_BYTES)
            handle.seek(start)
            tail = handle.read(end - start) + tail
            end = start
            lines = tail.split(b"\n")
            for number in range(len(lines) - 2, -1 if start == 0 else 0, -1):  # the last one is torn or empty
                if _step_of(lines[number]) <= step:
                    handle.truncate(start + len(b"\n".join(lines[: number + 1])) + 1)
                    return
            if start == 0:
                handle.truncate(0)
                return


def _step_of(line: bytes) -> float:
    """Step of a line; infinite where it is torn."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return inf


def read_metrics(run: Path, name: str = METRICS) -> list[dict[str, Any]]:
    """All whole lines of a log of a run, each with its `step`; a torn last line is left out."""
    return list(iterate_metrics(run, name))


def iterate_metrics(run: Path, name: str = METRICS) -> Iterator[dict[str, Any]]:
    """The same, one line at a time; nothing where there is no log."""
    path = run / name
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as handle:
        for line in handle:
            value = None
            with suppress(ValueError):
                value = json.loads(line)
            if isinstance(value, dict) and isinstance(value.get("step"), int):
                yield value
