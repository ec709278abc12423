"""Export to ONNX: the graph gives our outputs at any batch and length, or nothing is written."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bertsmith.cli import run as command
from bertsmith.errors import UserError
from bertsmith.evaluation.any_model import open_model
from bertsmith.evaluation.token_scores import score_own_rows
from bertsmith.export.graph import compare, example, our_outputs
from bertsmith.export.int8 import make_judge
from bertsmith.export.onnx import export_onnx
from bertsmith.export.runtime import Session
from bertsmith.model.classifier import BertClassifier, Head, ModernBertClassifier
from bertsmith.run_folder import read_run
from bertsmith.tokenizer import load_tokenizer
from labelled import LONGEST, tagged_rows, tiny_encoder, tiny_modern, topic_rows, tune, write_rows

from runs import Listener, refused, train

for library in ("onnxruntime", "onnxscript", "transformers"):
    pytest.importorskip(library)

HEADS = {
    "text-classification": Head("classification", ("animals", "ships", "food")),
    "token-classification": Head("tagging", ("O", "B-animals", "I-animals")),
}


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("bert") / "model")


@pytest.fixture(scope="module")
def modern(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_modern(tmp_path_factory.mktemp("modern") / "model")


def tuned(bert: Path, folder: Path, task: str) -> Path:
    torch.manual_seed(0)
    BertClassifier.start(bert, HEADS[task]).save_pretrained(folder)
    load_tokenizer(bert).save(folder, model_max_length=LONGEST)
    return folder


def agree(source: Path, output: Path, task: str) -> None:
    """Every output of the written graph, at shapes that the check did not use, against our own."""
    ours, session = our_outputs(source, task), Session(output / "model.onnx")
    for rows, length in ((1, 3), (4, LONGEST), (5, 13)):
        inputs = example(ours.config, rows, length, seed=99)
        found, real = session.run(inputs), inputs["attention_mask"].bool()
        with torch.no_grad():
            expected = ours.outputs(inputs)
        assert list(found) == list(expected)
        for name, values in expected.items():
            chosen = real if values.dim() == 3 else slice(None)
            assert values.std() > 0.01
            torch.testing.assert_close(found[name][chosen], values[chosen], rtol=0, atol=1e-4)


SLOW_HEADS = [pytest.param(task, marks=pytest.mark.slow) for task in HEADS]
"""With ModernBERT, whose graphs take 12 s each: `test_8_bit_weights_of_a_modernbert_classifier` makes one always."""


@pytest.mark.parametrize("task", ["fill-mask", "feature-extraction", *HEADS])
def test_a_bert_gives_the_same_in_onnx_runtime(bert: Path, tmp_path: Path, task: str) -> None:
    source = tuned(bert, tmp_path / "model", task) if task in HEADS else bert
    chosen = "auto" if task != "feature-extraction" else task
    exported = export_onnx(source, tmp_path / "out", task=chosen)
    assert exported.task == task
    assert 0 < exported.agreement.difference < 1e-4
    agree(source, tmp_path / "out", task)


@pytest.mark.parametrize("task", ["fill-mask", pytest.param("feature-extraction", marks=pytest.mark.slow), *SLOW_HEADS])
def test_a_modernbert_gives_the_same_in_onnx_runtime(modern: Path, tmp_path: Path, task: str) -> None:
    source = modern
    if task in HEADS:
        source = tmp_path / "model"
        torch.manual_seed(0)
        ModernBertClassifier.start(modern, HEADS[task]).save_pretrained(source)
        load_tokenizer(modern).save(source, model_max_length=LONGEST, model_input_names=("input_ids", "attention_mask"))
    export_onnx(source, tmp_path / "out", task=task)
    agree(source, tmp_path / "out", task)


def test_the_folder_is_usable_by_itself_as_its_card_says(bert: Path, tmp_path: Path) -> None:
    export_onnx(bert, tmp_path / "out")
    names = {"model.onnx", "config.json", "tokenizer.json", "tokenizer_config.json", "README.md"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    card = read_card(tmp_path / "out")
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert str(tmp_path) not in card
    found: dict[str, object] = {}
    code = code.replace("path/to/this/folder", str(tmp_path / "out"))
    exec(code.replace("Another, longer text.", "the " * 3 * LONGEST), found)
    (logits,) = found["outputs"]  # type: ignore[misc]
    assert np.asarray(logits).shape[:2] == (2, LONGEST)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "bert"


def test_a_graph_that_is_not_the_model_leaves_no_folder(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    torch.manual_seed(1)
    BertClassifier.start(bert, HEADS["text-classification"]).save_pretrained(other)
    mine = tuned(bert, tmp_path / "mine", "text-classification")
    monkeypatch.setattr("bertsmith.export.onnx.our_outputs", lambda _folder, task: our_outputs(other, task))
    assert command(["export", str(mine), "--to", "onnx", "-o", str(tmp_path / "out")]) == 2
    assert "the ONNX graph is not the model: logits of 1 rows of 1 tokens is off by" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "other"]


def test_a_graph_that_the_runtime_does_not_read_leaves_no_folder(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("bertsmith.export.onnx.write_graph", lambda *given: given[-1].write_bytes(b"of another time"))
    line = refused(capsys, "export", bert, "--to", "onnx", "-o", tmp_path / "out")
    assert "does not read a graph of torch" in line
    assert line.endswith("take a newer onnxruntime")
    assert not any(tmp_path.iterdir())


def test_values_that_are_no_numbers_do_not_agree(bert: Path, tmp_path: Path) -> None:
    export_onnx(bert, tmp_path / "out")
    ours = our_outputs(bert, "fill-mask")
    broken = ours._replace(outputs=lambda inputs: {"logits": ours.outputs(inputs)["logits"] * float("nan")})
    with pytest.raises(UserError, match="the ONNX graph is not the model"):
        compare(broken, Session(tmp_path / "out" / "model.onnx"))


@pytest.mark.slow
def test_8_bit_weights_are_measured_on_what_a_run_held_out(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(tmp_path / "run", text, objective="mlm+nsp").parent
    lines = Listener()
    exported = export_onnx(run, tmp_path / "out", int8=True, reporter=lines)
    assert exported.cost is not None
    loss, accuracy = exported.cost.measures
    measured = score_own_rows(open_model(str(run), torch.device("cpu")), read_run(run), lambda _share: None).masked
    assert loss.float32 == pytest.approx(measured.loss, abs=1e-5)
    assert accuracy.float32 == pytest.approx(measured.accuracy, abs=1e-9)
    assert 0 < abs(loss.int8 - loss.float32) < 0.1
    sizes = [(tmp_path / "out" / name).stat().st_size for name in ("model.onnx", "model_quantized.onnx")]
    assert sizes[1] < 0.8 * sizes[0]  # the graph itself is a large part of so small a model
    assert any("masked-token loss, nats" in line for line in lines.lines)
    assert f"| masked-token loss, nats | {loss.float32:.4f} | {loss.int8:.4f} |" in read_card(tmp_path / "out")
    monkeypatch.setattr("bertsmith.export.graph.ONE_FILE_BYTES", 0)  # weights beside the graph, as of a large model
    vectors = export_onnx(run, tmp_path / "vectors", task="feature-extraction", int8=True).cost
    assert {"model.onnx.data", "model_quantized.onnx.data"} < {path.name for path in (tmp_path / "vectors").iterdir()}
    agree(run / "model", tmp_path / "vectors", "feature-extraction")
    assert vectors is not None
    assert 0.9 < vectors.measures[1].int8 < vectors.measures[0].int8 < 1


@pytest.mark.parametrize(
    ("rows", "settings"),
    [
        pytest.param(topic_rows(120), {"label": "topic"}, id="text"),
        pytest.param(tagged_rows(60), {"epochs": 2.0}, id="tags", marks=pytest.mark.slow),
    ],
)
def test_8_bit_weights_of_a_classifier_are_measured_on_its_test_rows(
    rows: list[dict[str, Any]], settings: dict[str, Any], bert: Path, tmp_path: Path
) -> None:
    path = write_rows(tmp_path / "rows.jsonl", rows)
    metrics = tune(tmp_path / "run", bert, path, **settings)
    exported = export_onnx(tmp_path / "run", tmp_path / "out", int8=True)
    assert exported.cost is not None
    found = {each.name: each for each in exported.cost.measures}
    assert found["accuracy"].float32 == pytest.approx(metrics["test_accuracy"], abs=1e-9)
    assert found["loss"].float32 == pytest.approx(metrics["test_loss"], abs=1e-5)
    assert found["loss"].int8 != found["loss"].float32
    card = read_card(tmp_path / "out")
    assert "library_name: onnx\n" in card
    assert "pipeline(" not in card  # that reads the first form
    assert f"| test accuracy | {metrics['test_accuracy']:.4f} |" in card
    again = export_onnx(tmp_path / "run" / "model", tmp_path / "again", int8=True, data=str(path))
    assert again.cost is not None
    assert again.cost.rows == f"{len(rows)} held-out rows"


def test_8_bit_weights_are_measured_on_held_out_rows_alone(
    bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the columns of the run; a file that changed could hold out what was learnt from."""
    renamed = [{"body": row["text"], "kind": row["topic"]} for row in topic_rows(60)]
    path = write_rows(tmp_path / "rows.jsonl", renamed)
    tune(tmp_path / "run", bert, path, text="body", label="kind", epochs=1.0)
    judge = make_judge(tmp_path / "run", tmp_path / "run" / "model", "text-classification",
                       tokenizer=load_tokenizer(bert), longest=LONGEST, data=str(path))  # fmt: skip
    assert judge.rows == "60 held-out rows"
    write_rows(path, renamed[:-1])
    export = ("export", tmp_path / "run", "--to", "onnx", "-o", tmp_path / "out")
    assert "rows.jsonl changed since" in refused(capsys, *export, "--int8")
    path.unlink()
    line = refused(capsys, *export, "--int8")
    assert "cannot be read again" in line
    assert line.endswith("name others with --data")
    assert "only 8-bit weights are measured on; add --int8" in refused(capsys, *export, "--data", path)


