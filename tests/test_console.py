"""What the user sees, whatever the terminal is."""

import errno
import io
import json
import os
import sys
from typing import Any

import pytest
from rich.console import Console

from bertsmith.cli import run as command
from bertsmith.cli import write_any_text
from bertsmith.commands.console import PlainReporter, TerminalReporter, make_reporter, print_json, print_table

STEP: dict[str, Any] = {"max_steps": 1000, "loss": 3.2, "mlm_loss": 2.5, "mlm_accuracy": 0.3, "nsp_loss": 0.7}
STEP |= {"nsp_accuracy": 0.6, "unigram_loss": 6.1, "tokens_per_second": 12_345.6}


def terminal(width: int) -> tuple[TerminalReporter, io.StringIO]:
    """A terminal of so many columns, and all that was written to it."""
    written = io.StringIO()
    return TerminalReporter(Console(file=written, force_terminal=True, width=width)), written


@pytest.mark.parametrize("width", [40, 80])
def test_a_narrow_terminal_shows_every_number_and_the_time_left(width: int) -> None:
    reporter, written = terminal(width)
    for step in (1, 2, 3):
        reporter.step(STEP | {"step": step})
    reporter.close()
    shown = " ".join(written.getvalue().split())
    for each in ("training", " left", "step 3/1,000", "mlm 2.500", "nsp 0.700", "unigram 6.10", "12,346 tokens/s"):
        assert each in shown
    assert "\u2026" not in shown


@pytest.mark.parametrize(("term", "kind"), [("xterm", TerminalReporter), ("dumb", PlainReporter)])
def test_a_terminal_that_draws_no_bar_gets_lines(term: str, kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, _environ={"TERM": term})
    monkeypatch.setattr("bertsmith.commands.console.Console", lambda **_: console)
    assert type(make_reporter()) is kind


def test_names_with_brackets_are_no_markup() -> None:
    reporter, written = terminal(80)
    reporter.progress("runs/[bold]a[/red]: masked tokens", 0.5)
    reporter.close()
    assert "runs/[bold]a[/red]: masked tokens" in written.getvalue()


def test_a_table_on_a_narrow_terminal_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    narrow = Console(file=written, force_terminal=True, width=40)
    monkeypatch.setattr("bertsmith.commands.console.Console", lambda: narrow)
    print_table(("", "runs/the-longer-one", "runs/the-longer-two"), [("bits per byte", "1.2345", "12345.6789")])
    assert "\u2026" not in written.getvalue()


@pytest.mark.parametrize("said_before", [True, False])
def test_a_table_that_a_full_disk_lost_is_no_success(said_before: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def write(self, _text: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("bertsmith.commands.console._lost", [])
    monkeypatch.setattr("sys.stdout", Full())
    if said_before:
        PlainReporter().progress("measuring", 0.5)
    with pytest.raises(OSError, match="No space left on device"):
        print_table(("", "run"), [("bits per byte", "1.2")])
    sys.stdout.close()  # of nowhere, in its place


def test_a_number_that_is_not_finite_is_null_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"loss": float("nan"), "interval": [1.5, float("inf")], "notes": ["NaN"]})
    assert json.loads(capsys.readouterr().out) == {"loss": None, "interval": [1.5, None], "notes": ["NaN"]}


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_character_that_the_output_cannot_show_is_no_fault(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    output, errors = (io.TextIOWrapper(io.BytesIO(), encoding) for _ in range(2))
    monkeypatch.setattr(sys, "stdout", output)
    monkeypatch.setattr(sys, "stderr", errors)
    write_any_text()
    reporter = PlainReporter()
    reporter.say("\u72d7 name\udcff")  # Python's way with a file name that is no UTF-8
    reporter.warn("\u72d7")
    for stream in (output, errors):
        stream.flush()
    said = output.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    assert said == ("\u72d7" if encoding == "utf-8" else "\\u72d7") + f" name\\udcff{os.linesep}"


@pytest.mark.parametrize("arguments", [[], ["tokenizer"]])
def test_nothing_typed_shows_what_there_is(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert command(arguments) == 0
    shown = capsys.readouterr()
    assert "\nCommands:\n" in shown.out
    assert shown.err == ""


def test_only_what_goes_on_is_said_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("bertsmith.commands.console.make_reporter", stop)
    assert command(["pretrain", "text.txt", "-o", "run"]) == 130
    assert capsys.readouterr().err.strip() == "bertsmith: stopped; the same command goes on from here"
    assert command(["export", "finetune", "--to", "onnx"]) == 130  # a folder of that name
    assert capsys.readouterr().err.strip() == "bertsmith: stopped"
