"""Encodings, broken bytes, control characters and very long lines."""

import re
from pathlib import Path

import pytest

from bertsmith.corpus import open_corpus
from bertsmith.corpus.encoding import detect_encoding, read_lines
from bertsmith.corpus.report import CorpusReport
from bertsmith.errors import UserError

from corpus_helpers import read, texts, write

GERMAN = (
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.\n"
    "Falsches Üben von Xylophonmusik quält jeden größeren Zwerg.\n"
) * 5
RUSSIAN = "Съешь же ещё этих мягких французских булок, да выпей чаю.\nЧеловек рождается свободным и равным.\n" * 5
JAPANESE = "すべての人間は、生まれながらにして自由である。\n尊厳と権利とについて平等である。\n" * 5
GREEK = "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία.\nΌλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι.\n" * 5


def lines(blocks: list[bytes], encoding: str = "utf-8", **options: int) -> tuple[list[tuple[int, str]], CorpusReport]:
    report = CorpusReport()
    return list(read_lines(blocks, encoding, "a.txt", report, **options)), report


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (GERMAN, "utf-8"),
        (GERMAN, "utf-8-sig"),
        (GERMAN, "utf-16"),
        (GERMAN, "utf-32"),
        (GERMAN, "cp1252"),
        (RUSSIAN, "cp1251"),
        (RUSSIAN, "koi8_r"),
        (JAPANESE, "shift_jis"),
        (JAPANESE, "euc_jp"),
        (GREEK, "cp1253"),
    ],
)
def test_encoding_is_found(tmp_path: Path, text: str, encoding: str) -> None:
    path = write(tmp_path / "a.txt", text.encode(encoding))
    assert "\n".join(texts(path)) == text.strip()


def test_encoding_other_than_utf8_is_reported(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", GERMAN.encode("cp1252"))
    write(tmp_path / "b.txt", RUSSIAN.encode("utf-8"))
    assert read(tmp_path)[1].encodings == {"cp1252": 1}


@pytest.mark.parametrize(
    "data", [b"caf\xe9", b"It\x92s \x93quoted\x94 here.\n", b"na\xefve r\xe9sum\xe9 \xe0 la carte"]
)
def test_a_few_odd_bytes_are_taken_for_windows_1252(data: bytes) -> None:
    assert detect_encoding(data) == "cp1252"


def test_mostly_valid_utf8_stays_utf8_and_its_broken_line_is_skipped_with_its_place(tmp_path: Path) -> None:
    good = "Schöne Grüße aus Köln.\n".encode()
    path = write(tmp_path / "a.txt", good * 3 + b"Broken \xff\xfe bytes.\n" + good)
    sections, report = read(path)
    assert sections[0].text == "\n".join(["Schöne Grüße aus Köln."] * 4)
    assert report.skipped_examples == ["a.txt:4: bytes that are not valid utf-8"]
    assert report.encodings == {}


def test_from_a_long_line_only_the_broken_bytes_are_dropped() -> None:
    found, report = lines([b"word " * 2_000 + b"\xff" + b"word " * 2_000])
    assert found == [(1, "word " * 4_000)]
    assert report.skipped == 1


def test_surrogates_written_as_utf8_are_broken_bytes() -> None:
    found, report = lines([b"good\n\xed\xa0\x80 bad\ngood"])
    assert found == [(1, "good"), (3, "good")]
    assert report.skipped == 1


def test_broken_utf16_skips_its_line_alone() -> None:
    data = "one\ntwo\nthree".encode("utf-16")
    broken = data.replace("w".encode("utf-16-le"), b"\x00\xd8")
    found, report = lines([broken], "utf-16")
    assert found == [(1, "one"), (3, "three")]
    assert report.skipped_examples == ["a.txt:2: bytes that are not valid utf-8"]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1_000])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "shift_jis"])
def test_lines_do_not_depend_on_the_size_of_blocks(size: int, encoding: str) -> None:
    data = "\ufeff" * (encoding == "utf-8") + "eins\r\nzwei\r\n\r\n日本語\nvier"
    blocks = data.encode(encoding)
    found, _ = lines([blocks[at : at + size] for at in range(0, len(blocks), size)], encoding)
    assert [text for _, text in found][:2] + [text for _, text in found][-2:] == ["eins", "zwei", "日本語", "vier"]


