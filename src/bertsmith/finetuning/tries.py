"""The tries of a fine-tuning run: what distinguishes them, and what they share."""

import json
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bertsmith.data.keyed import Stream, keyed_seed
from bertsmith.finetuning.any_classifier import AnyClassifier, start_classifier
from bertsmith.finetuning.config import FinetuneConfig
from bertsmith.finetuning.tasks.dataset import TaskData
from bertsmith.finetuning.tasks.objective import Objective, balanced_weights, make_objective

RATE_FACTORS = (1.0, 0.5, 2.0)
"""Rates of the tries, times the one given; every third try has a new seed."""


@dataclass(frozen=True, slots=True)
class Try:
    """What distinguishes one try from the others."""

    number: int
    folder: Path
    learning_rate: float
    seed: int

    @property
    def result_file(self) -> Path:
        """Is there when the try is over."""
        return self.folder / "result.json"

    @property
    def result(self) -> dict[str, Any]:
        """What came out of a try that is over."""
        return dict(json.loads(self.result_file.read_text(encoding="utf-8")))


def list_tries(folder: Path, config: FinetuneConfig) -> list[Try]:
    """All tries of a run."""
    return [
        Try(
            number + 1,
            folder / "tries" / str(number + 1),
            (config.learning_rate or 0.0) * RATE_FACTORS[number % len(RATE_FACTORS)],
            config.seed + number // len(RATE_FACTORS),
        )
        for number in range(config.tries)
    ]


@dataclass(frozen=True, slots=True)
class Work:
    """What all tries of a run share."""

    config: FinetuneConfig
    model_folder: Path
    data: TaskData
    device: torch.device

    @property
    def metric(self) -> str:
        """The validation score that chooses; decided before the first try."""
        assert self.config.metric is not None
        return self.config.metric

    @property
    def batch_size(self) -> int:
        """Rows in a step: all of them where there are fewer than asked for."""
        return min(self.config.batch_size, len(self.data.train.inputs))

    @property
    def steps(self) -> int:
        """Most steps of a try."""
        return max(1, ceil((self.config.epochs or 1) * len(self.data.train.inputs) / self.batch_size))

    @property
    def validation_every(self) -> int:
        """Steps between validations."""
        return self.config.validation_every or max(1, self.steps)

    @property
    def scale(self) -> tuple[float, float]:
        """Mean and standard deviation of the numbers to learn; 0 and 1 for other tasks."""
        if self.data.kind != "regression":
            return 0.0, 1.0
        values = np.concatenate(self.data.train.targets)
        return float(values.mean()), float(values.std()) or 1.0

    def learning_targets(self) -> list[np.ndarray]:
        """The targets as a model learns them: numbers with mean 0 and standard deviation 1."""
        if self.data.kind != "regression":
            return self.data.train.targets
        mean, deviation = self.scale
        return [((target - mean) / deviation).astype(np.float32) for target in self.data.train.targets]

    def new_model(self, seed: int) -> AnyClassifier:
        """The model as a try begins it, the same at each call."""
        torch.manual_seed(keyed_seed(seed, Stream.INITIAL))
        return start_classifier(self.model_folder, self.data.head).to(self.device)

    def objective(self) -> Objective:
        """What is minimised."""
        is_weighted = self.config.class_weights == "balanced" and self.data.kind != "regression"
        return make_objective(
            self.data.head, balanced_weights(self.data.head, self.data.train.targets) if is_weighted else None
        )
