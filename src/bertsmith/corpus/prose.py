"""Docstrings as paragraphs: wrapped lines of prose are joined, the lines of examples and tables stay apart."""

import re
from collections.abc import Iterator
from inspect import cleandoc

_UNDERLINE = re.compile(r"[^\w]*")
_ITEM = re.compile(r"[-*\u2022+] |\(?\d+[.)] |[`*]*[\w.]+[`*]*(?: ?\([^)]*\))? ?: |:\w+ \w+: ")
_PARAMETER = re.compile(r"[\w*, ]+ : \S.*")
"""A parameter and its type, as numpy sets them: the description below is a paragraph of its own."""

_ROLE = re.compile(r":[\w:+-]+:`[~!]?([^`<]+?)(?: *<[^`>]*>)?`")
_MIN_WORDS = 3
_MIN_WORD_SHARE = 0.6
_AROUND_WORDS = ".,;:!?()[]'\"`*_"


def paragraphs_of(docstring: str) -> list[str]:
    """Cut a docstring, or a text set the same way, into paragraphs.

    Nothing is left out but lines without a letter or digit. List items and
    described parameters stay apart, and so do lines that are no prose.

    Returns:
        Paragraphs without line ends; reStructuredText roles and quotes are undone.
    """
    paragraphs = []
    for lines in _blocks(cleandoc(docstring).split("\n")):
        joined = _plain(" ".join(lines))
        paragraphs += [joined] if _is_prose(joined) else [_plain(line) for line in lines]
    return paragraphs


def _blocks(lines: list[str]) -> Iterator[list[str]]:
    """Lines grouped into paragraphs and list items."""
    block: list[str] = []
    for line in lines:
        stripped = line.strip()
        if _UNDERLINE.fullmatch(stripped):
            begins, ends, stripped = True, True, ""
        else:
            begins = bool(_ITEM.match(stripped)) or stripped.startswith((">>>", "..."))
            ends = bool(_PARAMETER.fullmatch(stripped)) or stripped.endswith(":")
        if begins and block:
            yield block
            block = []
        block += [stripped] if stripped else []
        if ends and block:
            yield block
            block = []
    if block:
        yield block


def _plain(paragraph: str) -> str:
    """A paragraph without the marks of reStructuredText."""
    if "`" in paragraph:
        paragraph = _ROLE.sub(r"\1", paragraph).replace("``", "").replace("`", "")
    return paragraph.removesuffix(":") if paragraph.endswith("::") else paragraph


def _is_prose(paragraph: str) -> bool:
    """Whether most words of a paragraph are words."""
    words = paragraph.split()
    plain = sum(word.strip(_AROUND_WORDS).isalpha() for word in words)
    return plain >= _MIN_WORDS and plain >= _MIN_WORD_SHARE * len(words)
