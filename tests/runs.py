"""Small real runs, for tests of what is done with a run."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bertsmith.cli import run as command
from bertsmith.pretrain import pretrain
from bertsmith.reporter import Reporter

TINY: dict[str, Any] = {
    "preset": "bert-tiny",
    "hidden_size": 32,
    "num_attention_heads": 2,
    "steps": 3,
    "vocab_size": 160,
    "sequence_length": 32,
    "document": "blank-line",
    "validation_fraction": 0.15,
    "validation_every": 1000,
    "global_batch_size": 4,
    "micro_batch_size": 4,
    "precision": "float32",
    "compile": "no",
    "device": "cpu",
    "threads": 1,
    "workers": 1,
}

FLAGS = ["--preset", "bert-tiny", "--sequence-length", "32", "--vocab-size", "500", "--validation-fraction", "0.15"]
FLAGS += ["--document", "blank-line", "--validation-every", "1000"]
FLAGS += ["--global-batch-size", "4", "--micro-batch-size", "4", "--precision", "float32", "--compile", "no"]
FLAGS += ["--threads", "1", "--workers", "1", "--device", "cpu"]
"""Nearly the same, for the command line."""


class Listener(Reporter):
    """Keeps what is said, and asks the run to stop after a step, as SIGTERM does."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.stop_after = stop_after
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def warn(self, line: str) -> None:
        self.lines.append(f"warning: {line}")

    def step(self, values: dict[str, Any]) -> None:
        if values["step"] == self.stop_after:
            os.kill(os.getpid(), signal.SIGTERM)


def train(
    folder: Path, text: Path, reporter: Reporter | None = None, *, started: float | None = None, **changes: Any
) -> Path:
    """Train a model of two small layers for three steps, settings given by flags."""
    given = {**TINY, "text": (str(text),), **changes}
    return pretrain(folder, given, dict.fromkeys(given, "flag"), reporter, started=started)


def weights(run: Path) -> dict[str, torch.Tensor]:
    """Those of the finished model."""
    return load_file(run / "model" / "model.safetensors")


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that a mistaken command prints."""
    assert command([str(each) for each in arguments]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("bertsmith: ")]
    return line
