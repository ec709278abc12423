"""Minimal pairs in the format of BLiMP: does a model prefer the sentence that is good English?

A folder holds one file of JSON lines for each paradigm, with the keys
`sentence_good` and `sentence_bad` (Warstadt et al., "BLiMP: The Benchmark of
Linguistic Minimal Pairs for English", arXiv:1912.00582). A pair counts 1 when
the good sentence has the higher pseudo-log-likelihood, each token hidden by
itself, and one half when the two are level: a model that scores all alike is at 50 %.
"""

import json
from dataclasses import dataclass
from itertools import chain
from math import sqrt
from pathlib import Path
from typing import NamedTuple

from bertsmith.data.keyed import text_hash
from bertsmith.errors import UserError
from bertsmith.evaluation.pll import Scorer, Tell, pseudo_log_likelihoods, read_sentences
from bertsmith.intervals import Z_95, wilson_interval

KEYS = ("sentence_good", "sentence_bad")

LEVEL = 1e-4
"""Nats. Sums closer than this are level: rounding in float32, and so the size of a batch, could turn them round."""


class Pair(NamedTuple):
    """Two sentences that differ in one thing."""

    good: str
    bad: str


class Paradigm(NamedTuple):
    """Pairs that differ in the same thing."""

    name: str
    pairs: list[Pair]


@dataclass(frozen=True, slots=True)
class ParadigmScore:
    """How often the good sentence was preferred."""

    name: str
    accuracy: float
    """In [0, 1]; a level pair counts one half."""

    interval: tuple[float, float]
    """95 %, Wilson."""

    pairs: int
    level: int
    """Pairs whose sentences had the same score."""


@dataclass(frozen=True, slots=True)
class MinimalPairScore:
    """How well a model tells good sentences from bad ones."""

    accuracy: float
    """Mean over the paradigms, each with the same weight."""

    interval: tuple[float, float]
    """95 %, for other pairs of the same paradigms: normal, from the variance of the pairs within each. One hit and one
    miss are added to each for it, since few pairs that all came out alike have no variance of their own."""

    pairs: int
    paradigms: tuple[ParadigmScore, ...]


def read_paradigms(folder: Path, most_pairs: int | None = None) -> list[Paradigm]:
    """Read all paradigms of a folder, in the order of their names.

    Args:
        folder: Holds files that end in .jsonl.
        most_pairs: Of each paradigm, take those with the lowest hashes of their sentences; None: all.

    Raises:
        UserError: There is no such file, or one is no file of minimal pairs.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; give one with a .jsonl file of minimal pairs for each paradigm")
    files = sorted(folder.glob("*.jsonl"))
    if not files:
        raise UserError(f"{folder} holds no .jsonl file; give a folder with minimal pairs, such as BLiMP's data")
    paradigms = [Paradigm(file.stem, _read_pairs(file)) for file in files]
    if most_pairs is None:
        return paradigms
    return [Paradigm(name, sorted(pairs, key=_hash)[:most_pairs]) for name, pairs in paradigms]


def _hash(pair: Pair) -> bytes:
    return text_hash("\n".join(pair))


def _read_pairs(file: Path) -> list[Pair]:
    """The pairs of one file."""
    pairs: list[Pair] = []
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read ({error}); give JSON lines in UTF-8") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except ValueError as error:
            raise UserError(f"{file}, line {number}, is no JSON ({error}); give one object a line") from error
        good, bad = (values.get(key) if isinstance(values, dict) else None for key in KEYS)
        if not (isinstance(good, str) and isinstance(bad, str) and good.strip() and bad.strip()):
            raise UserError(f"{file}, line {number}, has no {' and '.join(KEYS)} with text; give minimal pairs")
        pairs.append(Pair(good, bad))
    if not pairs:
        raise UserError(f"{file} holds no pairs; take it out of the folder")
    return pairs


def score_pairs(scorer: Scorer, paradigms: list[Paradigm], tell: Tell | None = None) -> MinimalPairScore:
    """Compare the sentences of every pair.

    Args:
        scorer: The model.
        paradigms: From `read_paradigms`.
        tell: Is told how far it is.
    """
    texts = list(dict.fromkeys(chain.from_iterable(chain.from_iterable(pairs for _, pairs in paradigms))))
    sentences = read_sentences(scorer.tokenizer, texts)
    scores = pseudo_log_likelihoods(scorer, sentences, within_word=False, tell=tell)
    total = {text: float(score.sum()) for text, score in zip(texts, scores, strict=True)}
    results, variance = [], 0.0
    for name, pairs in paradigms:
        points = [_points(total[pair.good], total[pair.bad]) for pair in pairs]
        count, accuracy = len(points), sum(points) / len(points)
        share = (sum(points) + 1) / (count + 2)
        variance += share * (1 - share) / count
        results.append(ParadigmScore(name, accuracy, wilson_interval(accuracy, count), count, points.count(0.5)))
    mean = sum(result.accuracy for result in results) / len(results)
    half = Z_95 * sqrt(variance) / len(results)
    interval = (max(0.0, mean - half), min(1.0, mean + half))
    return MinimalPairScore(mean, interval, sum(result.pairs for result in results), tuple(results))


def _points(good: float, bad: float) -> float:
    """1 for a pair that is told apart rightly, 0 wrongly, one half when the two are level."""
    if abs(good - bad) <= LEVEL:
        return 0.5
    return 1.0 if good > bad else 0.0
