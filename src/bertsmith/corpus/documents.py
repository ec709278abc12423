"""From paragraphs to sections: cutting long documents and leaving out duplicates."""

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import NamedTuple

from bertsmith.corpus.report import CorpusReport
from bertsmith.corpus.seen import SeenHashes
from bertsmith.corpus.sentences import split_sentences
from bertsmith.data.keyed import text_hash

SECTION_WORDS = 2_000
"""Words that a section of a longer document has, about."""

_MIN_WORDS = SECTION_WORDS // 2
_MAX_WORDS = SECTION_WORDS * 5 // 4
_MIN_REST = SECTION_WORDS // 4
"""What is left at the end of a document joins the section before it when it has fewer words than this."""

WORD_CHARACTERS = 8
"""Characters that count as a word where there are fewer spaces, as in Chinese."""

_GROUP_WORDS = 100
_LONGEST_WORD = 1_000
"""Characters. A sentence too long for a section is cut between groups of words, each word at most this long."""

HELD_CHARACTERS = 4_000_000
"""A document is compared with others as a whole up to this size, then section by section."""


class Section(NamedTuple):
    """A piece of a document of about 2,000 words at most."""

    text: str
    """Stripped and not empty. A line end in it is a real boundary: no sentence crosses it."""

    document: int
    """Ordinal of the document it was cut from, counted over the whole corpus from 0."""

    split_key: bytes
    """16 bytes that decide whether it is held out: a hash of its text, or of its module in the built-in corpus."""


class SourceDocument(NamedTuple):
    """A document as a reader delivers it."""

    paragraphs: Iterable[str]
    """Paragraphs, stripped, not empty, without line ends. Read before the next document is asked for."""

    split_key: bytes | None = None
    """Given to all of its sections; None: each gets the hash of its own text."""


class _Piece(NamedTuple):
    """A section to be, or a part of one: a paragraph, sentence or group of words."""

    text: str
    words: int
    before: str = "\n"
    """What stands between it and the text before it: a line end, or a space inside a paragraph."""

    @property
    def size(self) -> int:
        """Its words, also for text that has few spaces."""
        return max(self.words, len(self.text) // WORD_CHARACTERS)


def group_documents(paragraphs: Iterator[str | None]) -> Iterator[SourceDocument]:
    """Make documents of a stream of paragraphs in which None ends a document."""
    more = True

    def until_end() -> Iterator[str]:
        nonlocal more
        for paragraph in paragraphs:
            if paragraph is None:
                return
            yield paragraph
        more = False

    while more:
        document = until_end()
        yield SourceDocument(document)
        for _ in document:  # what was not read must not begin the next document
            pass


def sections_of(documents: Iterable[SourceDocument], report: CorpusReport) -> Iterator[Section]:
    """Cut documents into sections and leave out those that came before.

    Documents are compared by a hash of their text. One of more than 4 million
    characters is not held: its sections are compared one by one.

    Args:
        documents: The documents in order.
        report: Counts what is found.
    """
    seen = SeenHashes()
    new = _without_duplicates(documents, seen, report)
    for ordinal, (split_key, pieces) in enumerate(new):
        report.documents += 1
        for piece, digest in pieces:
            report.sections += 1
            report.words += piece.words
            report.text_bytes += len(piece.text.encode())
            yield Section(piece.text, ordinal, split_key or digest)


_Hashed = tuple[_Piece, bytes]


def _without_duplicates(
    documents: Iterable[SourceDocument], seen: SeenHashes, report: CorpusReport
) -> Iterator[tuple[bytes | None, Iterable[_Hashed]]]:
    """Split key and hashed sections of the documents that hold new text."""
    for document in documents:
        pieces = iter(cut(document.paragraphs))
        held: list[_Piece] = []
        characters = 0
        for piece in pieces:
            held.append(piece)
            characters += len(piece.text)
            if characters > HELD_CHARACTERS:
                break
        hashed = ((piece, text_hash(piece.text)) for piece in chain(held, pieces))
        if characters > HELD_CHARACTERS:
            new = (each for each in hashed if _is_new(each[1], seen, report, is_section=True))
            if first := next(new, None):
                yield document.split_key, chain([first], new)
        elif len(held) == 1:
            only = next(hashed)
            if _is_new(only[1], seen, report):
                yield document.split_key, [only]
        elif held and _is_new(text_hash("\n".join(piece.text for piece in held)), seen, report):
            yield document.split_key, hashed


def _is_new(digest: bytes, seen: SeenHashes, report: CorpusReport, *, is_section: bool = False) -> bool:
    if seen.add(digest):
        return True
    report.duplicates += 1
    report.duplicate_sections += is_section
    return False


def cut(paragraphs: Iterable[str]) -> Iterator[_Piece]:
    """Cut a document into sections of about 2,000 words.

    A section ends at a paragraph end; in a longer paragraph at a sentence end,
    in a longer sentence between words. Cuts are made from the start, so text
    that is added at the end moves none but the last.

    Yields:
        The sections, at least one unless there is no paragraph.
    """
    if isinstance(paragraphs, list):
        text = "\n".join(paragraphs)
        whole = _Piece(text, _count_words(text))
        if text and whole.size <= _MAX_WORDS:
            yield whole
            return
    closed: _Piece | None = None
    for section in _fill(part for paragraph in paragraphs for part in _parts(paragraph)):
        if closed and section.size < _MIN_REST:  # only the last one can be this short
            section = _join([closed, section])
        elif closed:
            yield closed
        closed = section
    if closed:
        yield closed


def _count_words(text: str) -> int:
    """Words. Where one space or line end stands between two, these are counted: twice as fast as cutting words out."""
    if "  " in text or "\t" in text:
        return len(text.split())
    return text.count(" ") + text.count("\n") + 1


def _fill(parts: Iterable[_Piece]) -> Iterator[_Piece]:
    """Gather paragraphs until there are enough for a section."""
    held: list[_Piece] = []
    size = 0
    for part in parts:
        if size >= _MIN_WORDS and size + part.size > _MAX_WORDS:
            yield _join(held)
            held, size = [], 0
        held.append(part)
        size += part.size
        if size >= SECTION_WORDS:
            yield _join(held)
            held, size = [], 0
    if held:
        yield _join(held)


def _join(parts: list[_Piece]) -> _Piece:
    """One piece of several that follow each other."""
    text = parts[0].text + "".join(part.before + part.text for part in parts[1:])
    return _Piece(text, sum(part.words for part in parts), parts[0].before)


def _parts(paragraph: str) -> Iterator[_Piece]:
    """A paragraph as it is; one that is longer than a section may be, sentence by sentence."""
    whole = _Piece(paragraph, _count_words(paragraph))
    if whole.size <= _MAX_WORDS:
        yield whole
        return
    before = "\n"
    for sentence in split_sentences(paragraph):
        for piece in _word_groups(sentence):
            yield piece._replace(before=before)
            before = " "


def _word_groups(sentence: str) -> Iterator[_Piece]:
    """A sentence as it is; a very long one in groups of words, a very long word in slices."""
    whole = _Piece(sentence, _count_words(sentence))
    if whole.size <= _MAX_WORDS:
        yield whole
        return
    words = [
        word[start : start + _LONGEST_WORD] for word in sentence.split() for start in range(0, len(word), _LONGEST_WORD)
    ]
    for first in range(0, len(words), _GROUP_WORDS):
        group = words[first : first + _GROUP_WORDS]
        yield _Piece(" ".join(group), len(group))
