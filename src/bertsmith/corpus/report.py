"""What reading a corpus found: how much text, what was left out and why."""

from collections.abc import Mapping
from dataclasses import dataclass, field

MAX_EXAMPLES = 8
"""Reasons for skipping that are counted one by one, with a place each. More would be a log, not a report."""


@dataclass
class CorpusReport:
    """Counts of one pass over a corpus, filled while its sections are read."""

    documents: int = 0
    """Documents kept."""

    duplicates: int = 0
    """Documents dropped because the same text came before; sections, for documents too long to hold."""

    duplicate_sections: int = 0
    """How many of the duplicates are sections."""

    sections: int = 0
    words: int = 0
    """Words of the kept text: what white space stands around."""

    text_bytes: int = 0
    """Size of the kept text in UTF-8, bytes."""

    skipped: int = 0
    """Lines, rows and files that could not be used."""

    skipped_examples: list[str] = field(default_factory=list)
    """The first of them for each of the first few reasons, as "file:line: reason". Never the text itself."""

    skipped_reasons: dict[str, int] = field(default_factory=dict)
    """Reason -> how many, for those reasons."""

    encodings: dict[str, int] = field(default_factory=dict)
    """Encoding -> number of files, for files that are not UTF-8."""

    choices: dict[str, int] = field(default_factory=dict)
    """What was decided about the content of files (layout, text field) -> number of files."""

    def note_encoding(self, encoding: str) -> None:
        """Count a file that is not UTF-8."""
        if encoding not in ("utf-8", "ascii"):
            self.encodings[encoding] = self.encodings.get(encoding, 0) + 1

    def skip(self, place: str, reason: str) -> None:
        """Count a line, row or file that could not be used.

        Args:
            place: "file", or "file:line" with lines and rows counted from 1.
            reason: Why, without the text itself.
        """
        self.skipped += 1
        if reason in self.skipped_reasons:
            self.skipped_reasons[reason] += 1
        elif len(self.skipped_reasons) < MAX_EXAMPLES:
            self.skipped_reasons[reason] = 1
            self.skipped_examples.append(f"{place}: {reason}")

    def lines(self) -> list[str]:
        """The report as lines for a person to read."""
        lines = [
            f"{self.documents:,} documents in {self.sections:,} sections, "
            f"{self.words:,} words, {self.text_bytes / 1e6:,.1f} MB"
        ]
        if whole := self.duplicates - self.duplicate_sections:
            found = self.documents + whole
            lines.append(f"{whole:,} exact duplicates left out, {whole / found:.1%} of {found:,} documents")
        if self.duplicate_sections:
            lines.append(f"{self.duplicate_sections:,} sections of very long documents left out, exact duplicates")
        lines += [f"{choice}: {files}" for choice, files in _counted(self.choices)]
        lines += [f"read as {encoding}: {files}" for encoding, files in _counted(self.encodings)]
        if self.skipped:
            lines.append(f"{self.skipped:,} lines, rows or files skipped, among them")
            counts = self.skipped_reasons.values()
            lines += [
                f"  {example} ({count:,} times)" if count > 1 else f"  {example}"
                for example, count in zip(self.skipped_examples, counts, strict=True)
            ]
        return lines


def _counted(counts: Mapping[str, int]) -> list[tuple[str, str]]:
    """Counts as text, the most frequent first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [(name, f"{count:,} file{'' if count == 1 else 's'}") for name, count in ordered]
