"""One preparation: what it works on and whom it tells."""

from collections.abc import Callable
from typing import NamedTuple

from bertsmith.config import DataConfig
from bertsmith.errors import UserError
from bertsmith.prepare.fingerprint import held_out_share
from bertsmith.prepare.folder import PreparedFolder

LEAST_SEQUENCES = 100
"""Sequences that each split must be able to fill."""

BYTES_PER_TOKEN = 4
"""Of English, about; only for advice."""

LARGEST_SHARE = 0.3
"""Share of the text to hold out that still makes sense as advice."""

Report = Callable[[str], None]
"""Is told one line at a time."""

Progress = Callable[[str, float], None]
"""Is told the name of a stage and the share of it that is done, in [0, 1]."""


def tell_nobody(_stage: str, _share: float) -> None:
    """The progress of which nobody is told."""


class Job(NamedTuple):
    """One preparation."""

    config: DataConfig
    folder: PreparedFolder
    sequence_length: int
    report: Report
    progress: Progress

    def require(self, split: str, count: int, unit: str) -> None:
        """Refuse a split that cannot fill `LEAST_SEQUENCES`.

        Args:
            split: "train" or "validation".
            count: What it holds.
            unit: Tokens, or bytes, of which none gives more than one token.

        Raises:
            UserError: It is too small.
        """
        needed = LEAST_SEQUENCES * self.sequence_length
        if count < needed:
            cure = "give more text"
            if split == "validation":
                cure += f", --validation FILE{self._larger_share(count, unit)}"
            raise UserError(
                f"the text is too small: its {split} part holds {count:,} {unit}, it needs {needed:,} tokens "
                f"({LEAST_SEQUENCES} sequences of {self.sequence_length}); {cure}"
            )

    def _larger_share(self, count: int, unit: str) -> str:
        """A --validation-fraction that would do, where one would."""
        tokens = count / BYTES_PER_TOKEN if unit == "bytes" else count
        enough = held_out_share(self.config) * 1.5 * LEAST_SEQUENCES * self.sequence_length / max(tokens, 1)
        return f" or --validation-fraction {max(enough, 0.01):.2f}" if 0 < enough <= LARGEST_SHARE else ""
