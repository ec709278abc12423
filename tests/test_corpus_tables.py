"""JSON lines, JSON, CSV, TSV and Parquet: rows, fields and what is wrong with them."""

import csv
import io
import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertsmith.corpus import open_corpus
from bertsmith.errors import UserError

from corpus_helpers import read, texts, write

ROWS = [{"id": f"row-{n}", "text": f"This is the text of row {n}. It is short.", "stars": n} for n in range(5)]
TEXTS = [row["text"] for row in ROWS]


def json_lines(rows: list[Any]) -> str:
    return "".join(f"{json.dumps(row)}\n" for row in rows)


def table(rows: list[dict[str, Any]], delimiter: str = ",", *, header: bool = True) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, rows[0], delimiter=delimiter)
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def parquet(path: Path, columns: dict[str, Any]) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_each_row_is_a_document(tmp_path: Path) -> None:
    columns = {name: [row[name] for row in ROWS] for name in ROWS[0]}
    for path in (
        write(tmp_path / "a.jsonl", json_lines(ROWS)),
        write(tmp_path / "a.json", json_lines(ROWS)),
        write(tmp_path / "b.json", json.dumps(ROWS)),
        write(tmp_path / "c.json", json.dumps(ROWS, indent=2)),
        write(tmp_path / "d.json", json.dumps({"version": "1", "data": ROWS}, indent=2)),
        write(tmp_path / "e.json", json.dumps(TEXTS)),
        write(tmp_path / "a.csv", table(ROWS)),
        write(tmp_path / "b.csv", table(ROWS, ";")),
        write(tmp_path / "c.csv", b"\xef\xbb\xbf" + table(ROWS).encode()),
        write(tmp_path / "d.csv", table(ROWS, header=False)),
        write(tmp_path / "a.tsv", table(ROWS, "\t")),
        parquet(tmp_path / "a.parquet", columns),
    ):
        sections, report = read(path)
        assert [section.text for section in sections] == TEXTS, path.name
        assert [section.document for section in sections] == [0, 1, 2, 3, 4]
        assert report.skipped == 0


def test_parquet_under_a_name_that_is_no_utf8_is_read(tmp_path: Path) -> None:
    plain = parquet(tmp_path / "a.parquet", {"text": TEXTS})
    try:
        odd = plain.rename(tmp_path / os.fsdecode(b"caf\xe9.parquet"))
    except OSError:
        pytest.skip("this file system takes no such name")
    assert texts(odd) == TEXTS


def test_compressed_parquet_is_read(tmp_path: Path) -> None:
    plain = parquet(tmp_path / "a.parquet", {"text": TEXTS})
    packed = write(tmp_path / "b.parquet.zst", pa.compress(plain.read_bytes(), codec="zstd", asbytes=True))
    assert texts(packed) == TEXTS


def test_parquet_of_many_row_groups_lists_and_categories_is_read(tmp_path: Path) -> None:
    data = pa.table(
        {"n": list(range(2_500)), "body": pa.array([f"Text {n}." for n in range(2_500)]).dictionary_encode()}
    )
    pq.write_table(data, tmp_path / "a.parquet", row_group_size=300)
    assert texts(tmp_path / "a.parquet") == [f"Text {n}." for n in range(2_500)]
    assert texts(parquet(tmp_path / "b.parquet", {"parts": [["One.", "Two."]]})) == ["One.\nTwo."]


def test_file_can_be_one_document_of_all_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", json_lines(ROWS))
    assert texts(path, document="file") == ["\n".join(TEXTS)]


def test_empty_rows_can_separate_documents(tmp_path: Path) -> None:
    rows = ["One.", "Two.", "", "Three."]
    path = write(tmp_path / "a.jsonl", json_lines([{"text": text} for text in rows]))
    assert texts(path, document="blank-line") == ["One.\nTwo.", "Three."]


