"""Is a model made from one's own text better on one's own task? Reviews of films against Wikipedia.

    python benchmarks/domain_study.py DATA [--tokens 10e6] [--preset modern-mini] [--only imdb sst2 ...] [-o FOLDER]

DATA holds `imdb/`, `enwiki/`, `tasks/` and `ner/`. Three models of the same size, each with a vocabulary of 8,192:

    domain    pretrained on reviews (without those of the test)
    general   pretrained on Wikipedia, the same number of tokens
    adapted   `general`, continued on the reviews for half as many more

are fine-tuned by `bertsmith compare`: at most 4,000 training rows, 256 tokens, three seeds. What is done is
kept in the output folder and not done again, also within a training. The last lines are the tables.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow

from bertsmith.atomic import write_bytes

LENGTH, ROWS = 256, 8
TEST_ROWS = 3000
MOST_ROWS = "4000"
MODELS = ("domain", "general", "adapted")


def call(output: Path, name: str, at_once: int, *arguments: str) -> str:
    """What a command of Bertsmith printed, one of so many at once on all cores. It goes on where it stopped."""
    threads = str(max(1, len(os.sched_getaffinity(0)) // at_once))
    command = [sys.executable, "-m", "bertsmith", *arguments, "--threads", threads]
    with (output / f"{name}.log").open("a", encoding="utf-8") as log:
        environment = os.environ | {"OMP_NUM_THREADS": threads}
        return subprocess.run(
            command, check=True, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
        ).stdout


def reviews(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file of reviews."""
    with pyarrow.input_stream(str(path), compression="zstd") as stream:
        for line in stream.read().splitlines():
            yield json.loads(line)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """JSON lines."""
    write_bytes(path, "".join(json.dumps(row) + "\n" for row in rows).encode())


def divide_reviews(data: Path, output: Path) -> None:
    """Rows to fine-tune on and to test on, by a hash of the text, and the text of all reviews but the tested ones."""
    labelled = sorted(
        reviews(data / "imdb" / "train.jsonl.zst"), key=lambda row: hashlib.sha256(row["text"].encode()).digest()
    )
    test, train = labelled[:TEST_ROWS], labelled[TEST_ROWS:]
    tested = {row["text"] for row in test}
    texts = [row["text"] for row in (*train, *reviews(data / "imdb" / "unlabelled.jsonl.zst"))]
    write_rows(output / "imdb-test.jsonl", [{"text": row["text"], "label": row["label"]} for row in test])
    write_rows(
        output / "imdb-train.jsonl",
        [{"text": r["text"], "label": r["label"]} for r in train if r["text"] not in tested],
    )
    write_rows(output / "reviews.jsonl", [{"text": text} for text in texts if text not in tested])


def tasks(data: Path, output: Path) -> dict[str, tuple[Path, Path]]:
    """Training and test rows of each task; where no test has labels, the development rows."""
    found = {"imdb": (output / "imdb-train.jsonl", output / "imdb-test.jsonl")}
    for name, test in (
        ("sst2", "dev"),
        ("cola", "dev"),
        ("mrpc", "dev"),
        ("rte", "dev"),
        ("stsb", "test"),
        ("trec", "test"),
        ("csabstruct", "test"),
    ):
        found[name] = (data / "tasks" / name / "train.jsonl", data / "tasks" / name / f"{test}.jsonl")
    found["ncbi-disease"] = (data / "ner" / "NCBI-disease" / "train.txt", data / "ner" / "NCBI-disease" / "test.txt")
    return found


def pretrain_all(data: Path, output: Path, options: argparse.Namespace) -> None:
    """The three models; the first two at once, the third on all cores."""
    steps = round(options.tokens / (LENGTH * ROWS))
    shape = ["--preset", options.preset, "--sequence-length", str(LENGTH), "--global-batch-size", str(ROWS)]
    shape += ["--vocab-size", "8192", "--compile", "no"]
    domain, general, adapted = (output / name for name in MODELS)

    def train(at_once: int, folder: Path, text: Path, count: int, *more: str) -> None:
        if not (folder / "model").exists():
            call(output, folder.name, at_once, "pretrain", str(text), "-o", str(folder), "--steps", str(count), *more)

    with ThreadPoolExecutor(options.lanes) as lanes:
        jobs = [
            lanes.submit(train, options.lanes, domain, output / "reviews.jsonl", steps, *shape),
            lanes.submit(train, options.lanes, general, data / "enwiki" / "train.jsonl.zst", steps, *shape),
        ]
        for job in jobs:
            job.result()
    again = [
        "--init",
        str(general),
        "--sequence-length",
        str(LENGTH),
        "--global-batch-size",
        str(ROWS),
        "--compile",
        "no",
    ]
    train(1, adapted, output / "reviews.jsonl", steps // 2, *again)


def compare(name: str, rows: tuple[Path, Path], output: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The comparison on one task."""
    models = [str(output / model) for model in MODELS]
    flags = ["--task", str(rows[0]), "--test", str(rows[1]), "--max-rows", MOST_ROWS, "--max-length", str(LENGTH)]
    flags += ["--seeds", str(options.seeds), "--json", "-o", str(output / "compared" / name)]
    return dict(json.loads(call(output, name, options.lanes, "compare", *models, *flags)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--tokens", type=float, default=10e6)
    parser.add_argument("--preset", default="modern-mini")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--lanes", type=int, default=2)
    parser.add_argument("--only", nargs="+", help="names of tasks")
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/domain-study"))
    options = parser.parse_args()
    output = options.output
    (output / "compared").mkdir(parents=True, exist_ok=True)
    if not (output / "reviews.jsonl").exists():
        divide_reviews(options.data, output)
    pretrain_all(options.data, output, options)
    chosen = {
        name: rows for name, rows in tasks(options.data, output).items() if not options.only or name in options.only
    }
    print("| task | score | test rows | domain | general | adapted | best plain method |")
    print("|---|---|---|---|---|---|---|")
    with ThreadPoolExecutor(options.lanes) as lanes:
        jobs = {name: lanes.submit(compare, name, rows, output, options) for name, rows in chosen.items()}
        for name, job in jobs.items():
            found = job.result()
            cells = []
            for each in found["contenders"]:
                verdict = "" if each["verdict"] in (None, "no difference shown") else f", {each['verdict']}"
                estimate, low, high = each["score"]
                cells.append((estimate, f"{estimate:.3f} ({low:.3f} to {high:.3f}){verdict}"))
            plain = max(cells[len(MODELS) :])[1]
            shown = " | ".join(text for _, text in cells[: len(MODELS)])
            print(f"| {name} | {found['metric']} | {found['rows']['test']:,} | {shown} | {plain} |", flush=True)
    print("better, worse: than `domain`; no word: no difference shown")


if __name__ == "__main__":
    main()
