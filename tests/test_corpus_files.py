"""Finding files and undoing compression."""

import bz2
import gzip
import lzma
import os
import re
from pathlib import Path

import pyarrow as pa
import pytest

from bertsmith.corpus import open_corpus
from bertsmith.corpus.files import find_files, read_blocks
from bertsmith.errors import UserError

from corpus_helpers import read, texts, write

LINES = "".join(f"This is the sentence with the number {n} of a longer text.\n" for n in range(3_000))


def zstd(data: bytes) -> bytes:
    return pa.compress(data, codec="zstd", asbytes=True)


COMPRESS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstd}


@pytest.mark.parametrize("suffix", COMPRESS)
def test_compressed_text_is_read_like_plain_text(tmp_path: Path, suffix: str) -> None:
    plain = write(tmp_path / "a.txt", LINES)
    packed = write(tmp_path / f"b.txt{suffix}", COMPRESS[suffix](LINES.encode()))
    assert texts(packed) == texts(plain)


@pytest.mark.parametrize("suffix", COMPRESS)
def test_compressed_files_one_after_the_other_in_one_file_are_all_read(tmp_path: Path, suffix: str) -> None:
    parts = [b"The first part.\n", b"The second part.\n", b"The third part.\n"]
    packed = write(tmp_path / f"a.txt{suffix}", b"".join(map(COMPRESS[suffix], parts)))
    assert texts(packed) == ["The first part.\nThe second part.\nThe third part."]


