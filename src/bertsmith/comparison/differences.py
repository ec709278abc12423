"""Is one model better than another, given a few seeds of each and one set of test rows?

Two things make a score uncertain: which rows were tested, and which seed trained. The
variance over rows comes from a paired bootstrap: all models are scored on the same
resamples of the rows (Efron and Tibshirani, An Introduction to the Bootstrap, 1993,
chapter 8). The variance over seeds is that of the scores of the seeds, divided by their
number. Their sum has the degrees of freedom of Welch and Satterthwaite (Biometrics
Bulletin 2, 1946, pp. 110-114), so a few seeds give a wide interval instead of a
narrow one by luck. Letters: S seeds, N rows, R resamples.
"""

from collections.abc import Sequence
from math import isclose, sqrt
from typing import NamedTuple

import numpy as np

from bertsmith.finetuning.tasks.row_sums import RowSums
from bertsmith.finetuning.tasks.scores import FloatArray

RESAMPLES = 2000
_AT_ONCE = 100
"""Resamples drawn together, to bound memory."""

LEAST_ROWS = 2.0
"""A score is never taken to be surer than if so many rows could as well have come out otherwise. Resamples of rows that
all came out alike have no variance; with this, 5 such rows prove nothing and 6 do, as by a sign test."""


class Measurement(NamedTuple):
    """The scores of one model."""

    by_seed: FloatArray
    """float64 [S]."""

    resampled: FloatArray
    """float64 [R]. Mean over the seeds, on each resample of the rows."""

    rows: int
    """N."""

    bounded: bool
    """Whether 1 is the highest score."""

    @property
    def stake(self) -> float:
        """What all rows together decide: of bounded scores their distance from 0 or 1, whichever is farther."""
        sizes = np.abs(self.by_seed)
        return float(max(sizes.max(), 1 - sizes.min()) if self.bounded else sizes.max())

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return float(self.by_seed.mean())

    @property
    def seed_variance(self) -> float:
        """Of the mean; 0 where one seed says nothing about others."""
        return float(self.by_seed.var(ddof=1)) / len(self.by_seed) if len(self.by_seed) > 1 else 0.0


class Interval(NamedTuple):
    """An estimate with both ends of its confidence interval."""

    estimate: float
    low: float
    high: float

    def within(self, lowest: float, highest: float) -> "Interval":
        """The interval without what cannot be."""
        return self._replace(low=max(lowest, self.low), high=min(highest, self.high))


def measure(runs: Sequence[RowSums], *, bounded: bool = True) -> Measurement:
    """Score the seeds of one model on all rows, and on resamples that are the same for every model.

    Args:
        runs: Of each seed, the same rows in the same order.
        bounded: Whether 1 is the highest score.
    """
    rows = len(runs[0].sums)
    draw = np.random.default_rng(0)
    resampled = []
    for _ in range(RESAMPLES // _AT_ONCE):
        weights = draw.multinomial(rows, np.full(rows, 1 / rows), size=_AT_ONCE).astype(np.float64)
        resampled.append(np.mean([run.value(weights @ run.sums) for run in runs], axis=0))
    by_seed = np.array([run.value(run.sums.sum(0)) for run in runs])
    return Measurement(by_seed, np.concatenate(resampled), rows, bounded)


def score_interval(one: Measurement) -> Interval:
    """A score, mean over the seeds, and its 95 % confidence interval."""
    return _interval(one.mean, float(one.resampled.var(ddof=1)), [one], 0.95)


def difference_interval(one: Measurement, other: Measurement, *, level: float = 0.95) -> Interval:
    """How much higher one score is than another, and its confidence interval.

    Args:
        one: Of one model.
        other: Of another, on the same rows.
        level: Chance that the interval holds the true difference.
    """
    rows = float((one.resampled - other.resampled).var(ddof=1))
    alike = isclose(one.mean, other.mean, rel_tol=1e-12)  # the same scores in another order have another sum
    return _interval(0.0 if alike else one.mean - other.mean, rows, [one, other], level)


def _interval(estimate: float, row_variance: float, models: Sequence[Measurement], level: float) -> Interval:
    from scipy import stats

    rows = models[0].rows
    least = (LEAST_ROWS * max(each.stake for each in models) / rows) ** 2
    parts = [(max(row_variance, least), max(1, rows - 1))]
    parts += [(each.seed_variance, len(each.by_seed) - 1) for each in models if each.seed_variance]
    total = sum(variance for variance, _ in parts)
    if total == 0:
        return Interval(estimate, estimate, estimate)
    freedom = total**2 / sum(variance**2 / degrees for variance, degrees in parts)
    half = float(stats.t.ppf((1 + level) / 2, freedom)) * sqrt(total)
    return Interval(estimate, estimate - half, estimate + half)
