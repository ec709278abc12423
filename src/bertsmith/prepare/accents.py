"""Whether a text can do without its accents.

BERT removes accents where it lower-cases (google-research/bert, `tokenization.py`), which tidies up English: cafe is
spelt both ways. It does so by dropping every combining mark that a letter can be taken apart into. In French or
Vietnamese these tell words apart, in Hindi or Thai they are vowels, in Japanese the voicing of a syllable, and Korean
syllables come apart for nothing.
"""

import unicodedata
from functools import lru_cache

import numpy as np
import numpy.typing as npt

RARE = 0.002
"""Share of the characters, up to which they are removed. English Wikipedia has 0.0004, the Declaration of Human Rights
0.0001 in Dutch, 0.006 in Danish and Italian, 0.009 in Russian, 0.011 in German, 0.027 in French, 0.13 in Hindi."""

LETTERS_END = 0x20000
"""Code of the first character after the planes that have alphabets."""

SELECTORS = range(0xFE00, 0xFE10)
"""Marks that say how an emoji is drawn. They mean nothing to a word."""

WHERE_RARE = "where rare"
"""What the fingerprint says when nobody has decided."""


def count_accents(text: str) -> int:
    """Characters that would be lost or changed."""
    if text.isascii():
        return 0
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    return int(_is_changed()[np.minimum(codes, LETTERS_END - 1)].sum())


@lru_cache(maxsize=1)
def _is_changed() -> npt.NDArray[np.bool_]:
    """For each character of the first two planes, which have all that is taken apart but for ideographs."""
    return np.array([_changes(chr(code)) for code in range(LETTERS_END)])


def _changes(character: str) -> bool:
    """Whether removing accents does something to a character: to a Korean syllable that, too, since NFD comes first."""
    if ord(character) in SELECTORS:
        return False
    parts = unicodedata.normalize("NFD", character)
    return "\uac00" <= character <= "\ud7a3" or any(unicodedata.category(part) == "Mn" for part in parts)
