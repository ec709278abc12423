"""Tokens per second of Bertsmith against the Trainer of transformers at its best flags, on this machine.

    python benchmarks/training_speed.py [--quick] [--presets bert-mini bert-base] [--lengths 128 512] [--dropout 0 0.1]

The same model, vocabulary, batch and text on both sides, AdamW, no padding. First
every candidate of flags is tried for either side and printed, the likely best first; then the best of each
run alternately, each time in a new process. The last line has the ratios. Where the
time is short, --minutes ends the search and the rounds early, and says so.
"""

import argparse
import json
import math
import subprocess
import sys
import time
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch

from bertsmith.config import DataConfig
from bertsmith.machine.work import copy_rate, matrix_rate, step_operations
from bertsmith.model import BertConfig
from bertsmith.prepare import prepare
from bertsmith.presets import PRESETS
from bertsmith.tokenizer import load_tokenizer

PLACES = 8192
"""Token places of a step."""

PRECISIONS = ("bfloat16", "float32")
TRAINER = [
    {"precision": precision, "compile": compiled, "attention": attention, "optim": "adamw_torch_fused"}
    for precision, compiled, attention in product(PRECISIONS, (True, False), ("sdpa", "eager"))
] + [{"precision": "float32", "compile": False, "attention": "sdpa", "optim": "adamw_torch"}]
BERTSMITH = [
    {"precision": precision, "compile": compiled} for precision, compiled in product(PRECISIONS, (True, False))
]
SEARCH_ENDS = {"bertsmith": 0.2, "trainer": 0.7}
"""When the search for the flags of a side ends, as a share of the minutes that are given."""

SOFTWARE = 2.0
"""A precision with matrix products this many times as slow as the other's is not tried."""


