"""Everything to check and measure where a GPU is at hand, in under ten minutes.

    python benchmarks/gpu.py [--quick] [--minutes 10] [--data PREPARED]

1. The tests marked `gpu`: attention against a float64 loop on this card, recorded steps against steps that are not.
2. One step of small models of both families on the CPU in float64 and on the card in float32 and
   bfloat16, as it is, compiled, and with dropout: losses and gradient norms beside each other.
3. `bertsmith pretrain` of bert-base at 512 tokens, stopped by a signal and continued: seconds until the first step
   of both, tokens per second, share of the matrix rate, and of each step how much was spent waiting for its rows.
4. `bertsmith pretrain --family modern --budget 25s`: steps, milliseconds of each, waiting, loss, seconds in all.
5. benchmarks/training_speed.py of bert-base at 512 tokens against the Trainer.
6. `bertsmith bench` of the same, eager and compiled: tokens per second, share of the rate of an
   8192-cube product, where the time goes.

1 and 2 run at once, and compile the model of 5 beside. It needs pytest, and for 5 transformers and accelerate;
Bertsmith need not be installed. What fails is named at the end, and so is what the time does not suffice for; what was
printed until then stands. 3 to 6 train on PREPARED, by default the built-in text in runs/benchmark-data, which is
prepared if it is not there; a folder from another machine will do.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).parents[1]
DATA = ROOT / "runs" / "benchmark-data"
SPARE_SECONDS, MINUTES_OF_A_ROUND = 5.0, 0.9
BUDGET = 25
GPU_TESTS = ("tests/test_attention.py", "tests/test_recorder.py")

sys.path.insert(0, str(ROOT / "src"))
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])

Case = tuple[str, str, bool, float]
"""Family, precision, whether compiled, dropout."""

TOLERANCES = {"float32": 2e-3, "bfloat16": 2e-2}
"""Of the loss, relative to float64; that of the gradient norm is five times as large."""

CASES: list[Case] = [
    (family, precision, False, 0.0) for family in ("bert", "modern") for precision in ("float32", "bfloat16")
] + [("bert", "bfloat16", False, 0.1), ("bert", "bfloat16", True, 0.0), ("modern", "bfloat16", True, 0.0)]


def one_step(device: str, case: Case, *, double: bool = False) -> tuple[float, float]:
    """Loss and gradient norm of the first step of a small model; the rows hold sequences of odd and of no length."""
    import torch

    from bertsmith.machine.compiling import compiled_losses
    from bertsmith.model import new_config, new_model
    from bertsmith.objective import sum_losses
    from bertsmith.optim import make_optimizer
    from bertsmith.step import train_step

    family, precision, compiled, dropout = case
    config = new_config(
        {"bert": "bert", "modern": "modernbert"}[family],
        special_ids={"pad_token_id": 0},
        max_position_embeddings=256,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        vocab_size=2000,
        hidden_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=1024,
    )
    torch.manual_seed(0)
    model = new_model(config, next_sentence=family == "bert").to(device, torch.float64 if double else torch.float32)
    optimizer = make_optimizer(model, weight_decay=0.01, beta2=0.98, kind="muon", precision=precision)
    batch = uneven_batch(config).to(torch.device(device))
    losses = compiled_losses() if compiled else sum_losses
    key = (0, 0) if dropout else None
    result = train_step(
        model, losses, [batch, batch], optimizer, max_grad_norm=1.0, precision=precision, dropout_key=key
    )
    return result.measured.loss, result.grad_norm


def uneven_batch(config: Any, rows: int = 4) -> Any:
    """Rows of made-up ids, each cut into three sequences and an empty one."""
    from dataclasses import replace

    import torch

    from bertsmith.bench import made_up_batch
    from bertsmith.data.rows import IGNORE_INDEX

    batch, length = made_up_batch(config, rows), config.max_position_embeddings
    ends = torch.tensor([length // 3 - 7, length - 50, length - 50, length])
    starts = torch.cat([torch.zeros(1), (torch.arange(rows)[:, None] * length + ends).flatten()])
    pairs = torch.tensor([0, 1, IGNORE_INDEX, 1]).repeat(rows)  # the third one is empty
    return replace(batch, cu_seqlens=starts.int(), next_sentence_label=pairs)


def compare_steps(device: str) -> None:
    """Print losses and gradient norms, and leave when they are too far from float64."""
    failed = []
    exact = {family: one_step("cpu", (family, "float32", False, 0.0), double=True) for family in ("bert", "modern")}
    for family, (loss, norm) in exact.items():
        print(f"{family}, cpu float64: loss {loss:.6f}, gradient norm {norm:.6f}")
    for case in CASES:
        family, precision, compiled, dropout = case
        how = f"{family}, {device} {precision}{', compiled' * compiled}{', dropout' * bool(dropout)}"
        try:
            loss, norm = one_step(device, case)
        except Exception as error:  # the other cases are still worth a look
            failed.append(f"{how}: {type(error).__name__}: {error}")
            print(failed[-1], flush=True)
            continue
        print(f"{how}: loss {loss:.6f}, gradient norm {norm:.6f}", flush=True)
        tolerance = 0.05 if dropout else TOLERANCES[precision]
        (true_loss, true_norm), norm_tolerance = exact[family], 5 * tolerance
        if not (abs(loss / true_loss - 1) < tolerance and abs(norm / true_norm - 1) < norm_tolerance):
            failed.append(f"{how} is not within {tolerance:g} of float64")
            print(failed[-1], flush=True)
    if failed:
        raise SystemExit(f"{len(failed)} of {len(CASES)} steps failed")


def train_for_a_while(device: str, data: Path) -> None:
    """Give a run a budget of time, and print what became of it."""
    with TemporaryDirectory() as name:
        run, started = Path(name) / "run", time.monotonic()
        command = [sys.executable, "-m", "bertsmith", "pretrain", str(data), "-o", str(run), "--device", device]
        subprocess.run([*command, "--family", "modern", "--budget", f"{BUDGET}s"], check=True)
        steps = read(run)
        for where, part in (("first", steps[: len(steps) // 2]), ("second", steps[len(steps) // 2 :])):
            each = median(s["tokens"] / s["tokens_per_second"] * 1e3 for s in part)
            wait = median(s["input_wait"] for s in part)
            print(f"{where} half of {len(steps)} steps: {each:.2f} ms each, waiting for rows {wait:.2%}")
        print(f"budget of {BUDGET} s: {time.monotonic() - started:.1f} s", flush=True)


def train_and_go_on(device: str, data: Path, preset: str, rows: str) -> None:
    """Stop a run after ten steps, continue it, and print what its log says of the steps."""
    with TemporaryDirectory() as name:
        run = Path(name) / "run"
        command = [sys.executable, "-m", "bertsmith", "pretrain", str(data), "-o", str(run), "--device", device]
        command += ["--preset", preset, "--sequence-length", "512", "--global-batch-size", rows, "--steps", "40"]
        command += ["--validation-every", "1000"]
        first = subprocess.Popen(command)
        print(f"first step after {seconds_until(run, 1, first):.1f} s", flush=True)
        seconds_until(run, 10, first)
        first.send_signal(signal.SIGTERM)
        if first.wait() != 128 + signal.SIGTERM or not list(run.glob("checkpoints/step-*")):
            raise SystemExit(f"the run was not saved when it was asked to stop (exit code {first.returncode})")
        done = len(read(run))
        print(f"stopped and saved after {done} steps", flush=True)
        second = subprocess.Popen(command)
        print(f"continued: its first step after {seconds_until(run, done + 1, second):.1f} s", flush=True)
        if second.wait():
            raise SystemExit(f"the continued run failed (exit code {second.returncode})")
        steps = read(run)
        if [step["step"] for step in steps] != list(range(1, 41)):
            raise SystemExit(f"the log has not each step once: {[step['step'] for step in steps]}")
        late = steps[-20:]
        speed, share, wait = (median(s[k] for s in late) for k in ("tokens_per_second", "matrix_share", "input_wait"))
        print(f"run: {speed:,.0f} tokens/s, {share:.0%} of the matrix rate, waiting for rows {wait:.2%}", flush=True)
        print(f"loss {steps[0]['loss']:.3f} to {steps[-1]['loss']:.3f}", flush=True)


def seconds_until(run: Path, steps: int, job: subprocess.Popen[bytes]) -> float:
    """Wait until the log of a run has so many steps, or its process has ended."""
    started = time.monotonic()
    while job.poll() is None and len(read(run)) < steps:
        time.sleep(0.05)
    return time.monotonic() - started


def read(run: Path) -> list[dict[str, Any]]:
    """The steps in the log of a run."""
    log = run / "metrics.jsonl"
    lines = log.read_text(encoding="utf-8").splitlines(keepends=True) if log.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


class Parts:
    """Runs one part after the other, each in a process of its own, while there is time."""

    def __init__(self, minutes: float) -> None:
        self.until = time.monotonic() + 60 * minutes - SPARE_SECONDS
        self.not_done: list[str] = []

    def minutes_left(self) -> float:
        return max(0.0, self.until - time.monotonic()) / 60

    def start(self, what: str, command: list[str], log: Path | None = None) -> subprocess.Popen[bytes]:
        """Begin a part; what it says goes to a file, or to the terminal."""
        print(f"== {what} ({self.minutes_left():.1f} min left)", flush=True)
        with log.open("wb") if log else nullcontext() as file:
            return subprocess.Popen(
                [sys.executable, *command], start_new_session=True, cwd=ROOT, stdout=file, stderr=file
            )

    def end(self, what: str, job: subprocess.Popen[bytes], log: Path | None = None) -> None:
        """Wait for a part, and for what it started, while there is time; what goes wrong is named at the end."""
        try:
            if job.wait(timeout=max(1.0, self.until - time.monotonic())):
                self.not_done.append(f"{what} failed")
        except subprocess.TimeoutExpired:
            os.killpg(job.pid, signal.SIGKILL)
            self.not_done.append(f"{what} was stopped, the time was over; give more --minutes")
        if log is not None:
            print(f"== what {what} said\n{log.read_text(encoding='utf-8', errors='replace')}", flush=True)

    def run(self, what: str, command: list[str]) -> None:
        """Begin a part and wait for it."""
        self.end(what, self.start(what, command))

    def run_together(self, commands: dict[str, list[str]]) -> None:
        """Several at once, none of which is timed."""
        with TemporaryDirectory() as name:
            logs = {what: Path(name) / f"{number}.log" for number, what in enumerate(commands)}
            jobs = {what: self.start(what, command, logs[what]) for what, command in commands.items()}
            for what, job in jobs.items():
                self.end(what, job, logs[what])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="leave out the comparison with the Trainer")
    parser.add_argument("--device", default="cuda", help="cpu tries the script itself, with bert-tiny")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--part", choices=["steps", "run", "budget"], help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, default=DATA, help="what `bertsmith prepare` wrote")
    options = parser.parse_args()
    small, data = options.device == "cpu", options.data.resolve()
    preset, rows = ("bert-tiny", "2") if small else ("bert-base", "64")
    inside: dict[str, Callable[[], None]] = {
        "steps": lambda: compare_steps(options.device),
        "run": lambda: train_and_go_on(options.device, data, preset, rows),
        "budget": lambda: train_for_a_while(options.device, data),
    }
    if options.part:
        inside[options.part]()
        return
    here = [str(Path(__file__).resolve()), "--device", options.device, "--data", str(data)]
    parts = Parts(options.minutes)
    if not (data / "data" / "manifest.json").exists():
        parts.run("text", ["-m", "bertsmith", "prepare", "-o", str(data), "--vocab-size", "8192"])
    speed = ["benchmarks/training_speed.py", "--device", options.device, "--data", str(data), "--as-is"]
    speed += ["--presets", preset, "--lengths", "512", "--dropout", "0", "--places", str(512 * int(rows))]
    speed += ["--micro-batches", rows, "--steps", "4" if small else "20", "--attention", "sdpa"]
    together = {"steps": [*here, "--part", "steps"]}
    if not small:
        import torch

        if not torch.cuda.is_available():
            raise SystemExit("no CUDA device here")
        print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}", flush=True)
        together["tests"] = ["-m", "pytest", "-m", "gpu", "-W", "ignore", *GPU_TESTS]
    if not options.quick:
        together["compiling"] = [*speed, "--fill-cache"]
    parts.run_together(together)
    parts.run("pretrain", [*here, "--part", "run"])
    parts.run("budget", [*here, "--part", "budget"])
    if not options.quick:
        minutes = max(0.1, parts.minutes_left() - MINUTES_OF_A_ROUND)
        parts.run("training speed", [*speed, "--minutes", f"{minutes:.2f}"])
    shape = ["--preset", preset, "--sequence-length", "512", "--global-batch-size", rows]
    parts.run("bench", ["-m", "bertsmith", "bench", str(data), "--device", options.device, *shape])
    if parts.not_done:
        raise SystemExit("; ".join(parts.not_done))
    print("all checked and measured")


if __name__ == "__main__":
    main()
