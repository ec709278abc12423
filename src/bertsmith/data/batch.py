"""The tensors of one forward pass.

Letters: R rows of L places, T = R x L places, N sequences (empty ones counted,
so N is a constant), M = R x K predictions (filled ones counted).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bertsmith.data.examples import TrainingRows
from bertsmith.data.rows import IGNORE_INDEX, Row


@dataclass(frozen=True, slots=True)
class Batch:
    """Packed rows. Every shape is the same for all batches of a run with as many rows."""

    input_ids: Tensor
    """int64 [T]."""

    token_type_ids: Tensor
    """int64 [T]."""

    position_ids: Tensor
    """int64 [T]. Counted from 0 in each sequence."""

    cu_seqlens: Tensor
    """int32 [N + 1]. Sequence n is the places cu_seqlens[n] to cu_seqlens[n + 1]. The empty places at the
    end of a row are a sequence of their own; none crosses from one row into the next."""

    masked_index: Tensor
    """int64 [M]. Places that are predicted, K of each row; its first one where `labels` is IGNORE_INDEX."""

    labels: Tensor
    """int64 [M]. True ids at `masked_index`."""

    next_sentence_label: Tensor
    """int64 [N]. 0 follows, 1 random, IGNORE_INDEX where there is no pair."""

    row_length: int
    """L."""

    num_tokens: int
    """Places that hold a token; the others are padding."""

    def mapped(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """The same batch with each of its tensors changed."""
        changed: dict[str, Any] = {f.name: change(getattr(self, f.name)) for f in fields(self) if f.type is Tensor}
        return replace(self, **changed)

    def to(self, device: torch.device) -> "Batch":
        """The same batch on another device."""
        return self.mapped(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """The same batch in memory that a GPU copies from while it computes."""
        return self.mapped(Tensor.pin_memory)

    def __reduce__(self) -> tuple[Callable[..., "Batch"], tuple[object, ...]]:
        """Travel between processes as numpy's arrays: for tensors a file is opened each, which costs 2 ms a batch."""
        values = [getattr(self, f.name) for f in fields(self)]
        return _unpacked, tuple(value.numpy() if isinstance(value, Tensor) else value for value in values)

    def __len__(self) -> int:
        """Rows."""
        return len(self.input_ids) // self.row_length


def _unpacked(*values: np.ndarray[Any, Any] | int) -> Batch:
    """What `Batch.__reduce__` has taken apart."""
    return Batch(*(torch.from_numpy(v) if isinstance(v, np.ndarray) else v for v in values))  # type: ignore[arg-type]


def collate(rows: Sequence[Row]) -> Batch:
    """Lay rows one after the other. The `collate_fn` of a `DataLoader` over `TrainingRows`."""
    ids, types, positions, lengths, next_labels, places, labels = (np.stack(part) for part in zip(*rows, strict=True))
    row_length = ids.shape[1]
    offsets = np.arange(len(rows))[:, None] * row_length
    filled = labels != IGNORE_INDEX
    cu_seqlens = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths.ravel())])
    return Batch(
        torch.from_numpy(ids.ravel()),
        torch.from_numpy(types.ravel()),
        torch.from_numpy(positions.ravel()),
        torch.from_numpy(cu_seqlens.astype(np.int32)),
        torch.from_numpy((np.where(filled, places, 0) + offsets).ravel()),
        torch.from_numpy(labels.ravel()),
        torch.from_numpy(next_labels.ravel()),
        row_length,
        int(ids.size - lengths[:, -1].sum()),
    )


def batches_of(rows: TrainingRows, numbers: Sequence[int], size: int) -> Iterator[Batch]:
    """The rows of these numbers, `size` in a batch; the last may have fewer."""
    for start in range(0, len(numbers), size):
        yield collate(rows.__getitems__(list(numbers[start : start + size])))
