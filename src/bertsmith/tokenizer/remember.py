"""Ids of the strings between spaces, remembered: a corpus repeats them, and looking up is far cheaper than encoding.

Right only where a tokenizer treats what stands between two spaces by itself;
`cuts_at_spaces` knows those. All others encode every sentence whole.
"""

import unicodedata
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

MOST_STRINGS = 250_000
"""Remembered at once, about 60 MB; then all are forgotten."""

LONGEST_STRING = 40
"""Characters. Longer strings (text without spaces, encoded data) hardly ever come again."""

_ONE_SPACE = {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "}
_BY_CHARACTER = ("NFD", "NFC", "Lowercase", "StripAccents")
"""Steps of a normaliser that change nothing about a space and nothing across one."""

Encode = Callable[[list[str]], list[list[int]]]


def cuts_at_spaces(content: dict[str, Any]) -> bool:
    """Whether a tokenizer gives the same ids when its text is cut at spaces and encoded piece by piece.

    That holds for BERT's words, and for our own bytes, where a space belongs to the
    word after it and each piece is given one (but see `Remembering`).

    Args:
        content: A tokenizer.json, parsed.
    """
    model, words, normalizer = content["model"], content["pre_tokenizer"] or {}, content["normalizer"] or {}
    if not all(token["special"] for token in content["added_tokens"]) or model.get("dropout"):
        return False  # other added tokens may hold spaces; BPE with dropout is random
    if words.get("type") == "BertPreTokenizer":
        return model["type"] == "WordPiece" and normalizer.get("type") == "BertNormalizer"
    prefixed = words.get("type") == "ByteLevel" and words["add_prefix_space"] and words.get("use_regex", True)
    steps = normalizer.get("normalizers") or [{}]
    known = steps[-1] == _ONE_SPACE and all(step["type"] in _BY_CHARACTER for step in steps[:-1])
    return bool(prefixed) and model["type"] == "BPE" and known


class Remembering:
    """Encodes sentences as `encode` does."""

    def __init__(self, encode: Encode) -> None:
        self._encode = encode
        self._known: dict[str, list[int]] = {}

    def __call__(self, sentences: Sequence[str]) -> list[list[int]]:
        """The ids of each sentence."""
        known = self._known
        parts = [sentence.split(" ") for sentence in sentences]
        new = set(chain.from_iterable(parts)) - known.keys()
        if len(known) + len(new) > MOST_STRINGS:
            known.clear()
            new = set(chain.from_iterable(parts))
        strings = list(new)
        known.update(zip(strings, self._encode(strings), strict=True))
        ids = [list(chain.from_iterable(map(known.__getitem__, part))) for part in parts]
        self._encode_whole(sentences, parts, ids, {string for string in new if _has_odd_end(string)})
        for string in strings:
            if len(string) > LONGEST_STRING or _has_odd_end(string):
                del known[string]
        return ids

    def _encode_whole(
        self, sentences: Sequence[str], parts: list[list[str]], ids: list[list[int]], odd: set[str]
    ) -> None:
        """Encode those sentences again in which a space joins other white space."""
        where = [
            number
            for number, (sentence, part) in enumerate(zip(sentences, parts, strict=True))
            if sentence.endswith(" ") or (odd and not odd.isdisjoint(part))
        ]
        for number, whole in zip(where, self._encode([sentences[number] for number in where]), strict=True):
            ids[number] = whole


def _has_odd_end(string: str) -> bool:
    """Whether a string ends with something that may vanish or become white space, which a space after it would join."""
    return bool(string) and unicodedata.category(string[-1])[0] not in "LNPS"  # letters, numbers, punctuation, symbols
