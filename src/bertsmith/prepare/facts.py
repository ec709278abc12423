"""Counts over finished shards: what the manifest says about the text, and what a new model begins with."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bertsmith.atomic import sha256
from bertsmith.data.packing import Int64Array
from bertsmith.data.shards import ShardContent, Split, read_manifest, read_shard, shard_name

LENGTH_CLASSES = 40
"""Documents are counted by their tokens: those of 2^i to 2^(i + 1) - 1 are in class i."""

COUNTED_TOKENS = 1 << 26
"""Enough to know frequencies, and read in less than a second from memory."""


class _Sizes(NamedTuple):
    """Sizes of sections or documents, in order."""

    document: Int64Array
    """Its ordinal."""

    tokens: Int64Array
    sentences: Int64Array

    def length_classes(self) -> Int64Array:
        """[LENGTH_CLASSES]. How many there are of each class."""
        return np.bincount(np.frexp(self.tokens)[1] - 1, minlength=LENGTH_CLASSES)

    def tokens_in_several(self) -> int:
        """Tokens of those with two sentences or more."""
        return int(self.tokens[self.sentences >= 2].sum())


class SplitFacts(NamedTuple):
    """What a split holds."""

    manifest: dict[str, Any]
    """Its entry in the manifest: counts, and the shards with size and hash."""

    counts: Int64Array
    """[V]. How often each id occurs."""

    multi_sentence_fraction: float
    """Share of the tokens that lie in documents of two sentences or more."""


def measure_split(folder: Path, split: Split, vocab_size: int) -> SplitFacts:
    """Read all shards of a split once.

    Args:
        folder: What holds the shards, numbered without a gap.
        split: Which of them.
        vocab_size: V.

    Raises:
        UserError: A shard is damaged.
    """
    counts = np.zeros(vocab_size, dtype=np.int64)
    lengths = np.zeros(LENGTH_CLASSES, dtype=np.int64)
    shards: list[dict[str, Any]] = []
    sections = sentences = in_several = 0
    last = _Sizes(*(np.empty(0, dtype=np.int64) for _ in range(3)))  # it may go on in the next shard
    while (path := folder / shard_name(split, len(shards))).exists():
        content = read_shard(path)
        shards.append({"file": path.name, "size": path.stat().st_size, "sha256": sha256(path)})
        counts += np.bincount(content.ids, minlength=vocab_size)
        sections += len(content.section_document)
        sentences += len(content.sentence_starts)
        found = _by_document(_Sizes(*map(np.concatenate, zip(last, _section_sizes(content), strict=True))))
        whole, last = _Sizes(*(part[:-1] for part in found)), _Sizes(*(part[-1:] for part in found))
        lengths += whole.length_classes()
        in_several += whole.tokens_in_several()
    lengths += last.length_classes()
    in_several += last.tokens_in_several()
    tokens = int(counts.sum())
    entry = {
        "tokens": tokens,
        "sections": sections,
        "documents": int(lengths.sum()),
        "document_lengths": np.trim_zeros(lengths, "b").tolist(),
        "sentences": sentences,
        "shards": shards,
    }
    return SplitFacts(entry, counts, in_several / max(tokens, 1))


def _section_sizes(content: ShardContent) -> _Sizes:
    tokens = np.diff(content.section_starts).astype(np.int64)
    sentences = np.diff(np.searchsorted(content.sentence_starts, content.section_starts))
    return _Sizes(content.section_document, tokens, sentences)


def _by_document(sizes: _Sizes) -> _Sizes:
    """Add up what is of one document."""
    first = np.flatnonzero(np.diff(sizes.document, prepend=-1))
    return _Sizes(sizes.document[first], np.add.reduceat(sizes.tokens, first), np.add.reduceat(sizes.sentences, first))


def count_ids(folder: Path, split: Split, vocab_size: int, *, most: int = COUNTED_TOKENS) -> Int64Array:
    """How often each id occurs in a split; in a large one, in every n-th of its shards.

    Args:
        folder: What holds `manifest.json`, such as RUN/data.
        split: Which part of the text.
        vocab_size: V.
        most: About so many tokens are counted.

    Returns:
        int64 [V].

    Raises:
        UserError: A file is missing or damaged.
    """
    counts = np.zeros(vocab_size, dtype=np.int64)
    for shard in shards_to_count(read_manifest(folder)["splits"][split], most):
        counts += np.bincount(read_shard(folder / shard["file"]).ids, minlength=vocab_size)
    return counts


def shards_to_count(facts: dict[str, Any], most: int) -> list[dict[str, Any]]:
    """Of a split's shards all, or every n-th, which hold about `most` tokens."""
    shards: list[dict[str, Any]] = facts["shards"][:: max(1, round(facts["tokens"] / most))]
    return shards


def most_frequent(counts: Int64Array, number: int) -> list[list[int]]:
    """The ids that occur most often, most frequent first, each with its count; those that never occur are left out."""
    order = np.argsort(-counts, kind="stable")[:number]
    return [[int(index), int(counts[index])] for index in order if counts[index]]


def unigram_loss(train: Int64Array, validation: Int64Array) -> float:
    """Cross-entropy of held-out tokens when only the frequencies in the training text are known.

    A model that has learnt nothing but which tokens are common sits at this loss.

    Args:
        train: [V] counts.
        validation: [V] counts.

    Returns:
        Nats per token; 0 when there are no held-out tokens.
    """
    return float(-(validation * log_frequencies(train)).sum() / max(int(validation.sum()), 1))


def log_frequencies(counts: Int64Array) -> npt.NDArray[np.float64]:
    """Natural logarithm of the share of each id [V]. One is added to each count, so that no id is impossible."""
    logarithms: npt.NDArray[np.float64] = np.log(counts + 1.0) - np.log(counts.sum() + len(counts))
    return logarithms