@pytest.mark.parametrize("suffix", COMPRESS)
def test_text_before_the_damage_of_a_cut_off_file_is_used_and_the_damage_counted(tmp_path: Path, suffix: str) -> None:
    noise = "".join(f"{n * n * 7919 % 1_000_003} is a number that is hard to guess.\n" for n in range(20_000))
    data = COMPRESS[suffix]((LINES + noise).encode())
    packed = write(tmp_path / f"a.txt{suffix}", data[: len(data) * 9 // 10])
    sections, report = read(packed)
    assert sections[0].text.startswith("This is the sentence with the number 0 of a longer text.\n")
    assert report.skipped == 1
    why = "is damaged or cut off; only the text before the damage was used"
    assert report.skipped_examples == [f"a.txt{suffix}: {why}"]


@pytest.mark.parametrize("suffix", COMPRESS)
def test_damaged_file_without_any_text_is_refused(tmp_path: Path, suffix: str) -> None:
    packed = write(tmp_path / f"a.txt{suffix}", b"not compressed at all")
    with pytest.raises(UserError, match="is damaged or cut off before any text; get the file again"):
        open_corpus([str(packed)])


def test_file_cut_off_inside_its_first_block_is_said_to_have_given_nothing(tmp_path: Path) -> None:
    packed = write(tmp_path / "a.txt.bz2", COMPRESS[".bz2"](LINES.encode())[:-20])
    with pytest.raises(UserError, match="is damaged or cut off before any text"):
        open_corpus([str(packed)])
    (tmp_path / "b.txt.gz").symlink_to("nowhere")
    write(tmp_path / "c.txt", "Some text.")
    _, report = read(tmp_path)
    assert report.skipped_examples[1].startswith("b.txt.gz: cannot be read: ")


def test_damaged_compressed_parquet_file_is_refused(tmp_path: Path) -> None:
    packed = write(tmp_path / "a.parquet.bz2", COMPRESS[".bz2"](LINES.encode())[:-20])
    with pytest.raises(UserError, match="is damaged or cut off; get the file again"):
        open_corpus([str(packed)])


def test_every_byte_before_the_damage_is_used(tmp_path: Path) -> None:
    """A failed read of a whole block must not lose the part of it that was intact."""
    whole = gzip.compress(LINES.encode(), compresslevel=0)  # stored, so that each byte comes out as it is read
    cut = write(tmp_path / "a.txt.gz", whole[: len(whole) // 2])
    text = "\n".join(texts(cut))
    assert len(text) > 0.95 * len(LINES) / 2
    assert LINES.startswith(text)


def test_folder_is_read_in_the_order_of_names_without_hidden_files(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", ".hidden.txt", ".git/config", "sub/c.txt", "sub/.DS_Store"):
        write(tmp_path / name, f"Text of {name}.")
    corpus = open_corpus([str(tmp_path)])
    assert [file.name for file in corpus.files] == ["a.txt", "b.txt", "sub/c.txt"]
    assert [section.text for section in corpus.sections()] == ["Text of a.txt.", "Text of b.txt.", "Text of sub/c.txt."]


def test_file_facts_change_with_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "Some text.")
    before = open_corpus([str(path)]).files
    os.utime(path, ns=(1, 2_000))
    assert before[0].size == 10
    assert open_corpus([str(path)]).files[0] == before[0]._replace(mtime_ns=2_000)


def test_link_to_a_folder_above_does_not_hang(tmp_path: Path) -> None:
    write(tmp_path / "sub" / "a.txt", "Some text.")
    (tmp_path / "sub" / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert texts(tmp_path) == ["Some text."]


def test_link_to_nowhere_is_counted(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "Some text.")
    (tmp_path / "b.txt").symlink_to(tmp_path / "gone.txt")
    sections, report = read(tmp_path)
    assert len(sections) == 1
    assert report.skipped_examples == ["b.txt: cannot be read: No such file or directory"]


def test_pipe_in_a_folder_is_not_waited_for(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "Some text.")
    os.mkfifo(tmp_path / "b.txt")
    assert texts(tmp_path) == ["Some text."]


def test_binary_file_in_a_folder_is_counted_and_text_of_any_suffix_is_read(tmp_path: Path) -> None:
    write(tmp_path / "a.bin", bytes(range(256)) * 10)
    write(tmp_path / "b.pdf", b"%PDF-1.7 and so on")
    write(tmp_path / "c.strange", "Some text.")
    sections, report = read(tmp_path)
    assert [section.text for section in sections] == ["Some text."]
    assert report.skipped_examples == [
        "a.bin: is binary data, not text; if it is text, save it as UTF-8 or name its --encoding",
        "b.pdf: is a PDF, not text",
    ]


def test_file_named_twice_is_read_once(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "Some text.")
    assert len(open_corpus([str(path), str(tmp_path), str(path)]).files) == 1


def test_several_sources_are_read_in_the_order_given(tmp_path: Path) -> None:
    second, first = write(tmp_path / "a.txt", "Second."), write(tmp_path / "b.txt", "First.")
    assert texts(first, second) == ["First.", "Second."]


@pytest.mark.parametrize("start", ["PAR1 is a receptor", "BZhang saw"])
def test_a_text_may_begin_with_the_letters_of_a_format(start: str, tmp_path: Path) -> None:
    assert texts(write(tmp_path / "a.txt", f"{start} that thrombin cleaves.")) == [f"{start} that thrombin cleaves."]


def test_a_text_field_that_no_table_of_a_folder_has_is_refused(tmp_path: Path) -> None:
    """Else a misspelt name would leave the text files alone."""
    write(tmp_path / "a.txt", "Some text.")
    write(tmp_path / "b.csv", "id,note\n1,It was good.\n")
    message = "text field 'notes' is in no table; b.csv, for one, has no field 'notes'; did you mean 'note'"
    with pytest.raises(UserError, match=re.escape(message)):
        open_corpus([str(tmp_path)], text_field="notes")
    assert texts(tmp_path, text_field="note") == ["Some text.", "It was good."]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", r"a\.txt is empty; name a file with text"),
        ("a.txt", b" \n\n \t\n", r"a\.txt has no text in it"),
        ("a.txt", b"\x00\x01\x02" * 50, r"a\.txt is binary data, not text"),
        ("a.txt", b"\x1f\x8b\x08", r"is compressed, but its name does not end in \.gz; rename it$"),
        ("a.bin", b"PAR1\x15\x04\x15", r"is a Parquet file, but its name does not end in \.parquet; rename it$"),
        ("a.arrow", b"ARROW1\x00\x00\xff\xff\xff\xff", "is an Arrow file; convert it to Parquet$"),
        ("data-00000.arrow", b"\xff\xff\xff\xff\xe8\x00", "is an Arrow file; convert it to Parquet$"),
        ("a.docx", b"PK\x03\x04...", "is a ZIP archive or an Office document, not text"),
        ("a.parquet", b"PAR1 nothing", "is not a Parquet file, or damaged"),
    ],
)
def test_named_file_without_text_is_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(UserError, match=message) as error:
        open_corpus([str(path)])
    assert "\n" not in str(error.value)


def test_missing_path_is_refused_with_the_name_that_was_meant(tmp_path: Path) -> None:
    write(tmp_path / "reviews.jsonl", "{}")
    with pytest.raises(UserError, match=r"reviws\.jsonl does not exist; did you mean 'reviews\.jsonl'\?"):
        open_corpus([str(tmp_path / "reviws.jsonl")])


def test_empty_folder_is_refused(tmp_path: Path) -> None:
    write(tmp_path / ".hidden", "Some text.")
    with pytest.raises(UserError, match="has no file in it"):
        open_corpus([str(tmp_path)])


@pytest.mark.parametrize(
    "files", [("config.json", "model.safetensors"), ("config.toml", ".lock"), ("data/manifest.json",)]
)
def test_a_folder_of_ours_that_is_named_is_called_so(files: tuple[str, ...], tmp_path: Path) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(UserError, match="is a run, a model or prepared text, which is no text here; name the text"):
        open_corpus([str(tmp_path)])


def test_folder_without_readable_file_is_refused_naming_one(tmp_path: Path) -> None:
    write(tmp_path / "a.bin", b"\x00" * 100)
    write(tmp_path / "b.txt", b"")
    with pytest.raises(UserError, match=r"none of 2 files in .* can be read as text; a\.bin, for one, is binary data"):
        open_corpus([str(tmp_path)])


def test_file_name_that_is_no_unicode_is_shown(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/caf\xe9.txt"
    with open(path, "wb") as handle:
        handle.write(b"Some text.")
    assert [file.name for file in open_corpus([str(tmp_path)]).files] == ["caf\ufffd.txt"]
    assert texts(tmp_path) == ["Some text."]


def test_a_name_that_is_no_utf_8_is_read_in_every_compression(tmp_path: Path) -> None:
    for suffix, compress in COMPRESS.items():
        path = tmp_path / (os.fsdecode(b"\xff") + ".txt" + suffix)
        path.write_bytes(compress(b"Some text.\n"))
        (found,) = find_files(str(path))
        assert b"".join(read_blocks(found)) == b"Some text.\n"
