"""What the user sees: a live line on a terminal, plain lines elsewhere."""

import errno
import json
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from bertsmith.reporter import Reporter, Silent, duration

SECONDS_BETWEEN_LINES = 10.0
"""How often a log file gets a line of progress."""


_lost: list[OSError] = []
"""Why lines could not be printed."""


def step_line(values: dict[str, Any]) -> str:
    """The numbers of one step, as one line."""
    parts = [f"step {values['step']:,}/{values['max_steps']:,}"]
    if values.get("nsp_loss") is not None or ("mlm_loss" not in values and values.get("loss") is not None):
        parts.append(f"loss {values['loss']:.3f}")
    for name, label in (("mlm_loss", "mlm"), ("nsp_loss", "nsp")):
        if values.get(name) is not None:
            parts.append(f"{label} {values[name]:.3f} ({values[f'{name[:3]}_accuracy']:.0%} right)")
    if values.get("validation_mlm_loss") is not None:
        parts.append(f"held-out mlm {values['validation_mlm_loss']:.3f}")
    if "shown" in values:
        parts.append(f"{values['shown'].replace('_', ' ')} {values[values['shown']]:.3f}")
    if "unigram_loss" in values:
        parts.append(f"unigram {values['unigram_loss']:.2f}")
    parts.append(f"{values['tokens_per_second']:,.0f} tokens/s")
    return ", ".join(parts)


def was_measured(values: dict[str, Any]) -> bool:
    """Whether this step was followed by a measurement on held-out data."""
    return any(name.startswith("validation_") for name in values)


class TimeLeft:
    """How long the rest takes, from the speed of the last minutes."""

    def __init__(self) -> None:
        self._seen: list[tuple[float, float]] = []

    def update(self, done: float) -> float | None:
        """Seconds left when the share `done` (0 to 1) is finished; None while nothing is known."""
        self._seen = [*self._seen[-200:], (time.monotonic(), done)]
        (began, first), (now, last) = self._seen[0], self._seen[-1]
        return (now - began) / (last - first) * (1 - last) if last > first else None


class PlainReporter(Reporter):
    """For files and pipes: a line for each fact, and one line of progress now and then."""

    def __init__(self) -> None:
        self._last_line = -SECONDS_BETWEEN_LINES
        self._left = TimeLeft()
        self._task = ""

    def say(self, line: str) -> None:
        """Print a line. A closed pipe, as of `| head`, or a terminal that is gone ends the output and not the run."""
        try:
            print(line, flush=True)  # noqa: T201
        except OSError as error:
            _lost.append(error)
            nowhere = Path(os.devnull)
            sys.stdout = nowhere.open("w", encoding="utf-8", errors="backslashreplace")

    def warn(self, line: str) -> None:
        """Print a line on the error stream."""
        with suppress(OSError):
            print(f"warning: {line}", file=sys.stderr, flush=True)  # noqa: T201

    def progress(self, task: str, fraction: float) -> None:
        """Print the task when it begins and every ten seconds."""
        if task != self._task or self._is_due():
            self._task = task
            self.say(f"{task} ({fraction:.0%})" if fraction else f"{task} ...")

    def step(self, values: dict[str, Any]) -> None:
        """Print the step's numbers every ten seconds, and whenever the held-out loss was measured."""
        left = self._left.update(values["step"] / values["max_steps"])
        if self._is_due() or was_measured(values):
            self.say(step_line(values) + (f", {duration(left)} left" if left else ""))

    def _is_due(self) -> bool:
        now = time.monotonic()
        if now - self._last_line < SECONDS_BETWEEN_LINES:
            return False
        self._last_line = now
        return True


class LiveBar(Progress):
    """A bar, and below it the numbers of a step, in as many lines as they need: a terminal is often narrow."""

    def __init__(self, console: Console) -> None:
        columns = (
            TextColumn("{task.description}", markup=False),  # it may hold a name of the user's
            BarColumn(20),
            TextColumn("{task.percentage:3.0f}% {task.fields[left]}", markup=False),
        )
        super().__init__(*columns, console=console, transient=True)

    def get_renderables(self) -> Iterable[RenderableType]:
        """The lines."""
        yield self.make_tasks_table(self.tasks)
        yield from (Text(task.fields["text"]) for task in self.tasks if task.fields["text"])


class TerminalReporter(Reporter):
    """For a terminal: one live bar below the lines. A terminal that is gone ends the output and not the run."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: LiveBar | None = None
        self._task: TaskID | None = None
        self._name = ""
        self._left = TimeLeft()

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        with suppress(OSError):
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def warn(self, line: str) -> None:
        """Print a line in yellow above the bar."""
        with suppress(OSError):
            self._console.print(f"warning: {line}", style="yellow", highlight=False, markup=False, soft_wrap=True)

    def progress(self, task: str, fraction: float) -> None:
        """Move the bar of a task; the bar goes when it is done."""
        with suppress(OSError):
            self._move(task, fraction)

    def step(self, values: dict[str, Any]) -> None:
        """Move the bar of the training."""
        done = values["step"] / values["max_steps"]
        left = self._left.update(done)
        with suppress(OSError):
            self._move("training", done, step_line(values), f"{duration(left)} left" if left else "")
        if was_measured(values):
            self.say(step_line(values))

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            with suppress(OSError):
                self._bar.stop()
            self._bar = None
        self._name = ""

    def _move(self, name: str, fraction: float, text: str = "", left: str = "") -> None:
        if name != self._name:
            self.close()
            self._bar = LiveBar(self._console)
            self._bar.start()
            self._task = self._bar.add_task(name, total=1.0, text="", left="")
            self._name = name
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=fraction, text=text, left=left)
        if fraction >= 1:
            self.close()


def make_reporter(*, aside: bool = False) -> Reporter:
    """The reporter for where the output goes. `aside`: standard output is for something else.

    Of several processes that torchrun started only the first speaks.
    """
    if os.environ.get("RANK", "0") != "0":
        return Silent()
    console = Console(stderr=aside)
    if console.is_terminal and not console.is_dumb_terminal:  # there a bar would not be drawn at all
        return TerminalReporter(console)
    return Reporter() if aside else PlainReporter()


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table, its first column to the left and the others to the right; plain lines where there is no terminal.

    Args:
        header: Names of the columns.
        rows: Each as long as the header.

    Raises:
        OSError: The disk is full, under the table or the lines before it: there is nobody who has seen the result.
    """
    console = Console()
    if not console.is_terminal:
        widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
        for row in (header, *rows):
            cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
            PlainReporter().say("  ".join([row[0].ljust(widths[0]), *cells]))
        if _lost and _lost[0].errno == errno.ENOSPC:
            raise _lost[0]
        return
    table = Table(box=SIMPLE_HEAD)
    for number, name in enumerate(header):
        table.add_column(Text(name), justify="right" if number else "left", overflow="fold")  # nothing is left out
    for row in rows:
        table.add_row(*map(Text, row))  # no markup: names are the user's
    console.print(table)


def print_json(facts: Mapping[str, Any]) -> None:
    """Print facts as JSON, which knows no number that is not finite: it is null."""
    plain = json.loads(json.dumps(facts), parse_constant=lambda _name: None)
    print(json.dumps(plain, indent=2), flush=True)  # noqa: T201
