"""Labelled files as people have them: bytes in Parquet, half emojis, empty cells, other names of columns."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertsmith.errors import UserError
from bertsmith.finetuning.config import FinetuneConfig
from bertsmith.finetuning.tasks.examples import LabelledFile, read_labelled
from bertsmith.finetuning.tasks.scores import score_all
from labelled import TINY, tiny_encoder, topic_rows, tune, write_rows

HALF = "\ud83d"
"""Half an emoji, as JSON holds it when a text was cut."""


def read(path: Path, content: str | bytes, **given: Any) -> LabelledFile:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_labelled(str(path), FinetuneConfig(**given), None, None)


def test_columns_of_words_may_be_called_a_table(tmp_path: Path) -> None:
    found = read(tmp_path / "train.tsv", "The\tO\ndog\tB-x\n\n\nA\tO\ncat\tB-x\nsat\tO\n\n")
    assert [each.text for each in found.examples] == [("The", "dog"), ("A", "cat", "sat")]
    assert found.examples[1].label == ("O", "B-x", "O")
    table = read(tmp_path / "rows.tsv", "text\tlabel\nThe dog\ta\nA cat\tb\n\n")
    assert [each.label for each in table.examples] == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "comment"),
    [
        ("t.conllu", "# text = The dog"),  # by chance as many words as columns
        ("t.tsv", "#\thttp://example.org\t[2009]"),
        ("t.txt", "# id 12\tdomain=en"),
    ],
)
def test_comments_before_sentences_are_no_words(name: str, comment: str, tmp_path: Path) -> None:
    words = ["1\tThe\tthe\tDET\tO", "2\tdog\tdog\tNOUN\tB-x"]
    words = words if name != "t.txt" else ["The _ _ O", "dog _ _ B-x"]
    content = f"{comment}\n{comment}\n" + "\n".join(words) + f"\n\n{comment}\n{words[1]}\n"
    found = read(tmp_path / name, content, text="1" if name == "t.txt" else "2")
    assert [(each.number, each.text) for each in found.examples] == [(3, ("The", "dog")), (7, ("dog",))]
    assert found.examples[0].label == ("O", "B-x")


def test_the_words_of_conllu_are_in_its_second_column(tmp_path: Path) -> None:
    """Words written as one, and omitted words, have lines of their own there, without tags."""
    words = ["1 We PRON", "2-3 don't _", "2 do AUX", "3 n't PART", "3.1 so _", "", "1 Stop VERB", ""]
    cells = [line.split() for line in words]
    lines = ["\t".join([each[0], each[1], "_", each[2], *["_"] * 6]) if each else "" for each in cells]
    content = "# text\n" + "\n".join(lines)
    found = read(tmp_path / "t.conllu", content, label="4")
    assert [each.text for each in found.examples] == [("We", "do", "n't"), ("Stop",)]
    assert found.examples[0].label == ("PRON", "AUX", "PART")
    with pytest.raises(
        UserError, match=r"no column named 'label'; name it with --label: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10"
    ):
        read(tmp_path / "t.conllu", content)


def test_numbers_may_be_words(tmp_path: Path) -> None:
    found = read(tmp_path / "t.conll", "1\tCD\tO\n\nwon\tV\tO\n3-1\tCD\tB-x\n")
    assert [each.text for each in found.examples] == [("1",), ("won", "3-1")]
    counted = read(tmp_path / "t.conll", "1\tWe\tO\n2\twon\tO\n3\t3-1\tB-x\n")
    assert (counted.examples[0].text, counted.examples[0].label) == (("We", "won", "3-1"), ("O", "O", "B-x"))


def test_a_sign_of_a_comment_may_be_a_word(tmp_path: Path) -> None:
    found = read(tmp_path / "t.conll", "# O\nmine B-x\n\n# O\n")
    assert [each.text for each in found.examples] == [("#", "mine"), ("#",)]
    with pytest.raises(UserError, match=r"t.conll:4 has 1 columns and the lines before 2"):
        read(tmp_path / "t.conll", "the O\ndog B-x\n\n#\n")


def test_words_may_hold_spaces_that_are_not_ascii(tmp_path: Path) -> None:
    found = read(tmp_path / "t.conll", "10\u00a0000 O\ndogs  B-x\n\ncat B-x\n")
    assert found.examples[0].text == ("10\u00a0000", "dogs")


@pytest.mark.parametrize("content", ["text\tlabel\nThe old dog\ta\nA cat\tb\n", "a How did it go ?\nb Why ?\nb No\n"])
def test_a_table_called_a_text_is_refused(content: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"rows.txt is no file of words and tags, .*; call a table .csv or .tsv"):
        read(tmp_path / "rows.txt", content)


def test_a_label_is_no_name_of_a_column(tmp_path: Path) -> None:
    found = read(tmp_path / "rows.csv", '"1","So, bad"\n"2","So good."\n"1","Bad."\n', label="1", text="2")
    assert [(each.text, each.label) for each in found.examples] == [("So, bad", "1"), ("So good.", "2"), ("Bad.", "1")]


def test_a_delimiter_at_the_end_of_each_line_is_no_cell(tmp_path: Path) -> None:
    found = read(tmp_path / "rows.csv", "text,label\na dog,x,\na cat, y,,\n")
    assert [(each.text, each.label) for each in found.examples] == [("a dog", "x"), ("a cat", "y")]


def test_two_sentences_of_the_usual_names_are_a_pair(tmp_path: Path) -> None:
    content = "sentence1,sentence2,label\na dog,a much longer cat,1\na horse,a sheep,0\n"
    assert [(e.text, e.pair) for e in read(tmp_path / "rows.csv", content).examples] == [
        ("a dog", "a much longer cat"),
        ("a horse", "a sheep"),
    ]
    assert [each.pair for each in read(tmp_path / "rows.csv", content, text="sentence2").examples] == [None, None]


@pytest.mark.parametrize("given", [{}, {"label": "topic"}])
def test_names_with_line_ends_are_shown_in_one_line(given: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\\nb") as caught:
        read(tmp_path / "rows.jsonl", '{"text": "dog", "a\\nb": 1}\n', **given)
    assert "\n" not in str(caught.value)


def test_bytes_in_parquet_are_text(tmp_path: Path) -> None:
    rows = [{"text": row["text"].encode(), "label": row["topic"].encode()} for row in topic_rows(5)]
    found = read_labelled(str(write_rows(tmp_path / "rows.parquet", rows)), FinetuneConfig(text="text"), None, None)
    assert [each.text for each in found.examples] == [row["text"] for row in topic_rows(5)]
    assert {each.label for each in found.examples} <= {"animals", "food", "ships"}


@pytest.mark.parametrize("kind", ["List", "Sequence"])
def test_classes_that_datasets_wrote_as_numbers_have_their_names(kind: str, tmp_path: Path) -> None:
    tags = {"names": ["O", "B-x"], "_type": "ClassLabel"}
    features = {"tokens": {"feature": {"dtype": "string"}, "_type": kind}, "ner_tags": {"feature": tags, "_type": kind}}
    features |= {"label": {"names": ["neg", "pos"], "_type": "ClassLabel"}}
    rows = {"tokens": [["a", "dog"], ["cat"], ["x"]], "ner_tags": [[0, 1], [1], [0]], "label": [1, 0, -1]}
    table = pa.table(rows).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, tmp_path / "rows.parquet")
    found = read_labelled(str(tmp_path / "rows.parquet"), FinetuneConfig(label="ner_tags"), None, None)
    assert [each.label for each in found.examples] == [("O", "B-x"), ("B-x",), ("O",)]
    given = FinetuneConfig(label="label", task="classification")
    assert [e.label for e in read_labelled(str(tmp_path / "rows.parquet"), given, None, None).examples] == [
        "pos",
        "neg",
    ]


def test_parquet_may_be_compressed_once_more(tmp_path: Path) -> None:
    plain = write_rows(tmp_path / "rows.parquet", topic_rows(5))
    packed = tmp_path / "rows.parquet.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    found = read_labelled(str(packed), FinetuneConfig(label="topic"), None, None)
    assert [each.text for each in found.examples] == [row["text"] for row in topic_rows(5)]
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"rows.parquet.gz is not a Parquet file, or damaged"):
        read_labelled(str(packed), FinetuneConfig(label="topic"), None, None)


def test_a_label_of_spaces_is_none(tmp_path: Path) -> None:
    found = read(tmp_path / "rows.csv", "text,label\na dog,x\na cat, \na horse,y\n")
    assert [each.label for each in found.examples] == ["x", "y"]
    assert "no label" in found.notes[0]


def test_an_empty_cell_of_several_labels_is_a_row_without_any(tmp_path: Path) -> None:
    found = read(tmp_path / "rows.csv", "text,label\na dog,x;y\na cat,\na horse,y\n", label_separator=";")
    assert [each.label for each in found.examples] == [("x", "y"), (), ("y",)]


@pytest.mark.parametrize("empty", ["nan", "NA", " n/a ", ""])
def test_a_number_that_is_missing_is_no_label(empty: str, tmp_path: Path) -> None:
    """Of 3 scores with a gap it would make 3 classes and one for the gap."""
    found = read(tmp_path / "rows.csv", f"text,score\na dog,1.5\na cat,{empty}\na cow,2\n")
    assert [each.label for each in found.examples] == [1.5, 2.0]
    assert found.notes == [f"{tmp_path / 'rows.csv'}:3: no label (1 row left out)"]
    assert read(tmp_path / "rows.csv", "text,label\na,1\nb,NA\nc,2\n").examples[1].label == "NA"


def test_decimal_commas_are_read(tmp_path: Path) -> None:
    found = read(tmp_path / "rows.csv", "text;score\na dog;1,5\na cat;-,25\na cow;3\n")
    assert [each.label for each in found.examples] == [1.5, -0.25, 3.0]
    thousands = "text;score\na dog;1,500\na cat;2,250\n"
    assert read(tmp_path / "rows.csv", thousands).examples[0].label == "1,500"
    with pytest.raises(UserError, match="'1,500' is no number"):
        read(tmp_path / "rows.csv", thousands, task="regression")


LISTS = ['["a", "b"]', "['a', 'b']", "['a' 'b']"]


@pytest.mark.parametrize("cell", LISTS)
def test_a_table_may_spell_lists(cell: str, tmp_path: Path) -> None:
    """As JSON, Python and NumPy write them."""
    quoted = cell.replace('"', '""')
    found = read(tmp_path / "rows.csv", f'text,labels\na dog,"{quoted}"\na cat,[]\n')
    assert [each.label for each in found.examples] == [("a", "b"), ()]
    found = read(tmp_path / "rows.csv", f'tokens,tags\n"{quoted}","{quoted}"\n[],[]\n')
    assert [(each.text, each.label) for each in found.examples] == [(("a", "b"), ("a", "b"))]
    assert "empty text" in found.notes[0]
    mixed = read(tmp_path / "rows.csv", f'text,label\na dog,"{quoted}"\na cat,c\n')
    assert [each.label for each in mixed.examples] == [cell, "c"]


def test_what_is_missing_in_json_is_no_text_and_no_label(tmp_path: Path) -> None:
    found = read(tmp_path / "rows.jsonl", '{"text": NaN, "labels": ["a"]}\n{"text": "dog", "labels": ["b", null]}\n')
    assert [(each.text, each.label) for each in found.examples] == [("dog", ("b",))]
    with pytest.raises(UserError, match="the word 'dog' has an empty tag"):
        read(tmp_path / "rows.jsonl", '{"tokens": ["dog"], "tags": [null]}\n')


@pytest.mark.parametrize("label", ['[[0, 3, "ANIMAL"]]', '[{"start": 0}]'])
def test_spans_are_no_labels(label: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"rows.jsonl:1: the label .* is no list of names; give spans"):
        read(tmp_path / "rows.jsonl", f'{{"text": "dog", "label": {label}}}\n')


def test_several_texts_with_one_label_are_one_text(tmp_path: Path) -> None:
    found = read(tmp_path / "rows.jsonl", '{"text": ["A dog.", "A cat."], "label": "x"}\n')
    assert [(each.text, each.label) for each in found.examples] == [("A dog.\nA cat.", "x")]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.jsonl", '{"tokens": ["a", "dog"], "tags": ["O", ""]}\n'),
        ("rows.conll", "a\tO\ndog\t\n\ncat\tO\n"),
    ],
)
def test_an_empty_tag_is_named(name: str, content: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the word 'dog' has an empty tag"):
        read(tmp_path / name, content)


def test_half_a_character_is_no_reason_to_lose_a_training(tmp_path: Path) -> None:
    rows = [row | {"text": f"{row['text']} {HALF}", "topic": row["topic"] + HALF} for row in topic_rows(40)]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    assert "\\ud83d" in path.read_text()
    metrics = tune(tmp_path / "run", tiny_encoder(tmp_path / "encoder"), path, label="topic", epochs=1.0)
    assert "animals\ufffd" in metrics["details"]["test"]["labels"]
    assert (tmp_path / "run" / "model").is_dir()


def test_one_label_that_is_there_or_not() -> None:
    """scikit-learn takes a single column for two labels."""
    given = [np.array([[p]]) for p in (0.9, 0.8, 0.1, 0.2, 0.7)]
    wanted = [np.array([[w]]) for w in (1, 0, 1, 0, 1)]
    scores = score_all("multi-label", ("toxic",), given, wanted)
    assert scores.values["micro_f1"] == pytest.approx(2 * 2 / (3 + 3))
    assert scores.values["macro_f1"] == pytest.approx(2 * 2 / (3 + 3))
    assert scores.values["accuracy"] == pytest.approx(3 / 5)
    assert scores.details["by_label"]["toxic"] == pytest.approx(
        {"precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "rows": 3}
    )


def test_inputs_are_as_long_as_in_training(tmp_path: Path) -> None:
    from bertsmith.finetuning.classify import load_classifier

    rows = write_rows(tmp_path / "rows.csv", topic_rows(40))
    tune(tmp_path / "run", tiny_encoder(tmp_path / "encoder"), rows, label="topic", epochs=1.0, max_length=8)
    assert load_classifier(tmp_path / "run").longest == 8
    assert load_classifier(tmp_path / "run" / "model").longest == 8
    assert json.loads((tmp_path / "run" / "model" / "tokenizer_config.json").read_text())["model_max_length"] == 8
    assert load_classifier(tmp_path / "run").predict(["dog " * 20], [None])[0].shape == (1, 3)


def test_what_was_found_out_may_be_asked_for_again(tmp_path: Path) -> None:
    """`auto` is written down as what it was found to be."""
    rows, base = write_rows(tmp_path / "rows.csv", topic_rows(40)), tiny_encoder(tmp_path / "encoder")
    settings = {**TINY, "label": "topic", "epochs": 1.0, "device": "auto", "precision": "auto", "task": "auto"}
    first = tune(tmp_path / "run", base, rows, **settings)
    again = tune(tmp_path / "run", base, rows, **settings)
    assert again["test_accuracy"] == first["test_accuracy"]
