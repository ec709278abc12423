"""How a running program speaks: lines, a progress bar, one line of numbers for each step.

Library code never prints. It speaks to a Reporter, and the command line gives
one that knows the terminal. This one, the default, writes to the log.
"""

import logging
from typing import Any

logger = logging.getLogger("bertsmith")


def duration(seconds: float) -> str:
    """A time as a person says it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def counted(number: int, noun: str) -> str:
    """So many things as a person says it, such as "1 step" or "1,200 steps"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


class Reporter:
    """Takes what a program has to say and passes the lines to `logging`."""

    def say(self, line: str) -> None:
        """A fact the user should see."""
        logger.info("%s", line)

    def warn(self, line: str) -> None:
        """Something that went wrong or may surprise."""
        logger.warning("%s", line)

    def progress(self, task: str, fraction: float) -> None:
        """How far a long task is, from 0 to 1."""
        logger.debug("%s %.0f %%", task, 100 * fraction)

    def step(self, values: dict[str, Any]) -> None:
        """The metrics of one training step, with `max_steps`."""
        logger.debug("%s", values)

    def close(self) -> None:
        """Nothing more will be said."""


class Silent(Reporter):
    """Says nothing: of several processes the first speaks for all."""

    def say(self, line: str) -> None:
        """Nothing."""

    def warn(self, line: str) -> None:
        """Nothing: Python shows warnings of the log even where nobody asked for a log."""

    def progress(self, task: str, fraction: float) -> None:
        """Nothing."""

    def step(self, values: dict[str, Any]) -> None:
        """Nothing."""
