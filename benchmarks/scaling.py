"""Two processes with one core each against one process with one core.

    python benchmarks/scaling.py PREPARED [--preset bert-mini] [--rounds 3]

Both are `bertsmith pretrain` on prepared text with the same rows for each process;
the last line has the efficiency: 1 would be twice the tokens per second.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from sides import fast_precision

STEPS = 30


def speed(prepared: Path, preset: str, processes: int, rows: int) -> float:
    """Tokens per second over all processes, the median step."""
    with tempfile.TemporaryDirectory() as name:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        command = [sys.executable, *(launcher if processes > 1 else []), "-m", "bertsmith", "pretrain", str(prepared)]
        fixed = ["--compile", "no", "--precision", fast_precision(), "--threads", "1", "--micro-batch-size", str(rows)]
        sizes = ["--steps", str(STEPS), "--global-batch-size", str(rows * processes), "--validation-every", "1000"]
        run = Path(name) / "run"
        subprocess.run([*command, "-o", str(run), "--preset", preset, *fixed, *sizes], check=True, capture_output=True)
        lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[5:]
        return median(json.loads(line)["tokens_per_second"] for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prepared", type=Path)
    parser.add_argument("--preset", default="bert-mini")
    parser.add_argument("--rows", type=int, default=16, help="of each process and step")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    ratios = []
    for _ in range(options.rounds):
        one, two = (speed(options.prepared, options.preset, n, options.rows) for n in (1, 2))
        ratios.append(two / one / 2)
        print(f"one process {one:,.0f} tokens/s, two {two:,.0f}", flush=True)
    print(f"efficiency of two processes: {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
