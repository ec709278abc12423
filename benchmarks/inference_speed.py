"""Inference on a CPU: the encoder of Bertsmith against ONNX Runtime with the graph that `bertsmith export` writes.

    python benchmarks/inference_speed.py [--preset bert-mini] [--rounds 7] [--threads N]

The same random weights on both sides, compared before they are timed. Each round runs all ways one after the other;
the table has the ratio of their times to ours in float32 within a round, median and range.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from bertsmith.export.graph import compare, our_outputs, write_graph
from bertsmith.export.int8 import quantize
from bertsmith.export.runtime import Session
from bertsmith.model import new_config, new_model
from bertsmith.presets import PRESETS
from bertsmith.sentence_vectors import read_encoder
from bertsmith.step import autocast

VOCAB, LONGEST = 8192, 512
BATCHES = {
    "1 text of 32 tokens": [32],
    "1 text of 128 tokens": [128],
    "32 texts of 128 tokens": [128] * 32,
    "32 texts of 8 to 256 tokens": [8 * (n + 1) for n in range(32)],
}
LEAST_SECONDS = 0.3
"""Of one timing: short batches are run several times."""


def write_model(preset: str, folder: Path) -> None:
    """A folder with random weights."""
    torch.manual_seed(0)
    chosen = PRESETS[preset]
    config = new_config(
        chosen.model_type,
        special_ids={"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3},
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        max_position_embeddings=LONGEST,
        vocab_size=VOCAB,
        **chosen.shape(),
    )
    new_model(config, next_sentence=False).save_pretrained(folder)


def batch_of(lengths: list[int]) -> dict[str, Tensor]:
    """Padded rows of such lengths."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(5, VOCAB, (len(lengths), max(lengths)), generator=draw)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return {"input_ids": ids * mask, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}


def seconds(run: Callable[[], object]) -> float:
    """Of one run."""
    began, runs = time.perf_counter(), 0
    while time.perf_counter() - began < LEAST_SECONDS or not runs:
        run()
        runs += 1
    return (time.perf_counter() - began) / runs


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="bert-mini")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as name:
        folder, graph, small = Path(name) / "model", Path(name) / "model.onnx", Path(name) / "model_quantized.onnx"
        write_model(given.preset, folder)
        ours = our_outputs(folder, "feature-extraction")
        write_graph(folder, "feature-extraction", ours, graph)
        sessions = {"ONNX Runtime": Session(graph, given.threads)}
        agreement = compare(ours, sessions["ONNX Runtime"])
        quantize(graph, small)
        sessions["ONNX Runtime, 8 bits"] = Session(small, given.threads)
        model = read_encoder(folder, pooler=False)
        print(f"{given.preset}, {given.threads} threads, {given.rounds} rounds; largest difference of the outputs "
              f"{agreement.difference:.1g} of {agreement.largest:.3g}")  # fmt: skip
        print("| batch | way | ms, median | time against ours in float32 (range) |\n|---|---|---|---|")
        for label, lengths in BATCHES.items():
            batch = batch_of(lengths)

            def forward(precision: str, batch: dict[str, Tensor] = batch) -> None:
                with torch.inference_mode(), autocast(torch.device("cpu"), precision):
                    model(**batch)

            ways: dict[str, Callable[[], object]] = {
                "Bertsmith": lambda: forward("float32"),
                "Bertsmith, bfloat16": lambda: forward("bfloat16"),
                **{way: lambda session=session, batch=batch: session.run(batch) for way, session in sessions.items()},
            }
            for run in ways.values():
                run()
            rounds = [{way: seconds(run) for way, run in ways.items()} for _ in range(given.rounds)]
            for way in ways:
                ratios = [each[way] / each["Bertsmith"] for each in rounds]
                spread = f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if way != "Bertsmith" else "1"
                print(f"| {label} | {way} | {1000 * median(each[way] for each in rounds):.1f} | {spread} |", flush=True)


if __name__ == "__main__":
    main()
