"""Where a run's scores begin: at 0, or at the frequencies of the pieces in its text."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from bertsmith.data.shards import read_manifest
from bertsmith.model.first_weights import begin_at_frequencies
from bertsmith.model.heads import MaskedLanguageHead
from bertsmith.prepare.facts import count_ids, log_frequencies

from runs import train, weights

NO_STEP = {"steps": 1, "learning_rate": 1e-30, "validation_every": 1}
"""A step that changes nothing."""


def first_loss(folder: Path, text: Path, **changes: object) -> float:
    """Held-out loss of a run that learnt nothing."""
    train(folder, text, **NO_STEP, **changes)
    return float(json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))["mlm_loss"])


def test_scores_begin_at_the_logarithm_of_the_frequencies() -> None:
    head = MaskedLanguageHead(8, 4, "gelu", 1e-12)
    begin_at_frequencies(head, log_frequencies(np.array([0, 5, 1, 90])))
    expected = [math.log(count / 100) for count in (1, 6, 2, 91)]
    assert torch.allclose(head.bias.detach(), torch.tensor(expected))
    assert math.isclose(float(head.bias.detach().exp().sum()), 1, rel_tol=1e-6)


@pytest.mark.parametrize("preset", ["bert-tiny", "modern-tiny"])
def test_a_run_can_begin_at_the_unigram_level(text: Path, tmp_path: Path, preset: str) -> None:
    found = first_loss(tmp_path / "unigram", text, preset=preset, output_bias="unigram")
    level = read_manifest(tmp_path / "unigram" / "data")["unigram_loss"]
    zero = first_loss(tmp_path / "zero", text, preset=preset, output_bias="zero")
    assert zero == pytest.approx(math.log(160), abs=0.1)
    assert level < zero - 0.3
    assert found == pytest.approx(level, abs=0.1)  # other tokens of the same held-out text


def test_nothing_but_the_bias_of_the_scores_begins_otherwise(text: Path, tmp_path: Path) -> None:
    for name in ("zero", "unigram"):
        train(tmp_path / name, text, output_bias=name, **NO_STEP)
    zero, unigram = weights(tmp_path / "zero"), weights(tmp_path / "unigram")
    assert {name for name in zero if not torch.allclose(zero[name], unigram[name], atol=1e-20)} == {
        "cls.predictions.bias"
    }
    counts = count_ids(tmp_path / "zero" / "data", "train", 160)
    assert torch.allclose(
        unigram["cls.predictions.bias"].exp() * (counts.sum() + 160), torch.from_numpy(counts + 1.0).float(), rtol=1e-4
    )
