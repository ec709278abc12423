"""How good predictions are: scikit-learn's, scipy's and seqeval's figures, and calibration.

Letters: M targets, C labels.
"""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bertsmith.errors import UserError, suggestion
from bertsmith.finetuning.config import Kind
from bertsmith.intervals import ratio_interval, wilson_interval

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

SCORES: dict[str, tuple[str, ...]] = {
    "classification": ("accuracy", "macro_f1", "matthews"),
    "multi-label": ("micro_f1", "macro_f1", "accuracy"),
    "regression": ("pearson", "spearman", "rmse"),
    "tagging": ("entity_f1", "entity_precision", "entity_recall", "accuracy", "macro_f1"),
}
"""Names by kind of task; the first is the one that chooses. `accuracy` of several labels: all of a row right."""

LOWER_IS_BETTER = ("rmse",)

CALIBRATION_BINS = 10
ENTITY_MARKS = ("B-", "I-", "E-", "S-", "L-", "U-")
BARE_MARKS = {"B", "I", "O", "E", "S", "L", "U", "M"}
_OTHER_MARKS = {"L": "E", "U": "S", "M": "I"}
"""Of BILOU and BMES, by what they are called in BIOES, which seqeval reads."""


class Scores(NamedTuple):
    """Figures of one set of rows."""

    values: dict[str, float]
    """By name, as in `SCORES`; also `expected_calibration_error` where there are probabilities. All finite."""

    details: dict[str, Any]
    """`confusion`, `labels`, `by_label`, `reliability`, as there are."""


def require_libraries(kind: Kind) -> None:
    """See that what measures is installed, before any work.

    Raises:
        UserError: It is not.
    """
    needed = {"sklearn": "scikit-learn", "scipy": "scipy"} | ({"seqeval": "seqeval"} if kind == "tagging" else {})
    missing = [name for module, name in needed.items() if find_spec(module) is None]
    if missing:
        raise UserError(
            f"fine-tuning measures with {', '.join(missing)}; install it with: pip install bertsmith[finetune]"
        )


def choosing_metric(kind: Kind, labels: Sequence[str], wanted: str | None) -> str:
    """The score that chooses the best weights.

    Raises:
        UserError: This kind of task has no score of that name.
    """
    known = SCORES[kind] if kind != "tagging" or has_entities(labels) else SCORES[kind][3:]
    if wanted is not None and wanted not in known:
        raise UserError(f"metric is '{wanted}'{suggestion(wanted, known)}")
    return wanted or known[0]


def is_better(name: str, score: float, than: float) -> bool:
    """Whether a score is better than another."""
    return score < than if name in LOWER_IS_BETTER else score > than


def has_entities(labels: Sequence[str]) -> bool:
    """Whether tags mark beginnings and insides of entities, as B-X and I-X, or as B and I where there is one kind."""
    is_bare = "O" in labels and not {"B", "I"}.isdisjoint(labels) and BARE_MARKS.issuperset(labels)
    return is_bare or any(label.startswith(ENTITY_MARKS) for label in labels)


def entity_tags(labels: Sequence[str]) -> list[str]:
    """Tags as seqeval reads them: those of BILOU and BMES as of BIOES, and "O" for what marks no entity."""
    parts = [label.partition("-") for label in labels]
    return [_OTHER_MARKS.get(mark, mark) + dash + kind if mark in BARE_MARKS else "O" for mark, dash, kind in parts]


def score_all(
    kind: Kind,
    labels: Sequence[str],
    probabilities: Sequence[FloatArray],
    targets: Sequence[np.ndarray],
) -> Scores:
    """Score the predictions of a set of rows.

    Args:
        kind: Of the task.
        labels: C names.
        probabilities: For each row float64 [targets, C], or numbers [1, 1].
        targets: For each row as `targets_of` gives them, joined over the inputs of a sentence.
    """
    given, wanted = np.concatenate(probabilities), np.concatenate(targets)
    if kind == "regression":
        return _score_numbers(given[:, 0], wanted[:, 0].astype(np.float64))
    if kind == "multi-label":
        return _score_sets(labels, given, wanted.astype(np.int64))
    scores = _score_labels(labels, given, wanted)
    if kind == "tagging":
        del scores.values["matthews"]
        scores.details["accuracy_interval"] = _interval_over_sentences(probabilities, targets)
        if has_entities(labels):
            scores.values.update(_entities(labels, probabilities, targets, scores.details))
    return scores


def _score_labels(labels: Sequence[str], given: FloatArray, wanted: IntArray) -> Scores:
    """One label of several."""
    from sklearn import metrics

    best, numbers = given.argmax(1), np.arange(len(labels))
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        wanted, best, labels=numbers, zero_division=0
    )
    there = (support > 0) | np.isin(numbers, best)  # a label that nobody gave and nobody guessed has no F1
    error, reliability = calibration(given.max(1), best == wanted)
    values = {
        "accuracy": float((best == wanted).mean()),
        "macro_f1": float(f1[there].mean()),
        "matthews": float(metrics.matthews_corrcoef(wanted, best)) if len(np.union1d(wanted, best)) > 1 else 0.0,
        "expected_calibration_error": error,
    }
    table = metrics.confusion_matrix(wanted, best, labels=numbers).tolist()
    details: dict[str, Any] = {"labels": list(labels), "confusion": table, "reliability": reliability}
    details["accuracy_interval"] = list(wilson_interval(values["accuracy"], len(wanted)))
    return Scores(values, details | {"by_label": _by_label(labels, precision, recall, f1, support)})


