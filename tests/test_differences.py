"""Scores taken apart into sums are the scores; intervals hold what they say; verdicts need evidence."""

import numpy as np
import pytest

from bertsmith.comparison import differences
from bertsmith.comparison.contenders import Answers, bounds_of, judge_all
from bertsmith.comparison.differences import Interval, difference_interval, measure, score_interval
from bertsmith.finetuning.tasks.dataset import Part, TaskData
from bertsmith.finetuning.tasks.encoding import Input
from bertsmith.finetuning.tasks.examples import Example
from bertsmith.finetuning.tasks.row_sums import RowSums, row_sums
from bertsmith.finetuning.tasks.rows import Columns
from bertsmith.finetuning.tasks.scores import SCORES, score_all
from bertsmith.model.classifier import Head

LABELS = {
    "classification": ("a", "b", "c", "never"),
    "multi-label": ("a", "b", "c"),
    "regression": ("score",),
    "tagging": ("O", "B-x", "I-x", "B-y", "I-y"),
}


def predictions(kind: str, rows: int, seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    draw, labels = np.random.default_rng(seed), LABELS[kind]
    if kind == "regression":
        truth = [draw.normal(50, 9, (1, 1)) for _ in range(rows)]
        return [each + draw.normal(0, 6, (1, 1)) for each in truth], truth
    if kind == "multi-label":
        truth = [(draw.random((1, 3)) < 0.4).astype(np.float32) for _ in range(rows)]
        return [np.clip(each + draw.normal(0, 0.5, (1, 3)), 0, 1) for each in truth], truth
    sizes = draw.integers(1, 9, rows) if kind == "tagging" else np.ones(rows, dtype=np.int64)
    truth = [draw.integers(0, len(labels) - (kind == "classification"), size) for size in sizes]
    given = [draw.random((len(each), len(labels))) + 0.7 * np.eye(len(labels))[each] for each in truth]
    return [each / each.sum(1, keepdims=True) for each in given], truth


@pytest.mark.parametrize(("kind", "metric"), [(kind, metric) for kind, names in SCORES.items() for metric in names])
def test_a_score_of_sums_is_the_score(kind: str, metric: str) -> None:
    """Of all rows, and of rows of which some stand in it several times."""
    given, truth = predictions(kind, 60)
    taken = row_sums(metric, kind, LABELS[kind], given, truth)
    assert len(taken.sums) == 60
    expected = score_all(kind, LABELS[kind], given, truth).values[metric]
    assert taken.value(taken.sums.sum(0)) == pytest.approx(expected)
    if metric == "spearman":
        return  # ranks are those in all rows
    counts = np.random.default_rng(1).integers(0, 3, 60)
    again = [[each for each, count in zip(part, counts, strict=True) for _ in range(count)] for part in (given, truth)]
    expected = score_all(kind, LABELS[kind], *again).values[metric]
    assert taken.value(counts.astype(float) @ taken.sums) == pytest.approx(expected)
    assert taken.value(np.stack([taken.sums.sum(0)] * 2)).shape == (2,)


@pytest.mark.parametrize("unit", [1e-12, 1e30])
@pytest.mark.parametrize("metric", SCORES["regression"])
def test_the_unit_of_numbers_is_no_matter(metric: str, unit: float) -> None:
    given, truth = ([each * unit for each in part] for part in predictions("regression", 60))
    taken = row_sums(metric, "regression", LABELS["regression"], given, truth)
    expected = score_all("regression", LABELS["regression"], given, truth).values[metric]
    assert taken.value(taken.sums.sum(0)) == pytest.approx(expected, rel=1e-9, abs=0)


@pytest.mark.parametrize("metric", ["pearson", "spearman", "matthews"])
def test_what_is_not_defined_is_0(metric: str) -> None:
    kind = "classification" if metric == "matthews" else "regression"
    _, truth = predictions(kind, 20)
    given = [np.eye(4)[:1] if kind == "classification" else np.full((1, 1), 3.0) for _ in truth]
    taken = row_sums(metric, kind, LABELS[kind], given, truth)
    assert taken.value(taken.sums.sum(0)) == 0


def hits(right: np.ndarray) -> RowSums:
    return RowSums(np.stack([right.astype(float), np.ones(len(right))], 1), lambda sums: sums[..., 0] / sums[..., 1])


def drawn(draw: np.random.Generator, rows: np.ndarray, skill: float, seeds: int) -> list[RowSums]:
    """Runs whose skill differs from seed to seed, on rows some of which are harder for all."""
    each = skill + draw.normal(0, 0.03, seeds)
    return [hits(draw.random(len(rows)) < np.clip(rows + one, 0, 1)) for one in each]


def test_equal_models_are_told_apart_in_5_of_100_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three seeds and 300 rows: without the variance over seeds it would be 3 times as often."""
    monkeypatch.setattr(differences, "RESAMPLES", 200)
    draw, wrong, rows_alone = np.random.default_rng(0), 0, 0
    for _ in range(400):
        rows = draw.normal(0, 0.2, 300)
        one, other = (measure(drawn(draw, rows, 0.75, 3)) for _ in range(2))
        found = difference_interval(one, other)
        wrong += not found.low <= 0 <= found.high
        rows_alone += abs(found.estimate) > 1.96 * (one.resampled - other.resampled).std()
    assert wrong <= 0.065 * 400
    assert rows_alone > 2 * wrong


def test_a_real_difference_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(differences, "RESAMPLES", 200)
    draw = np.random.default_rng(0)
    rows = draw.normal(0, 0.2, 600)
    better, worse = measure(drawn(draw, rows, 0.85, 5)), measure(drawn(draw, rows, 0.65, 5))
    found = difference_interval(better, worse)
    assert 0 < found.low < found.estimate < found.high
    assert found.estimate == pytest.approx(better.mean - worse.mean)
    assert difference_interval(better, worse, level=0.99).low < found.low


def test_the_same_predictions_do_not_differ() -> None:
    runs = [hits(np.random.default_rng(seed).random(50) < 0.8) for seed in range(2)]
    same = difference_interval(measure(runs), measure(runs))
    assert same.estimate == 0
    one = measure(runs[:1])
    itself = difference_interval(one, one)
    assert itself.low < itself.estimate == 0 < itself.high  # other rows might tell them apart
    wilson = score_interval(one)
    assert wilson.low < one.mean < wilson.high


@pytest.mark.parametrize(("rows", "proven"), [(1, False), (5, False), (6, True)])
def test_a_handful_of_rows_prove_as_much_as_a_sign_test_says(rows: int, proven: bool) -> None:
    right, wrong = (measure([hits(np.full(rows, each))]) for each in (1.0, 0.0))
    found = difference_interval(right, wrong)
    assert found.estimate == 1
    assert (found.low > 0) == proven
    assert score_interval(right).low < 1
    ends = [score_interval(each) for each in (right, wrong)]
    assert ends[0].high - ends[0].low == pytest.approx(ends[1].high - ends[1].low)
    both = difference_interval(wrong, wrong)
    assert both.low < 0 < both.high


@pytest.mark.parametrize(("metric", "low", "high"), [("accuracy", 0, 1.0), ("pearson", -1, 1), ("rmse", 0, 3)])
def test_an_interval_ends_where_the_score_does(metric: str, low: float, high: float) -> None:
    assert Interval(0.5, -3.0, 3.0).within(*bounds_of(metric)) == Interval(0.5, low, high)


def test_the_same_scores_in_another_order_differ_by_nothing() -> None:
    one, other = (
        measure([RowSums(np.array([[right, 60.0]]), lambda sums: sums[..., 0] / sums[..., 1]) for right in scores])
        for scores in ((41.0, 43.0, 47.0), (41.0, 47.0, 43.0))
    )
    assert one.mean != other.mean
    assert difference_interval(one, other).estimate == 0


def test_what_is_wrong_throughout_is_worse_by_all_that_a_score_can_be() -> None:
    rows = [Example(number, "", None, "a") for number in range(12)]
    part = Part(rows, [Input(np.zeros(2, np.int64), 2, number, np.zeros(0, np.int64)) for number in range(12)],
                [np.zeros(1, np.int64)] * 12, 0)  # fmt: skip
    task = TaskData(Head("classification", ("a", "b")), Columns("text", None, "label"), part, part, part, [], "")
    right, wrong = (
        Answers(name="", is_baseline=False, probabilities=[[np.eye(2)[[label]]] * 12], seconds=1.0, rows_per_second=1.0)
        for label in (0, 1)
    )
    first, second = judge_all(task, "accuracy", [right, wrong], []).contenders
    assert (first.score.estimate, first.score.high, second.score.low) == (1, 1, 0)
    assert second.difference is not None
    estimate, low, high = second.difference
    assert low == estimate == -1 < high < 0
    assert second.verdict == "worse"
