"""Ids of the strings between spaces, remembered: a corpus repeats them, and looking up is far cheaper than encoding.

Right only where a tokenizer treats what stands between two spaces by itself;
`way_to_cut` knows those. All others encode every sentence whole.

Each distinct string has a number, in the order in which they were first seen;
a text becomes an array of numbers, and ids are gathered for all of it at once.
"""

import string
import unicodedata
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bertsmith.tokenizer.words import WORD_PATTERN

MOST_STRINGS = 300_000
MOST_CHARACTERS = 6_000_000
"""Remembered at once, about 80 MB; then all are forgotten."""

_LOWER = bytes(range(256)).lower()
"""Lower-cases the ASCII letters of UTF-8 and leaves its other bytes as they are."""

_END = "\n"
"""Stands between two sentences, and has number 0."""

_SPACES = [
    {"type": "Prepend", "prepend": " "},
    {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
]
"""Last steps of a normaliser that puts one space before a text and between its words."""

_BY_CHARACTER = ("NFD", "NFC", "Lowercase", "StripAccents")
"""Steps of a normaliser that change nothing about a space and nothing across one."""

Int64Array = npt.NDArray[np.int64]
Encode = Callable[[list[str]], list[list[int]]]


class Encoded(NamedTuple):
    """Ids of sentences, one after the other."""

    ids: Int64Array
    lengths: Int64Array
    """Ids of each sentence."""


class Cut(NamedTuple):
    """What may be done to a text before it is cut at spaces, so that fewer strings are different."""

    lower: bool
    """ASCII letters become lower-case."""

    around: str
    """A space is put around each of these."""

    at_end: bool
    """A space at the end of a sentence is a token."""


def way_to_cut(content: dict[str, Any]) -> Cut | None:
    """How a text can be cut and encoded piece by piece, with the same ids.

    That holds for BERT's words, and for our own bytes, where a space belongs to the
    word after it and each piece is given one (but see `Remembering`).

    Args:
        content: A tokenizer.json, parsed.

    Returns:
        None if a text must be encoded whole.
    """
    model, words, normalizer = content["model"], content["pre_tokenizer"] or {}, content["normalizer"] or {}
    if not all(token["special"] for token in content["added_tokens"]) or model.get("dropout"):
        return None  # other added tokens may hold spaces; BPE with dropout is random
    if words.get("type") == "BertPreTokenizer":
        if model["type"] != "WordPiece" or normalizer.get("type") != "BertNormalizer":
            return None
        return Cut(lower=normalizer["lowercase"], around=string.punctuation, at_end=False)
    steps = normalizer.get("normalizers") or []
    known = steps[-2:] == _SPACES and all(step["type"] in _BY_CHARACTER for step in steps[:-2])
    first = (words.get("pretokenizers") or [{}])[0]
    ours = model["type"] == "BPE" and known and first.get("pattern") == {"Regex": WORD_PATTERN}
    return Cut(lower=False, around="", at_end=True) if ours else None


class _Numbers(dict[str, int]):
    """Numbers of strings. Asked for a new one, it gives it the next and notes it."""

    def __init__(self) -> None:
        super().__init__({_END: 0})
        self.new: list[str] = []

    def __missing__(self, each: str) -> int:
        self[each] = number = len(self)
        self.new.append(each)
        return number


class Remembering:
    """Encodes sentences as `encode` does."""

    def __init__(self, encode: Encode, cut: Cut) -> None:
        self._encode = encode
        self._cut = cut
        self._forget()

    def _forget(self) -> None:
        self._numbers = _Numbers()
        self._characters = 0
        self._ids = np.empty(0, np.int64)  # of all strings, one after the other
        self._starts = np.zeros(2, np.int64)  # where those of each string begin, and the end; _END has none
        self._is_odd = np.zeros(1, np.bool_)

    def __call__(self, sentences: Sequence[str]) -> Encoded:
        """The ids of the sentences."""
        if not sentences:
            return flat_ids([])
        if self._characters > MOST_CHARACTERS or len(self._numbers) > MOST_STRINGS:
            self._forget()
        words = self._words(sentences)
        numbers = np.fromiter(map(self._numbers.__getitem__, words), np.int64, len(words))
        self._learn()
        counts = self._starts[numbers + 1] - self._starts[numbers]
        ends = np.cumsum(counts)
        places = np.repeat(self._starts[numbers] - (ends - counts), counts)
        ids = self._ids[places + np.arange(len(places))]
        is_end = numbers == 0
        sentence_ends = np.append(ends[is_end], ends[-1])
        encoded = Encoded(ids, np.diff(sentence_ends, prepend=0))
        return self._with_whole(encoded, sentences, numbers, is_end) if self._cut.at_end else encoded

    def _words(self, sentences: Sequence[str]) -> list[str]:
        """The strings of all sentences, with `_END` between two sentences."""
        text = f" {_END} ".join(sentences)
        if text.count(_END) >= len(sentences):  # a line end is white space like any other
            text = f" {_END} ".join(sentence.replace(_END, " ") for sentence in sentences)
        if self._cut.lower:
            text = text.encode("utf-8", "surrogatepass").translate(_LOWER).decode("utf-8", "surrogatepass")
        for each in self._cut.around:
            text = text.replace(each, f" {each} ")
        return text.split(" ")

    def _learn(self) -> None:
        """Encode the strings that are new."""
        new, self._numbers.new = self._numbers.new, []
        encoded = self._encode(new)
        lengths = np.fromiter(map(len, encoded), np.int64, len(new))
        flat = np.fromiter(chain.from_iterable(encoded), np.int64, int(lengths.sum()))
        self._ids = np.concatenate([self._ids, flat])
        self._starts = np.concatenate([self._starts, self._starts[-1] + np.cumsum(lengths)])
        self._characters += sum(map(len, new))
        if self._cut.at_end:
            odd = np.fromiter(map(_has_odd_end, new), np.bool_, len(new))
            self._is_odd = np.concatenate([self._is_odd, odd])

    def _with_whole(
        self, encoded: Encoded, sentences: Sequence[str], numbers: Int64Array, is_end: npt.NDArray[np.bool_]
    ) -> Encoded:
        """Encode those sentences again in which a space joins other white space."""
        odd = np.fromiter((each.endswith((" ", _END)) for each in sentences), np.bool_, len(sentences))
        odd[(np.cumsum(is_end))[self._is_odd[numbers]]] = True
        if not odd.any():
            return encoded
        parts = np.split(encoded.ids, np.cumsum(encoded.lengths)[:-1])
        where = np.flatnonzero(odd).tolist()
        for number, whole in zip(where, self._encode([sentences[number] for number in where]), strict=True):
            parts[number] = np.array(whole, np.int64)
        return flat_ids(parts)


def flat_ids(parts: Sequence[Sequence[int] | Int64Array]) -> Encoded:
    """The ids of sentences that are given one by one."""
    lengths = np.fromiter(map(len, parts), np.int64, len(parts))
    return Encoded(np.fromiter(chain.from_iterable(parts), np.int64, int(lengths.sum())), lengths)


def _has_odd_end(each: str) -> bool:
    """Whether a string ends with something that may vanish or become white space, which a space after it would join."""
    return bool(each) and unicodedata.category(each[-1])[0] not in "LNPS"  # letters, numbers, punctuation, symbols
