"""Scores as functions of sums over rows, so that thousands of resamples of the rows cost a matrix product.

Each row gives K numbers, such as right answers and answers; a score is a function of
their sums. The scores are those of `scores.py`, by the same names. Letters: N rows, M
targets of a row, C labels, K numbers.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bertsmith.finetuning.config import Kind
from bertsmith.finetuning.tasks.scores import FloatArray, entity_tags


class RowSums(NamedTuple):
    """What a score is made of."""

    sums: FloatArray
    """float64 [N, K]."""

    value: Callable[[FloatArray], FloatArray]
    """Sums [..., K] to scores [...]."""


def row_sums(
    metric: str,
    kind: Kind,
    labels: Sequence[str],
    probabilities: Sequence[FloatArray],
    targets: Sequence[npt.NDArray[np.generic]],
) -> RowSums:
    """Take a score apart.

    Args:
        metric: One of `scores.SCORES[kind]`.
        kind: Of the task.
        labels: C names.
        probabilities: For each row float64 [M, C], or a number [1, 1].
        targets: For each row int64 [M], or float [1, C].
    """
    if kind == "regression":
        given, wanted = (np.concatenate(list(part)).astype(np.float64)[:, 0] for part in (probabilities, targets))
        return _numbers(metric, given, wanted)
    if metric.startswith("entity_"):
        return RowSums(np.array(_entities(labels, probabilities, targets)), _F1[metric.removeprefix("entity_")])
    if kind == "multi-label":
        truth = np.concatenate(list(targets)) > 0.5
        guess = np.concatenate(list(probabilities)) > 0.5
        hits, guesses, truths = (each.astype(np.float64) for each in (truth & guess, guess, truth))
        if metric == "accuracy":
            right = (truth == guess).all(1).astype(np.float64)
            return RowSums(np.stack([right, np.ones_like(right)], 1), _share)
        if metric == "micro_f1":
            return RowSums(np.stack([each.sum(1) for each in (hits, guesses, truths)], 1), _F1["f1"])
        return RowSums(np.concatenate([hits, guesses, truths], 1), _mean_f1_of_all)
    counts = np.stack([_label_counts(p, t, len(labels)) for p, t in zip(probabilities, targets, strict=True)])
    return RowSums(counts, {"accuracy": _accuracy, "macro_f1": _mean_f1_of_seen, "matthews": _matthews}[metric])


def _label_counts(probabilities: FloatArray, targets: npt.NDArray[np.generic], labels: int) -> FloatArray:
    """Of a row: right answers, answers and truths of each label, [3 C]."""
    guess, truth = probabilities.argmax(1), targets.astype(np.int64)
    parts = (guess[guess == truth], guess, truth)
    counts: FloatArray = np.concatenate([np.bincount(part, minlength=labels) for part in parts]).astype(np.float64)
    return counts


def _entities(
    labels: Sequence[str], probabilities: Sequence[FloatArray], targets: Sequence[npt.NDArray[np.generic]]
) -> list[tuple[float, float, float]]:
    """Of each sentence: entities that are right, guessed and true, as the CoNLL script counts them."""
    from seqeval.metrics.sequence_labeling import get_entities

    counts, tags = [], entity_tags(labels)
    for given, wanted in zip(probabilities, targets, strict=True):
        guess, truth = (set(get_entities([tags[int(n)] for n in each])) for each in (given.argmax(1), wanted))
        counts.append((float(len(guess & truth)), float(len(guess)), float(len(truth))))
    return counts


def _ratio(upper: FloatArray, lower: FloatArray) -> FloatArray:
    """upper / lower, 0 where lower is 0."""
    result: FloatArray = np.divide(upper, lower, out=np.zeros_like(upper), where=lower > 0)
    return result


def _share(sums: FloatArray) -> FloatArray:
    return _ratio(sums[..., 0], sums[..., 1])


_F1: dict[str, Callable[[FloatArray], FloatArray]] = {
    "precision": _share,
    "recall": lambda sums: _ratio(sums[..., 0], sums[..., 2]),
    "f1": lambda sums: _ratio(2 * sums[..., 0], sums[..., 1] + sums[..., 2]),
}
"""Of sums of right, guessed and true ones."""


def _accuracy(sums: FloatArray) -> FloatArray:
    hits, guesses, _ = np.split(sums, 3, -1)
    return _ratio(hits.sum(-1), guesses.sum(-1))


def _mean_f1_of_all(sums: FloatArray) -> FloatArray:
    hits, guesses, truths = np.split(sums, 3, -1)
    mean: FloatArray = _ratio(2 * hits, guesses + truths).mean(-1)
    return mean


def _mean_f1_of_seen(sums: FloatArray) -> FloatArray:
    """A label that nobody gave and nobody guessed has no F1."""
    hits, guesses, truths = np.split(sums, 3, -1)
    return _ratio(_ratio(2 * hits, guesses + truths).sum(-1), (guesses + truths > 0).sum(-1).astype(np.float64))


def _matthews(sums: FloatArray) -> FloatArray:
    """Of several labels (Gorodkin, Comput. Biol. Chem. 28, 2004, pp. 367-374); 0 where it is not defined."""
    hits, guesses, truths = np.split(sums, 3, -1)
    total = guesses.sum(-1)
    upper = hits.sum(-1) * total - (guesses * truths).sum(-1)
    lower = (total**2 - (guesses**2).sum(-1)) * (total**2 - (truths**2).sum(-1))
    return _ratio(upper, np.sqrt(np.maximum(lower, 0)))


def _numbers(metric: str, given: FloatArray, wanted: FloatArray) -> RowSums:
    """Scores of numbers. Ranks are those in all rows, also where rows are resampled."""
    ones = np.ones_like(given)
    if metric == "rmse":
        squares = (given - wanted) ** 2
        return RowSums(np.stack([squares, ones], 1), lambda sums: np.sqrt(_share(sums)))
    if metric == "spearman":
        from scipy.stats import rankdata

        given, wanted = rankdata(given), rankdata(wanted)
    # So that squares keep their digits, and what is all the same is told from numbers that are small.
    x, y = ((each - each.mean()) / (np.ptp(each) or 1.0) for each in (given, wanted))
    return RowSums(np.stack([ones, x, y, x * x, y * y, x * y], 1), _correlation)


def _correlation(sums: FloatArray) -> FloatArray:
    """Pearson's, 0 with what is all the same."""
    n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    lower = np.sqrt(np.maximum(n * xx - x * x, 0) * np.maximum(n * yy - y * y, 0))
    return np.where(lower > 1e-12 * n * n, (n * xy - x * y) / np.maximum(lower, 1e-300), 0.0)
