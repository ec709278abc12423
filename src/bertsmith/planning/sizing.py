"""Which size of model a budget buys: the largest that sees enough tokens for its weights.

The number of tokens is a rule from few runs (docs/benchmarks.md, "Sizes and tokens").
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from bertsmith.model import architecture
from bertsmith.presets import PRESETS

TOKENS_PER_PARAMETER = 3.5
"""Tokens that a size must see for each weight of its blocks. In the time in which modern-mini sees 2.3, modern-tiny
ends lower; in which it sees 3.9, modern-mini does. One seed, English Wikipedia."""


class Choice(NamedTuple):
    """A size, and what it costs."""

    preset: str
    price_per_row: float
    """In the unit of the budget: seconds, or floating-point operations."""


def block_weights(preset: str) -> int:
    """Weights of the matrices of the blocks."""
    shape = PRESETS[preset]
    feed_forward = architecture(shape.model_type).feed_forward_matrices * shape.intermediate_size
    return shape.num_hidden_layers * shape.hidden_size * (4 * shape.hidden_size + feed_forward)


def choose_size(sizes: Sequence[str], budget: float, row_length: int, price_per_row: Callable[[str], float]) -> Choice:
    """The largest size that sees enough tokens; the smallest if none does.

    Args:
        sizes: Names of presets, smallest first.
        budget: For the steps, in seconds or operations.
        row_length: Places in a row.
        price_per_row: Tells what a row costs with a size, in the same unit. A size that is surely too large is not
            asked for.
    """
    chosen = Choice(sizes[0], price_per_row(sizes[0]))
    for preset in sizes[1:]:
        needed = TOKENS_PER_PARAMETER * block_weights(preset)
        if budget / chosen.price_per_row * row_length < needed:  # it cannot be cheaper than the smaller one
            break
        each = price_per_row(preset)
        if budget / each * row_length < needed:
            break
        chosen = Choice(preset, each)
    return chosen
