"""How long a run takes, and the steps that fit into a budget of time.

A run consists of rows to learn from, an update for each step, and rows to measure on, now and then and at the end.
"""

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import torch
from torch import nn

from bertsmith import distributed
from bertsmith.adamw import AdamW
from bertsmith.errors import UserError, first_line
from bertsmith.machine.measure import halving, seconds_per_micro_batch
from bertsmith.machine.work import seconds_of_one, synchronize
from bertsmith.model import AnyPretrainingModel
from bertsmith.muon import alike, orthogonal
from bertsmith.objective import sum_losses
from bertsmith.optim import is_of_muon
from bertsmith.planning.plan import Plan
from bertsmith.planning.stages import Stage, places_of
from bertsmith.recorder import Work, recorded
from bertsmith.reporter import Reporter, counted
from bertsmith.step import SumLosses

LAST_ROWS, FEWEST_LAST_ROWS, LAST_SHARE = 4096, 256, 0.08
"""Held-out rows of the last measurement: this share of the rows learnt, but no more and no fewer than these."""

QUICK_ROWS, FEWEST_QUICK_ROWS, QUICK_SHARE = 512, 64, 0.02
"""Held-out rows of a measurement on the way; with a budget of time half that share."""

FORWARD_SHARE = 0.5
"""Time of a row that is measured against that of one that is trained on."""

FITS = 8
"""Times that the number of steps is brought nearer to the budget: what is measured depends on it, too."""

ADAMW_SAMPLE = 1 << 22
"""So many weights tell the time of AdamW, which reads and writes each of them."""

BETWEEN_STEPS = {"cuda": 4e-4}
"""Seconds that a step takes besides, by device: a GPU waits for Python between its pieces (seen beside an H100)."""

TOO_LONG = 1.1
"""A run that takes so many times what is left is said to: its measurements and its one step have a least size."""


def last_rows(plan: Plan) -> int:
    """Held-out rows of the last measurement."""
    share = int(LAST_SHARE * _rows_learnt(plan.stages))
    return min(LAST_ROWS, max(FEWEST_LAST_ROWS, share), plan.held_out.rows_per_epoch)


def quick_rows(plan: Plan) -> int:
    """Held-out rows of a measurement on the way, the same ones each time."""
    share = int(QUICK_SHARE * _rows_learnt(plan.first_stages)) // (2 if plan.clock.limits_time else 1)
    return min(QUICK_ROWS, max(FEWEST_QUICK_ROWS, share), plan.held_out.rows_per_epoch)


def _rows_learnt(stages: Sequence[Stage]) -> int:
    """In rows of the last length."""
    return places_of(stages, range(stages[-1].max_steps)) // stages[-1].sequence_length


def seconds_of_last_rows(plan: Plan, seconds_per_row: float) -> float:
    """Time of the last measurement."""
    return last_rows(plan) * FORWARD_SHARE * seconds_per_row


class Tried(NamedTuple):
    """The objective as the run will compute it."""

    losses: SumLosses
    """As it is, or compiled."""

    seconds_per_row: float
    seconds_per_update: float
    """What the optimizer takes in each step, whatever its rows."""


def try_out(plan: Plan, model: AnyPretrainingModel, reporter: Reporter) -> Tried:
    """Compute a micro-batch as the run will, and time it unless its time is known.

    A compiler that fails, as one without the headers it needs, costs a run its speed and not its life.

    Raises:
        UserError: The memory of the GPU is too small for one row.
    """
    losses = plan.losses()
    training = plan.run.config.training
    updating = update_seconds(model, training.optimizer, training.precision)
    try:
        return Tried(losses, _seconds_per_row(plan, model, losses), updating)
    except UserError:
        raise
    except Exception as error:  # of many kinds
        if losses is sum_losses:
            raise
        reason = first_line(error)
        reporter.warn(f"this run compiles its steps and that failed here, so they are slower: {reason}")
        if not plan.is_begun:  # it goes on as it begins, with a compiler that was put right, too
            plan.run.decide("compiler", compile="no")
            plan.save()
        return Tried(sum_losses, _seconds_per_row(plan, model, sum_losses), updating)


