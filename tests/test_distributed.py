"""A whole run with two processes, started as a user starts it."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from bertsmith import distributed
from bertsmith.checkpoint_folders import list_checkpoints
from bertsmith.commands.console import make_reporter
from bertsmith.errors import UserError
from bertsmith.machine.device import find_device
from bertsmith.pretrain import pretrain, wait_for_settings

from prose import write_prose
from runs import TINY, flags_of, free_port, train

TWO_PROCESSES = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["bert-tiny", "modern-tiny"])
def test_a_run_of_two_processes_is_that_of_one(preset: str, tmp_path: Path) -> None:
    text = write_prose(tmp_path / "prose.txt")
    changes = {
        "preset": preset,
        "micro_batch_size": 2,
        "steps": 6,
        "checkpoint_every": 1e-6,
        "hidden_dropout_prob": 0.1,
    }
    train(tmp_path / "one", text, **changes)
    flags = flags_of({**TINY, **changes})
    command = [*TWO_PROCESSES, "-m", "bertsmith", "pretrain", str(text), "-o", str(tmp_path / "two"), *flags]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    one, two = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=1e-3)
    assert len((tmp_path / "two" / "metrics.jsonl").read_text().splitlines()) == 6


def rendezvous(folder: Path) -> list[str]:
    """Where the launchers of a run on several machines meet: a free port of this one, the same for all."""
    place = folder.with_suffix(".port")
    if not place.exists():
        place.write_text(str(free_port()))
    return ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{place.read_text()}", "--rdzv-id", folder.name]


def launch(
    text: Path, folder: Path, processes: int = 2, restarts: int = 0, nodes: int = 1, **changes: object
) -> subprocess.Popen[str]:
    flags = flags_of({**TINY, "micro_batch_size": 2, "checkpoint_every": 1e-6, **changes})
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    launcher += ["--max-restarts", str(restarts)]
    launcher += ["--nnodes", str(nodes), *(["--standalone"] if nodes == 1 else rendezvous(folder))]
    command = [*launcher, "-m", "bertsmith", "pretrain", str(text), "-o", str(folder)]
    return subprocess.Popen([*command, *flags], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


PINNED = ("steps", "precision", "micro_batch_size", "compile")


@pytest.mark.parametrize("length", [{"steps": 3}, pytest.param({"budget": "15s"}, marks=pytest.mark.slow)])
def test_two_processes_decide_together_what_nobody_gave(length: dict[str, object], tmp_path: Path) -> None:
    """Precision, micro-batch, compiling and the steps of a budget are measured, and all ranks must take part."""
    text = write_prose(tmp_path / "prose.txt")
    settings = {name: value for name, value in TINY.items() if name not in PINNED}
    flags = flags_of({**settings, **length})
    command = [*TWO_PROCESSES, "-m", "bertsmith", "pretrain", str(text), "-o", str(tmp_path / "two"), *flags]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert (tmp_path / "two" / "model").is_dir()
    assert "rows at once, 2 processes; " in result.stdout


def wait_for_steps(folder: Path, count: int) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until:
        log = folder / "metrics.jsonl"
        if log.exists() and len(log.read_text().splitlines()) >= count:
            return
        time.sleep(0.05)
    raise AssertionError(f"no {count} steps in two minutes")


@pytest.mark.slow
def test_a_signal_stops_all_ranks_and_one_process_goes_on(tmp_path: Path) -> None:
    """What two processes began, one finishes; the update is that of one process throughout."""
    text = write_prose(tmp_path / "prose.txt")
    train(tmp_path / "one", text, micro_batch_size=2, steps=60)
    job = launch(text, tmp_path / "two", steps=60)
    wait_for_steps(tmp_path / "two", 3)
    job.send_signal(signal.SIGTERM)
    job.communicate(timeout=60)
    assert list_checkpoints(tmp_path / "two" / "checkpoints")
    assert not (tmp_path / "two" / "model").exists()
    three = launch(text, tmp_path / "two", processes=3, steps=60)  # four rows: two, one and one
    wait_for_steps(tmp_path / "two", 20)
    three.send_signal(signal.SIGTERM)
    three.communicate(timeout=60)
    train(tmp_path / "two", text, micro_batch_size=2, steps=60, checkpoint_every=1e-6)
    one, two = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("one", "two"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-2, atol=1e-2)


@pytest.mark.slow
def test_a_rank_that_dies_stops_the_others(tmp_path: Path) -> None:
    text = write_prose(tmp_path / "prose.txt")
    job = launch(text, tmp_path / "run", steps=100_000)
    wait_for_steps(tmp_path / "run", 3)
    ranks = [p for p in psutil.Process(job.pid).children(recursive=True) if "pretrain" in p.cmdline()]
    ranks[-1].kill()
    output, _ = job.communicate(timeout=120)
    assert job.returncode != 0
    assert "SIGKILL" in output or "Signal 9" in output
    assert "another process of this run has ended" in output
    assert output.count("Traceback (most recent call last)") <= 1  # that of torchrun itself
    assert output.count(f"run: {tmp_path}") == 1  # the second process keeps quiet
    assert not [p for p in ranks if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    assert list_checkpoints(tmp_path / "run" / "checkpoints")


@pytest.mark.slow
@pytest.mark.parametrize("nodes", [1, 2])
def test_torchrun_may_start_a_run_again(nodes: int, tmp_path: Path) -> None:
    """It goes on from the newest checkpoint, twice. Of two machines one alone counts a start more."""
    text = write_prose(tmp_path / "prose.txt")
    jobs = [launch(text, tmp_path / "run", processes=2 // nodes, restarts=2, nodes=nodes, steps=60)]
    jobs += [launch(text, tmp_path / "run", processes=1, restarts=2, nodes=2, steps=60) for _ in range(nodes - 1)]
    for count in (3, 20):
        wait_for_steps(tmp_path / "run", count)
        [p for p in psutil.Process(jobs[-1].pid).children(recursive=True) if "pretrain" in p.cmdline()][-1].kill()
    outputs = [job.communicate(timeout=180)[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0] * nodes, outputs
    assert (tmp_path / "run" / "model").is_dir()
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 60


@pytest.mark.slow
def test_ranks_take_what_the_main_rank_has_measured(tmp_path: Path) -> None:
    """Each measures; if each believed itself, ranks could compute in different precisions."""
    script = tmp_path / "ranks.py"
    script.write_text(
        "from bertsmith import distributed\n"
        "distributed.start('cpu')\n"
        "assert distributed.from_main(10.0 + distributed.rank()) == 10.0\n"
        "assert distributed.from_main(distributed.rank() == 0) == 1.0\n"
    )
    result = subprocess.run([*TWO_PROCESSES, str(script)], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr[-2000:]


def test_tensors_are_sent_in_their_order_and_few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "BUCKET", 10)
    tensors = [torch.zeros(size) for size in (4, 6, 1, 30, 9, 2)]
    sent = list(distributed.buckets(tensors))
    assert [[len(tensor) for tensor in bucket] for bucket in sent] == [[4, 6], [1], [30], [9], [2]]
    assert not list(distributed.buckets([]))


def test_an_environment_that_says_half_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(UserError, match=r"WORLD_SIZE is 2 .* RANK is not set; start several processes with torchrun"):
        distributed.start("cpu")


def test_processes_that_cannot_meet_say_where(monkeypatch: pytest.MonkeyPatch) -> None:
    address = {"RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "no port"}
    for name, value in {"WORLD_SIZE": "2", **address}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"process 1 could not join the others at 127.0.0.1:no port; start all"):
        distributed.start("cpu")
    assert distributed.world_size() == 1


@pytest.mark.parametrize(
    ("there", "name", "found"),
    [
        ({"cuda": 2}, "auto", "cuda:1"),
        ({"cuda": 1}, "auto", "2 processes were started here and there are 1 GPUs.*; start 1, or give --device cpu"),
        ({"cuda": 1}, "cpu", "cpu"),
        ({"mps": 1}, "auto", "cpu"),
        ({"mps": 1}, "mps", "device is 'mps', which several processes cannot share"),
    ],
)
def test_each_process_has_a_gpu_of_its_own(
    there: dict[str, int], name: str, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: "cuda" in there)
    monkeypatch.setattr("torch.cuda.device_count", lambda: there["cuda"])
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: "mps" in there)
    for variable, value in {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(variable, value)
    try:
        device = str(find_device(name))
    except UserError as error:
        device = str(error)
    assert re.match(found, device)


def test_ranks_beside_the_first_keep_quiet(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("RANK", "1")
    reporter = make_reporter()
    for speak in (reporter.say, reporter.warn):
        speak("what the first one says already")
    assert not caplog.records


def test_a_rank_without_the_folder_of_the_run_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "is_main", lambda: False)
    monkeypatch.setattr("bertsmith.pretrain.SECONDS_TO_APPEAR", 0)
    with pytest.raises(UserError, match=r"folder of the run, .*gone, is not here; all machines of a run have to share"):
        pretrain(tmp_path / "gone", {"device": "cpu"}, {})


def test_settings_may_be_seen_late_on_another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _seconds: (tmp_path / "config.toml").touch())
    wait_for_settings(tmp_path)
    assert (tmp_path / "config.toml").exists()


def test_one_rank_alone_writes_a_plan(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(tmp_path / "run", text, plan_only=True)
    before = (tmp_path / "run" / "config.toml").stat()
    monkeypatch.setattr(distributed, "is_main", lambda: False)
    train(tmp_path / "run", text, plan_only=True)
    after = (tmp_path / "run" / "config.toml").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
