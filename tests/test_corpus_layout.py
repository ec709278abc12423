"""Plain text: which layout it has, and its paragraphs and documents."""

import random
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bertsmith.corpus import open_corpus

from corpus_helpers import read, texts, write
from prose import sentence

WRAPPED = """It was a bright cold day in the month of April, and all of the clocks
were striking thirteen when the man hurried home along the street as
fast as he could go, with his chin held down against the bitter wind.
The hallway smelt of boiled cabbage and of old rag mats.

At one end of it a coloured poster, too large for indoor display, had
been tacked to the wall; it showed simply an enormous face, well-
known to everybody, more than a metre wide and with a black moustache.
"""

WIKITEXT = """
 = First title =

 The lobster weighs 0 @.@ 7 kg , or 1 @,@ 500 <unk> grains , in the north @-@ east .

 = = A heading = =

 More about it .

 = Second title =

 = = = Deep heading = = =
 Text of the second .
"""

SENTENCES = """The first sentence of one.
The second sentence of it.
A third one follows here.
And the fourth is the last.

Another document starts.
It has a few sentences too.
They are short as well.
This is the end.
"""


def document_texts(path: Path, **options: Any) -> list[str]:
    sections, _ = read(path, **options)
    return [
        "\n".join(section.text for section in sections if section.document == document)
        for document in range(sections[-1].document + 1)
    ]


