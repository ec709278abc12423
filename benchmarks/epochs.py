"""From how many passes over a small text on the held-out loss rises.

    python benchmarks/epochs.py TEXT VALIDATION [--megabytes 0.4 1.6] [--presets modern-mini] [--epochs 60] [-o FOLDER]

The first megabytes of TEXT (JSON lines with "text", also compressed) are learnt from at a constant rate, each epoch
with masks of its own, and the loss is measured on VALIDATION after each of 20 parts of the run. All runs have one
tokenizer, made of the largest part. A run that was stopped goes on. The last lines are a table.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pyarrow

from bertsmith.data.shards import read_manifest
from bertsmith.metrics import read_metrics

LENGTH, ROWS, PARTS = 128, 16, 20


def write_part(text: Path, part: Path, size: float) -> None:
    """The first documents, so many bytes of them."""
    with pyarrow.input_stream(str(text), compression="detect") as stream, part.open("w", encoding="utf-8") as out:
        rest, left = b"", size
        while left > 0 and (block := stream.read(1 << 20)):
            *lines, rest = (rest + block).split(b"\n")
            for line in lines:
                if left > 0:
                    document = json.loads(line)["text"]
                    out.write(json.dumps({"text": document}) + "\n")
                    left -= len(document.encode())


def call(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "bertsmith", *arguments], check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("validation", type=Path)
    parser.add_argument("--megabytes", type=float, nargs="+", default=[0.4, 1.6])
    parser.add_argument("--presets", nargs="+", default=["modern-mini"])
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--threads", default="1")
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/epochs"))
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    tokenizer = options.output / "tokenizer"
    rows = []
    for size in sorted(options.megabytes, reverse=True):
        part = options.output / f"{size:g}.jsonl"
        if not part.exists():
            write_part(options.text, part, 1e6 * size)
        if not tokenizer.exists():
            call("tokenizer", "train", str(part), "-o", str(tokenizer), "--vocab-size", "8192")
        shared = ["--validation", str(options.validation), "--tokenizer", str(tokenizer), "--threads", options.threads]
        for preset in options.presets:
            run = options.output / f"{preset}-{size:g}-{options.epochs}"
            if not (run / "model").exists():
                flags = ["--preset", preset, "--objective", "mlm", "--schedule", "constant", "--compile", "no"]
                flags += ["--epochs", str(options.epochs), "--global-batch-size", str(ROWS)]
                flags += ["--sequence-length", str(LENGTH)]
                call("plan", str(part), "-o", str(run), *shared, *flags)
                steps = next(
                    int(line.split()[-1]) for line in (run / "config.toml").open() if line.startswith("steps ")
                )
                every = ["--validation-every", str(max(1, steps // PARTS))]
                call("pretrain", str(part), "-o", str(run), *shared, *flags, *every)
            measured = [line for line in read_metrics(run) if "validation_mlm_loss" in line]
            best = min(measured, key=lambda line: line["validation_mlm_loss"])
            manifest = read_manifest(run / "data")
            tokens = manifest["splits"]["train"]["tokens"]
            epochs = options.epochs * best["step"] / measured[-1]["step"]
            rows.append(
                f"| {preset} | {tokens / 1e6:.2f} M | {epochs:.0f} | {best['validation_mlm_loss']:.3f} | "
                f"{measured[-1]['validation_mlm_loss']:.3f} | {manifest['unigram_loss']:.3f} |"
            )
            print(rows[-1], flush=True)
    print("\n| model | tokens of the text | epochs at the least loss | that loss | at the end | unigram level |")
    print("|---|---|---|---|---|---|", *rows, sep="\n")


if __name__ == "__main__":
    main()
