"""Small real runs, for tests of what is done with a run."""

import os
import signal
import socket
from collections.abc import Mapping
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
    folder: Path,
    text: Path | str,
    reporter: Reporter | None = None,
    *,
    started: float | None = None,
    plan_only: bool = False,
    **changes: Any,
) -> Path:
    """Train a model of two small layers for three steps, settings given by flags; None: not given."""
    given = {**TINY, "text": (str(text),), **changes}
    given = {name: value for name, value in given.items() if value is not None}
    return pretrain(folder, given, dict.fromkeys(given, "flag"), reporter, started=started, plan_only=plan_only)


def flags_of(settings: Mapping[str, Any]) -> list[str]:
    """Settings as they are said on the command line."""
    return [part for name, value in settings.items() for part in (f"--{name.replace('_', '-')}", str(value))]


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def weights(run: Path) -> dict[str, torch.Tensor]:
    """Those of the finished model."""
    return load_file(run / "model" / "model.safetensors")


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that a mistaken command prints."""
    assert command([str(each) for each in arguments]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("bertsmith: ")]
    return line
