"""Everything to check and measure where a GPU is at hand, in under ten minutes.

    python benchmarks/gpu.py [--quick] [--minutes 10]

1. The tests marked `gpu`: attention against a float64 loop on this card.
2. One step of the same model on CPU in float64 and on the card in bfloat16 and
   float32: losses and gradient norms beside each other.
3. `bertsmith bench` of bert-base at 512 tokens, eager and compiled: tokens per
   second, share of the rate of an 8192-cube product, where the time goes.
4. benchmarks/training_speed.py of bert-base at 512 tokens against the Trainer.

What the time does not suffice for is stopped, and named; what was printed until then stands.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from bertsmith.bench import made_up_batch
from bertsmith.model import BertConfig, BertPretrainingModel
from bertsmith.objective import sum_losses
from bertsmith.optim import make_optimizer
from bertsmith.step import train_step

ROOT = Path(__file__).parents[1]


def one_step(device: str, dtype: torch.dtype, precision: str) -> tuple[float, float]:
    """Loss and gradient norm of the first step of a small model."""
    config = BertConfig(
        vocab_size=2000,
        hidden_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=1024,
        max_position_embeddings=128,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    torch.manual_seed(0)
    model = BertPretrainingModel(config).to(device, dtype)
    optimizer = make_optimizer(model, weight_decay=0.01, beta2=0.98)
    batch = made_up_batch(config, rows=16).to(torch.device(device))
    result = train_step(model, sum_losses, [batch], optimizer, max_grad_norm=1.0, precision=precision, dropout_key=None)
    return result.measured.loss, result.grad_norm


def compare_steps(device: str) -> None:
    exact = one_step("cpu", torch.float64, "float32")
    print(f"cpu float64: loss {exact[0]:.6f}, gradient norm {exact[1]:.6f}")
    for precision, tolerance in (("float32", 2e-3), ("bfloat16", 2e-2)):
        loss, norm = one_step(device, torch.float32, precision)
        print(f"{device} {precision}: loss {loss:.6f}, gradient norm {norm:.6f}", flush=True)
        if abs(loss / exact[0] - 1) > tolerance or abs(norm / exact[1] - 1) > 5 * tolerance:
            raise SystemExit(f"{precision} on {device} is not within {tolerance:g} of float64")


def run_within(command: list[str], what: str, until: float) -> None:
    """Run another script, and what it starts, for as long as there is time."""
    job = subprocess.Popen([sys.executable, *command], start_new_session=True)
    try:
        if job.wait(timeout=max(1.0, until - time.monotonic())):
            raise SystemExit(f"{what}: failed")
    except subprocess.TimeoutExpired:
        os.killpg(job.pid, signal.SIGKILL)
        print(f"{what}: stopped, the time was over; give more --minutes", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="leave out the comparison with the Trainer")
    parser.add_argument("--device", default="cuda", help="cpu tries the script itself, with bert-tiny")
    parser.add_argument("--minutes", type=float, default=10)
    options = parser.parse_args()
    until = time.monotonic() + 60 * options.minutes - 15
    small = options.device == "cpu"
    if not small:
        if not torch.cuda.is_available():
            raise SystemExit("no CUDA device here")
        run_within(["-m", "pytest", "-m", "gpu", "-rs", str(ROOT / "tests")], "tests", until)
    compare_steps(options.device)
    preset, rows, steps = ("bert-tiny", "2", "4") if small else ("bert-base", "64", "20")
    shape = ["--preset", preset, "--sequence-length", "512", "--global-batch-size", rows]
    run_within(["-m", "bertsmith", "bench", "--device", options.device, *shape], "bench", until)
    if not options.quick:
        script = [str(ROOT / "benchmarks" / "training_speed.py"), "--device", options.device]
        only = ["--presets", preset, "--lengths", "512", "--dropout", "0", "--rounds", "3", "--steps", steps]
        run_within([*script, *only], "training speed", until)


if __name__ == "__main__":
    main()
