"""Names of data sets on the hub, as far as they can be tested without a network."""

import sys
from pathlib import Path

import pytest

from bertsmith.corpus import open_corpus
from bertsmith.corpus.hub import hub_id
from bertsmith.errors import UserError

from corpus_helpers import texts, write


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("wikitext-2", ("Salesforce/wikitext", "wikitext-2-raw-v1")),
        ("user/name", ("user/name", None)),
        ("user/name.v2:en-raw", ("user/name.v2", "en-raw")),
        ("/absolute/path", None),
        ("../up/path", None),
        ("a/b/c", None),
        ("name", None),
    ],
)
def test_hub_ids_are_told_from_paths(source: str, expected: tuple[str, str | None] | None) -> None:
    assert hub_id(source) == expected


def test_path_that_exists_wins_over_a_known_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "wikitext-2" / "a.txt", "Some text.")
    monkeypatch.chdir(tmp_path)
    assert texts("wikitext-2") == ["Some text."]


@pytest.mark.parametrize("source", ["wikitext-2", "wikitext-103", "user/name"])
def test_without_the_library_the_extra_is_named(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)  # makes the import fail, installed or not
    with pytest.raises(UserError, match=r"pip install bertsmith\[hf\]"):
        open_corpus([source])


@pytest.mark.parametrize("source", ["texts/missing.txt", "missing/reviews.jsonl.gz", "missing"])
def test_missing_path_is_not_looked_for_on_the_hub(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "texts").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        open_corpus([source])
