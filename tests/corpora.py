"""A corpus in memory whose every token can be told from all others, and rows made from it."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from bertsmith.data.examples import SpecialIds, TrainingRows
from bertsmith.data.masking import Masking

PAD, CLS, SEP, MASK, FIRST_WORD = 0, 2, 3, 4, 5
SPECIAL = SpecialIds(pad=PAD, cls=CLS, sep=SEP)


@dataclass
class Corpus:
    """A corpus whose token at place i is FIRST_WORD + i, so that each token can be told from all others."""

    section_starts: np.ndarray
    section_document: np.ndarray
    sentence_starts: np.ndarray

    @property
    def num_tokens(self) -> int:
        return int(self.section_starts[-1])

    def take(self, places: np.ndarray) -> np.ndarray:
        return places + FIRST_WORD


def make_corpus(lengths: list[int], *, documents: list[int] | None = None, sentence: int = 9) -> Corpus:
    starts = np.concatenate([[0], np.cumsum(lengths)])
    rng = np.random.default_rng(1)
    inner = np.flatnonzero(rng.random(starts[-1]) < 1 / sentence)
    sentence_starts = np.unique(np.concatenate([starts[:-1], inner]))
    return Corpus(starts, np.arange(len(lengths)) if documents is None else np.array(documents), sentence_starts)


def make_masking(corpus: Corpus, **changes: Any) -> Masking:
    ordinary = np.arange(FIRST_WORD, corpus.num_tokens + FIRST_WORD)
    return Masking(**{"mlm_probability": 0.15, "mask_token_id": MASK, "replacement_ids": ordinary, **changes})


def make_rows(corpus: Corpus, **changes: Any) -> TrainingRows:
    settings = {"sequence_length": 64, "objective": "mlm+nsp", "special": SPECIAL, "masking": make_masking(corpus)}
    return TrainingRows(corpus, **{**settings, **changes})


def lognormal(seed: int, count: int, mean: float = 5.0) -> list[int]:
    return np.clip(np.random.default_rng(seed).lognormal(mean, 1.0, count), 1, 2000).astype(int).tolist()