def measure(side: str, case: dict[str, Any]) -> dict[str, Any] | None:
    """Run one side in its own process; None when it fails."""
    script = Path(__file__).with_name("sides.py")
    done = subprocess.run(
        [sys.executable, str(script), side, json.dumps(case)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        print(f"    failed: {done.stderr.strip().splitlines()[-1][:120] if done.stderr.strip() else 'killed'}")
        return None
    result = json.loads(done.stdout.strip().splitlines()[-1])
    result["speed"] = case["rows"] * case["length"] / median(result["seconds"])
    return dict(result)


def best_of(
    side: str, candidates: list[dict[str, Any]], base: dict[str, Any], options: argparse.Namespace
) -> dict[str, Any]:
    """The fastest candidate of one side, each printed."""
    sizes = options.micro_batches or sorted({base["rows"], max(1, base["rows"] // 4)})
    found: list[tuple[float, dict[str, Any]]] = []
    for flags, size in product(candidates, sizes):
        if flags["precision"] not in options.precisions:
            continue
        if found and time.monotonic() > options.started + 60 * options.minutes * SEARCH_ENDS[side]:
            print(f"    {side}: the other candidates are not tried, the time for the search is over", flush=True)
            break
        case = base | flags | {"micro_batch": min(size, base["rows"]), "steps": 2}
        result = measure(side, case)
        if result:
            found.append((result["speed"], case))
            text = ", ".join(f"{k} {v}" for k, v in flags.items())
            print(f"    {side}: {text}, {size} rows at once: {result['speed']:,.0f} tokens/s", flush=True)
    if not found:
        raise SystemExit(f"no candidate of {side} runs on this machine")
    return max(found, key=lambda pair: pair[0])[1]


def compare(base: dict[str, Any], peak: float, options: argparse.Namespace) -> str:
    """Search the best flags of both sides, run them alternately, print the table."""
    trainer = [flags for flags in TRAINER if flags["attention"] in options.attention]
    if options.fill_cache:
        for side, flags in (("bertsmith", BERTSMITH[0]), ("trainer", trainer[0])):
            measure(side, base | flags | {"micro_batch": (options.micro_batches or [base["rows"]])[-1], "steps": 1})
        return "not measured"
    ours = best_of("bertsmith", BERTSMITH, base, options)
    theirs = best_of("trainer", trainer, base, options)
    cases = {"bertsmith": ours | {"steps": options.steps}, "trainer": theirs | {"steps": options.steps}}
    speeds: dict[str, list[float]] = {side: [] for side in cases}
    memory: dict[str, float] = {}
    for number in range(options.rounds):
        if number and time.monotonic() > options.started + 60 * options.minutes:
            print(f"    {number} rounds, the time is over", flush=True)
            break
        for side, case in cases.items():
            result = measure(side, case)
            if result:
                speeds[side].append(result["speed"])
                memory[side] = result["memory"]
    ratios = [one / other for one, other in zip(speeds["bertsmith"], speeds["trainer"], strict=True)]
    config = BertConfig(**base["shape"])
    places = base["rows"] * base["length"]
    work = step_operations(config, tokens=places, row_length=base["length"], predictions=round(0.15 * places))
    share = median(speeds["bertsmith"]) / places * work / peak
    for side in cases:
        flags = {k: cases[side][k] for k in ("precision", "compile", "micro_batch")}
        print(
            f"    {side}: {median(speeds[side]):,.0f} tokens/s "
            f"({min(speeds[side]):,.0f} to {max(speeds[side]):,.0f}), "
            f"{memory[side] / 1e6:,.0f} MB beyond the training state, {flags}"
        )
    line = f"{median(ratios):.2f}x ({min(ratios):.2f} to {max(ratios):.2f})"
    print(f"    ratio {line}; bertsmith at {share:.0%} of the matrix rate", flush=True)
    return line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="fewer candidates, bert-mini at 128 tokens without dropout"
    )
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=["bert-mini", "bert-base"])
    parser.add_argument("--lengths", nargs="+", type=int, default=[128, 512])
    parser.add_argument("--dropout", nargs="+", type=float, default=[0.0, 0.1])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--places", type=int, default=PLACES, help="tokens of a step")
    parser.add_argument("--minutes", type=float, default=math.inf, help="for search and rounds together")
    parser.add_argument("--micro-batches", nargs="+", type=int, help="rows at once to try [all, and a quarter]")
    parser.add_argument(
        "--precisions", nargs="+", choices=["float32", "bfloat16"], help="to try [those with fast matrix products]"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--data", type=Path, default=Path("runs/benchmark-data"))
    parser.add_argument(
        "--attention", nargs="+", choices=["sdpa", "eager"], default=["sdpa", "eager"], help="Trainer's"
    )
    parser.add_argument("--fill-cache", action="store_true", help="compile once what will be compiled again, no more")
    parser.add_argument("--as-is", action="store_true", help="the data were prepared already, maybe on another machine")
    options = parser.parse_args()
    options.started = time.monotonic()
    if options.quick:
        options.micro_batches = [16]
        options.presets, options.lengths, options.dropout, options.rounds = ["bert-mini"], [128], [0.0], 2
    torch.set_num_threads(options.threads)
    if not options.as_is:
        options.data.mkdir(parents=True, exist_ok=True)
        prepare(DataConfig(vocab_size=8192), options.data, report=lambda _line: None)
    vocab_size = load_tokenizer(options.data / "tokenizer").vocab_size
    device = torch.device(options.device)
    rates = {precision: matrix_rate(device, precision) for precision in ("float32", "bfloat16")}
    peak = max(rates.values())
    options.precisions = options.precisions or [name for name, rate in rates.items() if rate * SOFTWARE > peak]
    print(f"{options.device}, {options.threads} threads, torch {torch.__version__}: {peak / 1e12:.2f} TFLOP/s in the")
    print(f"best matrix product, {copy_rate(device) / 1e9:.1f} GB/s copied; steps of {options.places} places")
    products = ", ".join(f"{name} {rate / 1e12:.2f}" for name, rate in rates.items())
    print(f"TFLOP/s by precision: {products}; tried: {', '.join(options.precisions)}", flush=True)
    ratios = []
    for name, length, dropout in product(options.presets, options.lengths, options.dropout):
        preset = PRESETS[name]
        shape = {
            "vocab_size": vocab_size,
            "hidden_size": preset.hidden_size,
            "num_hidden_layers": preset.num_hidden_layers,
            "num_attention_heads": preset.hidden_size // 64,
            "intermediate_size": 4 * preset.hidden_size,
            "max_position_embeddings": length,
        }
        base = {"shape": shape, "length": length, "rows": options.places // length, "dropout": dropout}
        base |= {"data": str(options.data), "device": options.device, "threads": options.threads}
        print(f"{name}, {length} tokens, dropout {dropout:g}", flush=True)
        ratios.append(f"{name} {length} dropout {dropout:g}: {compare(base, peak, options)}")
    print("ratio of tokens per second, Bertsmith to Trainer: " + "; ".join(ratios))


if __name__ == "__main__":
    main()
