"""Training for sentence vectors: a folder that sentence-transformers loads, measured before and after."""

import json
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertsmith.cli import run as command
from bertsmith.contrastive import Pairs, correlate, read_pairs, train_embeddings
from bertsmith.sentence_vectors import load_sentence_encoder
from labelled import tiny_encoder, tiny_modern, topic_rows, write_rows

from runs import Listener, refused

pytest.importorskip("sentence_transformers")
pytest.importorskip("scipy")

SETTINGS: dict[str, Any] = {"threads": 1, "device": "cpu", "batch_size": 16, "learning_rate": 2e-3, "epochs": 10.0}


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("bert") / "model", dropout=0.1)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Pairs of sentences; the more words they share, the higher the score."""
    one, other = topic_rows(26, seed=1), topic_rows(26, seed=2)
    rows = []
    for a, b in zip((row["text"] for row in one), (row["text"] for row in other), strict=True):
        rows.append({"text": a, "text_pair": b, "score": len(set(a.split()) & set(b.split())) + 0.5})
    return write_rows(tmp_path / "pairs.jsonl", rows)


def test_the_trained_folder_loads_in_sentence_transformers_and_is_measured(
    bert: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from sentence_transformers import SentenceTransformer

    def refuse(*_: object) -> None:
        raise AssertionError("no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    rows = topic_rows(64)
    data, lines = write_rows(tmp_path / "rows.csv", [*rows, rows[0]]), Listener()
    out = tmp_path / "run"
    given = {**SETTINGS, "test": str(pairs)}
    assert train_embeddings(out, bert, str(data), given, reporter=lines) == out / "model"
    shown = capsys.readouterr()
    assert shown.out + shown.err == ""  # only the reporter speaks
    metrics = json.loads((out / "metrics.json").read_text())
    encoder, texts = load_sentence_encoder(out), [row["text"] for row in rows]
    assert metrics["sts_spearman_before"] == correlate(load_sentence_encoder(bert), read_pairs(str(pairs))).spearman
    assert metrics["sts_spearman_after"] == correlate(encoder, read_pairs(str(pairs))).spearman
    assert metrics["sts_spearman_before"] != metrics["sts_spearman_after"]
    assert metrics["sentences"] == len(set(texts))
    assert metrics["train_loss"] < np.log(16)
    theirs = SentenceTransformer(str(out / "model"), device="cpu").encode(texts, show_progress_bar=False)
    np.testing.assert_allclose(encoder.encode(texts), theirs, rtol=0, atol=1e-5)
    assert np.abs(load_sentence_encoder(bert).encode(texts) - theirs).max() > 1e-3
    assert any("empty or repeated rows left out" in line for line in lines.lines)
    assert "| Spearman with the scores of 26 pairs, after |" in (out / "model" / "README.md").read_text()
    assert {path.suffix for path in out.rglob("*") if path.is_file()} == {".json", ".safetensors", ".md", ".html"}
    assert {path.name for path in out.iterdir()} == {"model", "metrics.json", "report.html"}
    page = (out / "report.html").read_text(encoding="utf-8")
    for when in ("before", "after"):
        for kind in ("spearman", "pearson"):
            assert f"<td>{metrics[f'sts_{kind}_{when}']:.4f}</td>" in page
    assert not any(text in page for text in texts)


def test_a_model_without_dropout_gets_some_and_its_run_can_be_embedded(tmp_path: Path) -> None:
    modern = tiny_modern(tmp_path / "modern")
    data, out = write_rows(tmp_path / "rows.csv", topic_rows(20)), tmp_path / "run"
    flags = ["--threads", "1", "--device", "cpu", "--embeddings", "--text", "text", "--max-length", "9"]
    assert command(["finetune", str(modern), str(data), "-o", str(out), *flags]) == 0
    assert json.loads((out / "model" / "config.json").read_text())["mlp_dropout"] == 0.1
    assert load_sentence_encoder(out).longest == 9
    assert "Not measured: no pairs" in (out / "report.html").read_text(encoding="utf-8")
    assert command(["embed", str(out), str(data), "-o", str(tmp_path / "v.npy"), "--threads", "1"]) == 0
    assert np.load(tmp_path / "v.npy").shape == (20, 32)
    flags = ["--label", "topic", "--epochs", "1", "--threads", "1", "--device", "cpu"]
    assert command(["finetune", str(out), str(data), "-o", str(tmp_path / "tuned"), *flags]) == 0
    assert (tmp_path / "tuned" / "model" / "config.json").is_file()


def test_what_cannot_be_trained_on_is_said_in_one_line(
    bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = write_rows(tmp_path / "rows.csv", topic_rows(5))
    train = ("finetune", bert, "-o", tmp_path / "out", "--embeddings")
    assert "--label has no use with --embeddings" in refused(capsys, *train, rows, "--label", "topic")
    assert "did you mean 'text'" in refused(capsys, *train, rows, "--text", "texts")
    one = write_rows(tmp_path / "one.jsonl", [{"text": "dog"}, {"text": "dog "}, {"text": ""}])
    assert "has 1 sentences that differ" in refused(capsys, *train, one)
    assert "has no column named 'label'" in refused(capsys, *train, rows, "--test", one)
    scores = write_rows(tmp_path / "scores.jsonl", [{"text": "dog", "score": 1.5}, {"text": "cat", "score": 2.5}])
    assert "has no column 'text_pair'" in refused(capsys, *train, rows, "--test", scores)
    same = write_rows(tmp_path / "same.jsonl", [{"text": "dog", "text_pair": "cat", "score": 1.5}] * 3)
    assert "has one score in all rows" in refused(capsys, *train, rows, "--test", same)
    assert "--pooling is given without --embeddings" in refused(capsys, "finetune", bert, rows, "--pooling", "mean")
    assert "is neither a run nor a model" in refused(capsys, "finetune", tmp_path, rows, "--embeddings", "-o", "out")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "precious.txt").write_text("keep")
    assert "is not empty" in refused(capsys, "finetune", bert, rows, "--embeddings", "-o", mine)
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".*"))


def test_a_stopped_training_leaves_nothing_and_says_so(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_rows(tmp_path / "rows.csv", topic_rows(40))

    class Stopper(Listener):
        def progress(self, task: str, fraction: float) -> None:
            if task.startswith("training") and fraction > 0.5:
                raise KeyboardInterrupt

    monkeypatch.setattr("bertsmith.commands.console.make_reporter", Stopper)
    flags = ["--embeddings", "--threads", "1", "--device", "cpu", "--batch-size", "16"]
    assert command(["finetune", str(bert), str(data), "-o", str(tmp_path / "run"), *flags]) == 130
    assert "keeps no checkpoints, and the same command begins anew\n" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]


def test_equal_cosines_correlate_with_nothing() -> None:
    class Constant:
        def encode(self, texts: list[str]) -> np.ndarray:
            return np.ones((len(texts), 4), dtype=np.float32)

    pairs = Pairs(["a", "b"], ["c", "d"], [1.0, 2.0])
    assert tuple(correlate(Constant(), pairs)) == (0.0, 0.0)  # type: ignore[arg-type]
