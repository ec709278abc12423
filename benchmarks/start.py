"""How long a run takes from the start of its process to its first step.

    python benchmarks/start.py PREPARED [--presets bert-mini bert-base] [--rounds 2] [--flags "..."]

PREPARED is what `bertsmith prepare` wrote. Each run is a new one, begins, says when, and is killed. `--flags` are
further ones of `pretrain`, such as "--output-bias zero --embedding-init normal --attention-init normal" for first
weights that are not counted.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def seconds_before_first_step(data: Path, preset: str, flags: list[str]) -> float:
    """Of a new run that does not compile: until its first step ended, less that step."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [sys.executable, "-m", "bertsmith", "pretrain", str(data), "-o", str(out), "--preset", preset]
        started = time.perf_counter()
        run = subprocess.Popen([*command, "--compile", "no", *flags], stdout=subprocess.DEVNULL)
        metrics = out / "metrics.jsonl"
        try:
            while not (metrics.exists() and metrics.read_text(encoding="utf-8").count("\n")):
                if run.poll() is not None:
                    raise SystemExit(f"the run ended before its first step: {' '.join(command)}")
                time.sleep(0.02)
            elapsed = time.perf_counter() - started
            first = json.loads(metrics.read_text(encoding="utf-8").splitlines()[0])
        finally:
            run.kill()
            run.wait()
    return elapsed - float(first["tokens"] / first["tokens_per_second"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--presets", nargs="+", default=["bert-mini", "bert-base"])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--flags", default="")
    options = parser.parse_args()
    found: dict[str, list[float]] = {preset: [] for preset in options.presets}
    for _ in range(options.rounds):
        for preset, seconds in found.items():
            seconds.append(seconds_before_first_step(options.data, preset, options.flags.split()))
            print(f"{preset}: first step after {seconds[-1]:.1f} s", flush=True)
    print("; ".join(f"{preset} {min(each):.1f} to {max(each):.1f} s" for preset, each in found.items()))


if __name__ == "__main__":
    main()
