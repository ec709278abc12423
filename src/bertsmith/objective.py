"""What is minimised: masked tokens and next sentences, as sums and counts.

Micro-batches and ranks hold different numbers of targets, so a mean of means
is not the mean of the step. Every loss here is a sum over its targets; `step.py`
divides once, by the number of targets of the whole step.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bertsmith.batch import Batch
from bertsmith.model import Packed
from bertsmith.rows import IGNORE_INDEX

TERMS = ("mlm", "nsp")
"""The terms of the loss, in the order of all tensors below."""


class Sums(NamedTuple):
    """Loss and hits of a batch."""

    losses: Tensor
    """float32 [terms]. Cross-entropy summed over the targets, in nats."""

    correct: Tensor
    """float32 [terms]. Targets whose most probable answer is the right one."""


def count_targets(batch: Batch) -> Tensor:
    """Number of targets of each term, float32 [terms]. Needs no forward pass."""
    labels = (batch.labels, batch.next_sentence_label)
    return torch.stack([(part != IGNORE_INDEX).sum() for part in labels]).float()


def sum_losses(model: nn.Module, batch: Batch) -> Sums:
    """Run the model on packed rows and sum the loss of each term (arXiv:1810.04805, section 3.1).

    Args:
        model: A `BertPretrainingModel`. Without a next-sentence head that term is 0.
        batch: Packed rows, on the model's device.
    """
    packed = Packed(batch.cu_seqlens, batch.row_length, batch.row_length)
    output = model(
        batch.input_ids,
        token_type_ids=batch.token_type_ids,
        position_ids=batch.position_ids,
        masked_index=batch.masked_index,
        packed=packed,
    )
    terms = [_sum_term(output.mlm_logits, batch.labels)]
    if output.nsp_logits is not None:
        terms.append(_sum_term(output.nsp_logits, batch.next_sentence_label))
    else:
        terms.append((torch.zeros_like(terms[0][0]), torch.zeros_like(terms[0][1])))
    return Sums(torch.stack([loss for loss, _ in terms]), torch.stack([correct for _, correct in terms]))


def _sum_term(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Summed cross-entropy in float32, and the number of right answers."""
    loss = F.cross_entropy(logits.float(), labels, ignore_index=IGNORE_INDEX, reduction="sum")
    return loss, (logits.detach().argmax(-1) == labels).sum().float()
