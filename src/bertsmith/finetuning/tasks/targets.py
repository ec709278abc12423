"""Labels as numbers: what the model is to give for each input."""

from collections.abc import Sequence

import numpy as np

from bertsmith.finetuning.tasks.encoding import Input
from bertsmith.finetuning.tasks.examples import Example, names_of
from bertsmith.model.classifier import Head


def targets_of(examples: Sequence[Example], inputs: Sequence[Input], head: Head) -> list[np.ndarray]:
    """The targets of each input.

    Args:
        examples: The rows that the inputs were made from.
        inputs: In the order of the rows; several inputs of one sentence follow each other.
        head: Knows all labels of the examples.

    Returns:
        For each input int64 [1], or [words] for tagging; float32 [1, C] for several labels; float64 [1, 1] for a
        number, as float32 would change large ones that differ little.
    """
    index = {name: number for number, name in enumerate(head.labels)}
    targets: list[np.ndarray] = []
    row, done = -1, 0
    for each in inputs:
        label = examples[each.row].label
        if head.kind == "regression":
            targets.append(np.array([[label]], dtype=np.float64))
        elif head.kind == "multi-label":
            present = np.zeros((1, len(head.labels)), dtype=np.float32)
            present[0, [index[name] for name in names_of(label)]] = 1
            targets.append(present)
        else:
            done = done if each.row == row else 0
            row = each.row
            names = names_of(label)[done : done + len(each.places)] if head.per_token else names_of(label)
            done += len(names)
            targets.append(np.array([index[name] for name in names], dtype=np.int64))
    return targets


def mean_and_deviation(examples: Sequence[Example]) -> tuple[float, float]:
    """Of the numbers of a regression: the model learns them with mean 0 and standard deviation 1."""
    values = np.array([example.label for example in examples], dtype=np.float64)
    return float(values.mean()), float(values.std()) or 1.0
