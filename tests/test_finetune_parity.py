"""What fine-tuning writes is read by transformers' pipelines, with label names and the same predictions."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bertsmith.classify import load_classifier, predict_file
from bertsmith.model.classifier import BertClassifier
from labelled import number_rows, pair_rows, set_rows, tagged_rows, tiny_encoder, topic_rows, tune, write_rows

transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def tuned(folder: Path, rows: list[dict[str, Any]], **changes: Any) -> Path:
    encoder = tiny_encoder(
        folder / "encoder", pooler=changes.pop("pooler", True), kind=changes.pop("kind", "wordpiece")
    )
    tune(folder / "run", encoder, write_rows(folder / "rows.jsonl", rows), epochs=2.0, **changes)
    return folder / "run"


def predicted(run: Path, rows: list[dict[str, Any]], folder: Path) -> list[dict[str, str]]:
    path = write_rows(folder / "new.jsonl", rows)
    predict_file(load_classifier(run), str(path), folder / "out.csv", every_label=True)
    with (folder / "out.csv").open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


@pytest.mark.parametrize("pooler", [True, False])
@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_topics_as_by_the_pipeline(kind: str, pooler: bool, tmp_path: Path) -> None:
    run = tuned(tmp_path, topic_rows(100), label="topic", pooler=pooler, kind=kind)
    rows = topic_rows(20, seed=9)
    pipe = transformers.pipeline("text-classification", str(run / "model"), top_k=None, device="cpu")
    for row, ours in zip(rows, predicted(run, rows, tmp_path), strict=True):
        theirs = {each["label"]: each["score"] for each in pipe([row["text"]])[0]}
        assert ours["prediction"] == max(theirs, key=lambda name: theirs[name])
        for label, score in theirs.items():
            assert float(ours[f"probability_{label}"]) == pytest.approx(score, abs=1e-5)


def test_several_labels_as_by_the_pipeline(tmp_path: Path) -> None:
    run = tuned(tmp_path, set_rows(100))
    rows = set_rows(20, seed=9)
    pipe = transformers.pipeline("text-classification", str(run / "model"), top_k=None, device="cpu")
    for row, ours in zip(rows, predicted(run, rows, tmp_path), strict=True):
        theirs = {each["label"]: each["score"] for each in pipe([row["text"]])[0]}
        assert set(filter(None, ours["prediction"].split(";"))) == {n for n, score in theirs.items() if score > 0.5}
        for label, score in theirs.items():
            assert float(ours[f"probability_{label}"]) == pytest.approx(score, abs=1e-5)


def test_numbers_as_by_the_pipeline(tmp_path: Path) -> None:
    run = tuned(tmp_path, number_rows(100))
    rows = number_rows(20, seed=9)
    pipe = transformers.pipeline("text-classification", str(run / "model"), device="cpu")
    for row, ours in zip(rows, predicted(run, rows, tmp_path), strict=True):
        assert float(ours["prediction"]) == pytest.approx(pipe(row["text"])[0]["score"], rel=1e-4)


def test_pairs_as_by_the_pipeline(tmp_path: Path) -> None:
    """Too long ones too: the longer text is cut first."""
    run = tuned(tmp_path, pair_rows(100))
    rows = pair_rows(20, seed=9)
    for number, (one, other) in enumerate(((1, 9), (9, 1), (9, 9), (3, 9), (9, 3))):
        row = rows[number]
        row["text"], row["text_pair"] = " ".join([row["text"]] * one), " ".join([row["text_pair"]] * other)
    pipe = transformers.pipeline("text-classification", str(run / "model"), top_k=None, device="cpu")
    for row, ours in zip(rows, predicted(run, rows, tmp_path), strict=True):
        given = {"text": row["text"], "text_pair": row["text_pair"]}
        for each in pipe(given, truncation=True, max_length=32):
            assert float(ours[f"probability_{each['label']}"]) == pytest.approx(each["score"], abs=1e-5)


def test_tags_as_by_the_pipeline(tmp_path: Path) -> None:
    run = tuned(tmp_path, tagged_rows(100))
    rows = tagged_rows(20, seed=9)
    ours = predicted(run, rows, tmp_path)
    pipe = transformers.pipeline("token-classification", str(run / "model"), device="cpu", aggregation_strategy="first")
    none = transformers.pipeline(
        "token-classification", str(run / "model"), device="cpu", aggregation_strategy="none", ignore_labels=[]
    )
    for number, row in enumerate(rows, 1):
        tokens = row["tokens"]
        mine = [each for each in ours if each["row"] == str(number)]
        assert [each["word"] for each in mine] == tokens
        text = " ".join(tokens)
        starts = [len(" ".join(tokens[:place])) + (place > 0) for place in range(len(tokens))]
        by_start = {each["start"]: each for each in none(text)}  # pieces; the first of each word counts
        for each, start in zip(mine, starts, strict=True):
            assert by_start[start]["entity"] == each["prediction"]
            assert float(each["probability"]) == pytest.approx(float(by_start[start]["score"]), abs=1e-5)
        assert all(group["entity_group"] in {"animals", "ships", "food"} for group in pipe(text))


@pytest.mark.parametrize(
    ("architecture", "labels"), [("BertForSequenceClassification", 3), ("BertForTokenClassification", 5)]
)
def test_what_transformers_wrote_is_read(architecture: str, labels: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=16, num_labels=labels,
    )  # fmt: skip
    theirs = getattr(transformers, architecture)(config).eval()
    theirs.save_pretrained(tmp_path)
    ours = BertClassifier.from_pretrained(tmp_path)
    assert len(ours.head.labels) == labels
    ids = torch.randint(50, (7,))
    from bertsmith.model import Packed

    packed = Packed(torch.tensor([0, 7], dtype=torch.int32), 7)
    places = torch.arange(7)
    expected = theirs(ids[None]).logits.squeeze(0).reshape(-1, labels)
    torch.testing.assert_close(ours(ids, torch.zeros_like(ids), packed, places), expected, atol=1e-5, rtol=1e-5)


def test_the_folder_of_a_new_classifier_is_that_of_transformers(tmp_path: Path) -> None:
    run = tuned(tmp_path, topic_rows(60), label="topic")
    config = json.loads((run / "model" / "config.json").read_text())
    assert config["id2label"] == {"0": "animals", "1": "food", "2": "ships"}
    assert config["label2id"] == {"animals": 0, "food": 1, "ships": 2}
    model, found = transformers.AutoModelForSequenceClassification.from_pretrained(
        run / "model", output_loading_info=True
    )
    assert not any(found[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.config.problem_type == "single_label_classification"


def test_a_tuned_model_can_be_tuned_again(tmp_path: Path) -> None:
    run = tuned(tmp_path, topic_rows(60), label="topic")
    found = tune(tmp_path / "again", run, write_rows(tmp_path / "tags.jsonl", tagged_rows(60)), epochs=1.0)
    assert found["task"] == "tagging"
