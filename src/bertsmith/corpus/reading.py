"""The corpus as others see it: open what the user named, and stream its sections."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from bertsmith.corpus.builtin import BuiltinCorpus
from bertsmith.corpus.documents import Section, SourceDocument, sections_of
from bertsmith.corpus.encoding import check_encoding
from bertsmith.corpus.files import COMPRESSED, FoundFile, SourceFile, find_files, unique
from bertsmith.corpus.formats import RECORDS, ReadOptions, open_file
from bertsmith.corpus.hub import hub_id, hub_rows
from bertsmith.corpus.layout import Document
from bertsmith.corpus.records import Opened, Unusable, open_table
from bertsmith.corpus.report import CorpusReport
from bertsmith.errors import UserError

_INSPECTED_FILES = 32
"""Files opened before reading starts, to say what a document is and to find mistakes early."""


class _Source(Protocol):
    """Something that delivers documents."""

    @property
    def files(self) -> tuple[SourceFile, ...]: ...

    def describe(self) -> str: ...

    def documents(self, report: CorpusReport) -> Iterator[SourceDocument]: ...


class Corpus:
    """Text to learn from."""

    def __init__(self, sources: Sequence[_Source]) -> None:
        self._sources = sources

    @property
    def files(self) -> tuple[SourceFile, ...]:
        """What it is read from, for a fingerprint."""
        return tuple(file for source in self._sources for file in source.files)

    def describe(self) -> str:
        """Say in one line what a document is."""
        return "; ".join(source.describe() for source in self._sources)

    def sections(self, report: CorpusReport | None = None) -> Iterator[Section]:
        """Stream the sections from the start, always in the same order.

        Args:
            report: Filled while reading.

        Raises:
            UserError: There is no text at all.
        """
        report = CorpusReport() if report is None else report
        documents = (document for source in self._sources for document in source.documents(report))
        yield from sections_of(documents, report)
        if not report.sections:
            why = f" ({report.skipped_examples[0]})" if report.skipped_examples else ""
            raise UserError(f"there is no text in {', '.join(file.name for file in self.files[:3])}{why}; name another")


class _Files:
    """Files on the disk."""

    def __init__(self, files: Sequence[FoundFile], options: ReadOptions) -> None:
        self._files = files
        self._options = options
        self.files = tuple(file.facts() for file in files)
        self._choices = self._inspect()

    def _inspect(self) -> list[tuple[FoundFile, str]]:
        """Open the files that were named, and the first of a folder, so that mistakes show before any work.

        Raises:
            UserError: A file that was named cannot be used, or none of a folder can, or no table has the field.
        """
        field = self._options.text_field
        if field is not None and not any(file.kind in RECORDS for file in self._files):
            raise UserError(f"text field {field!r} was named, but plain text has no fields; leave it out")
        found: list[tuple[FoundFile, str]] = []
        unusable: list[tuple[FoundFile, str]] = []
        for file in self._files:
            if len(found) >= _INSPECTED_FILES and not file.is_named:
                continue
            try:
                found.append((file, open_file(file, self._options, CorpusReport()).choice))
            except Unusable as error:
                if file.is_named:
                    hint = "" if ";" in str(error) else "; name a file with text"
                    raise UserError(f"{file.path} {error}{hint}") from None
                unusable.append((file, f"; {file.name}, for one, {error}"))
        if not found:
            folder, why = self._files[0].folder, unusable[0][1]
            raise UserError(f"none of {len(self._files):,} files in {folder} can be read as text{why}")
        if field is not None and len(found) < _INSPECTED_FILES and not any(file.kind in RECORDS for file, _ in found):
            why = next((why for file, why in unusable if file.kind in RECORDS), "")
            raise UserError(f"text field {field!r} is in no table{why}")
        return found

    def describe(self) -> str:
        """Say what a document is in the first files."""
        count = Counter(choice for _, choice in self._choices)
        example = {choice: file.name for file, choice in reversed(self._choices)}
        parts = [f"{choice}: {example[choice] if n == 1 else f'{n:,} files'}" for choice, n in count.most_common()]
        rest = len(self._files) - len(self._choices)
        return "; ".join(parts) + (f"; {rest:,} more files" if rest else "")

    def documents(self, report: CorpusReport) -> Iterator[SourceDocument]:
        """The documents of all files in order."""
        for file in self._files:
            try:
                opened = open_file(file, self._options, report)
            except Unusable as error:
                report.skip(file.name, str(error))
                continue
            report.choices[opened.choice] = report.choices.get(opened.choice, 0) + 1
            yield from opened.documents


class _Hub:
    """A data set of the hub."""

    def __init__(self, source: str, options: ReadOptions) -> None:
        self._source = source
        self._options = options
        self.files = (SourceFile(source, 0, 0),)
        try:
            self._choice = self._open(CorpusReport()).choice
        except Unusable as error:
            raise UserError(f"{source} {error}") from None

    def _open(self, report: CorpusReport) -> Opened:
        options = self._options
        return open_table(hub_rows(self._source), options.text_field, options.document, self._source, report)

    def describe(self) -> str:
        """Say what a document is."""
        return f"{self._choice}: {self._source} of the hub"

    def documents(self, report: CorpusReport) -> Iterator[SourceDocument]:
        """The documents in the order of the data set."""
        yield from self._open(report).documents


def open_corpus(
    sources: Sequence[str],
    *,
    text_field: str | None = None,
    document: Document = "auto",
    encoding: str | None = None,
) -> Corpus:
    """Open text for reading.

    Args:
        sources: Files, folders and hub ids. A path that exists wins over a hub
            id. Empty: the built-in corpus.
        text_field: Column or key that holds the text; None: found in each file.
        document: What a document is: "file", "blank-line" (the text between
            blank lines), "line" (or row), or "auto": a row of a table, what the
            format says for WikiText and sentence-per-line text, else a file.
        encoding: Of all files; None: UTF-8, or what is detected.

    Raises:
        UserError: A source does not exist, is empty or not text, or lacks the field.
    """
    options = ReadOptions(text_field, document, None if encoding is None else check_encoding(encoding))
    if not sources:
        return Corpus([BuiltinCorpus()])
    hub = [source for source in sources if _is_on_hub(source)]
    files = unique([file for source in sources if source not in hub for file in find_files(source)])
    return Corpus([*([_Files(files, options)] if files else []), *(_Hub(source, options) for source in hub)])


def _is_on_hub(source: str) -> bool:
    """Whether a source is a hub id and not a path, nor the misspelt name of one."""
    path = Path(os.path.expanduser(source))
    if path.exists() or hub_id(source) is None:
        return False
    looks_like_file = path.suffix in (*RECORDS, ".txt", ".md", *COMPRESSED)
    return "/" not in source or not (path.parent.is_dir() or looks_like_file)
