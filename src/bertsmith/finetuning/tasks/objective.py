"""What fine-tuning minimises, as sums and counts; `step.py` divides once.

One label is scored by cross-entropy, several at once by a binary cross-entropy
each, a number by its squared error. Letters: M targets, C labels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bertsmith.finetuning.tasks.batches import TaskBatch
from bertsmith.model import Packed
from bertsmith.model.classifier import Head
from bertsmith.objective import Sums
from bertsmith.step import SumLosses, Terms


class TaskMeans(NamedTuple):
    """Means over the targets of a step."""

    loss: float
    """Nats; half a squared deviation for a number."""

    def losses(self) -> dict[str, float]:
        """The loss by its name."""
        return {"loss": self.loss}


class Objective(NamedTuple):
    """What `train_step` is given."""

    sum_losses: SumLosses
    terms: Terms


def make_objective(head: Head, weights: Tensor | None = None) -> Objective:
    """The objective of a kind of task.

    Args:
        head: Kind and labels.
        weights: float [C]. How much a target of each label counts; of several labels at once, how much more it
            counts that one is there than that it is not. None: 1.
    """

    def count(batch: TaskBatch) -> Tensor:
        if head.kind in ("classification", "tagging") and weights is not None:
            return weights.to(batch.targets.device)[batch.targets].sum()[None]
        return torch.tensor([float(batch.targets.numel())], device=batch.targets.device)

    def sum_losses(model: nn.Module, batch: TaskBatch) -> Sums:
        logits = score(model, batch)
        losses = example_losses(head, logits, batch.targets, weights)
        return Sums(losses.sum()[None], torch.zeros(1, device=logits.device))

    return Objective(sum_losses, Terms(count, lambda sums, targets: TaskMeans(float(sums[0, 0] / targets[0]))))


def score(model: nn.Module, batch: TaskBatch) -> Tensor:
    """Logits of a batch in float32, [M, C]."""
    packed = Packed(batch.cu_seqlens, batch.longest)
    logits: Tensor = model(batch.input_ids, batch.token_type_ids, packed, batch.places).float()
    return logits


def example_losses(head: Head, logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Loss of each target, float [M], or [M, C] where a row has a target for each label."""
    if weights is not None:
        weights = weights.to(logits.device)
    if head.kind == "multi-label":
        return F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weights, reduction="none")
    if head.kind == "regression":
        return (logits - targets) ** 2 / 2
    return F.cross_entropy(logits, targets, weight=weights, reduction="none")


def balanced_weights(head: Head, targets: Sequence[np.ndarray]) -> Tensor:
    """Weights in inverse proportion to how frequent a label is, with mean 1 over the targets.

    Of several labels at once: targets without the label for each one with it.
    """
    if head.kind == "multi-label":
        present = np.concatenate(targets).sum(0)
        total = sum(map(len, targets))
        return torch.from_numpy((total - present) / np.maximum(present, 1)).float().clamp(min=1e-3)
    counts = np.bincount(np.concatenate(targets), minlength=len(head.labels))
    seen = counts > 0
    weights = np.where(seen, counts.sum() / (seen.sum() * np.maximum(counts, 1)), 1.0)
    return torch.from_numpy(weights).float()


def probabilities(head: Head, logits: Tensor) -> Tensor:
    """Logits to probabilities, float64 [M, C]: over all labels, or of each by itself; a number stays what it is."""
    if head.kind == "regression":
        return logits.double()
    return logits.double().sigmoid() if head.kind == "multi-label" else logits.double().softmax(-1)