def _interval_over_sentences(probabilities: Sequence[FloatArray], targets: Sequence[np.ndarray]) -> list[float]:
    """The interval of the accuracy of tags over other sentences, and never one surer than if each word stood alone."""
    words = np.array([float(len(each)) for each in targets])
    right = np.array([float((p.argmax(1) == t).sum()) for p, t in zip(probabilities, targets, strict=True)])
    low, high = ratio_interval(right, words)
    least, most = wilson_interval(float(right.sum() / words.sum()), int(words.sum()))
    return [max(0.0, min(low, least)), min(1.0, max(high, most))]


def _score_sets(labels: Sequence[str], given: FloatArray, wanted: IntArray) -> Scores:
    """Several labels at once, each there or not."""
    from sklearn import metrics

    guessed = (given > 0.5).astype(np.int64)
    truth, guess = (np.pad(each, ((0, 0), (0, 1))) for each in (wanted, guessed))  # one column is read as two labels
    columns = metrics.precision_recall_fscore_support(truth, guess, zero_division=0)
    precision, recall, f1, support = (column[:-1] for column in columns)
    error, reliability = calibration(np.maximum(given, 1 - given).ravel(), (guessed == wanted).ravel())
    values = {
        "micro_f1": float(metrics.f1_score(truth, guess, average="micro", zero_division=0)),
        "macro_f1": float(np.mean(f1)),
        "accuracy": float((guessed == wanted).all(1).mean()),
        "expected_calibration_error": error,
    }
    details = {"labels": list(labels), "reliability": reliability}
    return Scores(values, details | {"by_label": _by_label(labels, precision, recall, f1, support)})


def _score_numbers(given: FloatArray, wanted: FloatArray) -> Scores:
    """Numbers. A correlation with what is all the same is 0 here."""
    from scipy import stats

    varied = len(wanted) > 1 and np.ptp(given) > 0 and np.ptp(wanted) > 0
    values = {
        "pearson": float(stats.pearsonr(given, wanted).statistic) if varied else 0.0,
        "spearman": float(stats.spearmanr(given, wanted).statistic) if varied else 0.0,
        "rmse": float(np.sqrt(np.mean((given - wanted) ** 2))),
    }
    return Scores(values, {})


def _entities(
    labels: Sequence[str], probabilities: Sequence[FloatArray], targets: Sequence[np.ndarray], details: dict[str, Any]
) -> dict[str, float]:
    """Entities that are right in kind and extent, as the CoNLL script counts them."""
    from seqeval import metrics
    from seqeval.metrics.sequence_labeling import get_entities

    tags = entity_tags(labels)
    truth = [[tags[tag] for tag in sentence] for sentence in targets]
    given = [[tags[tag] for tag in sentence.argmax(1)] for sentence in probabilities]
    has_any = bool(get_entities(truth) or get_entities(given))  # else seqeval takes means of nothing, which warns
    report = metrics.classification_report(truth, given, output_dict=True, zero_division=0) if has_any else {}
    details["by_entity"] = {
        kind: {name: float(value) for name, value in row.items()} for kind, row in report.items() if " avg" not in kind
    }
    kinds = ("precision", "recall", "f1-score")
    total = report.get("micro avg", dict.fromkeys(kinds, 0.0))
    return {f"entity_{name.partition('-')[0]}": float(total[name]) for name in kinds}


def _by_label(labels: Sequence[str], *columns: FloatArray) -> dict[str, dict[str, float]]:
    names = ("precision", "recall", "f1", "rows")
    return {
        label: {name: float(column[number]) for name, column in zip(names, columns, strict=True)}
        for number, label in enumerate(labels)
    }


def calibration(confidence: FloatArray, right: npt.NDArray[np.bool_]) -> tuple[float, list[dict[str, float]]]:
    """How far confidence is from being right (Guo et al. 2017, arXiv:1706.04599, section 2).

    Args:
        confidence: [M], in [0, 1]. Probability of the answer.
        right: bool [M].

    Returns:
        The expected calibration error, and the reliability table: ten equal intervals of confidence.
    """
    which = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    rows, error = [], 0.0
    for number in range(CALIBRATION_BINS):
        inside = which == number
        if inside.any():
            sure, accuracy = float(confidence[inside].mean()), float(right[inside].mean())
            error += abs(sure - accuracy) * float(inside.mean())
            bounds = {"from": number / CALIBRATION_BINS, "to": (number + 1) / CALIBRATION_BINS}
            rows.append({**bounds, "answers": int(inside.sum()), "confidence": sure, "right": accuracy})
    return error, rows


def majority(kind: Kind, counts: Mapping[str, int]) -> float | None:
    """Accuracy of always giving the most frequent label, from how often each one is true; None for other tasks."""
    total = sum(counts.values())
    return max(counts.values()) / total if kind in ("classification", "tagging") and total else None