def test_rows_that_are_lines_of_wikitext_are_read_as_wikitext(tmp_path: Path) -> None:
    rows = ["", " = One = \n", "", " Text of one .\n", "", " = Two = \n", "", " = = Part = = \n", " 1 @,@ 5 \n"]
    path = parquet(tmp_path / "a.parquet", {"text": rows})
    sections, report = read(path)
    assert [section.text for section in sections] == ["One\nText of one .", "Two\nPart\n1,5"]
    assert report.skipped == 0


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"id": "a-1", "Body": "Short.", "url": "http://example.org/a/long/address/of/a/page"}, "Body"),
        ({"key": "0123456789abcdef0123456789abcdef", "remarks": "It is fine.", "n": 3}, "remarks"),
        ({"title": "A title here", "full_story": "A story that is much longer than the title."}, "full_story"),
    ],
)
def test_text_field_is_found(tmp_path: Path, row: dict[str, Any], field: str) -> None:
    path = write(tmp_path / "a.jsonl", json_lines([row]))
    assert texts(path) == [row[field]]
    assert f"'{field}'" in open_corpus([str(path)]).describe()


def test_text_field_can_be_named(tmp_path: Path) -> None:
    rows = [{"text": f"Text {n}.", "summary": f"Summary {n}."} for n in range(3)]
    for path in (write(tmp_path / "a.jsonl", json_lines(rows)), write(tmp_path / "a.csv", table(rows))):
        assert texts(path, text_field="summary") == [f"Summary {n}." for n in range(3)]


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_missing_text_field_is_refused_with_the_name_that_was_meant(tmp_path: Path, suffix: str) -> None:
    write(tmp_path / "a.jsonl", json_lines(ROWS))
    write(tmp_path / "a.csv", table(ROWS))
    parquet(tmp_path / "a.parquet", {"id": ["a"], "text": ["b"]})
    with pytest.raises(UserError, match=r"has no field 'txt'; did you mean 'text'\?"):
        open_corpus([str(tmp_path / f"a.{suffix}")], text_field="txt")
    with pytest.raises(UserError, match=r"has no field 'zzz'; expected one of id, "):
        open_corpus([str(tmp_path / f"a.{suffix}")], text_field="zzz")


def test_field_without_text_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", json_lines(ROWS))
    with pytest.raises(UserError, match="has no text in field 'stars'; its fields are id, text, stars"):
        open_corpus([str(path)], text_field="stars")


def test_text_field_for_plain_text_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "Some text.")
    with pytest.raises(UserError, match="text field 'body' was named, but plain text has no fields"):
        open_corpus([str(path)], text_field="body")


def test_rows_that_cannot_be_used_are_counted_by_reason_with_a_place(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl",
        '{"text": "Good."}\n{"text": "cut off\n\n{"text": null}\n{"other": 1}\n7\n{"text": " \\n "}\n'
        '{"text": "half \\ud83d of one"}\n{"text": "more \\udc00"}\n{"text": "Good too."}\n',
    )
    sections, report = read(path)
    assert [section.text for section in sections] == ["Good.", "Good too."]
    assert report.skipped_examples == [
        "a.jsonl:2: not valid JSON",
        "a.jsonl:4: no text in field 'text'",
        "a.jsonl:7: empty text",
        "a.jsonl:8: half a character (a lone surrogate)",
    ]
    assert list(report.skipped_reasons.values()) == [1, 3, 1, 2]
    assert report.skipped == 7
    assert not any("cut off" in line for line in report.lines())


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(ROWS),
        json.dumps(ROWS, indent=2),
        json.dumps({"data": ROWS}, indent=2),
        "[" + ",\n".join(map(json.dumps, ROWS)) + "]",
    ],
)
def test_json_lines_that_are_one_json_value_are_read(content: str, tmp_path: Path) -> None:
    assert texts(write(tmp_path / "a.jsonl", content)) == TEXTS


