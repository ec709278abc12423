"""Being stopped: at any moment, in any way, with one word and nothing lost."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import pytest

from bertsmith.board import Board
from bertsmith.checkpoint import save_checkpoint
from bertsmith.checkpoint_folders import list_checkpoints
from bertsmith.data.examples import open_rows
from bertsmith.errors import UserError
from bertsmith.interrupt import Interrupted, listening
from bertsmith.metrics import read_metrics
from bertsmith.planning.stages import Stage
from bertsmith.predict import load_for_prediction
from bertsmith.pretrain import check_free_disk
from bertsmith.run_folder import read_run

from prose import write_prose
from runs import FLAGS, Listener, train

LONG = ["--steps", "100000", *FLAGS]


def start(folder: Path, *arguments: str, **options: Any) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "bertsmith", *arguments]
    pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen(command, cwd=folder, text=True, **(pipes | options))


def wait_for(ready: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not ready():
        assert time.monotonic() < until
        time.sleep(0.02)


def steps_begun(folder: Path) -> bool:
    log = folder / "run" / "metrics.jsonl"
    return log.exists() and log.stat().st_size > 0


def test_a_closed_terminal_saves_and_leaves(tmp_path: Path) -> None:
    write_prose(tmp_path / "prose.txt")
    main, terminal = os.openpty()
    process = start(tmp_path, "pretrain", "prose.txt", "-o", "run", *LONG, stdout=terminal, stderr=terminal)
    os.close(terminal)
    wait_for(lambda: steps_begun(tmp_path))
    os.close(main)  # what is written from now on fails
    process.send_signal(signal.SIGHUP)
    assert process.wait(30) == 129
    assert list_checkpoints(tmp_path / "run" / "checkpoints")


def test_before_the_first_step_a_signal_is_answered_too(tmp_path: Path) -> None:
    write_prose(tmp_path / "prose.txt", documents=20_000)
    process = start(tmp_path, "pretrain", "prose.txt", "-o", "run", *LONG)
    wait_for(lambda: (tmp_path / "run" / ".lock").exists())
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 143
    assert errors.strip() == "bertsmith: stopped; the same command goes on from here"


def test_a_second_interrupt_leaves_at_once(tmp_path: Path) -> None:
    write_prose(tmp_path / "prose.txt")
    ready = tmp_path / "ready"
    program = (
        "import pathlib, time\n"
        "from bertsmith.interrupt import listening\n"
        "with listening() as stop:\n"
        f"    pathlib.Path({str(ready)!r}).touch()\n"
        "    while stop.signal_number is None: time.sleep(0.01)\n"
        f"    pathlib.Path({str(ready)!r}).unlink()\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program])
    wait_for(ready.exists)
    process.send_signal(signal.SIGINT)
    wait_for(lambda: not ready.exists())
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_a_full_disk_under_the_log_saves_the_run_first(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ordinary = Path.open

    def full(path: Path, mode: str = "r", *more: Any, **options: Any) -> IO[Any]:
        if path.name == "metrics.jsonl" and mode == "a":
            path = Path("/dev/full")
        return ordinary(path, mode, *more, **options)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(UserError, match=r"metrics.jsonl could not be written: No space left.*step 1 is saved"):
        train(tmp_path / "run", text)
    assert [folder.name for folder in list_checkpoints(tmp_path / "run" / "checkpoints")] == ["step-00000001"]
    monkeypatch.setattr(Path, "open", ordinary)
    train(tmp_path / "run", text)
    assert [line["step"] for line in read_metrics(tmp_path / "run")] == [2, 3]


def test_a_signal_while_the_last_checkpoint_is_written_stops_the_run(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*given: Any, **options: Any) -> Path:
        os.kill(os.getpid(), signal.SIGINT)
        return save_checkpoint(*given, **options)

    monkeypatch.setattr("bertsmith.loop.save_checkpoint", slow)
    with pytest.raises(Interrupted):
        train(tmp_path / "run", text)
    monkeypatch.undo()
    assert [folder.name for folder in list_checkpoints(tmp_path / "run" / "checkpoints")] == ["step-00000003"]
    assert not (tmp_path / "run" / "model").exists()
    train(tmp_path / "run", text)
    assert [line["step"] for line in read_metrics(tmp_path / "run")] == [1, 2, 3]


class Remover(Listener):
    """Takes away the folder of a run while it trains."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def step(self, _values: dict[str, Any]) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def test_a_run_whose_folder_was_removed_ends_and_makes_no_other(text: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"run/config.toml was removed while the run trained, so that step 3 can't be"):
        train(tmp_path / "run", text, reporter=Remover(tmp_path / "run"))
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_too_little_free_disk_is_said_before_the_first_step(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bertsmith.pretrain.shutil.disk_usage", lambda _: Free())
    with pytest.raises(UserError, match=r"0 MB are free at .* the checkpoints need .* MB"):
        train(tmp_path / "run", text)
    assert not read_metrics(tmp_path / "run")


class Free:
    free = 1_000


@pytest.mark.parametrize("settings", [{"optimizer": "adamw", "average_decay": 0.9}, {"optimizer": "muon"}])
def test_the_room_looked_for_is_that_of_the_checkpoints(
    settings: dict[str, Any], text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tmp_path / "run", text, steps=1, **settings)
    (checkpoint,) = list_checkpoints(tmp_path / "run" / "checkpoints")
    size = sum(file.stat().st_size for file in checkpoint.glob("*.safetensors"))
    run, (model, _) = read_run(tmp_path / "run"), load_for_prediction(tmp_path / "run")
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    monkeypatch.setattr("bertsmith.pretrain.shutil.disk_usage", lambda _: SimpleNamespace(free=2 * size + weights))
    check_free_disk(run, model)  # one more is kept, and one more while it is written
    monkeypatch.setattr("bertsmith.pretrain.shutil.disk_usage", lambda _: SimpleNamespace(free=1.7 * size + weights))
    with pytest.raises(UserError, match="MB are free"):
        check_free_disk(run, model)


def test_going_on_late_costs_no_more_than_early(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows of a late step are planned without those of any epoch before."""
    train(tmp_path / "run", text)
    rows = open_rows(tmp_path / "run", sequence_length=32, total_rows=10_000_000)
    planned: list[int] = []
    plan = rows._plan_epoch
    monkeypatch.setattr(rows, "_epoch", lambda epoch: planned.append(epoch) or plan(epoch))
    stage = Stage(range(2_000_000), sequence_length=32, rows=4, first_row=0, max_steps=2_000_000)
    numbers = [stage.row_of(1_000_000) + n for n in range(4)]
    assert len(rows.__getitems__(numbers)) == 4
    assert set(planned) <= {numbers[0] // rows.rows_per_epoch, numbers[-1] // rows.rows_per_epoch}


@pytest.mark.parametrize(("seconds", "steps"), [(0.0, [1, 2, 3]), (1000.0, [1, 3])])
def test_tensorboard_files_are_written_where_it_is_installed(
    seconds: float, steps: list[int], text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every step, or the first and what was measured where steps are short."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setattr("bertsmith.board.SECONDS_BETWEEN", seconds)

    listener = Listener()
    train(tmp_path / "run", text, listener)
    board = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    board.Reload()
    scalars = board.Scalars("loss")
    assert [each.step for each in scalars] == steps
    losses = {line["step"]: line["loss"] for line in read_metrics(tmp_path / "run")}
    assert [each.value for each in scalars] == pytest.approx([losses[step] for step in steps])


def test_a_full_disk_under_tensorboard_does_not_end_the_run(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class FullWriter:
        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        def add_scalar(self, _name: str, _value: float, step: int) -> None:
            if step > 1:
                raise OSError(28, "No space left on device")

        def close(self) -> None:
            raise AssertionError("what has failed is left alone")

    monkeypatch.setattr("bertsmith.board.find_spec", lambda _: True)
    monkeypatch.setattr("bertsmith.board.SECONDS_BETWEEN", 0.0)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=FullWriter))
    listener = Listener()
    train(tmp_path / "run", text, listener)
    warned = [line for line in listener.lines if "TensorBoard" in line]
    assert len(warned) == 1
    assert "tensorboard could not be written: No space left on device; going on without TensorBoard" in warned[0]
    assert [line["step"] for line in read_metrics(tmp_path / "run")] == [1, 2, 3]
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()


def test_tensorboard_files_that_cannot_be_made_do_not_end_the_run(text: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    with pytest.raises(Interrupted):
        train(tmp_path / "run", text, Listener(stop_after=1))
    shutil.rmtree(tmp_path / "run" / "tensorboard")
    (tmp_path / "run" / "tensorboard").write_text("")
    listener = Listener()
    train(tmp_path / "run", text, listener)
    assert [line for line in listener.lines if "going on without TensorBoard" in line]
    assert [line["step"] for line in read_metrics(tmp_path / "run")] == [1, 2, 3]


def test_all_ranks_wait_until_the_checkpoint_is_written(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When one process ends torchrun ends the others, the one that is saving among them."""
    saved: list[int] = []
    checkpoints = tmp_path / "run" / "checkpoints"
    monkeypatch.setattr("bertsmith.distributed.barrier", lambda: saved.append(len(list_checkpoints(checkpoints))))
    with pytest.raises(Interrupted):
        train(tmp_path / "run", text, Listener(stop_after=2))
    assert saved == [0, 1]


@pytest.mark.parametrize("by_torchrun", [False, True])
def test_nohup_keeps_a_run_alive_unless_torchrun_is_about_to_end_it(
    by_torchrun: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if by_torchrun:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with listening() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
        assert stop.signal_number == (signal.SIGHUP if by_torchrun else None)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_broken_tensorboard_costs_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bertsmith.board.find_spec", lambda _: True)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # importing it fails
    warnings: list[str] = []
    board = Board(tmp_path, first_step=0, warn=warnings.append)
    board.write({"step": 1, "loss": 2.0})
    board.close()
    assert len(warnings) == 1
    assert "going on without" in warnings[0]


def test_ctrl_c_while_modules_load_says_one_line(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("raise KeyboardInterrupt", encoding="utf-8")  # the first module from outside
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    program = start(tmp_path, "info", "run", env=environment)
    assert program.communicate(timeout=60) == ("", "bertsmith: stopped\n")
    assert program.returncode == 130
