"""From lines of text to paragraphs: the layouts that a text file can have.

A paragraph is a string without a line end. `None` in a stream of paragraphs
ends a document.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from itertools import chain, pairwise
from typing import Literal

Document = Literal["auto", "file", "blank-line", "line"]
"""What a document is: decided by the layout, a whole file, the text between blank lines, or a line."""


class Layout(Enum):
    """How the lines of a text make paragraphs and documents. The values are what the user is told."""

    WIKITEXT = "WikiText, one document from each ' = Title = ' to the next"
    SENTENCES = "one sentence per line, one document between blank lines"
    WRAPPED = "wrapped lines joined"
    LINES = "each line a paragraph"


_TITLE = re.compile(r"\s?= (?!=)\S(?:.*\S)? =\s*")
_HEADING = re.compile(r"\s?((?:= )+)(\S.*?)((?: =)+)\s*")
_SPLIT_SIGN = re.compile(r" @([-,.])@ ")
OTHER_ENDS = "\u3002\uff61\uff01\uff1f\u0964\u06d4\u061f\u17d4\u104b"
"""Ends of sentences in Chinese and Japanese, Hindi, Urdu and Arabic, Khmer and Burmese."""

_CLOSING = ")\\]\"'\u2019\u201d\u300d\u300f\uff09\u3011\u300b"
"""What may stand after the end of a sentence: brackets and quotes, in a class of a pattern."""

_SENTENCE_END = re.compile(rf"[.!?:;\u2026{OTHER_ENDS}][{_CLOSING}]*$")
_INNER_SENTENCE_END = re.compile(
    r"""[a-z)"'\u201d][.!?][)"'\u2019\u201d]*\s+["'(\u2018\u201c]*[A-Z]"""
    rf"|[{OTHER_ENDS}][{_CLOSING}]*[^{_CLOSING}{OTHER_ENDS}]"
)

_MAX_WIDTH = 120
_MIN_WIDTH = 40
"""Columns. Text wrapped by a program or typewriter lies between the two."""

_SHORT = 0.6
"""A line shorter than this share of the width ends a paragraph even in the middle of a sentence, as in verse."""

_MIN_RECORDS = 10
"""Distinct lines. Among fewer it says nothing that some begin alike."""

_RECORDS = 0.75
"""Share of the lines that must be alike. In prose the three words that most lines begin with begin one line in ten; of
numbered verses and items that are wrapped, with nothing between them, two lines in three may begin with a number."""

_DIGITS = re.compile(r"\d+")
_WIDE = "".join(
    (
        "\u2e80-\u30ff\u3100-\u312f\u31a0-\u4dbf\u4e00-\u9fff",  # ideographs, kana and their punctuation
        "\uf900-\ufaff\ufe30-\ufe4f\uff00-\uff9f\U00020000-\U0003ffff",
    )
)
_IDEOGRAPH = re.compile(f"[{_WIDE}]")
"""A character that is two columns wide, and before which a line may end."""

_NO_SPACE_BETWEEN = re.compile(f"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff{_WIDE}]{{2}}")
"""Two characters of scripts that are written without spaces between words: Thai, Lao, Myanmar, Khmer, and these."""

_REPLACED = "[**"
"""Begins what stands for a name in clinical notes. It was put in when lines had their width, and changed it."""

_ITEM = re.compile(r"(?:[-*+\u2022]|(?:\d{1,3}\.)+|\(?(?:\d{1,3}|[a-zA-Z]|[ivxIVX]+)\))\s")
"""Begins an item of a list or a clause of a contract, whose further lines may be set in below its text."""

_MAX_HEADING = 500
_LONG_WORD = 20
_MAX_PARAGRAPH = 1 << 18
"""Characters after which wrapped lines are no longer joined: a paragraph is held in memory."""


def detect_layout(lines: Sequence[str]) -> tuple[Layout, int]:
    """Tell the layout from the first lines of a text.

    - WikiText if a line like " = Title = " comes first or after a blank line;
    - wrapped if lines are at most 120 columns long and most of them break where
      the next word did not fit, unless they are records: lines of a log or list;
    - one sentence per line if there are blank lines with several lines between
      them, most lines end a sentence, and few hold a second one;
    - otherwise each line is a paragraph.

    Args:
        lines: The first lines, some thousands if there are as many.

    Returns:
        The layout, and the columns that a text was wrapped to, 0 if it was not.
    """
    if is_wikitext(lines):
        return Layout.WIKITEXT, 0
    if width := _wrap_width(lines):
        return Layout.WRAPPED, width
    return Layout.SENTENCES if _is_sentence_per_line(lines) else Layout.LINES, 0


def is_wikitext(lines: Sequence[str]) -> bool:
    """Whether a line like " = Title = " comes first or after a blank line."""
    return any(
        not before.strip() and len(line) <= _MAX_HEADING and _TITLE.fullmatch(line)
        for before, line in pairwise(["", *lines])
    )


def _wrap_width(lines: Sequence[str]) -> int:
    """Width in columns that a text was wrapped to by hand or program, 0 if it was not."""
    kept = [line.rstrip() for line in lines if line.strip() and _REPLACED not in line]
    lengths = sorted(map(len, kept))
    if len(lengths) < 2 or lengths[-1 - len(lengths) // 100] > _MAX_WIDTH:
        return 0
    width = lengths[-1 - len(lengths) // 20]
    columns = 2 if 2 * sum(len(_IDEOGRAPH.findall(line)) for line in kept if not line.isascii()) > sum(lengths) else 1
    if columns * width < _MIN_WIDTH:
        return 0
    pairs = [
        (line.rstrip(), following)
        for line, following in pairwise(lines)
        if line.strip() and following.strip() and _REPLACED not in line
    ]
    forced = sum(not _fits(line, following, width) and not _SENTENCE_END.search(line) for line, following in pairs)
    return width if pairs and forced >= 0.4 * len(pairs) and not _are_records({line for _, line in pairs}) else 0


def _are_records(lines: set[str]) -> bool:
    """Whether lines are a log or list: most are a single word, or begin with one of three words or dates.

    Args:
        lines: Those that follow another one without a blank line between: verses and items of wrapped text begin alike.
    """
    words = [line.split(None, 1) for line in lines if any(map(str.isalnum, line))]
    if len(words) < _MIN_RECORDS:
        return False
    alone = sum(len(line) == 1 and line[0].isascii() for line in words)
    first = Counter(_DIGITS.sub("0", word) for word, *_ in words if any(map(str.isalnum, word)))
    alike = sum(count for _, count in first.most_common(3) if count > 1)
    return max(alone, alike) > _RECORDS * len(words)


def _fits(line: str, following: str, width: int) -> bool:
    """Whether the first word of the following line would have had room at the end of this one."""
    word = following.split(None, 1)[0]
    if not word.isascii() and _IDEOGRAPH.match(word) and _IDEOGRAPH.match(line[-1]):
        return len(line) + 2 <= width  # a character, and a sign that may not begin a line
    return len(line) + 1 + min(len(word), _LONG_WORD) <= width


def _is_sentence_per_line(lines: Sequence[str]) -> bool:
    """Whether a text looks like the input of google-research/bert."""
    blocks = [0]  # lines between blank lines
    ended = inner = 0
    for line in lines:
        if text := line.strip():
            blocks[-1] += 1
            ended += bool(_SENTENCE_END.search(text))
            inner += bool(_INNER_SENTENCE_END.search(text))
        elif blocks[-1]:
            blocks.append(0)
    total = sum(blocks)
    documents = len([size for size in blocks if size])
    return documents > 1 and total >= 3 * documents and ended >= 0.8 * total and inner <= 0.2 * total


def paragraphs(lines: Iterable[str], layout: Layout, document: Document, width: int) -> Iterator[str | None]:
    """Turn lines into paragraphs.

    Args:
        lines: The lines of one text, without line ends.
        layout: As found by `detect_layout`.
        document: What a document is.
        width: Columns that the text was wrapped to; used by `Layout.WRAPPED` alone.

    Yields:
        Paragraphs, stripped and not empty, and None where a document ends.
    """
    if document == "line":
        for line in lines:
            if text := line.strip():
                yield text
                yield None
    elif layout is Layout.WIKITEXT:
        yield from _wikitext(lines, document)
    else:
        at_blank = document == "blank-line" or (document == "auto" and layout is Layout.SENTENCES)
        for paragraph in _join_wrapped(lines, width) if layout is Layout.WRAPPED else map(str.strip, lines):
            if paragraph:
                yield paragraph
            elif at_blank:
                yield None


def _wikitext(lines: Iterable[str], document: Document) -> Iterator[str | None]:
    """Undo the WikiText format: heading marks, and the signs that were split off numbers and compounds.

    `<unk>` stays: it is part of the text as it was published.
    """
    after_blank = True
    for line in lines:
        heading = _HEADING.fullmatch(line) if len(line) <= _MAX_HEADING else None
        if document == "auto" and after_blank and heading and _TITLE.fullmatch(line):
            yield None
        after_blank = not line.strip()
        if after_blank and document == "blank-line":
            yield None
        elif not after_blank:
            text = heading[2] if heading and len(heading[1]) == len(heading[3]) else line
            yield _SPLIT_SIGN.sub(r"\1", text).strip()


def _join_wrapped(lines: Iterable[str], width: int) -> Iterator[str]:
    """Join the lines of each paragraph.

    A paragraph ends at a blank line, before a line that is set in or in capitals, and after a line that had room for
    the next word, if it ends a sentence or is short. Lines that are set in below the first one of an item of a list go
    on with it, and the next item ends it.

    Yields:
        Paragraphs, and "" where there was a blank line.
    """
    held: list[str] = []
    size = 0
    previous = ""
    in_item = False
    for line in chain(lines, [""]):
        text = line.strip()
        if held and (not text or size > _MAX_PARAGRAPH or _ends_paragraph(previous, line, width, in_item=in_item)):
            yield join_lines(held)
            held, size = [], 0
        if text:
            in_item = in_item if held else bool(_ITEM.match(text))
            held.append(text)
            size += len(text)
        else:
            yield ""
        previous = line


def _ends_paragraph(line: str, following: str, width: int, *, in_item: bool) -> bool:
    """Whether a paragraph, which may be an item of a list, ends between two lines, neither of them blank."""
    is_set_in = following[0].isspace() and not line[0].isspace() and not _ITEM.match(line)
    is_next_item = in_item and _ITEM.match(following) and (line[0].isspace() or _ITEM.match(line))
    if is_set_in or is_next_item or (following.isupper() and not line.isupper()):
        return True
    line = line.rstrip()
    return _fits(line, following, width) and (len(line) < _SHORT * width or bool(_SENTENCE_END.search(line)))


def join_lines(lines: Sequence[str]) -> str:
    """Join the wrapped lines of a paragraph with spaces, but "well-" and "known" without, and Chinese and the like.

    A soft hyphen at the end of a line says that the word goes on, whatever follows.
    """
    joined = lines[0]
    for line in lines[1:]:
        is_cut = joined[-1] == "\u00ad" or (joined[-1] == "-" and joined[-2:-1].isalpha() and line[0].islower())
        has_no_space = is_cut or _NO_SPACE_BETWEEN.match(joined[-1] + line[0])
        joined += line if has_no_space else f" {line}"
    return joined


def unwrap(text: str) -> list[str]:
    """Paragraphs of a text from a field, such as a row of a table.

    Each line is a paragraph, unless the text is wrapped like an old letter or mail.
    """
    if "\n" not in text and "\r" not in text:
        stripped = text.strip()
        return [stripped] if stripped else []
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    lines = text.split("\n")
    width = _wrap_width(lines) if len(lines) > 2 and max(map(len, lines)) <= _MAX_WIDTH else 0
    return list(filter(None, _join_wrapped(lines, width) if width else map(str.strip, lines)))
