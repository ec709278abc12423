"""Which pieces of a vocabulary stand beside which in a text."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from bertsmith.data.shards import Split, read_manifest, read_shard
from bertsmith.prepare.facts import shards_to_count

WINDOW = 2
"""Places to either side that count."""

CONTEXTS = 4096
MAX_COUNTS = 1 << 26
"""So many of the most frequent pieces count as neighbours; fewer for a vocabulary above 16,384: 256 MiB of counts."""

COUNTED_TOKENS = 1 << 23
"""Of a larger text about so many, from all over it, which takes one to three seconds."""


def contexts_of(vocab_size: int) -> int:
    """How many of so many pieces count as neighbours."""
    return min(CONTEXTS, vocab_size, max(1, MAX_COUNTS // vocab_size))


def count_neighbours(folder: Path, split: Split, frequencies: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """How often each piece has each of the most frequent ones within two places, in the same section.

    Args:
        folder: What holds `manifest.json`, such as RUN/data.
        split: Which part of the text.
        frequencies: int64 [V]. How often each piece occurs, by which the contexts are chosen.

    Returns:
        float32 [V, C], whole numbers; below 2^24 they are exact.

    Raises:
        UserError: A file is missing or damaged.
    """
    vocab_size = len(frequencies)
    contexts = contexts_of(vocab_size)
    column = np.full(vocab_size, -1)
    column[np.argsort(-frequencies, kind="stable")[:contexts]] = np.arange(contexts)
    counts = np.zeros(vocab_size * contexts, dtype=np.float32)
    for shard in shards_to_count(read_manifest(folder)["splits"][split], COUNTED_TOKENS):
        content = read_shard(folder / shard["file"])
        ids = content.ids.astype(np.int64)
        columns = column[ids]
        section = np.repeat(np.arange(len(content.section_document)), np.diff(content.section_starts))
        for distance in range(1, WINDOW + 1):
            left, right = slice(None, -distance), slice(distance, None)
            for piece, neighbour in ((left, right), (right, left)):
                counted = (section[left] == section[right]) & (columns[neighbour] >= 0)
                np.add.at(counts, (ids[piece] * contexts + columns[neighbour])[counted], np.float32(1))
    return counts.reshape(vocab_size, contexts)
