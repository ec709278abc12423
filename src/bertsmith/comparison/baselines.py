"""The plain methods that a model must beat: what is most frequent, and words counted by scikit-learn.

Of texts: the most frequent label or the mean, and TF-IDF of words and pairs of words
with logistic regression, or ridge regression for numbers, whose strength is chosen on
the validation rows. Of words: the most frequent tag, and the most frequent tag of the
word. Nothing is drawn at random. Letters: M targets of a row, C labels.
"""

import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bertsmith.comparison.contenders import Answers
from bertsmith.finetuning.tasks.dataset import TaskData
from bertsmith.finetuning.tasks.examples import Example
from bertsmith.finetuning.tasks.scores import FloatArray, is_better, score_all

STRENGTHS = (0.1, 1.0, 10.0, 100.0)
"""Inverse strengths of the penalty that are tried."""

MOST_FEATURES = 200_000
"""Words and pairs of words, the most frequent: the solver keeps about 25 numbers for each of them and label."""


def baselines(task: TaskData, metric: str) -> list[Answers]:
    """Learn the plain methods, which have no seed, from the training rows.

    Args:
        task: With test rows.
        metric: The score that chooses on the validation rows.
    """
    if task.kind == "tagging":
        return [_timed(task, "most frequent tag", _frequent_tag), _timed(task, "most frequent tag of the word", _words)]
    plain = "mean" if task.kind == "regression" else "most frequent label"
    method = "ridge" if task.kind == "regression" else "logistic"
    return [
        _timed(task, plain, _frequent),
        _timed(task, f"TF-IDF, {method} regression", lambda task: _counted_words(task, metric)),
    ]


Predict = Callable[[Sequence[Example]], list[FloatArray]]


def _timed(task: TaskData, name: str, learn: Callable[[TaskData], Predict]) -> Answers:
    assert task.test is not None
    began = time.monotonic()
    predict = learn(task)
    learnt = time.monotonic()
    given = predict(task.test.examples)
    speed = len(given) / max(time.monotonic() - learnt, 1e-9)
    return Answers(name=name, is_baseline=True, probabilities=[given], seconds=learnt - began, rows_per_second=speed)


def _frequent(task: TaskData) -> Predict:
    """The mean of the targets: the shares of the labels, or of each label; or the mean number."""
    targets = np.concatenate(task.train.targets).astype(np.float64)
    if task.kind == "classification":
        targets = np.bincount(targets.astype(np.int64), minlength=len(task.head.labels)) / len(targets)
    else:
        targets = targets.mean(0)
    return lambda examples: [targets[None].copy() for _ in examples]


def _frequent_tag(task: TaskData) -> Predict:
    shares = _tag_shares(task)
    return lambda examples: [np.repeat(shares[None], len(each.text), 0) for each in examples]


def _tag_shares(task: TaskData) -> FloatArray:
    counts = np.bincount(np.concatenate(task.train.targets), minlength=len(task.head.labels))
    return np.asarray(counts / counts.sum(), dtype=np.float64)


def _words(task: TaskData) -> Predict:
    """The tags that a word had in training; of a new word those of all words."""
    counts: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for example, tags in zip(task.train.examples, task.train.by_row(task.train.targets), strict=True):
        for word, tag in zip(example.text, tags, strict=True):
            counts[word][int(tag)] += 1
    known = {word: _shares(tags, len(task.head.labels)) for word, tags in counts.items()}
    unknown = _tag_shares(task)
    return lambda examples: [np.stack([known.get(word, unknown) for word in each.text]) for each in examples]


def _shares(tags: Counter[int], labels: int) -> FloatArray:
    shares = np.zeros(labels)
    shares[list(tags)] = np.array(list(tags.values())) / tags.total()
    return shares


def _counted_words(task: TaskData, metric: str) -> Predict:
    """TF-IDF and the linear model that is best on the validation rows."""
    features = _features(task.train.examples)
    inputs = features(task.train.examples)
    held_out = features(task.validation.examples)
    best: tuple[float, Callable[[Any], FloatArray]] | None = None
    for strength in STRENGTHS:
        model = _fitted(task, inputs, strength)
        given = [row[None] for row in model(held_out)]
        targets = task.validation.by_row(task.validation.targets)
        score = score_all(task.kind, task.head.labels, given, targets).values[metric]
        if best is None or is_better(metric, score, best[0]):
            best = score, model
    assert best is not None
    chosen = best[1]
    return lambda examples: [row[None] for row in chosen(features(examples))]


def _features(examples: Sequence[Example]) -> Callable[[Sequence[Example]], Any]:
    """Texts to sparse features; of a pair those of each text, of what they share, and their cosine."""
    from scipy import sparse
    from sklearn.feature_extraction.text import TfidfVectorizer

    counter = TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b|[^\w\s]", max_features=MOST_FEATURES
    )
    is_pair = examples[0].pair is not None
    counter.fit([*(str(each.text) for each in examples), *(each.pair or "" for each in examples if is_pair)])

    def features(rows: Sequence[Example]) -> Any:
        first = counter.transform([str(each.text) for each in rows])
        if not is_pair:
            return first
        second = counter.transform([each.pair or "" for each in rows])
        shared = first.multiply(second)
        return sparse.hstack([first, second, shared, abs(first - second), sparse.csr_matrix(shared.sum(1))]).tocsr()

    return features


def _fitted(task: TaskData, inputs: Any, strength: float) -> Callable[[Any], FloatArray]:
    """A linear model, as a function from features to probabilities [rows, C] or numbers [rows, 1]."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression, Ridge

    targets = np.concatenate(task.train.targets)
    if task.kind == "regression":
        ridge = Ridge(alpha=1 / strength, solver="sparse_cg", random_state=0).fit(inputs, targets[:, 0])
        return lambda rows: np.asarray(ridge.predict(rows), dtype=np.float64)[:, None]

    def learn(wanted: npt.NDArray[np.int64]) -> Callable[[Any], FloatArray]:
        classes = np.unique(wanted)
        size = len(task.head.labels) if task.kind == "classification" else 2
        constant = np.zeros(size)
        constant[classes[0]] = 1
        if len(classes) == 1:
            return lambda rows: np.repeat(constant[None], rows.shape[0], 0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a baseline within its iterations
            model = LogisticRegression(C=strength, max_iter=300).fit(inputs, wanted)

        def probabilities(rows: Any) -> FloatArray:
            found = np.zeros((rows.shape[0], size))
            found[:, classes] = model.predict_proba(rows)
            return found

        return probabilities

    if task.kind == "classification":
        return learn(targets.astype(np.int64))
    models = [learn(column.astype(np.int64)) for column in targets.T]
    return lambda rows: np.stack([model(rows)[:, 1] for model in models], 1)
