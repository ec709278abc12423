"""What a fine-tuning run gave: metrics.json, mistakes.csv, the model card, and lines for the user."""

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bertsmith import atomic
from bertsmith.card import markdown_table
from bertsmith.finetuning.config import FinetuneConfig
from bertsmith.finetuning.tasks.dataset import TaskData
from bertsmith.finetuning.tasks.examples import label_counts
from bertsmith.finetuning.tasks.scores import FloatArray, majority
from bertsmith.finetuning.tasks.scoring import Judged

MOST_MISTAKES = 100
"""Rows in mistakes.csv."""

LIST_SEPARATOR = ";"
"""Between several labels in one cell."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that is reported."""

    task: TaskData
    config: FinetuneConfig
    judged: Mapping[str, Judged]
    """By part: validation, and test where there is one."""

    tries: list[dict[str, Any]]
    chosen: int
    """Number of the best try, from 1."""

    parameters: int
    reads: str
    """What the layer of a text reads, in words."""

    seconds: Mapping[str, float]
    """Time of predicting each of the parts."""

    @property
    def last(self) -> str:
        """The part that the result is stated on."""
        return "test" if "test" in self.judged else "validation"

    @property
    def sentence_vector(self) -> str | None:
        """What the layer reads, in words; None for tagging."""
        return None if self.task.head.per_token else self.reads


def write_scores(folder: Path, outcome: Outcome) -> None:
    """Write metrics.json: scores by name, then what they were made of."""
    values: dict[str, Any] = {}
    for part, judged in outcome.judged.items():
        values |= {f"{part}_{name}": value for name, value in judged.scores.values.items()}
        values[f"{part}_loss"] = judged.loss
        counts = label_counts(outcome.task.parts[part].examples, outcome.task.head.labels)
        if (share := majority(outcome.task.kind, counts)) is not None:
            values[f"{part}_majority_accuracy"] = share
    facts = {
        "task": outcome.task.kind,
        "metric": outcome.config.metric,
        "rows": {name: len(part.examples) for name, part in outcome.task.parts.items()},
        "parameters": outcome.parameters,
        "sentence_vector": outcome.sentence_vector,
        "chosen_try": outcome.chosen,
        "tries": outcome.tries,
    }
    details = {part: judged.scores.details for part, judged in outcome.judged.items()}
    atomic.write_json(folder / "metrics.json", values | facts | {"details": details})


def answer(kind: str, labels: tuple[str, ...], given: FloatArray) -> tuple[str, str]:
    """The prediction of one target and its probability, as cells; no probability for a number.

    Args:
        kind: Of the task.
        labels: C names.
        given: float64 [C]. Probabilities, or the number.
    """
    if kind == "regression":
        return f"{given[0]:.9g}", ""  # all that float32 has
    if kind == "multi-label":
        chosen = [(labels[n], f"{given[n]:.6f}") for n in np.flatnonzero(given > 0.5)]
        return LIST_SEPARATOR.join(name for name, _ in chosen), LIST_SEPARATOR.join(share for _, share in chosen)
    best = int(given.argmax())
    return labels[best], f"{given[best]:.6f}"


def shown(value: float, sign: str = "-") -> str:
    """A score or loss with four digits after the point; where these say little, as of tiny numbers, four in all.

    Args:
        value: The number.
        sign: "+" where one above 0 shall have a sign, too.
    """
    return format(value, f"{sign}.4f" if not value or 1e-3 <= abs(value) < 1e6 else f"{sign}.4g")


def csv_line(cells: Iterable[Any]) -> str:
    """A line of a CSV file, which `csv` reads as the same cells.

    Of line ends in a cell it quotes only those of its own lines, and a carriage return alone would end the line.
    """
    line = io.StringIO(newline="")
    csv.writer(line, lineterminator="\r\n").writerow(cells)
    return line.getvalue().removesuffix("\r\n") + "\n"