def test_a_broken_first_line_of_json_lines_is_skipped(tmp_path: Path) -> None:
    for broken in ("[", "{", "[1,", '[{"text": "cut off'):
        sections, report = read(write(tmp_path / "a.jsonl", f"{broken}\n{json_lines(ROWS)}"))
        assert [section.text for section in sections] == TEXTS
        assert report.skipped_reasons == {"not valid JSON": 1}


def test_a_list_of_texts_may_have_nulls(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '["One.", null]\n[null]\n["Two.", "Three."]\n')
    assert texts(path) == ["One.", "Two.\nThree."]
    assert texts(parquet(tmp_path / "a.parquet", {"parts": [["One.", None, "Two."]]})) == ["One.\nTwo."]


def test_control_characters_in_json_text_become_spaces(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": "zero\\u0000one\\u0007 \\u0001"}\n{"text": "raw\ttab"}\n')
    assert texts(path) == ["zero one", "raw\ttab"]


def test_nesting_that_no_parser_can_hold_is_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": "Good."}\n' + "[" * 100_000 + "\n")
    assert read(path)[1].skipped_examples == ["a.jsonl:2: not valid JSON"]


def test_line_ends_in_a_field_are_paragraph_ends_unless_it_is_wrapped(tmp_path: Path) -> None:
    mail = (
        "Dear all of you, the meeting about the new building has been moved to\n"
        "the next week, because the room that we wanted to have for it is not\n"
        "free before. Please tell me in the next few days if that would be too\n"
        "late for you.\n\nYours, the office"
    )
    path = write(tmp_path / "a.jsonl", json_lines([{"text": "One.\r\n\r\nTwo."}, {"text": mail}]))
    assert texts(path)[0] == "One.\nTwo."
    assert texts(path)[1].split("\n")[1] == "Yours, the office"


def test_cells_may_hold_quotes_delimiters_and_line_ends(tmp_path: Path) -> None:
    rows = [{"label": "x", "text": 'He said "no",\nand left; for good.'}, {"label": "y", "text": "Plain."}]
    path = write(tmp_path / "a.csv", table(rows))
    assert texts(path) == ['He said "no",\nand left; for good.', "Plain."]


def test_a_quote_that_is_never_closed_swallows_no_row(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.csv", 'label,text\n1,"It was\ngood."\n0,"A 5 inch screen.\n1,Fine.\n0,"Not good."\n1,"End\n'
    )
    assert texts(path) == ["It was\ngood.", '"A 5 inch screen.', "Fine.", "Not good.", '"End']
    _, report = read(path)
    assert "a quote is not closed: its line is read as it stands" in report.choices


def test_quotes_may_be_escaped_by_a_backslash_where_none_is_doubled(tmp_path: Path) -> None:
    cells = [r'"He said \"hi, all\""', r'"\"Well\", she said, \"no\"."', r'"From C:\new\\"', "Plain.", '""']
    path = write(tmp_path / "a.csv", "label,text\n" + "".join(f"1,{cell}\n" for cell in cells))
    assert texts(path) == ['He said "hi, all"', '"Well", she said, "no".', "From C:\\new\\", "Plain."]
    path = write(tmp_path / "b.csv", 'label,text\n1,"In C:\\new\\"\n2,"He said ""hi"""\n3,"C:\\ and D:\\"\n')
    assert texts(path) == ["In C:\\new\\", 'He said "hi"', "C:\\ and D:\\"]


@pytest.mark.parametrize("cell", ['He said "no".', '"Well" he said.', 'So "good', '5" wide, 3" high'])
def test_stray_quotes_on_one_line_cost_no_row(cell: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", f"label,text\n1,{cell}\n0,Fine.\n")
    assert len(texts(path)) == 2
    assert texts(path)[1] == "Fine."


def test_cells_of_several_lines_may_have_a_blank_after_their_quote(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'label,text\n0,"Fine."\n1,"One line\nand another" \n0,"Done."\n')
    assert [" ".join(text.split()) for text in texts(path)] == ["Fine.", "One line and another", "Done."]


def test_many_stray_quotes_take_no_longer_each(tmp_path: Path) -> None:
    """Ten times the rows, each read again, must not take a hundred times as long, nor a stack of their own."""
    path = write(tmp_path / "a.csv", "label,text\n" + "".join(f'1,"He said "hi" to me {n}"\n' for n in range(60_000)))
    started = time.process_time()
    assert len(texts(path, document="file")) > 0
    assert time.process_time() - started < 30


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_quotes_that_pair_up_over_all_lines_are_parsed_a_bounded_number_of_times(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table without the outer quotes of its lines: each line closes the quote of the last and opens another."""
    parsed = 0
    reader = csv.reader

    def counting(lines: Iterable[str], **options: Any) -> Any:
        def counted() -> Iterator[str]:
            nonlocal parsed
            for line in lines:
                parsed += 1
                yield line

        return reader(counted(), **options)

    monkeypatch.setattr(csv, "reader", counting)
    mark = "\t" if suffix == "tsv" else ","
    rows = [f'{n}"{mark}"some text number {n}{mark * (n == 0)}' for n in range(2_000)]
    found = texts(write(tmp_path / f"a.{suffix}", f"id{mark}text\n" + "\n".join(rows)))
    assert found[1:] == [f'"some text number {n}' for n in range(1, 2_000)]
    assert parsed < 2 * 40 * 2_000  # a corpus looks at its files before it reads them


def test_a_cell_of_very_many_lines_is_one_cell(tmp_path: Path) -> None:
    long = "\n".join(f"Line {n} of it." for n in range(20_000))
    path = write(tmp_path / "a.csv", table([{"label": "x", "text": long}, {"label": "y", "text": "Plain."}]))
    assert read(path)[1].documents == 2
    path = write(tmp_path / "b.csv", f'label,text\n1,"A 5 inch screen.\n2,"{long}"\n')
    assert read(path)[1].documents == 2


def test_quotes_in_a_table_of_tabs_are_text(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", 'label\ttext\n0\tThe 5" screen is "fine.\n1\t"Quoted "" whole"\n')
    assert texts(path) == ['The 5" screen is "fine.', 'Quoted " whole']


def test_one_column_of_a_table_of_tabs_may_be_quoted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", 'text\n"Two\nlines."\nThe 5" screen.\n"Quoted "" whole"\n')
    assert texts(path) == ["Two\nlines.", 'The 5" screen.', 'Quoted " whole']


def test_text_with_unquoted_commas_in_the_last_column_is_kept_whole(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "label,text\n1,Well, it works, mostly.\n0,No.\n")
    assert texts(path) == ["Well, it works, mostly.", "No."]


@pytest.mark.parametrize("label", ["", "1,"])
def test_unquoted_commas_in_texts_of_a_table_without_names_lose_nothing(label: str, tmp_path: Path) -> None:
    """Nor is the first row made of names, short as its parts may be."""
    lines = [", ".join(f"part {n} {m}" for m in range(n % 5 + 1)) for n in range(2, 40)]
    path = write(tmp_path / "a.csv", "".join(f"{label}{line}\n" for line in lines))
    assert texts(path) == lines


def test_unquoted_commas_belong_to_the_column_of_the_text(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "id,Text,label\n1,Well, it works, mostly.,good\n2,No.,bad\n")
    assert texts(path) == ["Well, it works, mostly.", "No."]


def test_a_first_line_for_excel_names_the_delimiter(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "sep=;\nname;text\nA, B, C;Well, it works.\nD;No.\n")
    assert texts(path) == ["Well, it works.", "No."]


def test_cell_of_a_million_characters_is_read(tmp_path: Path) -> None:
    long = "word " * 200_000
    path = write(tmp_path / "a.csv", f"id,text\n1,{long}\n")
    assert sum(len(text.split()) for text in texts(path)) == 200_000


def test_column_of_a_table_without_names_is_named_by_its_number(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "0,It was good. I liked it!\n1,It was bad.\n")
    assert texts(path, text_field="2") == ["It was good. I liked it!", "It was bad."]


def test_empty_rows_at_the_top_are_rows_unless_names_of_columns_follow(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "\n,\n,\nThe first text is good.,2\n,\nAnother text is bad.,3\n")
    sections, report = read(path)
    assert [section.text for section in sections] == ["The first text is good.", "Another text is bad."]
    assert report.skipped_examples[0].startswith("a.csv:2: ")
    assert report.skipped == 3
    path = write(tmp_path / "b.csv", ",\n,\ntext,stars\nIt was good.,2\n")
    assert read(path)[1].skipped == 0


def test_a_value_that_is_the_number_of_a_column_is_no_name(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", '"2","So it was."\n"1","It was bad."\n"2","It was good."\n')
    assert texts(path, text_field="2") == ["So it was.", "It was bad.", "It was good."]


@pytest.mark.parametrize("header", ["0,1", ",0,1"])
def test_numbers_from_0_are_names_that_pandas_gave(header: str, tmp_path: Path) -> None:
    index = "7," if header.startswith(",") else ""
    path = write(tmp_path / "a.csv", f"{header}\n{index}It was good.,1\n{index}It was bad.,0\n")
    assert texts(path, text_field="0") == texts(path) == ["It was good.", "It was bad."]


def test_of_two_columns_with_one_name_the_first_keeps_it(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "text,text,text.1,stars\nfirst one,second,third,1\nanother one,more,fourth,2\n")
    assert texts(path) == ["first one", "another one"]
    assert texts(path, text_field="text.1") == ["third", "fourth"]
    assert texts(path, text_field="text.2") == ["second", "more"]


def test_short_values_are_no_names_of_columns_where_one_stands_again_below(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "good film,pos\nbad film,neg\nfine film,pos\n")
    assert texts(path) == ["good film", "bad film", "fine film"]
    path = write(tmp_path / "b.csv", "film,verdict\nA good film.,pos\n,\nA bad one.,neg\n")
    assert texts(path) == ["A good film.", "A bad one."]


def test_a_short_text_alone_on_its_line_is_no_name(tmp_path: Path) -> None:
    assert texts(write(tmp_path / "a.csv", "A good film\nA bad one.\n")) == ["A good film", "A bad one."]
    assert texts(write(tmp_path / "b.csv", "Film review\nA good film.\n")) == ["A good film."]


@pytest.mark.parametrize("indent", [None, 1])
def test_json_by_columns_is_a_table(indent: int | None, tmp_path: Path) -> None:
    """What `to_json` of pandas writes when nothing else is said, and what `to_dict` of datasets gives."""
    for table in (
        {"text": {"0": "It was good.", "7": "It was bad."}, "label": {"0": 1, "7": 0}},
        {"text": ["It was good.", "It was bad."], "label": [1, 0]},
    ):
        path = write(tmp_path / "a.json", json.dumps(table, indent=indent))
        assert texts(path) == ["It was good.", "It was bad."]


def test_unquoted_commas_and_a_line_that_was_cut_leave_the_names_of_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "id,story\n1,It rained, and it snowed.\n2,It was\nlate.\n3,Yes, so, it was.\n")
    assert texts(path)[0] == "It rained, and it snowed."


@pytest.mark.parametrize("rows", [["It was good.", "It was bad."], [{"text": "It was good."}, {"text": "It was bad."}]])
def test_json_of_rows_by_number_is_a_table(rows: list[object], tmp_path: Path) -> None:
    """What `to_json` of pandas writes of a series, and of a table with orient="index"."""
    path = write(tmp_path / "a.json", json.dumps(dict(zip(["0", "7"], rows, strict=True))))
    assert texts(path) == ["It was good.", "It was bad."]


def test_a_list_of_words_is_one_sentence_and_a_list_of_sentences_several(tmp_path: Path) -> None:
    """Words with tags are what data for tagging have."""
    words = ["No", "shortness", "of", "breath", "."]
    assert texts(write(tmp_path / "a.jsonl", json.dumps({"tokens": words, "tags": [0] * 5}))) == [" ".join(words)]
    short = ["\u4eca\u5929\u5929\u6c14\u5f88\u597d\u3002", "\u4f60\u6765\u5417\uff1f"]
    for sentences in (["It was good.", "Yes."], short, ["人人生而自由在尊严和权利上一律平等", "他们赋有理性和良心"]):
        assert texts(write(tmp_path / "b.jsonl", json.dumps({"sentences": sentences}))) == ["\n".join(sentences)]


def test_fields_that_hold_objects_are_named(tmp_path: Path) -> None:
    row = {"subject": "It was good.", "messages": [{"body": "It was bad."}]}
    assert read(write(tmp_path / "a.jsonl", json.dumps(row)))[1].choices == {
        "one document per row (text field 'subject', 'messages' left out as objects)": 1
    }
    path = write(tmp_path / "b.jsonl", json.dumps({"messages": [{"body": "It was bad."}]}))
    with pytest.raises(UserError, match="its fields are messages; make one string of each text"):
        texts(path)


def test_several_columns_may_have_no_name(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "v1,v2,,\nham,It was good.,,\nspam,It was bad.,x,\n")
    assert texts(path, text_field="v2") == texts(path) == ["It was good.", "It was bad."]


def test_json_in_an_old_encoding_is_read(tmp_path: Path) -> None:
    rows = "".join(f'{{"text": "Größe und Stärke der Übung {n}"}}\n' for n in range(9))
    path = write(tmp_path / "a.jsonl", rows.encode("cp1252"))
    assert texts(path)[0] == "Größe und Stärke der Übung 0"


@pytest.mark.parametrize("content", ["[1, 2, 3]", "{}", "[]", "nonsense", '{"a": 1}', "[[[]]]", "null"])
def test_json_without_text_is_refused(tmp_path: Path, content: str) -> None:
    path = write(tmp_path / "a.json", content)
    with pytest.raises(UserError) as error:
        open_corpus([str(path)])
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_one_json_value_too_large_to_hold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bertsmith.corpus.tables._MAX_WHOLE_CHARACTERS", 100)
    path = write(tmp_path / "a.json", json.dumps(ROWS, indent=2))
    with pytest.raises(UserError, match="convert it to JSON lines"):
        open_corpus([str(path)])
    assert texts(write(tmp_path / "b.json", json_lines(ROWS))) == TEXTS  # lines have no such limit


def test_text_among_other_values_of_an_array_is_read(tmp_path: Path) -> None:
    sections, report = read(write(tmp_path / "a.json", '[null, 1, "Some text.", {}, ["More", "of it."]]'))
    assert [section.text for section in sections] == ["Some text.", "More\nof it."]
    assert report.skipped == 3


def test_a_field_is_found_though_its_first_rows_are_empty(tmp_path: Path) -> None:
    late = [{"id": f"row-{n}", "text": None} for n in range(300)] + ROWS
    assert texts(write(tmp_path / "a.jsonl", json_lines(late))) == TEXTS
    columns = {name: [row[name] for row in late] for name in ("id", "text")}
    assert texts(parquet(tmp_path / "a.parquet", columns)) == TEXTS


def test_a_file_of_json_lines_may_begin_with_broken_ones(tmp_path: Path) -> None:
    sections, report = read(write(tmp_path / "a.json", '{"text": \nnot JSON\n' + json_lines(ROWS)))
    assert [section.text for section in sections] == TEXTS
    assert report.skipped_reasons == {"not valid JSON": 2}


def test_texts_that_parquet_holds_as_bytes_are_read(tmp_path: Path) -> None:
    columns = {"text": [*(text.encode() for text in TEXTS), b"\xff\xfe\x00"], "n": list(range(6))}
    sections, report = read(parquet(tmp_path / "a.parquet", columns))
    assert [section.text for section in sections] == TEXTS
    assert report.skipped == 1
