"""Rows a second: `bertsmith predict` against transformers' pipeline, same folder, same rows, one process each in turn.

    python benchmarks/prediction_speed.py RUN ROWS.jsonl

RUN is a fine-tuned classifier, ROWS has a field "text". The pipeline gets batches of 1, 8 and 32 rows, in their order
and sorted by length. Three rounds, median and range, and how many labels are those of our float32.
"""

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import pipeline

from bertsmith.finetuning.classify import load_classifier, predict_file

ROUNDS = 3


def ours(run: Path, rows: Path, precision: str) -> tuple[float, list[str]]:
    """Seconds, file to file, and the labels."""
    classifier = load_classifier(run, precision=precision)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "out.csv"
        began = time.perf_counter()
        predict_file(classifier, str(rows), output)
        seconds = time.perf_counter() - began
        return seconds, [line.split(",")[0] for line in output.read_text(encoding="utf-8").splitlines()[1:]]


def theirs(pipe: Any, rows: Path, batch_size: int, by_length: bool) -> tuple[float, list[str]]:
    """The same with the pipeline."""
    began = time.perf_counter()
    texts = [json.loads(line)["text"] for line in rows.read_text(encoding="utf-8").splitlines()]
    order = sorted(range(len(texts)), key=lambda n: len(texts[n])) if by_length else list(range(len(texts)))
    found = pipe([texts[n] for n in order], batch_size=batch_size, truncation=True)
    labels = [""] * len(texts)
    for number, each in zip(order, found, strict=True):
        labels[number] = each["label"]
    return time.perf_counter() - began, labels


def main(run: Path, rows: Path) -> None:
    """Print the table."""
    count = len(rows.read_text(encoding="utf-8").splitlines())
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pipe = pipeline("text-classification", str(run / "model"), device=device)
    sides: dict[str, list[float]] = {}
    labels: dict[str, list[str]] = {}
    for _ in range(ROUNDS):
        results = {"bertsmith predict": ours(run, rows, "float32"), "the same, --half": ours(run, rows, "bfloat16")}
        for size in (1, 8, 32):
            for by_length in (False, True):
                name = f"pipeline, batches of {size}" + (", sorted" if by_length else "")
                results[name] = theirs(pipe, rows, size, by_length)
        for name, (seconds, found) in results.items():
            sides.setdefault(name, []).append(count / seconds)
            labels[name] = found
    print(f"{count} rows, {device}, {torch.get_num_threads()} threads")
    print("| way | rows/s, median (range) | labels as ours |\n|---|---|---|")
    for name, rates in sides.items():
        same = sum(a == b for a, b in zip(labels[name], labels["bertsmith predict"], strict=True))
        print(f"| {name} | {statistics.median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f}) | {same}/{count} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
