"""What to expect of a run before it begins, from runs that were measured.

The runs learnt from English Wikipedia, vocabulary of 16,448, rows of 128 (docs/benchmarks.md, "Sizes and
tokens"). Another text is easier or harder, so this is a guide and no promise: the same share of the loss that token
frequencies leave.
"""

from bisect import bisect_right
from math import log
from typing import Literal, NamedTuple

UNIGRAM = 7.23
"""The loss of token frequencies there, in nats."""

BELOW_UNIGRAM: dict[str, tuple[tuple[float, float], ...]] = {
    "modern-tiny": (
        (0.6e6, 1.70),
        (0.8e6, 1.89),
        (1.2e6, 2.03),
        (2.0e6, 2.27),
        (2.4e6, 2.36),
        (7.2e6, 3.00),
        (2.06e7, 3.27),
        (4.29e7, 3.45),
    ),
    "modern-mini": ((0.6e6, 2.04), (1.2e6, 2.34), (2.0e6, 2.61), (7.2e6, 3.25), (1.23e7, 3.47)),
    "modern-small": ((0.4e6, 2.02),),
    "bert-tiny": ((2.0e6, 1.90), (7.2e6, 2.52)),
    "bert-mini": ((1.2e6, 2.06),),
}
"""By preset: tokens that a run learnt from, and how far below token frequencies its held-out loss ended, in nats."""


MANY_EPOCHS = 20
"""Passes over a text after which held-out loss was least, and rose then, where it was measured: two sizes on
0.1 M tokens, at a constant rate (docs/benchmarks.md, "How often a small text can be read")."""


class Expectation(NamedTuple):
    """The held-out loss that a run should end with."""

    how: Literal["about", "below", "above"]
    """"below" for a run with more tokens than any that was measured, "above" for one with fewer."""

    nats: float
    tokens: float
    """Of that run; "about": of the run in question."""


def expected_loss(preset: str, tokens: float, unigram_loss: float) -> Expectation | None:
    """The loss on masked tokens of held-out text; None where no run of this size was measured.

    Args:
        preset: With its own shape.
        tokens: That the run learns from, repeated ones too.
        unigram_loss: Of the text, in nats.
    """
    measured = BELOW_UNIGRAM.get(preset)
    if not measured:
        return None
    after = bisect_right([count for count, _ in measured], tokens)
    if after in (0, len(measured)):
        count, gap = measured[max(0, after - 1)]
        how: Literal["about", "below", "above"] = "about" if tokens == count else "above" if after == 0 else "below"
        return Expectation(how, unigram_loss * (1 - gap / UNIGRAM), count)
    (low, least), (high, most) = measured[after - 1], measured[after]
    gap = least + (most - least) * log(tokens / low) / log(high / low)
    return Expectation("about", unigram_loss * (1 - gap / UNIGRAM), tokens)
