"""Kill a run twenty times at seeded moments and compare its end with that of a run left alone.

    make chaos

Each kill is SIGKILL to the whole process group. Moments are drawn over the
whole life of a run: preparing, training, saving. At the end the weights and
the shards must be the same, bit for bit.
"""

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SETTINGS = (
    "--preset bert-tiny --steps 120 --vocab-size 2048 --sequence-length 64 --global-batch-size 8 --threads 1 "
    "--micro-batch-size 4 --precision float32 --compile no --hidden-dropout-prob 0.1 --checkpoint-every 0.01 "
    "--validation-every 40 --seed 7 --workers 2"
).split()


def write_text(folder: Path, seed: int) -> None:
    """A few megabytes of made-up prose in many files."""
    folder.mkdir()
    draw = random.Random(seed)
    words = ["".join(draw.choices("aeioulnrst", k=draw.randint(2, 9))) for _ in range(3000)]
    for number in range(60):
        paragraphs = []
        for _ in range(40):
            sentences = [" ".join(draw.choices(words, k=draw.randint(5, 25))).capitalize() + "." for _ in range(6)]
            paragraphs.append(" ".join(sentences))
        (folder / f"{number:02d}.txt").write_text("\n\n".join(paragraphs), encoding="utf-8")


def start(text: Path, run: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "bertsmith", "pretrain", str(text), "-o", str(run), *SETTINGS]
    return subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finish(process: "subprocess.Popen[bytes]") -> None:
    output, _ = process.communicate()
    if process.returncode:
        sys.exit(f"the run failed with {process.returncode}:\n{output.decode()}")


def state_of(run: Path) -> str:
    """What the run was doing, for the report."""
    done = sorted((run / "checkpoints").glob("step-*[0-9]"))
    unfinished = list(run.rglob("*.tmp"))
    where = f"after checkpoint {done[-1].name}" if done else "before the first checkpoint"
    where += "" if (run / "data" / "manifest.json").exists() else ", preparing"
    return where + (f", while writing {unfinished[0].name}" if unfinished else "")


def hashes(run: Path) -> dict[str, str]:
    """What must be equal: the weights, the shards, the tokenizer, and one log line for each step."""
    files = [run / "model" / "model.safetensors", run / "tokenizer" / "tokenizer.json"]
    files += sorted((run / "data").glob("*.safetensors"))
    found = {str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    steps = [line.split(",")[0] for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return found | {"metrics.jsonl": " ".join(steps)}


def compare(expected: dict[str, str], actual: dict[str, str], kills: int) -> None:
    """Leave with the names of what differs, if anything does."""
    different = sorted(name for name in expected | actual if expected.get(name) != actual.get(name))
    if different:
        sys.exit(f"different after {kills} kills: {', '.join(different)}")


def main() -> None:
    """Run both and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_text(folder / "text", arguments.seed)
        began = time.monotonic()
        finish(start(folder / "text", folder / "straight"))
        whole = time.monotonic() - began
        print(f"the run left alone took {whole:.1f} s", flush=True)
        expected = hashes(folder / "straight")

        kills = 0
        while True:
            process = start(folder / "text", folder / "killed")
            if kills == arguments.kills:
                finish(process)
                break
            # A third of the kills come while the process is young: it prepares, or loads and verifies.
            wait = draw.uniform(0.3, 0.35 * whole if kills % 3 == 0 else 0.8 * whole)
            try:
                process.wait(wait)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
                kills += 1
                print(f"kill {kills} after {wait:.1f} s: {state_of(folder / 'killed')}", flush=True)
            else:
                finish(process)
                compare(expected, hashes(folder / "killed"), kills)
                print("finished before all kills, equal so far; the other kills go to a new run", flush=True)
                (folder / "killed").rename(folder / f"killed-{kills}-{time.monotonic_ns()}")
        compare(expected, hashes(folder / "killed"), kills)
    print(f"{len(expected)} files equal, bit for bit, after {kills} kills")


if __name__ == "__main__":
    main()
