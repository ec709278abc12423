"""What the size of the vocabulary is worth: the same text and time, tokenizers of several sizes.

    python benchmarks/vocabulary.py TEXT VALIDATION [--sizes 4096 8192 16384 32768] [--model tiny] [--minutes 3]
                                    [--seeds 0 1] [--lanes 2] [--blimp FOLDER] [-o FOLDER]

TEXT is prepared once for each size. The speed of each is measured first, alternately in several rounds
of one lane, and each gets the steps that its median speed makes of the minutes: so a lane that is
disturbed later loses time and no step. Losses per token can't be set side by side across vocabularies:
the table gives bits per byte (the pseudo-log-likelihood of `bertsmith evaluate`, on the same words of VALIDATION) and
minimal pairs. Each part that is done is kept in the output folder and not done again.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from recipes import ROWS, Found, Recipe, folder_of, run
from sides import fast_precision

LENGTH = 128
WARM_UP, TIMED = 5, 40


def prepare(options: argparse.Namespace, size: int) -> Path:
    """The text with a vocabulary of so many pieces."""
    folder = options.output / f"prepared-{size}"
    if not (folder / "data").exists():
        command = [sys.executable, "-m", "bertsmith", "prepare", str(options.text), "-o", str(folder)]
        command += ["--validation", str(options.validation), "--vocab-size", str(size)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return Path(folder)


def flags(options: argparse.Namespace) -> str:
    """Of `pretrain`: the preset, and so its recipe."""
    return f"--preset modern-{options.model}"


def steps_a_second(data: Path, options: argparse.Namespace) -> float:
    """Of one thread, after the first steps."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "bertsmith", "pretrain", str(data), "-o", f"{folder}/run", "--threads", "1"]
        command += [*flags(options).split(), "--steps", str(WARM_UP + TIMED), "--global-batch-size", str(ROWS)]
        command += ["--compile", "no", "--precision", options.precision]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
        lines = (Path(folder) / "run/metrics.jsonl").read_text(encoding="utf-8").splitlines()[WARM_UP:]
        speeds = [entry["tokens_per_second"] / entry["tokens"] for entry in map(json.loads, lines)]
        return statistics.median(speeds)


def measured_speeds(prepared: dict[int, Path], options: argparse.Namespace) -> dict[int, list[float]]:
    """Steps a second of each size in each round."""
    kept = options.output / "speeds.json"
    if not kept.exists():
        rounds = [
            {size: steps_a_second(path, options) for size, path in prepared.items()} for _ in range(options.rounds)
        ]
        kept.write_text(json.dumps({size: [each[size] for each in rounds] for size in prepared}), encoding="utf-8")
    speeds = {int(size): each for size, each in json.loads(kept.read_text(encoding="utf-8")).items()}
    if missing := prepared.keys() - speeds.keys():
        raise SystemExit(f"{kept} has no speed of {sorted(missing)}; delete it to measure all sizes anew")
    return speeds


def evaluate(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Bits per byte, and minimal pairs where asked for."""
    kept = folder.with_suffix(".evaluated.json")
    if not kept.exists():
        command = [sys.executable, "-m", "bertsmith", "evaluate", str(folder / "model"), "--threads", "1", "--json"]
        command += ["--text", str(options.validation)]
        if options.blimp:
            command += ["--blimp", str(options.blimp), "--pairs", "100"]
        kept.write_bytes(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    (found,) = json.loads(kept.read_text(encoding="utf-8"))["models"]
    return dict(found)


def learn(size: int, seed: int, steps: int, data: Path, options: argparse.Namespace) -> tuple[Found, dict[str, Any]]:
    """Train for so many steps and measure; `data` is the text with a vocabulary of `size` pieces."""
    case = argparse.Namespace(**vars(options) | {"steps": steps, "data": data, "size": options.model, "blimp": None})
    recipe = Recipe(f"{size} pieces", flags(options))
    return run(recipe, seed, case), evaluate(folder_of(recipe, seed, case), options)


def table(
    done: dict[int, list[tuple[Found, dict[str, Any]]]],
    steps: dict[int, int],
    speeds: dict[int, list[float]],
    prepared: dict[int, Path],
) -> list[str]:
    """A line for each size: what a token is, speed, tokens read and scores of each seed."""
    lines = [
        "| pieces | parameters | bytes a token | tokens/s of a lane (range) | tokens | bits per byte | minimal pairs |"
    ]
    lines.append("|---|---|---|---|---|---|---|")
    for size, results in done.items():
        manifest = json.loads((prepared[size] / "data/manifest.json").read_text(encoding="utf-8"))
        rates = [each * ROWS * LENGTH for each in speeds[size]]
        bits = ", ".join(f"{found['pseudo_likelihood']['bits_per_byte']:.3f}" for _, found in results)
        right = ", ".join(f"{found['minimal_pairs']['accuracy']:.1%}" for _, found in results if found["minimal_pairs"])
        lines.append(
            f"| {size:,} | {results[0][1]['parameters'] / 1e6:.2f} M | {manifest['bytes_per_token']:.2f} "
            f"| {statistics.median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f}) "
            f"| {steps[size] * ROWS * LENGTH / 1e6:.2f} M | {bits} | {right} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("validation", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[4_096, 8_192, 16_384, 32_768])
    parser.add_argument("--model", choices=["tiny", "mini", "small", "base"], default="tiny")
    parser.add_argument("--minutes", type=float, default=3.0, help="of training, first measurements not counted")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--lanes", type=int, default=2)
    parser.add_argument("--blimp", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/vocabulary"))
    options = parser.parse_args()
    options.precision = fast_precision()
    options.output.mkdir(parents=True, exist_ok=True)
    prepared = {size: prepare(options, size) for size in options.sizes}
    speeds = measured_speeds(prepared, options)
    steps = {size: round(statistics.median(speeds[size]) * options.minutes * 60) for size in options.sizes}
    done: dict[int, list[tuple[Found, dict[str, Any]]]] = {}
    with ThreadPoolExecutor(options.lanes) as lanes:
        jobs: list[tuple[int, Future[tuple[Found, dict[str, Any]]]]] = [
            (size, lanes.submit(learn, size, seed, steps[size], prepared[size], options))
            for seed in options.seeds
            for size in options.sizes
        ]
        for size, job in jobs:
            done.setdefault(size, []).append(job.result())
            print(f"{size:,} pieces: {done[size][-1][1]['pseudo_likelihood']['bits_per_byte']:.3f}", flush=True)
    print("\n".join(table(done, steps, speeds, prepared)))


if __name__ == "__main__":
    main()
