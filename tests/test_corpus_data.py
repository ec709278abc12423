"""Real text of many kinds, as it is. Needs the development data."""

import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from bertsmith.corpus import CorpusReport, Section, open_corpus, split_sentences
from bertsmith.errors import UserError

from conftest import development_data
from corpus_helpers import read, texts, without_space, write

pytestmark = pytest.mark.slow

NASTY = ("blns", "json_test_suite", "kuhn", "udhr")


def check(sections: list[Section]) -> None:
    """What holds for every section of any text."""
    for section in sections:
        section.text.encode()  # no lone surrogate
        assert section.text == section.text.strip() != ""
        assert all(section.text.split("\n"))
        assert len(section.split_key) == 16
        found = split_sentences(section.text)
        assert without_space(found) == without_space([section.text])
        assert not any("\n" in sentence for sentence in found)
    numbers = [section.document for section in sections]
    assert numbers == sorted(numbers)
    assert set(numbers) == set(range(len(set(numbers))))


@pytest.mark.parametrize("folder", NASTY)
@pytest.mark.filterwarnings("error")
def test_each_nasty_file_is_read_or_refused_in_one_line(folder: str) -> None:
    for path in sorted(development_data(f"nasty/{folder}").iterdir()):
        for document in ("auto", "line", "blank-line", "file"):
            try:
                check(read(path, document=document)[0])
            except UserError as error:
                message = str(error)
                message.encode()
                is_clear = "\n" not in message and path.name in message
                if not is_clear:
                    pytest.fail(message)


@pytest.mark.parametrize("folder", ["nasty", *(f"nasty/{name}" for name in NASTY)])
def test_nasty_folder_is_read_and_what_is_skipped_is_counted(folder: str) -> None:
    sections, report = read(development_data(folder))
    check(sections)
    assert report.sections == len(sections) > 0
    assert "\n".join(report.lines()).encode()


def test_valid_json_with_text_is_read_and_broken_json_refused() -> None:
    folder = development_data("nasty/json_test_suite")
    for path in sorted(folder.glob("n_*.json")):
        if path.name == "n_string_unescaped_newline.json":  # forgiven, as its meaning is plain
            continue
        with pytest.raises(UserError):
            texts(path)
    assert texts(folder / "y_string_unicode_U+1FFFE_nonchar.json") == ["\U0001fffe"]
    assert texts(folder / "y_string_accepted_surrogate_pair.json") == ["\U00010437"]
    with pytest.raises(UserError, match="lone surrogate"):
        texts(folder / "i_string_lone_second_surrogate.json")


def test_declaration_in_388_languages_is_read_as_utf8() -> None:
    sections, report = read(development_data("nasty/udhr"))
    assert report.documents == 387
    assert report.encodings == {}
    assert report.skipped_examples == ["nku.txt: is empty"]
    assert report.skipped == 1
    assert len({section.document for section in sections}) == 387


@pytest.mark.parametrize(
    ("language", "mark"),
    [
        ("cmn_hans", "。"),
        ("jpn", "。"),
        ("hin", "।"),
        ("arb", "."),
        ("hye", "։"),
        ("amh", "።"),
        ("rus", "."),
        ("ell_monotonic", "."),
    ],
)
def test_sentences_end_with_the_marks_of_their_script(language: str, mark: str) -> None:
    text = "\n".join(texts(development_data(f"nasty/udhr/{language}.txt")))
    marks = text.count(mark)
    ended = sum(sentence.endswith(mark) for sentence in split_sentences(text))
    assert ended > 0.8 * marks > 10


def test_novels_are_wrapped_or_not_and_each_is_a_document() -> None:
    sections, report = read(development_data("novels"))
    check(sections)
    assert report.documents == 19
    assert report.choices == {
        "one document per file, wrapped lines joined": 13,
        "one document per file, each line a paragraph": 6,
    }
    assert report.skipped == report.duplicates == 0
    assert report.encodings == {}
    assert 2_100_000 < report.words < 2_200_000
    words = [len(section.text.split()) for section in sections]
    assert sum(1_000 <= count <= 3_000 for count in words) > 0.95 * len(words)
    assert not any(section.text.startswith("\ufeff") for section in sections)


def test_paragraphs_of_a_wrapped_novel_are_whole() -> None:
    """Of a novel without blank lines, most paragraphs must end like one."""
    found = texts(development_data("novels/Dickens_Bleak_1853.txt"))
    paragraphs = [paragraph for text in found for paragraph in text.split("\n")]
    assert sum(paragraph[-1] in '.!?":;-' for paragraph in paragraphs) > 0.95 * len(paragraphs)
    assert 5_000 < len(paragraphs) < 9_000


def test_wikitext_has_its_60_articles_in_each_split() -> None:
    for name, words in (("valid", 206_000), ("test", 232_000)):
        sections, report = read(development_data(f"wikitext-2/{name}.txt"))
        check(sections)
        assert report.documents == 60
        assert abs(report.words - words) < 0.01 * words
        text = "\n".join(section.text for section in sections)
        assert "@-@" not in text
        assert "@,@" not in text
        assert "= =" not in text
        assert "<unk>" in text


def test_sample_of_google_research_bert_has_its_documents_and_sentences() -> None:
    sections, report = read(development_data("bert_ref/sample_text.txt"))
    assert report.documents == 3
    assert sum(len(section.text.split("\n")) for section in sections) == 31


def test_encyclopedia_is_read_from_its_first_articles() -> None:
    sections = list(islice(open_corpus([str(development_data("enwiki/train.jsonl.zst"))]).sections(), 3_000))
    check(sections)
    assert sections[0].text.startswith("Chen Zhili (; born November 1942) is a senior female politician")


def test_reviews_have_their_duplicates() -> None:
    report = CorpusReport()
    folder = development_data("imdb")
    for section in open_corpus([str(folder / "train.jsonl.zst")]).sections(report):
        assert section.text
    assert (report.documents, report.duplicates, report.skipped) == (24_904, 96, 0)


@pytest.mark.parametrize("kind", ["one line", "lines", "one long sentence"])
def test_memory_does_not_grow_with_one_huge_document(tmp_path: Path, kind: str) -> None:
    unit = {"one line": "A sentence of a few words. ", "lines": "A line of it.\n", "one long sentence": "word "}[kind]
    path = write(tmp_path / "a.txt", b"")
    with path.open("w") as handle:
        for number in range(60):
            handle.write(f"Number {number} " + unit * (1_000_000 // len(unit)))
    script = (
        "import re, sys\n"
        "from bertsmith.corpus import open_corpus\n"
        "for _ in open_corpus(sys.argv[1:]).sections(): pass\n"
        "print(re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())[1])\n"
    )
    result = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    assert int(result.stdout) * 1024 < 80e6, "peak memory, bytes"
