"""Which size of model a budget buys: the largest that sees enough tokens for its weights.

The number of tokens is a first rule from few runs (docs/log.md, "Sizes and tokens").
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from bertsmith.presets import PRESETS

TOKENS_PER_PARAMETER = 1.0
"""Tokens that a size must see for each weight of its blocks. At 0.35 the smaller size was better, at 3.3 the larger."""


class Choice(NamedTuple):
    """A size, and what a row of it costs."""

    preset: str
    cost_of_row: float


def block_weights(preset: str) -> int:
    """Weights of the matrices of the blocks."""
    shape = PRESETS[preset]
    feed_forward = {"bert": 2, "modernbert": 3}[shape.model_type] * shape.intermediate_size
    return shape.num_hidden_layers * shape.hidden_size * (4 * shape.hidden_size + feed_forward)


def choose_size(sizes: Sequence[str], amount: float, row_length: int, cost_of_row: Callable[[str], float]) -> Choice:
    """The largest size that sees enough tokens; the smallest if none does.

    Args:
        sizes: Names of presets, smallest first.
        amount: Seconds or floating-point operations, for all steps.
        row_length: Places in a row.
        cost_of_row: Finds out how much of that a row of a size takes. It is not asked for a size that is surely too
            large.
    """
    chosen = Choice(sizes[0], cost_of_row(sizes[0]))
    for preset in sizes[1:]:
        needed = TOKENS_PER_PARAMETER * block_weights(preset)
        if amount / chosen.cost_of_row * row_length < needed:  # it cannot cost less than the smaller one
            break
        each = cost_of_row(preset)
        if amount / each * row_length < needed:
            break
        chosen = Choice(preset, each)
    return chosen
