"""Reading a text several times."""

from collections.abc import Iterator

from bertsmith.corpus import Corpus, CorpusReport, Section

HELD_CHARACTERS = 32_000_000
"""A smaller text stays in memory once it was read: finding text in source code takes longer than tokenising it."""


class Text:
    """A corpus that is read from the disk each time, or once if it is small."""

    def __init__(self, corpus: Corpus) -> None:
        self.files = corpus.files
        self._corpus = corpus
        self._held: list[Section] | None = None

    def sections(self, report: CorpusReport | None = None) -> Iterator[Section]:
        """All sections from the beginning; always the same.

        Args:
            report: Filled while the text is read from the disk.
        """
        if self._held is not None and report is None:
            yield from self._held
            return
        held, size = [], 0
        for section in self._corpus.sections(report):
            size += len(section.text)
            if size <= HELD_CHARACTERS:
                held.append(section)
            else:
                held.clear()
            yield section
        if size <= HELD_CHARACTERS:
            self._held = held
