"""Sentences of a section."""

import re
from collections.abc import Iterator
from itertools import accumulate, pairwise

from sentencex import segment  # type: ignore[import-untyped]

_WINDOW = 8_192
"""Characters given to the rules at once: on text full of opening quotes their time grows with the square."""

_WIDE_SPACE = re.compile("[\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]")

_LACKING = re.compile(
    "[\u17d4\u17d5\u1b4e\u1b4f\u1b7f\u2cf9-\u2cfb\ufe12\ufe15\ufe16\U000113d4\U000113d5\U00016d6e\U00016d6f]"
)
"""What Unicode says ends a sentence and sentencex does not know: of Khmer, Balinese, Coptic, upright lines, others."""


def split_sentences(text: str) -> list[str]:
    """Cut a text into sentences.

    No sentence crosses a line end. Within a line sentencex finds the ends, by
    the punctuation of all scripts and a list of English abbreviations. A run of
    more than 8,192 characters without a sentence end is cut there.

    Args:
        text: Such as the text of a section.

    Returns:
        Sentences, stripped and not empty. Together they hold every character of
        the text that is not white space, in order.
    """
    if not text.isascii():
        text = _WIDE_SPACE.sub(" ", text)  # sentencex fails on some of them beside a full stop
    sentences: list[str] = []
    for line in text.split("\n"):
        parts = _segment(line) if len(line) <= _WINDOW else _segment_long(line)
        sentences += [stripped for part in parts if (stripped := part.strip())]
    return sentences


def _segment(line: str) -> list[str]:
    """Sentences of a line; the line itself if the rules fail on it or lose a part."""
    try:
        parts = segment("en", line if line.isascii() else _LACKING.sub("\u0964", line))  # one that it knows
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # Rust's own, which is no Exception
            raise
        return [line]
    ends = list(accumulate(map(len, parts), initial=0))
    return [line[start:end] for start, end in pairwise(ends)] if ends[-1] == len(line) else [line]


def _segment_long(line: str) -> Iterator[str]:
    """Sentences of a long line, window by window; the last one of each begins the next window."""
    start = 0
    while start + _WINDOW < len(line):
        window = line[start : start + _WINDOW]
        parts = _segment(window)
        if len(parts) > 1:
            parts = parts[:-1]
        elif (space := window.rfind(" ")) > 0:
            parts = [window[: space + 1]]
        yield from parts
        start += sum(map(len, parts))
    yield from _segment(line[start:])