def test_old_macintosh_line_ends_are_line_ends(tmp_path: Path) -> None:
    assert texts(write(tmp_path / "a.txt", b"One.\rTwo.\rThree.")) == ["One.\nTwo.\nThree."]


def test_control_characters_become_spaces(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", b"zero\x00one\x01two\x7fthree\n" + b"Enough text around it.\n" * 30)
    assert texts(path)[0].startswith("zero one two three\n")


def test_very_long_line_comes_in_pieces_cut_at_sentence_ends() -> None:
    line = b"This is a sentence. " * 1_000
    found, _ = lines([line[:7_000], line[7_000:]], max_line_bytes=1_000)
    assert "".join(text for _, text in found) == line.decode()
    assert {number for number, _ in found} == {1}
    assert all(text.endswith(". ") for _, text in found)
    assert all(len(text) <= 1_000 for _, text in found)


def test_very_long_line_without_spaces_is_not_cut_inside_a_character() -> None:
    line = "日本語" * 5_000
    found, report = lines([line.encode()], max_line_bytes=1_000)
    assert "".join(text for _, text in found) == line
    assert report.skipped == 0


def test_named_encoding_is_used(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "Žluťoučký kůň".encode("cp1250"))
    assert texts(path, encoding="windows-1250") == ["Žluťoučký kůň"]


@pytest.mark.parametrize(
    ("name", "hint"),
    [("utf8x", r"did you mean 'utf8"), ("zzzzzz", "use a name such as utf-8"), ("rot13", "is not known")],
)
def test_unknown_encoding_is_refused(tmp_path: Path, name: str, hint: str) -> None:
    path = write(tmp_path / "a.txt", "Some text.")
    with pytest.raises(UserError, match=hint):
        open_corpus([str(path)], encoding=name)


@pytest.mark.parametrize("name", ["base64", "hex", "rot13", "zip", "idna"])
def test_no_codec_that_is_none_of_texts_is_suggested(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError) as error:
        open_corpus([str(write(tmp_path / "a.txt", "Some text."))], encoding=name)
    for close in re.findall("did you mean '(.*)'", str(error.value)):
        assert "".encode(close) == b""


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_a_file_without_the_mark_that_its_encoding_needs_is_refused(tmp_path: Path, encoding: str) -> None:
    path = write(tmp_path / "a.txt", GERMAN.encode(f"{encoding}-le"))
    with pytest.raises(UserError, match=rf"a\.txt has no byte-order mark, .*; name {encoding}-le or {encoding}-be"):
        open_corpus([str(path)], encoding=encoding)
    write(tmp_path / "b.txt", GERMAN.encode(encoding))
    assert read(tmp_path, encoding=encoding)[1].skipped == 1
    assert "\n".join(texts(path, encoding=f"{encoding}-le")) == GERMAN.strip()


def test_an_encoding_is_found_where_the_first_odd_byte_comes_late(tmp_path: Path) -> None:
    plain = "Nothing but plain letters stands in this line.\n"
    path = write(tmp_path / "a.txt", (plain * 40_000 + GERMAN).encode("cp1252"))
    sections, report = read(path)
    assert sections[-1].text.endswith("jeden größeren Zwerg.")
    assert report.skipped == 0
    assert report.encodings == {"cp1252": 1}


def test_of_a_file_joined_from_two_both_encodings_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", RUSSIAN.encode("cp1251") + RUSSIAN.encode() + RUSSIAN.encode("cp1251"))
    assert "\n".join(texts(path)) == (RUSSIAN * 3).strip()


def test_one_odd_byte_does_not_spoil_the_utf8_that_follows(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", b"It\x92s odd here.\n" + b"Plain.\n" * 200_000 + GERMAN.encode())
    text = "\n".join(texts(path))
    assert text.startswith("It’s odd here.")
    assert text.endswith("jeden größeren Zwerg.")
