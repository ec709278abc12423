"""Cutting documents into sections, and leaving out duplicates."""

import hashlib
import json
import random
import tracemalloc
from pathlib import Path

import pytest

from bertsmith.corpus import CorpusReport, Section
from bertsmith.corpus.documents import HELD_CHARACTERS, SourceDocument, group_documents, sections_of
from bertsmith.corpus.seen import SeenHashes
from bertsmith.data.keyed import text_hash

from corpus_helpers import read, texts, without_space, write


def sections(*documents: list[str]) -> tuple[list[Section], CorpusReport]:
    report = CorpusReport()
    return list(sections_of((SourceDocument(document) for document in documents), report)), report


def paragraphs(count: int, words: int = 100) -> list[str]:
    """Different paragraphs of some sentences with `words` words together."""
    return [" ".join(f"P{n}w{word}{'.' if word % 10 == 9 else ''}" for word in range(words)) for n in range(count)]


def word_counts(found: list[Section]) -> list[int]:
    return [len(section.text.split()) for section in found]


def test_document_of_up_to_2500_words_is_one_section() -> None:
    found, report = sections(paragraphs(25))
    assert word_counts(found) == [2_500]
    assert (report.documents, report.sections, report.words) == (1, 1, 2_500)


def test_longer_document_is_cut_at_paragraph_ends_into_sections_of_about_2000_words() -> None:
    document = paragraphs(104)
    found, _ = sections(document)
    assert word_counts(found) == [2_000, 2_000, 2_000, 2_000, 2_400]  # a short rest joins the last section
    assert "\n".join(section.text for section in found) == "\n".join(document)


def test_text_added_at_the_end_moves_no_earlier_cut() -> None:
    rng = random.Random(7)
    document = [paragraph for words in rng.choices(range(1, 900), k=80) for paragraph in paragraphs(1, words)]
    for length in range(20, 80, 7):
        before, after = sections(document[:length])[0], sections(document)[0]
        assert [section.text for section in before[:-1]] == [section.text for section in after[: len(before) - 1]]


def test_long_paragraph_is_cut_at_sentence_ends() -> None:
    paragraph = " ".join(paragraphs(70))
    found, _ = sections([paragraph])
    assert all(section.text.endswith(".") for section in found)
    assert all(1_000 <= count <= 3_000 for count in word_counts(found))
    assert " ".join(section.text for section in found) == paragraph


def test_long_sentence_is_cut_between_words_and_never_gets_a_false_boundary() -> None:
    sentence = " ".join(f"word{n}" for n in range(9_300))
    found, _ = sections(["Before.", sentence, "After."])
    assert without_space(section.text for section in found) == without_space(["Before.", sentence, "After."])
    assert [section.text.count("\n") for section in found] == [1, 0, 0, 0, 1]
    assert max(word_counts(found)) <= 3_000


def test_words_are_counted_whatever_white_space_stands_between_them(tmp_path: Path) -> None:
    """As in tables that are set with spaces or tabs, which would else be cut into shorter sections."""
    rows = "\n".join(f"Potassium level{' ' * 20}{number}\tmmol/L" for number in range(1_000))
    sections, report = read(write(tmp_path / "a.txt", rows))
    assert report.words == len(rows.split())
    assert len(sections) == 3


def test_text_without_spaces_is_cut_too() -> None:
    text = "".join(chr(0x4E00 + n % 5_000) for n in range(100_000))
    found, _ = sections([text])
    assert "".join(section.text for section in found) == text or without_space(s.text for s in found) == text
    assert max(len(section.text) for section in found) < 25_000


def test_split_key_is_the_hash_of_the_text_or_that_of_the_source() -> None:
    documents = [SourceDocument(["One."]), SourceDocument(paragraphs(60), b"k" * 16)]
    found = list(sections_of(documents, CorpusReport()))
    assert found[0].split_key == text_hash("One.")
    assert {section.split_key for section in found[1:]} == {b"k" * 16}


