"""Labelled examples as token ids: [CLS] A [SEP], [CLS] A [SEP] B [SEP], and words with their first pieces.

What is too long is cut at its end; of a pair, the longer text first. A sentence
to be tagged is cut into several sequences between words, so no word is lost.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from bertsmith.data.packing import Int64Array
from bertsmith.finetuning.tasks.examples import Text
from bertsmith.tokenizer import Tokenizer

TEXTS_AT_ONCE, CHARACTERS_AT_ONCE = 1024, 4_000_000
"""Tokenised together: uncut, long texts take some hundred times the memory of what stays of them."""


class Input(NamedTuple):
    """One input of the model."""

    ids: Int64Array
    """int64 [L]."""

    second: int
    """Place from which on type ids are 1: the second text; L when there is none, or the tokenizer marks none."""

    row: int
    """Number of the text it belongs to, from 0."""

    places: Int64Array
    """int64 [words]. First piece of each word for tagging; empty otherwise."""


class Encoded(NamedTuple):
    """All inputs of some texts, in their order."""

    sequences: list[Input]
    cut: int
    """Texts that were longer than the model reads: cut, or divided for tagging."""


def encode_texts(
    tokenizer: Tokenizer, texts: Sequence[Text], pairs: Sequence[str | None], *, max_length: int
) -> Encoded:
    """Turn texts, or texts with a second one, into inputs.

    Args:
        tokenizer: Text that spells a special token is ordinary text here.
        texts: Texts, or sentences as words for tagging.
        pairs: Second texts, None where there is none.
        max_length: Most tokens of an input, [CLS] and [SEP] included.
    """
    if texts and not isinstance(texts[0], str):
        return _encode_words(tokenizer, texts, max_length)
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    between, is_marked = tokenizer.pair_form
    sequences: list[Input] = []
    cut = 0
    for part in _parts([len(text) + len(pair or "") for text, pair in zip(texts, pairs, strict=True)]):
        first = tokenizer.encode_sentences([str(text) for text in texts[part]])
        second = iter(tokenizer.encode_sentences([pair for pair in pairs[part] if pair is not None]))
        for ids, pair in zip(first, pairs[part], strict=True):
            if pair is None:
                cut += len(ids) + 2 > max_length
                whole, begins = [cls, *ids[: max_length - 2], sep], None
            else:
                other = next(second)
                keep_first, keep_second = shorten(len(ids), len(other), max_length - 2 - between)
                cut += keep_first + keep_second < len(ids) + len(other)
                begins = keep_first + 1 + between if is_marked else None
                whole = [cls, *ids[:keep_first], *[sep] * between, *other[:keep_second], sep]
            array = np.array(whole, dtype=np.int64)
            sequences.append(Input(array, len(array) if begins is None else begins, len(sequences), array[:0]))
    return Encoded(sequences, cut)


def _parts(lengths: Sequence[int]) -> Iterator[slice]:
    """Texts that are tokenised together, by the characters of each."""
    first = characters = 0
    for number, length in enumerate(lengths):
        if number > first and (number - first == TEXTS_AT_ONCE or characters + length > CHARACTERS_AT_ONCE):
            yield slice(first, number)
            first, characters = number, 0
        characters += length
    if first < len(lengths):
        yield slice(first, len(lengths))


def shorten(first: int, second: int, room: int) -> tuple[int, int]:
    """Tokens that stay of each of two texts so that both fit: the longer one is cut first, as by transformers.

    Args:
        first: Tokens of the first text.
        second: Tokens of the second.
        room: What fits.
    """
    if first + second <= room:
        return first, second
    short = min(first, second)
    long = max(short, room - short)
    if short + long > room:
        short, long = room // 2, room - room // 2
    return (short, long) if first <= second else (long, short)


def _encode_words(tokenizer: Tokenizer, sentences: Sequence[Text], max_length: int) -> Encoded:
    """Sentences as words: a word without any piece becomes the unknown token, so that each word has a place."""
    sequences: list[Input] = []
    cut = 0
    pieces = _pieces(tokenizer, sentences)
    for row, sentence in enumerate(sentences):
        ids: list[int] = []
        places: list[int] = []
        parts = 0
        for _ in sentence:
            word = (next(pieces) or [tokenizer.unk_token_id])[: max_length - 2]
            if len(ids) + len(word) > max_length - 2:
                sequences.append(_with_ends(tokenizer, ids, places, row))
                ids, places, parts = [], [], parts + 1
            places.append(len(ids) + 1)
            ids.extend(word)
        sequences.append(_with_ends(tokenizer, ids, places, row))
        cut += parts > 0
    return Encoded(sequences, cut)


def _pieces(tokenizer: Tokenizer, sentences: Sequence[Text]) -> Iterator[list[int]]:
    """The ids of each word of all sentences."""
    space = " " if tokenizer.reads_space else ""
    for part in _parts([sum(map(len, sentence)) for sentence in sentences]):
        words = [space * (place > 0) + word for sentence in sentences[part] for place, word in enumerate(sentence)]
        yield from tokenizer.encode_sentences(words)


def _with_ends(tokenizer: Tokenizer, ids: list[int], places: list[int], row: int) -> Input:
    whole = np.array([tokenizer.cls_token_id, *ids, tokenizer.sep_token_id], dtype=np.int64)
    return Input(whole, len(whole), row, np.array(places, dtype=np.int64))
