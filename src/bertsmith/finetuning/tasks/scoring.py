"""Running a fine-tuned model over many inputs: sorted by length, given back in their order."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bertsmith.finetuning.any_classifier import AnyClassifier
from bertsmith.finetuning.tasks.batches import by_length, collate
from bertsmith.finetuning.tasks.dataset import Part
from bertsmith.finetuning.tasks.encoding import Input
from bertsmith.finetuning.tasks.objective import example_losses, probabilities, score
from bertsmith.finetuning.tasks.scores import FloatArray, Scores, score_all
from bertsmith.model.classifier import Head
from bertsmith.step import autocast


@torch.no_grad()
def all_logits(model: AnyClassifier, inputs: Sequence[Input], *, places: int, precision: str) -> list[Tensor]:
    """Logits of each input, without dropout.

    Args:
        model: On any device.
        inputs: In any order.
        places: Most token places computed at once.
        precision: "float32" or "bfloat16".

    Returns:
        float32 [targets, C] on the CPU for each input: one target for a text, one for each word for tagging.
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    found: list[Tensor] = [torch.empty(0)] * len(inputs)
    for numbers in by_length(inputs, np.arange(len(inputs)), places):
        chosen = [inputs[number] for number in numbers]
        with autocast(device, precision):
            logits = score(model, collate(chosen).to(device)).cpu()
        sizes = [len(each.places) for each in chosen] if model.head.per_token else [1] * len(chosen)
        for number, part in zip(numbers, torch.split(logits, sizes), strict=True):
            found[number] = part
    model.train(was_training)
    return found


class Judged(NamedTuple):
    """Predictions of a part, and how good they are."""

    scores: Scores
    loss: float
    """Mean over the targets, without class weights."""

    row_losses: FloatArray
    """float64 [rows]. The loss of a row, summed over its targets."""

    probabilities: list[FloatArray]
    """Of each row [targets, C]; numbers for a regression."""


def judge(logits: Sequence[Tensor], part: Part, head: Head) -> Judged:
    """Score logits against the targets.

    Args:
        logits: Of each input of the part, as `all_logits` gives them; numbers as they are in the data, also float64.
        part: Rows with their targets.
        head: Kind and labels.
    """
    losses = [
        example_losses(head, each, torch.from_numpy(target)).double()
        for each, target in zip(logits, part.targets, strict=True)
    ]
    count = sum(each.numel() for each in losses)
    rows = np.array([float(values.sum()) for values in part.by_row([each.reshape(-1).numpy() for each in losses])])
    given = part.by_row([probabilities(head, each).numpy() for each in logits])
    scores = score_all(head.kind, head.labels, given, part.by_row(part.targets))  # type: ignore[arg-type]
    return Judged(scores, float(rows.sum()) / count, rows, given)
