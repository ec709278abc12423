"""Stopping when asked: Ctrl-C, SIGTERM and a terminal that is closed end a run after the step, with a checkpoint."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

STOPPING = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))
USUAL: dict[signal.Signals, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
"""What Python does at a signal that nobody has asked it to leave alone."""


class Interrupted(Exception):
    """A run stopped because it was asked to; its checkpoint is written."""

    def __init__(self, signal_number: int | None) -> None:
        signal_number = signal_number or signal.SIGTERM  # None: another rank was asked
        super().__init__(f"stopped by {signal.Signals(signal_number).name}")
        self.exit_code = 128 + signal_number
        """What the shell expects: 130 after Ctrl-C, 143 after SIGTERM."""


class Termination:
    """Ctrl-C and SIGTERM end a command, until it has come to its last words."""

    def __init__(self) -> None:
        self.exit_code = 130
        """Of a command that was stopped."""
        self.was_asked = False
        """Whether it was asked to stop. A library that is being loaded may lose the exception, and break later."""
        self._is_over = False
        self._heard: list[signal.Signals] = []

    def __enter__(self) -> "Termination":
        if threading.current_thread() is threading.main_thread():  # a run's steps have handlers of their own
            self._heard = [number for number, usual in USUAL.items() if signal.getsignal(number) is usual]
        for number in self._heard:
            signal.signal(number, self._stop)
        return self

    def __exit__(self, *_: object) -> None:
        for number in self._heard:
            signal.signal(number, USUAL[number])

    def be_over(self) -> None:
        """From now on the command ends by itself; torchrun asks for that at any moment when another process has."""
        self._is_over = True

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        if not self._is_over:
            self.was_asked, self.exit_code = True, 128 + number
            raise KeyboardInterrupt


class StopRequest:
    """Whether somebody asked to stop."""

    signal_number: int | None = None


@contextmanager
def listening() -> Iterator[StopRequest]:
    """Note the first Ctrl-C, SIGTERM or SIGHUP instead of dying; a second Ctrl-C leaves at once.

    A closed terminal that is to be ignored, as under nohup, stays ignored; not so where torchrun passes it on, which
    ends all processes 30 seconds later whether nohup was there or not.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():  # only there can signals be handled
        yield request
        return

    def note(signal_number: int, _frame: FrameType | None) -> None:
        if request.signal_number is not None and signal_number == signal.SIGINT:
            os._exit(128 + signal_number)
        request.signal_number = signal_number

    ignores = hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    ignores = ignores and "TORCHELASTIC_RUN_ID" not in os.environ
    heard = STOPPING[:2] if ignores else STOPPING
    before = {number: signal.signal(number, note) for number in heard}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave_signals_to_the_run(_worker: int) -> None:
    """Let a loader worker live when the whole process group is signalled: the run still needs it for its last step."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
