"""Text to training sequences: `bertsmith prepare` against datasets.map as run_mlm.py uses it.

    python benchmarks/preparation_speed.py [--quick] [--text FILE.jsonl] [--workers N]

Both sides read the same JSON lines with the same tokenizer. run_mlm.py tokenises
with `map`, joins the ids and cuts blocks with a second `map`; Bertsmith also finds
sentences and sections, removes duplicates, and writes hashed shards. Each side runs
in a new process with an empty cache, alternately. The last line has the ratio.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

BLOCK = 128


def bertsmith_side(text: Path, tokenizer: Path, folder: Path, workers: int) -> None:
    from bertsmith.config import DataConfig
    from bertsmith.prepare import prepare

    config = DataConfig(text=(str(text),), tokenizer=str(tokenizer), workers=workers)
    prepare(config, folder, report=lambda _line: None)


def datasets_side(text: Path, tokenizer: Path, folder: Path, workers: int) -> None:
    """The two `map` calls of run_mlm.py with its defaults (line_by_line off)."""
    import datasets
    from transformers import AutoTokenizer

    datasets.disable_progress_bars()
    encode = AutoTokenizer.from_pretrained(tokenizer)
    data = datasets.load_dataset("json", data_files=str(text), cache_dir=str(folder), split="train")

    def tokenize(examples: dict[str, list[str]]) -> Any:
        return encode(examples["text"], return_special_tokens_mask=True)

    def group(examples: dict[str, list[list[int]]]) -> dict[str, list[list[int]]]:
        joined = {key: list(chain(*examples[key])) for key in examples}
        total = len(joined["input_ids"]) // BLOCK * BLOCK
        return {key: [ids[i : i + BLOCK] for i in range(0, total, BLOCK)] for key, ids in joined.items()}

    processes = workers if workers > 1 else None
    data = data.map(tokenize, batched=True, num_proc=processes, remove_columns=data.column_names)
    data.map(group, batched=True, num_proc=processes)


class Memory(threading.Thread):
    """Peak of the memory of this process and its children, shared pages counted once."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0

    def run(self) -> None:
        import psutil

        me = psutil.Process()
        while True:
            total = 0
            for process in (me, *me.children(recursive=True)):
                try:
                    total += process.memory_full_info().pss
                except psutil.Error:
                    continue
            self.peak = max(self.peak, total)
            time.sleep(0.2)


def one_side(side: str, case: dict[str, Any]) -> None:
    """Run one side in this process and print what it took."""
    memory = Memory()
    memory.start()
    folder = Path(case["folder"])
    started = time.perf_counter()
    run = {"bertsmith": bertsmith_side, "datasets": datasets_side}[side]
    run(Path(case["text"]), Path(case["tokenizer"]), folder, case["workers"])
    seconds = time.perf_counter() - started
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(
        json.dumps(
            {
                "seconds": seconds,
                "processor": sum(u.ru_utime + u.ru_stime for u in used),
                "disk": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
                "memory": memory.peak,
            }
        )
    )


def measure(side: str, case: dict[str, Any]) -> dict[str, float]:
    folder = Path(tempfile.mkdtemp())
    environment = os.environ | {"TOKENIZERS_PARALLELISM": "true" if case["workers"] == 1 else "false"}
    environment |= {"RAYON_NUM_THREADS": "1", "HF_DATASETS_OFFLINE": "1"}
    try:
        done = subprocess.run(
            [sys.executable, __file__, "--side", side, json.dumps(case | {"folder": str(folder)})],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
        if done.returncode:
            raise SystemExit(f"{side} failed: {done.stderr.strip()[-500:]}")
        return dict(json.loads(done.stdout.strip().splitlines()[-1]))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def builtin_text(path: Path) -> Path:
    """The built-in corpus as JSON lines."""
    from bertsmith.corpus import open_corpus

    with path.open("w", encoding="utf-8") as file:
        for section in open_corpus(()).sections():
            file.write(json.dumps({"text": section.text}) + "\n")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--text", type=Path, help="JSON lines with a field `text` [the built-in corpus]")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        return one_side(options.side[0], json.loads(options.side[1]))
    from bertsmith.config import DataConfig
    from bertsmith.prepare import make_tokenizer

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = options.text or builtin_text(folder / "text.jsonl")
        make_tokenizer(DataConfig(text=(str(text),), vocab_size=16384), folder / "tokenizer", report=lambda _line: None)
        size = text.stat().st_size / 1e6
        case = {"text": str(text.resolve()), "tokenizer": str(folder / "tokenizer"), "workers": options.workers}
        print(f"{size:.1f} MB of JSON lines, {options.workers} workers", flush=True)
        results: dict[str, list[dict[str, float]]] = {"bertsmith": [], "datasets": []}
        for _ in range(1 if options.quick else options.rounds):
            for side in results:
                results[side].append(measure(side, case))
    for side, runs in results.items():
        middle = {key: median(run[key] for run in runs) for key in runs[0]}
        print(
            f"{side}: {size / middle['seconds']:.2f} MB/s, {size / middle['processor']:.2f} MB per processor second, "
            f"{middle['memory'] / 1e6:,.0f} MB memory, {middle['disk'] / 1e6:,.1f} MB on disk"
        )
    ratios = [b["processor"] / a["processor"] for a, b in zip(results["bertsmith"], results["datasets"], strict=True)]
    print(
        f"ratio of MB per processor second, Bertsmith to datasets.map: {median(ratios):.2f}x "
        f"({min(ratios):.2f} to {max(ratios):.2f})"
    )
    return None


if __name__ == "__main__":
    main()
