"""One update of the model, and one measurement of its loss.

Losses stay sums until they are divided by the number of targets of the whole
step, over all micro-batches and ranks. So how a step is divided changes its
result by rounding only.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from math import isfinite
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bertsmith import distributed
from bertsmith.data.batch import Batch
from bertsmith.data.keyed import Stream, keyed_seed
from bertsmith.errors import UserError, first_line
from bertsmith.model.dropout import set_rows
from bertsmith.objective import Sums, count_targets
from bertsmith.optim import AnyOptimizer, step_at
from bertsmith.recorder import Recorder, directly

SumLosses = Callable[[nn.Module, Any], Sums]
"""`objective.sum_losses`, as it is or compiled, or that of a task."""


class Measured(NamedTuple):
    """Means over all targets of a step or a measurement."""

    loss: float
    """Sum of the terms, in nats."""

    mlm_loss: float
    nsp_loss: float
    mlm_accuracy: float
    nsp_accuracy: float
    mlm_targets: int
    nsp_targets: int

    def losses(self) -> dict[str, float]:
        """Losses and accuracies by name; those of next sentences only where there were any."""
        values = self._asdict()
        kinds = ("loss", "mlm_loss", "mlm_accuracy") + (("nsp_loss", "nsp_accuracy") if self.nsp_targets else ())
        return {name: values[name] for name in kinds}


class Terms(NamedTuple):
    """What is counted in a step, and what the sums over its targets are called."""

    count_targets: Callable[[Any], Tensor]
    """Number of targets of each term in a batch, float [terms]. Needs no forward pass."""

    means: Callable[[Tensor, Tensor], Any]
    """Summed losses and hits [2, terms] and targets [terms] to means by name, `loss` among them."""


class StepResult(NamedTuple):
    """What one step did."""

    measured: Any
    """`Measured`, or what the `Terms` of another task make of it."""

    grad_norm: float
    """L2 norm before clipping."""

    applied: bool
    """False when the loss or a gradient was not finite: the weights are unchanged."""

    tokens: int
    """Tokens of the step on all ranks, padding not counted."""

    def record(self, step: int, learning_rate: float, seconds: float, places: int) -> dict[str, object]:
        """The line of metrics.jsonl. What is not finite is None there, since JSON has no NaN.

        Args:
            step: Finished steps.
            learning_rate: That of this step.
            seconds: The step's time.
            places: Token places of the step, padding included.
        """
        values: dict[str, object] = {"step": step}
        numbers = self.measured.losses() | {"learning_rate": learning_rate, "grad_norm": self.grad_norm}
        values |= {name: number if isfinite(number) else None for name, number in numbers.items()}
        values |= {"tokens": self.tokens, "tokens_per_second": round(self.tokens / max(seconds, 1e-9), 1)}
        return values | {"padding_fraction": 1 - self.tokens / places, "skipped": not self.applied}


class StepTooLarge(Exception):
    """The memory of a GPU ran out, on any rank, before anything was updated: the step can be repeated."""


class CompilerFailed(Exception):
    """A step needed compiled code for another shape and could not have it, on any rank: it can be repeated without."""


def is_of_compiler(error: Exception) -> bool:
    """Whether it is PyTorch's compiler that failed; its own classes would have to be imported, which takes a second."""
    return any(kind.__module__.startswith(("torch._dynamo", "torch._inductor")) for kind in type(error).__mro__)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Compute matrix products in bfloat16 where `precision` says so; weights stay float32."""
    if precision == "bfloat16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def train_step(
    model: nn.Module,
    sum_losses: SumLosses,
    micro_batches: Sequence[Any],
    optimizer: AnyOptimizer,
    *,
    max_grad_norm: float,
    precision: str,
    dropout_key: tuple[int, int] | None,
    first_row: int | None = None,
    terms: Terms | None = None,
    recorder: Recorder | None = None,
    meanwhile: Callable[[], None] | None = None,
) -> StepResult:
    """Update the model once.

    Args:
        model: The network, the same on every rank.
        sum_losses: How to sum the losses of a batch.
        micro_batches: This rank's rows, on the model's device.
        optimizer: Its learning rate is already that of this step.
        max_grad_norm: Gradients are scaled down to this L2 norm.
        precision: "float32" or "bfloat16".
        dropout_key: (seed, step): dropout is a function of these. None when the model has none.
        first_row: Number of this rank's first row in the step. On a CPU dropout is a function of the place in the step,
            too, whatever the micro-batches and ranks; without it, and on a GPU, of micro-batch and rank.
        terms: Of the objective; None: those of pretraining.
        recorder: Does the work on a GPU, for one process alone; the same one in each step. None: it is not recorded.
        meanwhile: Called while a GPU computes the gradients.

    Raises:
        StepTooLarge: All ranks raise it together; the gradients are forgotten.
        CompilerFailed: The same.
        UserError: The memory of the GPU ran out while the weights were updated.
    """
    count, means = terms or PRETRAINING
    device = micro_batches[0].input_ids.device
    do = recorder or directly
    if recorder is not None:
        recorder.begin_step(micro_batches)
    counts = [torch.cat([count(b), torch.full((1,), float(b.num_tokens), device=device)]) for b in micro_batches]
    totals = distributed.sum_over_ranks(torch.stack(counts).sum(0))
    targets, tokens = totals[:-1], totals[-1]

    def gradients(number: int, batch: Any) -> Tensor:
        if dropout_key is not None:
            _key_dropout(dropout_key, number, micro_batches, first_row if device.type == "cpu" else None)
        work = partial(add_gradients, model, sum_losses, precision)
        divisor = targets.clamp(min=1)  # a term without targets adds 0
        return do(("gradients", number > 0, len(batch.input_ids)), work, batch, divisor)  # type: ignore[no-any-return]

    try:
        sums = _sum_or_fail(gradients, micro_batches)
    except (StepTooLarge, CompilerFailed):
        optimizer.zero_grad()
        raise
    finally:
        set_rows(0, 1)
    distributed.sum_gradients(model.parameters())
    norm = do("clip", lambda: nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm))
    if meanwhile is not None:
        meanwhile()
    # reading a number waits for a GPU, so all that there is to compute is queued first
    measured = means(distributed.sum_over_ranks(sums), targets)
    grad_norm, num_tokens = float(norm), int(tokens)
    applied = isfinite(measured.loss) and isfinite(grad_norm)
    if applied:
        _update(optimizer, recorder, device)
    optimizer.zero_grad()
    return StepResult(measured, grad_norm, applied, num_tokens)


def add_gradients(
    model: nn.Module, sum_losses: SumLosses, precision: str, batch: Any, divisor: Tensor | float
) -> Tensor:
    """Pass forward and backward, and add the gradients of the losses over `divisor` [terms] to those that there are.

    Returns:
        Losses and hits of the batch, [2, terms].
    """
    with autocast(batch.input_ids.device, precision):
        sums = sum_losses(model, batch)
    (sums.losses / divisor).sum().backward()  # type: ignore[no-untyped-call]
    return torch.stack([sums.losses.detach(), sums.correct])


def _key_dropout(key: tuple[int, int], number: int, micro_batches: Sequence[Any], first_row: int | None) -> None:
    """Decide what the pass of a micro-batch drops."""
    if first_row is None:
        torch.manual_seed(keyed_seed(*key, Stream.DROPOUT, number, distributed.rank()))
        set_rows(0, 1)
    else:
        torch.manual_seed(keyed_seed(*key, Stream.DROPOUT, 0, 0))
        before = sum(len(batch) for batch in micro_batches[:number])
        set_rows(first_row + before, len(micro_batches[number]))


def _sum_or_fail(work: Callable[[int, Any], Tensor], micro_batches: Sequence[Any]) -> Tensor:
    """Sum what is made of the micro-batches; what fails on one rank fails on all."""
    sums: Tensor | None = None
    has_room, compiler_said = True, ""  # the error itself would keep what was computed, and a GPU has no room for it
    for number, batch in enumerate(micro_batches):
        try:
            made = work(number, batch)
        except torch.OutOfMemoryError:
            has_room = False
            break
        except Exception as error:
            if not is_of_compiler(error):
                raise
            compiler_said = first_line(error)
            break
        sums = made.clone() if sums is None else sums + made
    if distributed.any_rank(not has_room or bool(compiler_said)):
        if distributed.any_rank(not has_room):
            raise StepTooLarge
        raise CompilerFailed(compiler_said or "in another process")
    assert sums is not None
    return sums


def _update(optimizer: AnyOptimizer, recorder: Recorder | None, device: torch.device) -> None:
    """Change the weights."""
    try:
        if recorder is None or optimizer.reads_numbers:
            optimizer.step()
        else:
            rates = torch.tensor([group["lr"] for group in optimizer.param_groups], device=device)
            recorder("update", partial(step_at, optimizer), rates)
    except torch.OutOfMemoryError as error:  # some weights may be updated: the step cannot be repeated
        raise UserError(
            "the memory of the GPU is too small for the optimizer's state; start a new run with a smaller "
            "--micro-batch-size, --preset or --vocab-size"
        ) from error


@torch.no_grad()
def evaluate_loss(model: nn.Module, sum_losses: SumLosses, batches: Iterable[Batch], *, precision: str) -> Measured:
    """Measure the loss without dropout. The batches are this rank's share, on the model's device."""
    was_training = model.training
    device = next(model.parameters()).device
    totals = torch.zeros(3, 2, dtype=torch.float64 if device.type != "mps" else torch.float32, device=device)
    model.eval()
    try:
        for batch in batches:
            with autocast(device, precision):
                sums = sum_losses(model, batch)
            totals += torch.stack([sums.losses, sums.correct, count_targets(batch)])
    finally:  # a GPU without room is asked again
        model.train(was_training)
    distributed.sum_over_ranks(totals)
    return _divide(totals[:2], totals[2])


def _divide(sums: Tensor, targets: Tensor) -> Measured:
    """Turn summed losses and hits [2, terms] into means."""
    (mlm_loss, nsp_loss), (mlm_accuracy, nsp_accuracy) = (sums / targets.clamp(min=1)).tolist()
    mlm_targets, nsp_targets = (int(count) for count in targets.tolist())
    return Measured(mlm_loss + nsp_loss, mlm_loss, nsp_loss, mlm_accuracy, nsp_accuracy, mlm_targets, nsp_targets)


PRETRAINING = Terms(count_targets, _divide)