def test_8_bit_weights_of_a_modernbert_classifier(modern: Path, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", topic_rows(60))
    metrics = tune(tmp_path / "run", modern, path, label="topic", epochs=1.0)
    cost = export_onnx(tmp_path / "run", tmp_path / "out", int8=True).cost
    assert cost is not None
    assert {each.name: each.float32 for each in cost.measures}["accuracy"] == pytest.approx(metrics["test_accuracy"])


def test_8_bit_weights_of_a_run_whose_text_changed_are_refused(text: Path, tmp_path: Path) -> None:
    mine = shutil.copy(text, tmp_path / "text.txt")
    run = train(tmp_path / "run", mine).parent
    mine.write_text("Another text.\n")
    with pytest.raises(UserError, match=r"held out cannot be read again .*; name some text with --data"):
        export_onnx(run, tmp_path / "out", task="feature-extraction", int8=True)
    assert not (tmp_path / "out").exists()


def test_8_bit_weights_without_rows_to_measure_on_are_refused(
    bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, "export", bert, "--to", "onnx", "--int8", "-o", tmp_path / "out")
    assert "has no held-out text of its own; name some with --data" in line
    assert not any(tmp_path.iterdir())


def read_card(folder: Path) -> str:
    return (folder / "README.md").read_text(encoding="utf-8")


def test_what_cannot_be_exported_is_said_in_one_line(
    bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    export, out = ("export", "--to", "onnx", "-o"), tmp_path / "out"
    assert "nowhere does not exist" in refused(capsys, *export, out, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "is neither a run nor a model" in refused(capsys, *export, out, tmp_path / "empty")
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_bytes((bert / "config.json").read_bytes())
    (pickled / "pytorch_model.bin").write_bytes(b"\x80\x04")
    assert "a pickle, which could run any code" in refused(capsys, *export, out, pickled)
    assert "which was not fine-tuned" in refused(capsys, *export, out, bert, "--task", "text-classification")
    tagger = tuned(bert, tmp_path / "tagger", "token-classification")
    assert "leave --task out" in refused(capsys, *export, out, tagger, "--task", "text-classification")
    assert "has no head for masked words" in refused(capsys, *export, out, tagger, "--task", "fill-mask")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "precious.txt").write_text("keep")
    assert "exists and is not empty, and nothing is overwritten" in refused(capsys, *export, mine, bert)
    (tmp_path / "file").write_text("keep")
    assert "is not empty" in refused(capsys, *export, tmp_path / "file", bert)
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    assert "pip install bertsmith[onnx]" in refused(capsys, *export, out, bert)
    assert not out.exists()
    assert (mine / "precious.txt").read_text() == "keep"
    assert not list(tmp_path.glob(".*"))
