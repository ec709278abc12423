"""A whole run with two processes, started as a user starts it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from prose import write_prose
from runs import TINY, train


@pytest.mark.slow
def test_a_run_of_two_processes_is_that_of_one(tmp_path: Path) -> None:
    text = write_prose(tmp_path / "prose.txt")
    changes = {"micro_batch_size": 2, "steps": 6, "checkpoint_every": 1e-6}
    train(tmp_path / "one", text, **changes)
    flags = [
        part for name, value in {**TINY, **changes}.items() for part in (f"--{name.replace('_', '-')}", str(value))
    ]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29533"]
    command = [*launcher, "-m", "bertsmith", "pretrain", str(text), "-o", str(tmp_path / "two"), *flags]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    one, two = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=1e-3)
    assert len((tmp_path / "two" / "metrics.jsonl").read_text().splitlines()) == 6
