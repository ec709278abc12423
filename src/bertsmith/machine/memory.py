"""The memory that training takes, found out before it is taken: a CPU kills a program that takes too much."""

from collections.abc import Callable
from math import ceil, inf
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bertsmith.errors import UserError
from bertsmith.machine.device import free_room
from bertsmith.objective import sum_losses
from bertsmith.optim import is_of_muon
from bertsmith.step import autocast

SPARE = 0.5
"""Share of the free memory that a size chosen here may take."""

MakeBatch = Callable[[int], Any]
"""Makes a batch of so many rows, on the model's device."""


class Need(NamedTuple):
    """Bytes that training takes beyond the weights, which are there already."""

    fixed: int
    """Gradients and two moments of every weight, and what a batch keeps whatever its rows."""

    per_row: int


class TooLarge(Exception):
    """A batch keeps more than there is."""


def training_state(model: nn.Module, *, optimizer: str, averaged: bool = False) -> int:
    """Bytes beside the weights: gradients, AdamW's two moments or the one of Muon's matrices, averaged weights."""
    state = 0
    for name, parameter in model.named_parameters():
        copies = 2 if optimizer == "muon" and is_of_muon(name, parameter) else 3
        state += (copies + averaged) * parameter.numel() * parameter.element_size()
    return state


def memory_need(model: nn.Module, make_batch: MakeBatch, precision: str, *, state: int, most: int) -> Need:
    """Measured in a forward pass of one row and one of two.

    Args:
        model: On its device.
        make_batch: Makes the batches.
        precision: "float32" or "bfloat16".
        state: Bytes of `training_state`.
        most: Bytes that there are.

    Raises:
        TooLarge: One row keeps more than `most` bytes.
    """
    one = activation_bytes(model, make_batch(1), precision, most)
    try:
        two = activation_bytes(model, make_batch(2), precision, most)
    except TooLarge:
        two = 2 * one
    return Need(state + max(0, 2 * one - two), max(1, two - one))


def rows_that_fit(model: nn.Module, make_batch: MakeBatch, precision: str, *, state: int, share: float = SPARE) -> int:
    """Rows that a CPU can compute at once in a share of its free memory, at least 1. On a GPU trying is safe and exact.

    Args:
        model: On its device, with no gradients yet.
        make_batch: Makes the batches.
        precision: "float32" or "bfloat16"; "auto" takes the one that needs more.
        state: Bytes of `training_state`.
        share: Of the free memory.

    Raises:
        UserError: Not even one row fits into all of the free memory.
    """
    device = next(model.parameters()).device
    if device.type != "cpu":
        return 1 << 30
    free = free_room(device)
    try:
        need = memory_need(model, make_batch, "float32" if precision == "auto" else precision, state=state, most=free)
    except TooLarge:
        need = Need(free, 1)
    if need.fixed + need.per_row > free:
        raise UserError(
            f"training this model needs more than the {free / 1e9:,.1f} GB that are free, even one row of "
            f"{make_batch(1).row_length:,} tokens at a time; choose a smaller --preset or a shorter --sequence-length"
        )
    return max(1, int((share * free - need.fixed) // need.per_row))


def activation_bytes(model: nn.Module, batch: Any, precision: str = "float32", most: float = inf) -> int:
    """Bytes that autograd keeps for a batch, counted in one forward pass.

    Raises:
        TooLarge: They are more than `most`.
    """
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    seen: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            seen[storage.data_ptr()] = storage.nbytes()
        if sum(seen.values()) > most:
            raise TooLarge
        return tensor.detach()  # kept, lest another one comes to stand in its place; alone, lest they keep each other

    with (
        torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor),
        autocast(batch.input_ids.device, precision),
    ):
        sums = sum_losses(model, batch)
    del sums
    return sum(seen.values())


def even_part(rows: int, most: int) -> int:
    """Rows at once, not above `most`, that divide so many as evenly as can be."""
    return ceil(rows / ceil(rows / most))
