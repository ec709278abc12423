"""The record of a run: metrics.jsonl, and TensorBoard files where that is installed."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bertsmith import atomic


class MetricsLog:
    """Writes one JSON object for each step, each step once, also over interruptions."""

    def __init__(self, run: Path, *, first_step: int) -> None:
        """Open the log of a run that goes on at `first_step`.

        Lines of that step and later ones, written after the checkpoint that the
        run goes on from, are removed: those steps are done again.
        """
        self.path = run / "metrics.jsonl"
        kept = [line for line in read_metrics(run) if line["step"] <= first_step]
        if self.path.exists():
            atomic.write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        self._handle = self.path.open("a", encoding="utf-8")
        self._board = _open_board(run / "tensorboard", first_step)

    def write(self, values: dict[str, Any]) -> None:
        """Append the values of one step; `values["step"]` counts finished steps."""
        self._handle.write(json.dumps(values) + "\n")
        self._handle.flush()
        if self._board is not None:
            for name, value in values.items():
                if name != "step" and isinstance(value, int | float):
                    self._board.add_scalar(name, value, values["step"])

    def close(self) -> None:
        """Finish the files."""
        self._handle.close()
        if self._board is not None:
            self._board.close()


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """All whole lines of a run's log, one for each step; a torn last line is left out."""
    try:
        text = (run / "metrics.jsonl").read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    lines = []
    for line in text.splitlines():
        try:
            value = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(value, dict) and isinstance(value.get("step"), int):
            lines.append(value)
    return lines


def _open_board(folder: Path, first_step: int) -> Any:
    """A TensorBoard writer, or None where TensorBoard is not installed."""
    if find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=first_step + 1 if first_step else None)
