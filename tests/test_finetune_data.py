"""Each kind of task on real data, from a small random model: better than knowing nothing."""

import json
from pathlib import Path
from typing import Any

import pytest

from bertsmith.tokenizer import train_tokenizer
from labelled import TINY, tune

from conftest import development_data

pytestmark = pytest.mark.slow


def encoder_of(folder: Path, texts: list[str]) -> Path:
    """A random BERT of two layers with a vocabulary of these texts."""
    import torch

    from bertsmith.model import BertConfig, BertPretrainingModel

    tokenizer = train_tokenizer(texts, kind="wordpiece", vocab_size=2000, lowercase=True, strip_accents=None)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=2000, hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=256,
        max_position_embeddings=96,
    )  # fmt: skip
    BertPretrainingModel(config).save_pretrained(folder)
    tokenizer.save(folder, model_max_length=96)
    return folder


def part_of(name: str, folder: Path, rows: int) -> tuple[Path, list[str]]:
    """The first rows of a data set as a file, and their texts."""
    lines = development_data(name).read_text(encoding="utf-8").splitlines()[:rows]
    path = folder / "part.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path, [json.loads(line)["text"] for line in lines]


SETTINGS: dict[str, Any] = {**TINY, "learning_rate": 1e-3, "batch_size": 32, "epochs": 4.0}


def test_trec(tmp_path: Path) -> None:
    path, texts = part_of("tasks/trec/train.jsonl", tmp_path, 3000)
    found = tune(tmp_path / "run", encoder_of(tmp_path / "m", texts), path, **SETTINGS)
    assert found["test_accuracy"] > 0.5 > found["test_majority_accuracy"]


def test_stsb(tmp_path: Path) -> None:
    path, texts = part_of("tasks/stsb/train.jsonl", tmp_path, 3000)
    found = tune(tmp_path / "run", encoder_of(tmp_path / "m", texts), path, **SETTINGS)
    assert found["task"] == "regression"
    assert found["rows"]["train"] > 2000
    assert found["details"]["test"] == {}


def test_ncbi_disease(tmp_path: Path) -> None:
    text = development_data("ner/NCBI-disease/train.txt").read_text(encoding="utf-8")
    blocks = text.split("\n\n")[:2500]
    path = tmp_path / "part.txt"
    path.write_text("\n\n".join(blocks) + "\n", encoding="utf-8")
    words = [" ".join(line.split("\t")[0] for line in block.splitlines()) for block in blocks]
    found = tune(tmp_path / "run", encoder_of(tmp_path / "m", words), path, **SETTINGS)
    assert found["test_entity_f1"] > 0.3
    assert found["details"]["test"]["labels"] == ["O", "B-Disease", "I-Disease"]


def test_wnut(tmp_path: Path) -> None:
    root = development_data("ner/wnut17/data")
    train, test = root / "train" / "wnut17train.conll", root / "test" / "emerging.test.annotated"
    words = [line.split("\t")[0] for line in train.read_text(encoding="utf-8").splitlines()]
    found = tune(
        tmp_path / "run", encoder_of(tmp_path / "m", words), train, **{**SETTINGS, "epochs": 1.0}, test=str(test)
    )
    assert found["rows"]["test"] == 1287