def test_wrapped_lines_are_joined_into_paragraphs(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", WRAPPED)
    paragraphs = texts(path)[0].split("\n")
    assert len(paragraphs) == 2
    assert paragraphs[0].startswith(
        "It was a bright cold day in the month of April, and all of the clocks were striking"
    )
    assert "an enormous face, well-known to everybody" in paragraphs[1]
    assert open_corpus([str(path)]).describe() == "one document per file, wrapped lines joined: a.txt"


def test_wrapped_text_with_windows_line_ends_and_mark_reads_the_same(tmp_path: Path) -> None:
    unix = write(tmp_path / "a.txt", WRAPPED)
    windows = write(tmp_path / "b.txt", b"\xef\xbb\xbf" + WRAPPED.replace("\n", "\r\n").encode())
    assert texts(unix) == texts(windows)


def test_wrapped_text_without_blank_lines_is_cut_where_the_next_word_had_room(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", WRAPPED.replace("\n\n", "\n"))
    paragraphs = texts(path)[0].split("\n")
    assert len(paragraphs) == 2
    assert paragraphs[1].startswith("At one end of it")


def test_headings_and_verse_in_wrapped_text_keep_their_lines(tmp_path: Path) -> None:
    verse = "CHAPTER ONE\nThe rose is red,\nthe violet's blue,\n"
    path = write(tmp_path / "a.txt", WRAPPED.replace("\n\n", f"\n{verse}"))
    assert texts(path)[0].split("\n")[1:4] == ["CHAPTER ONE", "The rose is red,", "the violet's blue,"]


@pytest.mark.parametrize(
    "line",
    [
        lambda n: f"Nov {n % 30 + 1:2} 05:34:{n % 60} host-6 sshd[{n}]: publickey for deploy from 10.0.0.{n}",
        lambda n: f"2024-03-{n % 30 + 1:02} 05:34:{n % 60} session opened for user number {n} by (uid={n * n})",
        lambda n: f"{n}. Alexandria Featherstonehaugh-Montgomery, Department of Agriculture",
        lambda n: f"https://example.org/some/path/{n * n:020}/{'x' * (n % 20 + 5)}.html",
        lambda n: f"{7919 ** (n + 19)}"[:76],
    ],
)
def test_records_one_a_line_are_not_joined(line: Callable[[int], str], tmp_path: Path) -> None:
    lines = [line(n) for n in range(99)]
    assert texts(write(tmp_path / "a.txt", "\n".join(lines)))[0].split("\n") == lines


def test_wrapped_verses_that_begin_with_a_number_are_joined(tmp_path: Path) -> None:
    verses = [
        f"1:{n} And it came to pass on day {n} that the man went forth, out of the\n"
        f"city, and {'saw' if n % 2 else 'heard'} what his brothers had done there, and it was good."
        for n in range(40)
    ]
    found = texts(write(tmp_path / "a.txt", "\n\n".join(verses)))[0].split("\n")
    assert found == [verse.replace("\n", " ") for verse in verses]


def test_numbered_verses_without_blank_lines_are_joined_where_they_are_wrapped(tmp_path: Path) -> None:
    """Two lines in three begin with a number; a log has one at nearly all."""
    draw, lines = random.Random(0), list[str]()
    for n in range(300):
        lines += textwrap.wrap(f"1:{n} " + " ".join(sentence(draw) for _ in range(draw.randint(1, 3))), 90)
    assert sum(line.startswith("1:") for line in lines) / len(lines) == pytest.approx(0.65, abs=0.05)
    assert len(texts(write(tmp_path / "a.txt", "\n".join(lines)))[0].split("\n")) < 0.75 * len(lines)


@pytest.mark.parametrize("mark", ["{}.", "{}.{}.", "({})", "{})", "-", "*"])
def test_lines_set_in_below_an_item_of_a_list_go_on_with_it(mark: str, tmp_path: Path) -> None:
    """The parties of a contract may end a line anywhere, and a clause needs no full stop."""
    draw = random.Random(0)
    items = [
        f"{mark.format(n, n)} " + " ".join(sentence(draw) for _ in range(4)).removesuffix(".") for n in range(1, 40)
    ]
    lines = [line for item in items for line in textwrap.wrap(item, 66, subsequent_indent="     ")]
    assert texts(write(tmp_path / "a.txt", "\n".join(lines)))[0].split("\n") == items


def test_a_paragraph_that_is_set_in_may_number_its_parts(tmp_path: Path) -> None:
    paragraph = [
        "  Developers that use this licence protect your rights in two ways, by",
        "(1) asserting copyright on the software, and (2) offering this licence,",
        "which gives you legal permission to copy and distribute it.",
    ]
    found = texts(write(tmp_path / "a.txt", "\n".join([WRAPPED, *paragraph])))[0].split("\n")
    assert found[-1] == " ".join(paragraph).strip()


def test_a_soft_hyphen_at_the_end_of_a_line_joins_the_word(tmp_path: Path) -> None:
    line = "The licensor shall indemnify the licensee against all of the INDEM\u00ad\n"
    path = write(
        tmp_path / "a.txt", (line + "NIFIED losses and costs and claims that arise from this con\u00ad\ntract.\n\n") * 9
    )
    words = set(" ".join(texts(path)).split())
    assert {"INDEM\u00adNIFIED", "con\u00adtract."} <= words


@pytest.mark.parametrize("ending", ["。）", "｡", "。」"])
def test_a_line_that_ends_a_sentence_and_a_bracket_is_not_joined(ending: str, tmp_path: Path) -> None:
    lines = [f"（{'鉴于对人类家庭所有成员的固有尊严及其平等的权利' * 2}{n}{ending}" for n in range(30)]
    assert texts(write(tmp_path / "a.txt", "\n".join(lines)))[0].split("\n") == lines


@pytest.mark.parametrize(
    ("text", "width"),
    [
        ("鉴于对人类家庭所有成员的固有尊严及其平等的和不移的权利的承认，乃是世界自由、正义与和平的基础" * 9, 40),
        ("すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である" * 9, 42),
        ("มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ" * 9, 60),
    ],
)
def test_wrapped_lines_of_scripts_without_spaces_are_joined_without_one(text: str, width: int, tmp_path: Path) -> None:
    lines = [text[start : start + width] for start in range(0, len(text), width)]
    assert texts(write(tmp_path / "a.txt", "\n".join(lines))) == [text]


def test_chinese_sentences_one_a_line_stay_apart(tmp_path: Path) -> None:
    sentence = "鉴于对人类家庭所有成员的固有尊严及其平等的和不移的权利的承认乃是世界自由正义与和平的基础"
    lines = [f"{sentence[n % 12 :]}{n}。" for n in range(60)]
    assert texts(write(tmp_path / "a.txt", "\n".join(lines)))[0].split("\n") == lines
    blocks = "\n\n".join("\n".join(lines[start : start + 6]) for start in range(0, 60, 6))
    assert len(document_texts(write(tmp_path / "b.txt", blocks))) == 10
    paragraphs = blocks.replace("\n", f"{lines[0]}\n")  # several sentences a line are no lines of a sentence each
    assert len(document_texts(write(tmp_path / "c.txt", paragraphs))) == 1


def test_notes_one_a_line_stay_apart(tmp_path: Path) -> None:
    notes = [f"Patient number {n} came in with a cough{' and a fever' * (n % 4)}." for n in range(40)]
    path = write(tmp_path / "a.txt", "\n".join(notes))
    assert texts(path)[0].split("\n") == notes


def test_long_lines_are_paragraphs_with_and_without_blank_lines(tmp_path: Path) -> None:
    lines = [
        f"Paragraph {n} goes on for a while. It has a second sentence. {'And more words. ' * 9}".strip() for n in "abcd"
    ]
    assert texts(write(tmp_path / "a.txt", "\n\n".join(lines))) == ["\n".join(lines)]
    assert texts(write(tmp_path / "b.txt", "\n".join(lines))) == ["\n".join(lines)]


def test_wikitext_titles_start_documents_and_its_marks_are_undone(tmp_path: Path) -> None:
    path = write(tmp_path / "wiki.txt", WIKITEXT)
    assert document_texts(path) == [
        "First title\nThe lobster weighs 0.7 kg , or 1,500 <unk> grains , in the north-east .\n"
        "A heading\nMore about it .",
        "Second title\nDeep heading\nText of the second .",
    ]
    assert "WikiText" in open_corpus([str(path)]).describe()


def test_line_of_equals_signs_in_other_text_is_no_title(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", f"Some text.\n= x =\n{'=' * 20}\nMore text.")
    assert "WikiText" not in open_corpus([str(path)]).describe()


def test_hostile_heading_takes_no_time(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", f"{WIKITEXT}\n = a{' =' * 200_000} b\n")
    assert len(document_texts(path)) == 2


def test_sentence_per_line_text_has_documents_between_blank_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", SENTENCES)
    found = document_texts(path)
    assert [len(text.split("\n")) for text in found] == [4, 4]
    assert "one sentence per line" in open_corpus([str(path)]).describe()


@pytest.mark.parametrize(("document", "count"), [("auto", 2), ("file", 1), ("blank-line", 2), ("line", 8)])
def test_what_a_document_is_can_be_named(tmp_path: Path, document: str, count: int) -> None:
    path = write(tmp_path / "a.txt", SENTENCES)
    assert len(document_texts(path, document=document)) == count


@pytest.mark.parametrize("width", [24, 38])
def test_chinese_is_wrapped_to_fewer_characters_than_latin(width: int, tmp_path: Path) -> None:
    generator = random.Random(0)
    paragraphs = ["".join(map(chr, generator.choices(range(0x4E00, 0x9FFF), k=150))) for _ in range(20)]
    lines = [[text[start : start + width] for start in range(0, len(text), width)] for text in paragraphs]
    path = write(tmp_path / "a.txt", "\n\n".join(map("\n".join, lines)))
    assert "\n".join(texts(path)).split("\n") == paragraphs
    titles = [text[: generator.randint(8, width)] for text in paragraphs * 5]
    assert "\n".join(texts(write(tmp_path / "titles.txt", "\n".join(titles)))).split("\n") == titles


def test_notes_whose_names_were_replaced_after_wrapping_are_still_joined(tmp_path: Path) -> None:
    generator = random.Random(0)
    paragraphs = [" ".join(sentence(generator) for _ in range(8)) for _ in range(20)]
    lines = [textwrap.wrap(text, 76) for text in paragraphs]
    noted = [[_replaced(line, generator) for line in part] for part in lines]
    path = write(tmp_path / "a.txt", "\n\n".join(map("\n".join, noted)))
    assert "\n".join(texts(path)).split("\n") == [" ".join(part) for part in noted]


def _replaced(line: str, generator: random.Random) -> str:
    """A line of a clinical note, in three of ten with what stands for a name in place of a word."""
    words = line.split(" ")
    if generator.random() < 0.3:
        words[generator.randrange(len(words))] = "[**Known lastname 1234**]"
    return " ".join(words)


@pytest.mark.parametrize(("document", "count"), [("auto", 1), ("file", 1), ("blank-line", 2), ("line", 7)])
def test_what_a_document_is_can_be_named_for_wrapped_text(tmp_path: Path, document: str, count: int) -> None:
    path = write(tmp_path / "a.txt", WRAPPED)
    assert len(document_texts(path, document=document)) == count


def test_each_file_has_its_own_layout(tmp_path: Path) -> None:
    for name, text in (("a.txt", WRAPPED), ("b.txt", WIKITEXT), ("c.txt", SENTENCES)):
        write(tmp_path / name, text)
    sections, report = read(tmp_path)
    assert [section.document for section in sections] == [0, 1, 2, 3, 4]
    assert len(report.choices) == 3


def test_layout_is_decided_by_the_first_part_alone(tmp_path: Path) -> None:
    """Text that is added at the end of a long file must not change how its beginning is read."""
    before = texts(write(tmp_path / "a.txt", WRAPPED * 1_000))
    after = texts(write(tmp_path / "b.txt", WRAPPED * 1_000 + "x" * 5_000))
    assert after[: len(before) - 1] == before[:-1]