def test_duplicate_documents_are_left_out_and_counted() -> None:
    found, report = sections(
        ["One.", "Two."], ["One."], ["One.", "Two."], ["One.\nTwo."], paragraphs(60), paragraphs(60)
    )
    assert [section.document for section in found] == [0, 1, 2, 2, 2]
    assert (report.documents, report.duplicates) == (3, 3)
    assert "3 exact duplicates left out, 50.0% of 6 documents" in report.lines()


def test_document_too_long_to_hold_is_compared_section_by_section() -> None:
    document = paragraphs(HELD_CHARACTERS // 500)
    assert sum(map(len, document)) > HELD_CHARACTERS
    found, report = sections(document, ["Something else."], document)
    assert {section.document for section in found} == {0, 1}
    assert (report.documents, report.duplicates) == (2, report.sections - 1)
    assert f"{report.duplicates:,} sections of very long documents left out, exact duplicates" in report.lines()
    assert not any("% of" in line for line in report.lines())


def test_empty_documents_have_no_number() -> None:
    found, report = sections([], ["One."], [], ["Two."])
    assert [section.document for section in found] == [0, 1]
    assert report.documents == 2


def test_unread_paragraphs_do_not_slip_into_the_next_document() -> None:
    documents = group_documents(iter(["a", "b", None, "c", None, None, "d"]))
    assert [next(iter(document.paragraphs), None) for document in documents] == ["a", "c", None, "d"]


def test_hash_set_knows_what_it_saw() -> None:
    seen = SeenHashes()
    digests = [hashlib.blake2b(n.to_bytes(4, "little")).digest() for n in range(60_000)]
    digests += [bytes(8), b"\xff" * 8]
    assert all(seen.add(digest) for digest in digests)
    assert not any(seen.add(digest) for digest in digests)


@pytest.mark.parametrize("extreme", [0, 2**64 - 200])
def test_hash_set_knows_extreme_values_when_it_grows(extreme: int) -> None:
    """Values at the end of the table run over to its start."""
    seen = SeenHashes()
    values = list(range(extreme + 1, extreme + 200))
    values += [n * 0x9E3779B97F4A7C15 % 2**64 for n in range(1, 8_000)]
    assert all(seen.add(value.to_bytes(8, "little")) for value in values)
    assert not any(seen.add(value.to_bytes(8, "little")) for value in values)


def test_hash_set_takes_little_memory() -> None:
    digests = [hashlib.blake2b(n.to_bytes(4, "little"), digest_size=8).digest() for n in range(60_000)]
    tracemalloc.start()
    seen = SeenHashes()
    for digest in digests:
        seen.add(digest)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size / len(digests) < 24


def test_order_and_content_are_the_same_at_every_pass(tmp_path: Path) -> None:
    for name in "cab":
        write(tmp_path / f"{name}.jsonl", "".join(json.dumps({"text": f"{name} {n}."}) + "\n" for n in range(50)))
    first, report = read(tmp_path)
    assert read(tmp_path)[0] == first
    assert first[0].text == "a 0."
    assert (report.documents, report.sections, report.text_bytes) == (150, 150, sum(len(s.text) for s in first))


def test_report_has_a_line_for_each_thing_found(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "Schöne Grüße an alle Größen über dem Süden.\n".encode("cp1252") * 2)
    write(tmp_path / "b.jsonl", '{"text": "One."}\n{"text": "One."}\nbroken\nbroken\n')
    _, report = read(tmp_path)
    assert report.lines() == [
        "2 documents in 2 sections, 17 words, 0.0 MB",
        "1 exact duplicates left out, 33.3% of 3 documents",
        "one document per file, each line a paragraph: 1 file",
        "one document per row (text field 'text'): 1 file",
        "read as cp1252: 1 file",
        "2 lines, rows or files skipped, among them",
        "  b.jsonl:3: not valid JSON (2 times)",
    ]


def test_texts_are_never_empty_and_always_stripped(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl", '{"text": "\\u3000 \\n\\t\\n x \\u00a0\\n\\n"}\n{"text": "\\u2028"}\n{"text": "y"}\n'
    )
    assert texts(path) == ["x", "y"]
