"""The command line: one line for each mistake, nothing lost, the right exit code."""

import errno
import gzip
import io
import os
import signal
import subprocess
import sys
import time
from contextlib import chdir, redirect_stderr, redirect_stdout, suppress
from pathlib import Path

import click
import pytest
import torch

from bertsmith.cli import app
from bertsmith.cli import run as command_line
from bertsmith.errors import UserError
from bertsmith.output_folder import locked

from prose import write_prose
from runs import FLAGS


def bertsmith(*arguments: str, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "bertsmith", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False, timeout=120)


def complaint(*arguments: str, cwd: Path) -> str:
    """The one line that a mistake is answered with, in this process: a new one would load PyTorch each time."""
    said, errors = io.StringIO(), io.StringIO()
    with chdir(cwd), redirect_stdout(said), redirect_stderr(errors):
        code = command_line(list(arguments))
    assert code == 2, said.getvalue() + errors.getvalue()
    lines = [line for line in errors.getvalue().splitlines() if not line.startswith("warning:")]
    assert len(lines) == 1, errors.getvalue()
    assert lines[0].startswith("bertsmith: ")
    return lines[0]


def test_a_mistake_ends_the_process_with_its_code(tmp_path: Path) -> None:
    result = bertsmith("info", "no-run", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("bertsmith: ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "fix"),
    [
        (["pretrian"], "did you mean 'pretrain'"),
        (["pretrain", "--stesp", "3"], "--steps"),
        (["pretrain", "--steps", "many"], "--steps"),
        (["pretrain", "--steps", "0"], "steps is 0"),
        (["pretrain", "--preset", "bert-bse"], "did you mean 'bert-base'"),
        (["pretrain", "--preset", "modern-tiny", "--objective", "mlm+nsp"], "give --objective mlm, or a bert-* preset"),
        (["pretrain", "--document", "lines"], "--document"),
        (["pretrain", "--config", "no.toml"], "no.toml"),
        (["pretrain", "--device", "cuda", "nothing.txt"], "cuda"),
        (["pretrain", "nothing.txt"], "nothing.txt"),
        (["fill", "no-run", "A [MASK]."], "no-run"),
        (["info", "no-run"], "no-run"),
    ],
)
def test_a_mistake_is_one_line_with_the_fix(arguments: list[str], fix: str, tmp_path: Path) -> None:
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    assert fix in complaint(*arguments, cwd=tmp_path)


def all_commands(group: click.Group) -> dict[str, click.Command]:
    found: dict[str, click.Command] = {}
    for name, each in group.commands.items():
        inner = all_commands(each) if isinstance(each, click.Group) else {"": each}
        found |= {f"{name} {more}".strip(): command for more, command in inner.items()}
    return found


@pytest.mark.parametrize("name", all_commands(app))
def test_every_flag_says_what_it_is_and_its_default(name: str) -> None:
    for flag in all_commands(app)[name].params:
        if isinstance(flag, click.Option):
            help_text = flag.help or ""
            assert "." in help_text, flag.opts
            assert "[" in help_text or flag.required or flag.show_default or flag.is_flag, flag.opts


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("empty.txt", b"", "empty"),
        ("picture.txt", bytes(range(256)) * 20, "picture.txt"),
        ("short.txt", b"Too little text.\n", "too small"),
        ("rows.jsonl", b'{"title": "a", "n": 3}\n' * 5, "title"),
        ("broken.jsonl", b"{not json\n" * 5, "broken.jsonl"),
        ("cut.gz", gzip.compress(b"some text " * 1000)[:-900], "cut.gz"),
    ],
)
def test_text_that_cannot_be_used_is_one_line(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    field = ["--text-field", "body"] if name == "rows.jsonl" else []
    assert says in complaint("pretrain", name, "-o", "run", *field, cwd=tmp_path)
    assert (tmp_path / name).read_bytes() == content


def test_an_empty_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    assert "texts" in complaint("pretrain", "texts", cwd=tmp_path)


def test_a_vocabulary_larger_than_the_text_can_give_is_one_line(tmp_path: Path) -> None:
    write_prose(tmp_path / "prose.txt")
    assert "--vocab-size" in complaint("pretrain", "prose.txt", *FLAGS, "--vocab-size", "30000", cwd=tmp_path)


def test_an_output_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    write_prose(tmp_path / "prose.txt")
    assert "mine" in complaint("pretrain", "prose.txt", "-o", "mine", cwd=tmp_path)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_output_folder_that_is_not_writable_is_one_line(tmp_path: Path) -> None:
    write_prose(tmp_path / "prose.txt")
    (tmp_path / "locked").mkdir(mode=0o500)
    assert "locked" in complaint("pretrain", "prose.txt", "-o", "locked/run", cwd=tmp_path)


def test_from_text_to_filled_mask(tmp_path: Path) -> None:
    """The whole journey, as a newcomer types it."""
    write_prose(tmp_path / "prose.txt")
    result = bertsmith("pretrain", "prose.txt", "--steps", "6", *FLAGS, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    assert (tmp_path / "runs" / "prose" / "model" / "model.safetensors").exists()
    filled = bertsmith("fill", "runs/prose", "The old [MASK] sees the river.", "--top-k", "3", cwd=tmp_path)
    assert filled.returncode == 0, filled.stderr
    assert filled.stdout.count("%") == 3
    described = bertsmith("info", "runs/prose", "--verify", cwd=tmp_path)
    assert described.returncode == 0, described.stderr
    assert "6" in described.stdout
    with chdir(tmp_path):
        assert command_line(["pretrain", "prose.txt", "--steps", "2", *FLAGS, "--fresh"]) == 0
    assert (tmp_path / "runs" / "prose-2" / "model").is_dir()
    assert "steps" in complaint("pretrain", "prose.txt", "--steps", "7", *FLAGS, cwd=tmp_path)


def test_prepared_text_is_text(tmp_path: Path) -> None:
    write_prose(tmp_path / "prose.txt")
    data = ["--vocab-size", "500", "--validation-fraction", "0.15", "--document", "blank-line", "--workers", "1"]
    settings = FLAGS[: FLAGS.index("--vocab-size")] + FLAGS[FLAGS.index("--global-batch-size") :]
    with chdir(tmp_path):
        assert command_line(["prepare", "prose.txt", "-o", "ready", "--sequence-length", "32", *data]) == 0
        (tmp_path / "prose.txt").unlink()
        assert command_line(["pretrain", "ready", "-o", "run", "--steps", "2", *settings]) == 0


def test_a_tokenizer_is_trained_alone(tmp_path: Path) -> None:
    write_prose(tmp_path / "prose.txt")
    with chdir(tmp_path):
        assert command_line(["tokenizer", "train", "prose.txt", "-o", "words", "--vocab-size", "300"]) == 0
    assert (tmp_path / "words" / "tokenizer.json").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_leaves(tmp_path: Path, number: signal.Signals, code: int) -> None:
    write_prose(tmp_path / "prose.txt")
    command = [sys.executable, "-m", "bertsmith", "pretrain", "prose.txt", "-o", "run", "--steps", "100000", *FLAGS]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    log = tmp_path / "run" / "metrics.jsonl"
    while (not log.exists() or not log.stat().st_size) and time.monotonic() < until:
        time.sleep(0.1)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    assert "goes on" in errors
    assert list((tmp_path / "run" / "checkpoints").glob("step-*"))


def test_a_run_inside_its_own_text_is_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_prose(tmp_path / "prose.txt")
    with chdir(tmp_path):
        for name in ("here", "here", "next"):
            capsys.readouterr()
            assert command_line(["pretrain", ".", "-o", f"runs/{name}", "--steps", "2", *FLAGS]) == 0
    assert "1 file" in capsys.readouterr().out


def test_an_empty_path_is_one_line(tmp_path: Path) -> None:
    assert "a path is empty" in complaint("pretrain", "", cwd=tmp_path)
    for command in (
        ["finetune", "model", ""],
        ["predict", "model", "", "-o", "out"],
        ["embed", "model", "", "-o", "out"],
        ["compare", "model", "--task", ""],
    ):
        assert "a path is empty; give a file" in complaint(*command, cwd=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "the memory of the GPU is full"),
        (MemoryError(), "the memory of this machine is full"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "the memory of this machine is full"),
    ],
)
def test_a_full_memory_is_one_line(
    error: Exception, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("bertsmith.info.run_facts", fail)
    assert says in complaint("info", "run", cwd=tmp_path)


@pytest.mark.parametrize("when", ["while it unwinds", "while it is said"])
def test_a_mistake_is_said_though_the_process_is_asked_to_stop(
    when: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As torchrun asks all processes at once when one of them has ended."""

    def fail(*_: object, **__: object) -> None:
        try:
            raise UserError("another process has ended")
        finally:
            if when == "while it unwinds":
                os.kill(os.getpid(), signal.SIGTERM)

    def say(line: str, **_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        print(line, file=sys.stderr)

    monkeypatch.setattr("bertsmith.info.run_facts", fail)
    if when == "while it is said":
        monkeypatch.setattr("bertsmith.cli.click.echo", say)
    assert command_line(["info", "run"]) == 2
    assert capsys.readouterr().err.strip() == "bertsmith: another process has ended"
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_a_library_swallows_and_breaks_by_is_no_fault(
    number: signal.Signals, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch goes on without NumPy where the loading of that was interrupted."""

    def fail(*_: object, **__: object) -> None:
        with suppress(KeyboardInterrupt):
            os.kill(os.getpid(), number)
        raise AttributeError("module 'numpy' has no attribute 'matrix'")

    monkeypatch.setattr("bertsmith.info.run_facts", fail)
    assert command_line(["info", "run"]) == 128 + number
    assert capsys.readouterr().err.strip() == "bertsmith: stopped"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_output_that_nobody_reads_is_told_from_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    """`info --verify` ends with 1 where something is damaged."""

    def fail(*_: object, **__: object) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr("bertsmith.info.run_facts", fail)
    monkeypatch.setattr("sys.stdout", io.StringIO())  # the library wraps both
    monkeypatch.setattr("sys.stderr", io.StringIO())
    assert command_line(["info", "run", "--verify"]) == 128 + signal.SIGPIPE


def test_what_works_in_one_process_is_not_started_in_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert "finetune works in one process; start it without" in complaint("finetune", "a", "b.csv", cwd=tmp_path)


def test_preparing_into_a_run_is_refused(tmp_path: Path) -> None:
    from bertsmith.run_folder import open_run

    write_prose(tmp_path / "prose.txt")
    (tmp_path / "run").mkdir()
    open_run(tmp_path / "run", {}, {}).save()
    assert "is a run" in complaint("prepare", "prose.txt", "-o", "run", cwd=tmp_path)


def test_a_killed_process_leaves_no_lock_though_its_loader_workers_live_on(tmp_path: Path) -> None:
    """They notice its death seconds later."""
    code = """
import os, signal, sys, time
from pathlib import Path
from bertsmith.output_folder import locked
with locked(Path(sys.argv[1])):
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    print(child, flush=True)
    time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    script = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert script.stdout is not None
    child = int(script.stdout.readline())
    assert script.wait() == -signal.SIGKILL
    try:
        with locked(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        script.stdout.close()


def test_two_processes_cannot_work_on_one_run(tmp_path: Path) -> None:
    from bertsmith.run_folder import open_run

    write_prose(tmp_path / "prose.txt")
    (tmp_path / "run").mkdir()
    open_run(tmp_path / "run", {}, {}).save()
    with locked(tmp_path / "run"):
        assert "another process" in complaint("pretrain", "-o", "run", cwd=tmp_path)
