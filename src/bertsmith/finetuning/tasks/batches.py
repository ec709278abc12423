"""Inputs as packed batches: which inputs a step has, and the tensors of a forward pass.

A batch has no padding: its tokens stand one after the other. Inputs of a step are
sorted by length before they are cut into micro-batches, because attention works
on rectangles. Letters: T tokens, N sequences, M targets, C labels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from bertsmith.data.keyed import Stream, keyed_bits
from bertsmith.data.packing import Int64Array
from bertsmith.finetuning.tasks.encoding import Input

CPU_PLACES, GPU_PLACES = 2048, 32768
"""Token places computed at once: as many as a cache holds; as many as keep a GPU busy."""


@dataclass(frozen=True, slots=True)
class TaskBatch:
    """Packed inputs and what is to be predicted."""

    input_ids: Tensor
    """int64 [T]."""

    token_type_ids: Tensor
    """int64 [T]."""

    cu_seqlens: Tensor
    """int32 [N + 1]. Sequence n is the places cu_seqlens[n] to cu_seqlens[n + 1]."""

    places: Tensor
    """int64 [M]. First pieces of words for tagging; empty otherwise."""

    targets: Tensor
    """int64 [M] for one label, float [M, C] for several or for a number; empty when nothing is known."""

    longest: int
    """Tokens of the longest sequence."""

    num_tokens: int
    """T: there is no padding."""

    def to(self, device: torch.device) -> "TaskBatch":
        """The same batch on another device."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if f.type is Tensor}
        return replace(self, **{name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()})


def collate(inputs: Sequence[Input], targets: Sequence[np.ndarray] | None = None) -> TaskBatch:
    """Lay inputs one after the other.

    Args:
        inputs: At least one.
        targets: Of each input: int64 [targets], or float32 [targets, C]; None when nothing is known.
    """
    lengths = np.array([len(each.ids) for each in inputs])
    starts = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])
    types = [np.arange(len(each.ids)) >= each.second for each in inputs]
    places = [each.places + start for each, start in zip(inputs, starts, strict=False)]
    return TaskBatch(
        torch.from_numpy(np.concatenate([each.ids for each in inputs])),
        torch.from_numpy(np.concatenate(types).astype(np.int64)),
        torch.from_numpy(starts.astype(np.int32)),
        torch.from_numpy(np.concatenate(places)),
        torch.from_numpy(np.concatenate(targets)) if targets is not None else torch.empty(0),
        int(lengths.max()),
        int(starts[-1]),
    )


def rows_of_step(step: int, *, count: int, batch_size: int, seed: int) -> Int64Array:
    """Numbers of the inputs of one step.

    A step is a function of (number of inputs, seed, step): every epoch is a
    permutation of its own, and a step may stand across the border of two.

    Args:
        step: From 0.
        count: Inputs in an epoch.
        batch_size: Inputs in a step.
        seed: Decides the order.

    Returns:
        int64 [batch_size].
    """
    positions = np.arange(step * batch_size, (step + 1) * batch_size)
    return np.array([_order(seed, int(position // count), count)[position % count] for position in positions])


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> Int64Array:
    return np.argsort(keyed_bits(seed, Stream.EXAMPLE, epoch, np.arange(count)), kind="stable")


def by_length(inputs: Sequence[Input], numbers: Int64Array, places: int) -> Iterator[Int64Array]:
    """Cut inputs into groups of like length.

    Args:
        inputs: All of them.
        numbers: Those to divide.
        places: Most places of a group, the longest input times their number; at least one input is in each.

    Yields:
        Their numbers, the longest inputs first.
    """
    lengths = np.array([len(inputs[number].ids) for number in numbers])
    ordered = numbers[np.argsort(-lengths, kind="stable")]
    start = 0
    while start < len(ordered):
        size = max(1, places // len(inputs[ordered[start]].ids))
        yield ordered[start : start + size]
        start += size
