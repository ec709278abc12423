"""The steps of a run as columns of numbers: a run may have a million, and its page is drawn while it trains."""

from array import array
from collections.abc import Iterable
from math import isfinite, nan
from typing import Any

import numpy as np
import numpy.typing as npt

Point = tuple[float, float]

CURVE_POINTS = 240
"""Points of a curve; each is the mean of as many steps as it takes. A chart is not much wider in pixels."""

RECENT_STEPS = 100

NAMES = ["step", "tokens", "tokens_per_second", "learning_rate", "matrix_share"]
NAMES += ["mlm_loss", "mlm_accuracy", "nsp_loss", "nsp_accuracy"]


class Steps:
    """What metrics.jsonl says of each step; a number that is missing or not finite is NaN."""

    def __init__(self, lines: Iterable[dict[str, Any]]) -> None:
        """Read the lines once; only those with a held-out loss are kept as they are, in `validations`."""
        columns = {name: array("d") for name in NAMES}
        self.validations: list[dict[str, Any]] = []
        for line in lines:
            for name, column in columns.items():
                column.append(_finite(line.get(name)))
            if line.get("validation_mlm_loss") is not None:
                self.validations.append(line)
        self._columns = {name: np.array(column) for name, column in columns.items()}
        self._tokens = np.nan_to_num(self._columns["tokens"])
        with np.errstate(divide="ignore", invalid="ignore"):
            seconds = self._columns["tokens"] / self._columns["tokens_per_second"]
        self._seconds = np.where(np.isfinite(seconds), seconds, 0.0)

    def __len__(self) -> int:
        return len(self._tokens)

    @property
    def last(self) -> int:
        """Finished steps."""
        return int(self._columns["step"][-1]) if len(self) else 0

    @property
    def tokens(self) -> int:
        """Real tokens read."""
        return int(self._tokens.sum())

    @property
    def seconds(self) -> float:
        """Time of all steps."""
        return float(self._seconds.sum())

    def recent(self, name: str) -> float | None:
        """Mean of a value over the last steps: one step alone is noise."""
        values = self._columns[name][-RECENT_STEPS:]
        values = values[np.isfinite(values)]
        return float(values.mean()) if len(values) else None

    def curve(self, name: str, *, by_tokens: bool = False) -> list[Point]:
        """A value over the steps, or over the tokens read; each point is the mean of some steps.

        The mean of speeds is that of the tokens over that of the times.
        """
        if not len(self):
            return []
        every = -(-len(self) // CURVE_POINTS)
        starts = np.arange(0, len(self), every)
        values = self._columns[name]
        over, under = np.nan_to_num(values), np.isfinite(values).astype(np.float64)
        if name == "tokens_per_second":
            over, under = self._tokens, self._seconds
        ends = np.minimum(starts + every, len(self)) - 1
        x = np.cumsum(self._tokens)[ends] if by_tokens else self._columns["step"][ends]
        return _means(x, np.add.reduceat(over, starts), np.add.reduceat(under, starts))

    def held_out_curve(self, name: str, *, by_tokens: bool = False) -> list[Point]:
        """A value of the held-out text wherever it was measured."""
        read = dict(zip(self._columns["step"].tolist(), np.cumsum(self._tokens).tolist(), strict=True))
        found = ((line["step"], _finite(line.get(f"validation_{name}"))) for line in self.validations)
        return [(read[step] if by_tokens else step, value) for step, value in found if isfinite(value)]


def _finite(value: Any) -> float:
    """A number as it is; NaN for all else."""
    return float(value) if isinstance(value, int | float) and isfinite(value) else nan


def _means(x: npt.NDArray[np.float64], over: npt.NDArray[np.float64], under: npt.NDArray[np.float64]) -> list[Point]:
    """Sums over weights, where there is a weight."""
    there = under > 0
    return list(zip(x[there].tolist(), (over[there] / under[there]).tolist(), strict=True))
