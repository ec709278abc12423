"""Chunks: the tasks that preparing a text is cut into, and how one becomes a shard.

A chunk is a run of sections of one split. Which sections it holds depends on
the text alone, and its shard on the chunk and the tokenizer alone, so the
shards are the same for any number of workers and any interruptions.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain

import numpy as np

from bertsmith.corpus import Section, split_sentences
from bertsmith.data.shards import ShardContent, Split, id_dtype, pack_shard, shard_name
from bertsmith.tokenizer import Tokenizer

CHUNK_CHARACTERS = 4_000_000
MAX_CHUNK_CHARACTERS = 32_000_000
MAX_SHARDS = 4_096
"""Chunks grow with the text until there are this many, then up to `MAX_CHUNK_CHARACTERS`: 130 GB of text."""

_SENTENCES_AT_ONCE = 2_000
"""Bounds the memory of encoding, about 100 bytes a token."""


@dataclass(slots=True)
class Chunk:
    """Sections that become one shard."""

    split: Split
    number: int
    documents: list[int] = field(default_factory=list)
    """Ordinal of the document of each section."""

    texts: list[str] = field(default_factory=list)
    characters: int = 0
    """Size of its text."""

    @property
    def file(self) -> str:
        """Name of its shard."""
        return shard_name(self.split, self.number)

    def add(self, section: Section) -> None:
        """Take a section."""
        self.documents.append(section.document)
        self.texts.append(section.text)
        self.characters += len(section.text)


def split_of(section: Section, fraction: float) -> Split:
    """The split a section falls into when `fraction` of them is held out.

    Its key alone decides, so text that is added later moves no section.
    """
    return "validation" if section_share(section, b"validation") < fraction else "train"


def section_share(section: Section, purpose: bytes) -> float:
    """A number in [0, 1) that belongs to a section and, independently, to a purpose of at most 16 bytes."""
    digest = hashlib.blake2b(section.split_key, digest_size=8, person=purpose).digest()
    return int.from_bytes(digest, "little") / 2.0**64


def chunk_characters(total: int) -> int:
    """Characters in a chunk of a text of `total` characters."""
    return min(max(CHUNK_CHARACTERS, -(-total // MAX_SHARDS)), MAX_CHUNK_CHARACTERS)


def group(sections: Iterable[tuple[Split, Section]], size: int) -> Iterator[Chunk]:
    """Group sections into chunks, each split by itself.

    Args:
        sections: Each with its split.
        size: Characters after which a chunk is closed.
    """
    chunks: dict[Split, Chunk] = {"train": Chunk("train", 0), "validation": Chunk("validation", 0)}
    for split, section in sections:
        chunk = chunks[split]
        chunk.add(section)
        if chunk.characters >= size:
            chunks[split] = Chunk(split, chunk.number + 1)
            yield chunk
    yield from (chunk for chunk in chunks.values() if chunk.texts)


def tokenise(documents: list[int], texts: list[str], tokenizer: Tokenizer) -> bytes:
    """Turn sections into the bytes of a shard, as `shard_content` does."""
    return pack_shard(shard_content(documents, texts, tokenizer))


def shard_content(documents: list[int], texts: list[str], tokenizer: Tokenizer) -> ShardContent:
    """Turn sections into ids with the bounds of sentences and sections.

    Sentences and sections without a token are left out.

    Args:
        documents: Ordinal of the document of each section.
        texts: The sections.
        tokenizer: Makes the ids of sentences, as of running text.
    """
    sentences = [split_sentences(text) for text in texts]
    flat = list(chain.from_iterable(sentences))
    section = np.repeat(np.arange(len(texts)), [len(part) for part in sentences])  # of each sentence
    lengths, ids = [np.empty(0, np.int64)], [np.empty(0, id_dtype(tokenizer.vocab_size))]
    for first in range(0, len(flat), _SENTENCES_AT_ONCE):
        encoded = tokenizer.encode_running(flat[first : first + _SENTENCES_AT_ONCE])
        lengths.append(encoded.lengths)
        ids.append(encoded.ids.astype(ids[0].dtype))
    length = np.concatenate(lengths)
    tokens = np.bincount(section, weights=length, minlength=len(texts)).astype(np.int64)  # of each section
    starts = np.cumsum(length) - length
    return ShardContent(
        ids=np.concatenate(ids),
        sentence_starts=starts[length > 0],
        section_starts=np.cumsum([0, *tokens[tokens > 0]]),
        section_document=np.asarray(documents, dtype=np.int64)[tokens > 0],
    )
