"""The built-in corpus."""

import sys
import sysconfig
from importlib import metadata
from pathlib import Path

import pytest

from bertsmith.corpus import Corpus, CorpusReport, Section, open_corpus
from bertsmith.corpus.docstrings import docstrings_of
from bertsmith.corpus.prose import paragraphs_of
from bertsmith.data.keyed import text_hash

SOURCE = '''#!/usr/bin/env python
"""Module docstring."""
import re  # a remark beside code

# A comment of one line.

# A longer comment that goes
# on in a second line.
x = "# no comment"
y = """No docstring, but data."""

class A:
    r"""Raw \\d docstring."""

    def f(self):
        \'\'\'Escaped \\u00e9
        docstring.\'\'\'
        return f"""{self}""" + "plain"

add_docstr(torch.abs, r"""Text for a function in C.""".format(**args))
z = """Data again."""
'''


def test_docstrings_are_found_in_order() -> None:
    assert docstrings_of(SOURCE) == [
        "Module docstring.",
        "Raw \\d docstring.",
        "Escaped \u00e9\n        docstring.",
        "Text for a function in C.",
    ]


@pytest.mark.parametrize("source", ["x = 'unclosed", '"""unclosed', "print 3", "\0"])
def test_what_is_no_python_is_refused(source: str) -> None:
    with pytest.raises((SyntaxError, ValueError)):
        docstrings_of(source)


def test_prose_is_joined_and_other_lines_stay_apart() -> None:
    docstring = """Return the sum of the two
    given numbers.

    Parameters
    ----------
    a : int
        The first of the two numbers.
    b (int): The second of them, which may
        also be negative.

    - An item of a list
    - Another item of it that
      is longer

    See :func:`~math.fsum` for ``float``.

    Example::

        result = add(1, 2)
        x = f(result)

    >>> add(1, 2)
    3
    """
    assert paragraphs_of(docstring) == [
        "Return the sum of the two given numbers.",
        "Parameters",
        "a : int",
        "The first of the two numbers.",
        "b (int): The second of them, which may also be negative.",
        "- An item of a list",
        "- Another item of it that is longer",
        "See math.fsum for float.",
        "Example:",
        "result = add(1, 2)",
        "x = f(result)",
        ">>> add(1, 2)",
        "3",
    ]


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return open_corpus([])


@pytest.fixture(scope="module")
def sections(corpus: Corpus) -> list[Section]:
    return list(corpus.sections())


@pytest.mark.slow
def test_builtin_text_has_10_to_20_megabytes(sections: list[Section]) -> None:
    least = (
        10e6 if (Path(sysconfig.get_path("stdlib")) / "test" / "test_ast.py").exists() else 9e6
    )  # Debian leaves tests out
    assert least < sum(len(section.text.encode()) for section in sections) < 20e6


def test_builtin_text_comes_from_python_and_the_required_packages_alone(corpus: Corpus) -> None:
    names = [file.name.split()[0] for file in corpus.files]
    assert names[0] == "python"
    assert {"torch", "numpy"} < set(names)
    assert not {"transformers", "datasets", "pytest"} & set(names)
    assert corpus.describe().startswith("built-in text: documentation of Python")


def test_builtin_files_tell_version_and_size(corpus: Corpus) -> None:
    facts = {file.name: file for file in corpus.files}
    assert facts[f"numpy {metadata.version('numpy')}"].size > 1_000_000
    assert f"python {'.'.join(map(str, sys.version_info[:3]))}" in facts
    assert open_corpus([]).files == corpus.files


@pytest.mark.slow
def test_modules_are_split_as_a_whole(sections: list[Section]) -> None:
    keys: dict[int, set[bytes]] = {}
    for section in sections:
        keys.setdefault(section.document, set()).add(section.split_key)
    assert all(len(found) == 1 for found in keys.values())
    assert len({key for found in keys.values() for key in found}) == len(keys)
    assert text_hash("python/argparse.py") in {section.split_key for section in sections}


@pytest.mark.slow
def test_language_reference_is_there(sections: list[Section]) -> None:
    assert any(
        "The try statement specifies exception handlers" in section.text.replace('"', "") for section in sections
    )


@pytest.mark.slow
def test_every_pass_gives_the_same(corpus: Corpus, sections: list[Section]) -> None:
    report = CorpusReport()
    assert list(corpus.sections(report)) == sections
    assert report.sections == len(sections)


@pytest.mark.slow
def test_reading_imports_nothing_of_what_it_reads(sections: list[Section]) -> None:
    assert sections
    assert "turtledemo" not in sys.modules
    assert "idlelib" not in sys.modules