def _seconds_per_row(plan: Plan, model: AnyPretrainingModel, losses: SumLosses) -> float:
    """Time of a row in a micro-batch; of a smaller one where a GPU has no room, as the steps will find out, too."""
    training = plan.run.config.training
    size = plan.stages[-1].divide(training).micro_batch_size
    size = min(size, training.micro_batch_size or size)  # of full rows, of which fewer fit than of short ones
    if losses is sum_losses and plan.micro_batch_seconds is not None:
        return plan.micro_batch_seconds / size
    seconds, size = halving(
        size, lambda rows: seconds_per_micro_batch(model, losses, plan.first_rows(rows), training.precision)
    )
    return seconds / size


def update_seconds(model: nn.Module, optimizer: str, precision: str) -> float:
    """Time of an update: of Muon's products, each kind of them timed once, and of AdamW for all other weights."""
    parameters = dict(model.named_parameters())
    matrices = [p for name, p in parameters.items() if optimizer == "muon" and is_of_muon(name, p)]
    others = sum(p.numel() for p in parameters.values()) - sum(p.numel() for p in matrices)
    device, products = next(model.parameters()).device, torch.bfloat16 if precision == "bfloat16" else torch.float32
    kinds = Counter((len(group), *group[0].shape) for group in alike(matrices))

    def muon(kind: tuple[int, ...]) -> float:
        updates = torch.randn(kind if kind[0] > 1 else kind[1:], device=device)
        return _seconds(lambda: orthogonal(updates, products), device)

    with suppress(torch.OutOfMemoryError):  # the steps will say so
        some = nn.Parameter(torch.zeros(min(others, ADAMW_SAMPLE), device=device))
        some.grad = torch.zeros_like(some)
        adamw = AdamW([{"params": [some], "weight_decay": 0.0, "lr": 0.0}], beta2=0.98)
        adamw.step()  # to warm up
        of_adamw = _seconds(adamw.step, device) * others / len(some)
        if kinds:
            muon(min(kinds))  # to warm up
        return of_adamw + sum(muon(kind) * count for kind, count in kinds.items()) / distributed.world_size()
    return 0.0


def _seconds(work: Work, device: torch.device) -> float:
    """Of one call as a step does it, all of it done."""
    work = recorded(work, device)
    synchronize(device)
    return seconds_of_one(work, device)


def seconds_left(plan: Plan, tried: Tried, *, first_step: int) -> float:
    """Estimate the time of the remaining steps, and of what is measured."""
    training = plan.run.config.training
    rows = plan.places(range(first_step, plan.steps)) / training.sequence_length
    every = training.validation_every or plan.steps
    looks = plan.steps // every - first_step // every + (plan.steps % every > 0)
    seconds = tried.seconds_per_row * (rows + FORWARD_SHARE * looks * quick_rows(plan)) / distributed.world_size()
    return (
        seconds
        + seconds_of_last_rows(plan, tried.seconds_per_row) / distributed.world_size()
        + (tried.seconds_per_update + BETWEEN_STEPS.get(plan.device.type, 0)) * (plan.steps - first_step)
    )


def fit_into_budget(plan: Plan, tried: Tried, reporter: Reporter) -> None:
    """Before the first step of a run with a budget of time: as many steps as fit."""
    for _ in range(FITS):
        plan.fit_into(seconds_left(plan, tried, first_step=0))
    needed, used = seconds_left(plan, tried, first_step=0), plan.clock.used()
    if needed > max(TOO_LONG * plan.clock.left(), 1):
        reporter.warn(
            f"the budget is {plan.run.config.training.budget}, and getting ready took {used:.0f} s of it; "
            f"{counted(plan.steps, 'step')} and what is measured take about {needed:.0f} s more; give more"
        )