def write_mistakes(folder: Path, outcome: Outcome) -> None:
    """Write mistakes.csv: the wrong rows of the last part with the highest loss; the numbers farthest off."""
    task, judged = outcome.task, outcome.judged[outcome.last]
    part = task.parts[outcome.last]
    truths = part.by_row(part.targets)
    lines = [csv_line(["row", "loss", "truth", "prediction", "probability", "text", "text_pair"])]
    for number in np.argsort(-judged.row_losses, kind="stable"):
        example, given = part.examples[number], judged.probabilities[number]
        answers = [answer(task.kind, task.head.labels, each) for each in given]
        truth = [true_cell(task, each) for each in truths[number]]
        if task.kind == "regression" or [cell for cell, _ in answers] != truth:
            predicted, probability = (" ".join(cells) for cells in zip(*answers, strict=True))
            text = example.text if isinstance(example.text, str) else " ".join(example.text)
            loss = float(judged.row_losses[number])
            cells = [example.number, shown(loss), " ".join(truth), predicted, probability, text, example.pair or ""]
            lines.append(csv_line(cells))
        if len(lines) > MOST_MISTAKES:
            break
    atomic.write_text(folder / "mistakes.csv", "".join(lines))


def true_cell(task: TaskData, target: Any) -> str:
    """The truth of one target, written as `answer` writes predictions, but a number in full."""
    if task.kind == "regression":
        return repr(float(target[0])).removesuffix(".0")
    if task.kind == "multi-label":
        return answer(task.kind, task.head.labels, np.asarray(target, dtype=np.float64))[0]
    return task.head.labels[int(target)]


def describe_outcome(outcome: Outcome) -> list[str]:
    """What came out, as lines."""
    lines = []
    if len(outcome.tries) > 1:
        for number, each in enumerate(outcome.tries, 1):
            mark = " (chosen)" if number == outcome.chosen else ""
            lines.append(
                f"try {number}: rate {each['learning_rate']:g}, seed {each['seed']}, best at step "
                f"{each['best_step']:,}: validation {outcome.config.metric} {shown(each['score'])}{mark}"
            )
    for part, judged in outcome.judged.items():
        parts = [f"{name.replace('_', ' ')} {shown(value)}" for name, value in judged.scores.values.items()]
        lines.append(f"{part} ({len(outcome.task.parts[part].examples):,} rows): {', '.join(parts)}")
    counts = label_counts(outcome.task.parts[outcome.last].examples, outcome.task.head.labels)
    if (share := majority(outcome.task.kind, counts)) is not None:
        low, high = outcome.judged[outcome.last].scores.details["accuracy_interval"]
        lines.append(
            f"{outcome.last} accuracy, 95 % interval: {low:.4f} to {high:.4f}; "
            f"always the most frequent label: {share:.4f}"
        )
    return lines


def model_card(outcome: Outcome) -> str:
    """README.md of the model folder. Numbers and names of labels alone: no text, path or name of a file."""
    task, config = outcome.task, outcome.config
    tag = "token-classification" if task.head.per_token else "text-classification"
    cut = "" if task.head.per_token else ", truncation=True"  # that pipeline does not cut by itself
    rows = [
        (f"{part} {name.replace('_', ' ')}", shown(value))
        for part, judged in outcome.judged.items()
        for name, value in judged.scores.values.items()
    ]
    tested = "; the test rows were looked at once" if "test" in outcome.judged else ""
    calibrated = "- A probability is only as good as the calibration error above says.\n"
    if task.kind == "regression":
        calibrated = ""
    chosen = outcome.tries[outcome.chosen - 1]
    settings = [
        ("task", task.kind),
        ("labels", "a number" if task.kind == "regression" else f"{len(task.head.labels)}"),
        *((f"{name} rows", f"{len(part.examples):,}") for name, part in task.parts.items()),
        ("what the layer reads", outcome.sentence_vector or "the output at the first piece of each word"),
        ("peak learning rate", f"{chosen['learning_rate']:g}, {config.schedule}"),
        (
            "steps of the kept weights",
            f"{chosen['best_step']:,} of {min(config.batch_size, len(task.train.inputs))} rows",
        ),
        ("tries", f"{len(outcome.tries)}, the best {config.metric} on validation kept"),
        ("class weights", config.class_weights),
        ("parameters", f"{outcome.parameters:,}"),
    ]
    return f"""\
---
library_name: transformers
pipeline_tag: {tag}
tags:
- bertsmith
---
# An encoder, fine-tuned for {tag}

```python
from transformers import pipeline

model = pipeline("{tag}", "path/to/this/folder"{cut})
```

## Results

{markdown_table(("measure", "value"), rows)}
The validation rows chose the weights, so their figures are too good{tested}.

## Recipe

{markdown_table(("setting", "value"), settings)}
## Limits

- It knows the rows it was fine-tuned on, and their topics, labels and errors; elsewhere it is worse.
{calibrated}- Nobody checked it for bias.
"""
