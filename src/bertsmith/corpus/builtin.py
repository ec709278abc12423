"""The built-in corpus: the documentation that is on every machine with Bertsmith.

Docstrings of the Python standard library and of the
packages that Bertsmith requires, and the topics of the language reference.
Source files are read, never imported. A document is a module, and it is held
out or trained on as a whole: its docstrings describe each other.
"""

import ast
import os
import re
import sys
import sysconfig
from collections.abc import Iterator
from importlib import metadata, util
from pathlib import Path
from typing import NamedTuple

from bertsmith.corpus.docstrings import docstrings_of
from bertsmith.corpus.documents import SourceDocument
from bertsmith.corpus.files import SourceFile
from bertsmith.corpus.prose import paragraphs_of
from bertsmith.corpus.report import CorpusReport
from bertsmith.corpus.seen import SeenHashes
from bertsmith.data.keyed import text_hash

_SKIPPED_FOLDERS = {"site-packages", "dist-packages", "__pycache__", "lib2to3", "_vendor"}
"""Other packages, their copies, and test data that is broken on purpose."""

_REFERENCE = "pydoc_data/topics.py"


class _Package(NamedTuple):
    """A source of text."""

    name: str
    version: str
    files: tuple[tuple[str, Path], ...]
    """Module file as named in the package, and its place."""


class BuiltinCorpus:
    """The documentation on this machine. Read once and then held: it is some 10 MB."""

    def __init__(self) -> None:
        self._packages = [_standard_library(), *_required_packages()]
        self._modules: list[tuple[str, list[str]]] | None = None

    @property
    def files(self) -> tuple[SourceFile, ...]:
        """One entry for each package: its name and version, and the size of its source."""
        return tuple(
            SourceFile(f"{package.name} {package.version}", sum(path.stat().st_size for _, path in package.files), 0)
            for package in self._packages
        )

    def describe(self) -> str:
        """Say what a document is."""
        names = ", ".join(package.name for package in self._packages[1:])
        return f"built-in text: documentation of Python{f', {names}' if names else ''}; one document per module"

    def documents(self, report: CorpusReport) -> Iterator[SourceDocument]:
        """The text of each module that has any, packages and modules in order of their names."""
        if self._modules is None:
            self._modules = list(_read(self._packages, report))
        for name, paragraphs in self._modules:
            yield SourceDocument(paragraphs, text_hash(name))


def _standard_library() -> _Package:
    root = Path(sysconfig.get_path("stdlib"))
    version = ".".join(map(str, sys.version_info[:3]))
    return _Package("python", version, tuple(_python_files(root)))


def _python_files(root: Path) -> Iterator[tuple[str, Path]]:
    """The source files under a folder, by name."""
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(set(folders) - _SKIPPED_FOLDERS)
        for name in sorted(files):
            if name.endswith(".py"):
                yield Path(folder, name).relative_to(root).as_posix(), Path(folder, name)


def _required_packages() -> list[_Package]:
    """The packages that Bertsmith declares as requirements, extras apart, as far as they are installed."""
    try:
        requirements = metadata.requires("bertsmith") or []
    except metadata.PackageNotFoundError:  # run from a folder of source that was never installed
        return []
    names = {re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in requirements if "extra" not in line}
    packages = []
    for name in sorted(names, key=str.lower):
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        packages.append(_Package(name, distribution.version, tuple(_files_of(distribution))))
    return packages


def _files_of(distribution: metadata.Distribution) -> Iterator[tuple[str, Path]]:
    """The source files of an installed package, by name."""
    listed = [file for file in distribution.files or [] if file.suffix == ".py" and ".." not in file.parts]
    for file in sorted(listed):
        path = Path(str(file.locate()))
        if not _SKIPPED_FOLDERS.intersection(file.parts) and path.is_file():
            yield file.as_posix(), path
    if not listed:  # installed without a list of its files
        spec = util.find_spec(distribution.name.replace("-", "_").lower())
        for folder in (spec.submodule_search_locations or []) if spec else []:
            yield from _python_files(Path(folder))


def _read(packages: list[_Package], report: CorpusReport) -> Iterator[tuple[str, list[str]]]:
    """Name and paragraphs of each module; a docstring that came before is left out."""
    seen = SeenHashes()
    for package in packages:
        for file, path in package.files:
            try:
                source = path.read_text(encoding="utf-8", errors="ignore")  # some test other encodings
                texts = _topics(source) if file == _REFERENCE else {file: docstrings_of(source)}
            except (OSError, SyntaxError, ValueError, RecursionError):
                report.skip(f"{package.name}/{file}", "cannot be read as Python")
                continue
            for name, docstrings in texts.items():
                new = [text for text in docstrings if seen.add(text_hash(text))]
                if paragraphs := [paragraph for text in new for paragraph in paragraphs_of(text)]:
                    yield f"{package.name}/{name}", paragraphs


def _topics(source: str) -> dict[str, list[str]]:
    """The topics of the language reference: the items of the dictionary in `pydoc_data.topics`."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            return {f"topic {name}": [text] for name, text in ast.literal_eval(node.value).items()}
    return {}
