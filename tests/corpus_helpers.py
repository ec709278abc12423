"""Short ways to read a corpus in tests."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bertsmith.corpus import CorpusReport, Section, open_corpus


def read(*sources: Path | str, **options: Any) -> tuple[list[Section], CorpusReport]:
    """All sections of a corpus and the report."""
    report = CorpusReport()
    return list(open_corpus([str(source) for source in sources], **options).sections(report)), report


def texts(*sources: Path | str, **options: Any) -> list[str]:
    """The texts of all sections."""
    return [section.text for section in read(*sources, **options)[0]]


def write(path: Path, text: str | bytes) -> Path:
    """Write a file, with its folders, byte by byte as given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def without_space(parts: Iterable[str]) -> str:
    """All characters of some texts that are not white space."""
    return "".join("".join(parts).split())
