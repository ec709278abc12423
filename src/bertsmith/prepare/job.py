"""One preparation: what it works on and whom it tells."""

from collections.abc import Callable
from typing import NamedTuple

from bertsmith.config import DataConfig
from bertsmith.errors import UserError
from bertsmith.prepare.folder import PreparedFolder

LEAST_SEQUENCES = 100
"""Sequences that each split must be able to fill."""

SOME_UNKNOWN = 0.02
"""Share of unknown tokens from which on they are why a text has so few: a word of any length is one of them."""

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

    @property
    def least_tokens(self) -> int:
        """Tokens that each split must hold."""
        return LEAST_SEQUENCES * self.sequence_length

    def require(self, split: str, count: int, unit: str, *, unknown: float = 0.0) -> None:
        """Refuse a split that cannot fill `LEAST_SEQUENCES`.

        Args:
            split: "train" or "validation".
            count: What it holds.
            unit: Tokens, or bytes, of which none gives more than one token.
            unknown: Share of the tokens that the tokenizer does not know, in [0, 1].

        Raises:
            UserError: It is too small.
        """
        needed = self.least_tokens
        if count < needed:
            cure = "give more text"
            if split == "validation":
                cure += ", --validation FILE"
                if self.config.validation is None:
                    cure += ", or a larger --validation-fraction"
            if unknown >= SOME_UNKNOWN:
                cure = (
                    f"{unknown:.0%} of them are unknown to the tokenizer, as all words of more than 100 letters are: "
                    "give --tokenizer bpe, which has pieces for everything"
                )
            raise UserError(
                f"the text is too small: its {split} part holds {count:,} {unit}, it needs {needed:,} tokens"
                f"{', so no fewer bytes' if unit == 'bytes' else ''} "
                f"({LEAST_SEQUENCES} sequences of {self.sequence_length}); {cure}"
            )
