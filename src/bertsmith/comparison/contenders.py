"""From predictions of the same test rows to a table: scores, differences from the first model, verdicts."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from bertsmith.comparison.differences import Interval, Measurement, difference_interval, measure, score_interval
from bertsmith.finetuning.tasks.dataset import TaskData
from bertsmith.finetuning.tasks.row_sums import row_sums
from bertsmith.finetuning.tasks.scores import FloatArray, is_better, score_all

BETTER, WORSE, NO_DIFFERENCE = "better", "worse", "no difference shown"


@dataclass(frozen=True, slots=True)
class Contender:
    """A line of the table."""

    name: str
    """As the model was named, or the plain method."""

    is_baseline: bool
    scores: dict[str, list[float]]
    """All scores of the test rows by name, one for each seed."""

    score: Interval
    """Of the score that is compared: mean over the seeds, and its 95 % interval."""

    difference: Interval | None
    """From the first model; None of itself. All these intervals hold together with 95 %."""

    verdict: str | None
    """Against the first model: `BETTER`, `WORSE` or `NO_DIFFERENCE`."""

    seconds: float
    """Of learning, mean over the seeds."""

    rows_per_second: float
    """Speed of predicting."""

    parameters: int | None
    max_length: int | None
    """Longest input, in tokens."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The table and what it was made of."""

    task: str
    metric: str
    rows: dict[str, int]
    seeds: int
    contenders: list[Contender]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What a model or a plain method says of the test rows."""

    name: str
    is_baseline: bool
    probabilities: list[list[FloatArray]]
    """Of each seed, of each row [M, C], or the number [1, 1]."""

    seconds: float
    """Of learning, mean over the seeds."""

    rows_per_second: float
    """Speed of predicting."""

    parameters: int | None = None
    max_length: int | None = None


def judge_all(task: TaskData, metric: str, models: Sequence[Answers], plain: Sequence[Answers]) -> Comparison:
    """Score all, and hold them against the first model.

    Args:
        task: With test rows.
        metric: The score that is compared.
        models: At least one.
        plain: The plain methods.
    """
    assert task.test is not None
    targets = task.test.by_row(task.test.targets)
    level = 1 - 0.05 / (len(models) - 1 + len(plain))  # Bonferroni: all intervals hold together
    lowest, highest = bounds_of(metric)
    contenders: list[Contender] = []
    reference: Measurement | None = None
    for each in [*models, *plain]:
        sums = [row_sums(metric, task.kind, task.head.labels, given, targets) for given in each.probabilities]
        scores = [score_all(task.kind, task.head.labels, given, targets).values for given in each.probabilities]
        found = measure(sums, bounded=highest == 1)
        difference = None
        if reference is not None:
            difference = difference_interval(found, reference, level=level).within(lowest - highest, highest - lowest)
        reference = reference or found
        contenders.append(
            Contender(
                name=each.name,
                is_baseline=each.is_baseline,
                scores={name: [values[name] for values in scores] for name in scores[0]},
                score=score_interval(found).within(lowest, highest),
                difference=difference,
                verdict=verdict_of(metric, difference) if difference is not None else None,
                seconds=each.seconds,
                rows_per_second=each.rows_per_second,
                parameters=each.parameters,
                max_length=each.max_length,
            )
        )
    rows = {name: len(part.examples) for name, part in task.parts.items()}
    return Comparison(task.kind, metric, rows, len(models[0].probabilities), contenders)


def bounds_of(metric: str) -> tuple[float, float]:
    """What a score cannot be below and above."""
    if metric == "rmse":
        return 0.0, inf
    return -1.0 if metric in ("pearson", "spearman", "matthews") else 0.0, 1.0


def verdict_of(metric: str, difference: Interval) -> str:
    """What a difference from the first model says: something only where its interval does not hold 0."""
    if difference.low <= 0 <= difference.high:
        return NO_DIFFERENCE
    return BETTER if is_better(metric, difference.estimate, 0.0) else WORSE
