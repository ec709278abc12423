"""What is minimised: masked tokens and next sentences, as sums and counts.

Micro-batches and ranks hold different numbers of targets, so a mean of means
is not the mean of the step. Every loss here is a sum over its targets; `step.py`
divides once, by the number of targets of the whole step.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bertsmith.data.batch import Batch
from bertsmith.data.rows import IGNORE_INDEX
from bertsmith.errors import require
from bertsmith.model import Packed

CPU_CHUNK, GPU_CHUNK = 1 << 19, 1 << 27
"""Logits that are turned into probabilities at once: 2 MB in a CPU's cache, half a GB on a GPU."""


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

    The gradient is made with the losses and used up by the first backward pass: PyTorch refuses a second one through
    the same losses, and second derivatives.

    Args:
        model: Made by `model.new_model`. Without a next-sentence head that term is 0.
        batch: Packed rows, on the model's device.
    """
    packed = Packed(batch.cu_seqlens, batch.row_length, batch.row_length)
    output = model(
        batch.input_ids,
        token_type_ids=batch.token_type_ids,
        position_ids=batch.position_ids,
        masked_index=batch.masked_index.view(len(batch), -1),
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
    loss, correct = SummedCrossEntropy.apply(logits, labels)  # type: ignore[no-untyped-call]
    return loss, correct


class SummedCrossEntropy(torch.autograd.Function):
    """Cross-entropy of logits [M, V] summed over the labels [M] that are not IGNORE_INDEX, and the hits.

    The gradient, softmax minus one-hot, is made together with the loss, a few rows
    at a time: nothing of size M x V is kept but the gradient itself, in the dtype of
    the logits, and a vocabulary of scores is read once while it is in the cache.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """float [M, V], int64 [M] -> two numbers, float32 (float64 where the logits are)."""
        counted = labels != IGNORE_INDEX
        targets = torch.where(counted, labels, 0)[:, None]
        gradient = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        losses, hits = [], []
        elements = CPU_CHUNK if logits.device.type == "cpu" else GPU_CHUNK
        rows = max(1, elements // logits.shape[1])
        for start in range(0, len(logits), rows):
            part = slice(start, start + rows)
            scores = logits[part].to(torch.promote_types(logits.dtype, torch.float32))
            top, best = scores.max(-1, keepdim=True)
            of_target = scores.gather(1, targets[part])
            weights = (scores - top).exp_()
            total = weights.sum(-1, keepdim=True)
            losses.append(((total.log() + top - of_target).squeeze(1) * counted[part]).sum())
            hits.append(((best == targets[part]).squeeze(1) & counted[part]).sum())
            if gradient is not None:
                weights *= counted[part, None] / total
                expected = weights.gather(1, targets[part]) - counted[part, None].to(weights.dtype)
                gradient[part] = weights.scatter_(1, targets[part], expected)
        ctx.save_for_backward(gradient)
        loss, correct = torch.stack(losses).sum(), torch.stack(hits).sum().to(losses[0].dtype)
        ctx.mark_non_differentiable(correct)
        return loss, correct

    @staticmethod
    def backward(ctx: Any, of_loss: Tensor, _of_correct: Tensor) -> tuple[Tensor, None]:
        """Scale the gradient by that of the loss, in place: it is by far the largest tensor of a small model's step.

        It is a number like any other by now, and what it depends on is forgotten.
        """
        require(not torch.is_grad_enabled(), "this cross-entropy has no second derivatives; use F.cross_entropy")
        (gradient,) = ctx.saved_tensors
        return gradient.mul_(of_loss.to(gradient.dtype)), None
