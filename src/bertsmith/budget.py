"""A run with a budget: time for the whole command, or work for its steps.

Size, batch and rates are fixed before the first step. The number of steps is an
estimate then: until most of the time is used and the learning rate falls, it is
looked at now and then, and revised to what the machine turns out to do. Each
look is written to RUN/revisions.json, and a run that goes on from an earlier checkpoint repeats
the revisions it finds there, so its result does not depend on the clock twice.
The time of a command that was killed counts up to its last look.
"""

import json
import re
import time
from math import inf
from pathlib import Path
from typing import NamedTuple

from bertsmith import atomic
from bertsmith.errors import UserError

STARTED = time.monotonic()
"""When a command began: this module was first imported, which the command line does at once."""

REVISIONS = "revisions.json"
LOOKS = 60
"""A run looks at its clock at each of so many equal parts of its first estimate."""

GOAL = 0.96
"""Share of the time that is planned for; a machine is never quite as fast as it was measured."""

MOST_SECONDS, MOST_OPERATIONS, MOST_STEPS = 86400.0 * 3660, 1e30, 1e12
"""Ten years; more work than any machine does. Larger numbers are slips of the hand, and overflow."""

_UNITS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "flop": 1.0}
_PART = re.compile(r"(\d+(?:\.\d+)?(?:e\+?\d+)?)\s*(s|min|m|h|d|flop)\s*")


class Budget(NamedTuple):
    """One of the two."""

    seconds: float | None
    operations: float | None
    """Floating-point operations, counted as `machine.work.step_operations` counts them."""


def parse_budget(text: str) -> Budget:
    """Read "20m", "1.5h", "1h 30m", "90s", "2d" or "1e17flop".

    Raises:
        UserError: It is none of these, or nothing.
    """
    said = text.strip().lower()
    parts = [(float(number), unit) for number, unit in _PART.findall(said)]
    amount, is_work = sum(number * _UNITS[unit] for number, unit in parts), ("flop" in said)
    if _PART.sub("", said) or amount <= 0 or (is_work and len(parts) > 1):
        raise UserError(f"budget is '{text}'; give a time such as 20m or 2h, or work such as 1e17flop")
    if amount > (MOST_OPERATIONS if is_work else MOST_SECONDS):
        raise UserError(f"budget is '{text}', more than any machine has; give a time such as 20m or 2h")
    return Budget(None, amount) if is_work else Budget(amount, None)


class Clock:
    """The time that a run's commands have taken, and what is left of its budget."""

    def __init__(self, budget: Budget | None, *, started: float | None = None, used_before: float = 0.0) -> None:
        """Count from `started`, by `time.monotonic`, or from now, after `used_before` seconds of earlier commands."""
        self.budget = budget
        self._started = time.monotonic() if started is None else started
        self._used_before = used_before
        seconds = budget.seconds if budget else None
        self._planned = inf if seconds is None else GOAL * seconds

    @property
    def limits_time(self) -> bool:
        """Whether the clock decides when the run ends."""
        return self._planned < inf

    def used(self) -> float:
        """Seconds of all commands."""
        return self._used_before + time.monotonic() - self._started

    def left(self) -> float:
        """Seconds that may still be planned for; infinite without a budget of time."""
        return max(0.0, self._planned - self.used())

    def share_used(self) -> float:
        """Part of the time that is planned for; 0 without a budget of time."""
        return self.used() / self._planned


def first_estimate(run: Path) -> int | None:
    """The number of steps that a run with a budget of time began with; None before it has begun."""
    return Revisions(run, 0).recorded(0) or None


def seconds_at_last_look(run: Path) -> float:
    """Time that all commands of a run had taken when one of them last looked at the clock; 0 before that."""
    return Revisions(run, 0).seconds


class Revisions:
    """How many steps a run had in mind, by step."""

    def __init__(self, run: Path, steps: int) -> None:
        """Read those of a run, or begin with `steps`."""
        self._path = run / REVISIONS
        self._known: dict[int, int] = {0: steps}
        self.seconds = 0.0
        if self._path.exists():
            try:
                kept = json.loads(self._path.read_text("ascii"))
                self._known = {int(step): int(value) for step, value in kept["steps"]}
                self.seconds = float(kept["seconds"])
            except (OSError, ValueError, TypeError, LookupError) as error:
                raise UserError(f"{self._path} is damaged ({error}); start a new run with --fresh") from error

    def until(self, step: int) -> list[tuple[int, int]]:
        """The looks up to `step`, in order, after the first estimate: at which step, and steps of the whole run."""
        return sorted((known, steps) for known, steps in self._known.items() if known <= step)

    def is_due(self, step: int) -> bool:
        """Whether the clock is looked at before `step`."""
        return step > 0 and (step in self._known or step % max(1, self._known[0] // LOOKS) == 0)

    def recorded(self, step: int) -> int | None:
        """What was found at `step` before; None: nobody has looked yet."""
        return self._known.get(step)

    def record(self, step: int, steps: int, *, seconds: float, write: bool) -> None:
        """Note what was found, and the time used until then; the main rank writes it down."""
        self._known[step] = steps
        self.seconds = max(self.seconds, seconds)
        if write:
            kept = {"seconds": round(self.seconds, 1), "steps": sorted(self._known.items())}
            atomic.write_text(self._path, json.dumps(kept) + "\n")
