"""Predicting a file: every row once, in order, whatever its format; one line for what cannot be predicted."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest
import torch

from bertsmith import atomic
from bertsmith.corpus.report import CorpusReport
from bertsmith.errors import UserError
from bertsmith.finetuning.classify import Classifier, chunks, load_classifier, predict_file, read_text, read_words
from bertsmith.finetuning.outcome import csv_line
from bertsmith.finetuning.tasks.batches import collate
from bertsmith.finetuning.tasks.encoding import encode_texts
from bertsmith.finetuning.tasks.objective import score
from bertsmith.model import BertModel, Packed
from bertsmith.model.classifier import BertClassifier, Head, ModernBertClassifier
from bertsmith.tokenizer import load_tokenizer
from labelled import LONGEST, pair_rows, tagged_rows, tiny_encoder, topic_rows, tune, write_rows

from runs import Listener
from small_models import model_of


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuned")
    rows = write_rows(folder / "rows.csv", topic_rows(200))
    tune(folder / "run", tiny_encoder(folder / "encoder"), rows, label="topic", epochs=5.0)
    return folder / "run"


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tagger")
    tune(folder / "run", tiny_encoder(folder / "encoder"), write_rows(folder / "r.jsonl", tagged_rows(60)), epochs=1.0)
    return folder / "run"


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


@pytest.mark.parametrize("name", ["new.csv", "new.tsv", "new.jsonl", "new.parquet", "new.txt"])
def test_each_row_is_predicted_in_order(name: str, run: Path, tmp_path: Path) -> None:
    rows = topic_rows(50, seed=5)
    path = write_rows(tmp_path / name, rows)
    assert predict_file(load_classifier(run), str(path), tmp_path / "out.csv") == 50
    found = read(tmp_path / "out.csv")
    assert list(found[0]) == ["prediction", "probability"]
    assert sum(one["prediction"] == row["topic"] for one, row in zip(found, rows, strict=True)) > 40


def test_long_rows_are_held_fewer_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bertsmith.finetuning.classify.CHUNK_CHARACTERS", 100)
    rows = [(number, {"text": "x" * length}) for number, length in enumerate([10] * 30 + [500, 500, 1])]
    found = list(chunks(iter(rows), CorpusReport(), "repair it"))
    assert [row for chunk in found for row in chunk] == rows
    assert [len(chunk) for chunk in found] == [11, 11, 9, 1, 1]


def test_memory_is_bounded_and_chunks_change_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_rows(tmp_path / "new.csv", topic_rows(50, seed=5))
    predict_file(load_classifier(run), str(path), tmp_path / "whole.csv", every_label=True)
    monkeypatch.setattr("bertsmith.finetuning.classify.CHUNK_ROWS", 7)
    seen: list[int] = []
    predict = Classifier.predict

    def noted(self: Classifier, texts: list[str], pairs: list[str | None]) -> object:
        seen.append(len(texts))
        return predict(self, texts, pairs)  # type: ignore[arg-type]

    monkeypatch.setattr(Classifier, "predict", noted)
    predict_file(load_classifier(run), str(path), tmp_path / "parts.csv", every_label=True)
    assert max(seen) == 7
    whole, parts = read(tmp_path / "whole.csv"), read(tmp_path / "parts.csv")
    for one, other in zip(whole, parts, strict=True):
        assert one["prediction"] == other["prediction"]
        assert float(one["probability_food"]) == pytest.approx(float(other["probability_food"]), abs=2e-6)


def test_packed_predictions_are_those_of_single_texts(run: Path) -> None:
    classifier = load_classifier(run)
    texts = [row["text"] for row in topic_rows(9, seed=3)]
    together = classifier.predict(list(texts), [None] * 9)
    for text, given in zip(texts, together, strict=True):
        (one,) = encode_texts(classifier.tokenizer, [text], [None], max_length=LONGEST).sequences
        alone = score(classifier.model, collate([one])).softmax(-1).detach()
        torch.testing.assert_close(torch.from_numpy(given).float(), alone, atol=1e-6, rtol=1e-5)


def test_long_sentences_are_tagged_whole(tagger: Path, tmp_path: Path) -> None:
    words = [word for row in tagged_rows(12) for word in row["tokens"]]
    path = tmp_path / "long.txt"
    path.write_text(" ".join(words) + "\n", encoding="utf-8")
    lines = Listener()
    predict_file(load_classifier(tagger), str(path), tmp_path / "out.csv", reporter=lines)
    assert [row["word"] for row in read(tmp_path / "out.csv")] == words
    assert any("read in parts" in line for line in lines.lines)


def test_columns_of_words_are_tagged(tagger: Path, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "new.conll", tagged_rows(3))
    assert predict_file(load_classifier(tagger), str(path), tmp_path / "out.csv") == 3
    assert [row["word"] for row in read(tmp_path / "out.csv")] == [w for r in tagged_rows(3) for w in r["tokens"]]


def test_words_in_a_cell_are_read_as_in_training() -> None:
    for value, words in (
        ("a dog", ("a", "dog")),
        ("['a', 'dog']", ("a", "dog")),
        (None, ()),
        ("see [1]", ("see", "[1]")),
    ):
        assert read_words((1, {"tokens": value}), "tokens") == words
    assert read_text("new.jsonl", (1, {"text": float("nan")}), "text") == ""


def test_rows_without_text_get_a_line_too(run: Path, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "new.jsonl", [{"text": "dog"}, {"text": ""}, {"text": None}, {"text": "x " * 99}])
    lines = Listener()
    assert predict_file(load_classifier(run), str(path), tmp_path / "out.csv", reporter=lines) == 4
    assert len(read(tmp_path / "out.csv")) == 4
    assert any("2 of 4 rows have no text" in line for line in lines.lines)
    assert any("1 of 4 rows are longer than the model reads" in line for line in lines.lines)


@pytest.mark.parametrize("cells", [["a", 'b,"c"', ""], ["one\rtwo", "\r"], ["one\ntwo", "three\r\n"], [""], [7, 0.5]])
def test_a_line_is_read_as_the_cells_that_were_written(cells: list[Any]) -> None:
    line = csv_line(cells)
    assert line.endswith("\n")
    assert not line.endswith("\r\n")
    assert list(csv.reader(io.StringIO(line, newline=""))) == [[str(cell) for cell in cells]]


def test_a_carriage_return_in_a_text_ends_no_line(tmp_path: Path) -> None:
    rows = write_rows(
        tmp_path / "rows.jsonl", [{"text": f"dog\r{n} sail", "label": "a\rb" if n % 2 else "c"} for n in range(40)]
    )
    tune(tmp_path / "run", tiny_encoder(tmp_path / "encoder"), rows, epochs=1.0, learning_rate=1e-9)
    predict_file(load_classifier(tmp_path / "run"), str(rows), tmp_path / "out.csv", every_label=True)
    found = read(tmp_path / "out.csv")
    assert len(found) == 40
    assert all(set(row) == {"prediction", "probability", "probability_a\rb", "probability_c"} for row in found)
    mistakes = read(tmp_path / "run" / "mistakes.csv")
    assert mistakes
    assert all(row["text"].startswith("dog\r") and None not in row for row in mistakes)


def test_nothing_is_overwritten(run: Path, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "new.csv", topic_rows(5))
    with pytest.raises(UserError, match="exists, and nothing is overwritten"):
        predict_file(load_classifier(run), str(path), path)


def test_what_another_process_wrote_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    other = tmp_path / "out.csv.tmp"
    other.write_text("of a user")

    def write() -> None:
        with atomic.growing(path, "w") as handle:
            handle.write("mine")
            path.write_text("of another process")

    with pytest.raises(FileExistsError, match="was written by another command meanwhile"):
        write()
    assert path.read_text() == "of another process"
    assert other.read_text() == "of a user"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_link_to_a_file_that_is_not_there_yet_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "link.csv").symlink_to("far.csv")
    with atomic.growing(tmp_path / "link.csv", "w") as handle:
        handle.write("mine")
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "far.csv").read_text() == "mine"


def test_a_broken_row_is_named_and_no_file_is_left(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "new.jsonl"
    path.write_text('{"text": "dog"}\n{"text": "do\n{"text": "cat"}\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"new.jsonl:2: not valid JSON; repair it"):
        predict_file(load_classifier(run), str(path), tmp_path / "out.csv")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["new.jsonl"]


def test_a_missing_column_is_named(run: Path, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "new.csv", [{"review": "the dog", "n": 1}])
    with pytest.raises(UserError, match="no column 'reviews'; did you mean 'review'"):
        predict_file(load_classifier(run), str(path), tmp_path / "out.csv", text="reviews")
    assert predict_file(load_classifier(run), str(path), tmp_path / "out.csv") == 1


def test_a_model_of_pairs_needs_the_second_text(tmp_path: Path) -> None:
    encoder = tiny_encoder(tmp_path / "encoder")
    tune(tmp_path / "run", encoder, write_rows(tmp_path / "pairs.jsonl", pair_rows(60)), epochs=1.0)
    path = write_rows(tmp_path / "new.csv", topic_rows(3))
    with pytest.raises(UserError, match="no column 'text_pair' with the second text; name it with --text-pair"):
        predict_file(load_classifier(tmp_path / "run"), str(path), tmp_path / "out.csv")


def test_a_number_has_no_probability(tmp_path: Path) -> None:
    encoder, path = tiny_encoder(tmp_path / "encoder"), write_rows(tmp_path / "new.csv", topic_rows(3))
    BertClassifier.start(encoder, Head("regression", ("score",))).save_pretrained(tmp_path / "model")
    load_tokenizer(encoder).save(tmp_path / "model", model_max_length=LONGEST)
    assert predict_file(load_classifier(tmp_path / "model"), str(path), tmp_path / "out.csv", every_label=True) == 3
    assert list(read(tmp_path / "out.csv")[0]) == ["prediction"]


def test_texts_without_a_name_are_all_predicted(run: Path, tmp_path: Path) -> None:
    for name, content in (("new.csv", "a dog here\nan old sail\n"), ("new.jsonl", '"a dog here"\n"an old sail"\n')):
        (tmp_path / name).write_text(content, encoding="utf-8")
        assert predict_file(load_classifier(run), str(tmp_path / name), tmp_path / f"{name}.csv") == 2
        assert [row["prediction"] for row in read(tmp_path / f"{name}.csv")] == ["animals", "ships"]


def test_a_model_that_was_not_tuned_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds BertForPreTraining, which was not fine-tuned"):
        load_classifier(tiny_encoder(tmp_path / "encoder"))


def test_empty_rows_of_a_table_get_a_line(run: Path, tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text('text\n"the dog"\n""\n"the ship"\n""\n', encoding="utf-8")
    assert predict_file(load_classifier(run), str(tmp_path / "new.csv"), tmp_path / "out.csv") == 4
    assert len(read(tmp_path / "out.csv")) == 4


@pytest.mark.parametrize("rows", [3, 4])
def test_a_broken_last_row_is_named_too(rows: int, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bertsmith.finetuning.classify.CHUNK_ROWS", 3)
    (tmp_path / "new.jsonl").write_text('{"text": "a dog"}\n' * rows + '{"text": \n', encoding="utf-8")
    with pytest.raises(UserError, match="each row gets one prediction"):
        predict_file(load_classifier(run), str(tmp_path / "new.jsonl"), tmp_path / "out.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["new.jsonl"]


def test_another_column_than_in_training_is_said(run: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "new.csv", [{"number": 1, "review": "the dog and the cat"}] * 3)
    listener = Listener()
    predict_file(load_classifier(run), str(tmp_path / "new.csv"), tmp_path / "out.csv", reporter=listener)
    assert any("have no column 'text'" in line and "'review' is read" in line for line in listener.lines)


def test_the_column_of_training_in_a_late_row_is_not_passed_over(run: Path, tmp_path: Path) -> None:
    rows = [{"other": "the dog"}] * 150 + [{"text": "a sail", "other": ""}]
    path, out = write_rows(tmp_path / "new.jsonl", rows), tmp_path / "out.csv"
    with pytest.raises(UserError, match=r"new.jsonl:151 has the column 'text', .* with --text$"):
        predict_file(load_classifier(run), str(path), out)
    assert not out.exists()
    assert predict_file(load_classifier(run), str(path), out, text="other") == 151
    write_rows(path, [rows[-1], *rows[:-1]])
    assert predict_file(load_classifier(run), str(path), tmp_path / "again.csv") == 151


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_asking_for_the_first_tokens_alone_changes_nothing(family: str) -> None:
    """Scores and gradients are those of an encoder that computes all places."""
    encoder, head = model_of(family).bert.double(), Head("classification", ("a", "b"))
    ids, types = torch.randint(1, 50, (22,)), torch.randint(0, 2, (22,))
    starts = torch.tensor([0, 1, 10, 22], dtype=torch.int32)
    packed = Packed(starts, 12)
    if isinstance(encoder, BertModel):
        model: BertClassifier | ModernBertClassifier = BertClassifier(encoder, head).double()
        read = encoder(ids, token_type_ids=types, packed=packed).pooled_output
    else:
        model = ModernBertClassifier(encoder, head, pooling="cls").double()
        read = model.prediction_head(encoder(ids, packed=packed).sequence_output[starts[:-1].long()])
    found = []
    for logits in (model.classifier(read), model(ids, types, packed)):
        model.zero_grad()
        logits.square().sum().backward()
        found.append([logits.detach()] + [p.grad for p in model.parameters() if p.grad is not None])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
