"""The batches of a run's steps: in order, made by other processes for a GPU, and there before it asks for them."""

import time
from collections import deque
from collections.abc import Iterator
from itertools import islice

import torch
from torch.utils.data import DataLoader

from bertsmith.data.batch import Batch, collate
from bertsmith.interrupt import leave_signals_to_the_run
from bertsmith.planning.plan import Plan
from bertsmith.planning.stages import Division, Stage

GPU_LOADER_WORKERS = 2


class Batches:
    """Micro-batches on a device, in order, some of which come while a GPU works on others."""

    def __init__(self, batches: Iterator[Batch], device: torch.device) -> None:
        """Begin with the first of some that lie in the processor's memory."""
        self._batches = batches
        self._device = device
        self._ready: deque[Batch] = deque()
        self._waited = 0.0

    def fetch(self, count: int) -> None:
        """Bring the next ones to a GPU that was just given work; none where there are none."""
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record()
        seconds = self._bring(count)
        if done.query():  # type: ignore[no-untyped-call]  # it has waited, though maybe not for all of that time
            self._waited += seconds

    def take(self, count: int) -> tuple[list[Batch], float]:
        """The next ones, and the seconds for which the device has waited for them."""
        waited, self._waited = self._waited + self._bring(count - len(self._ready)), 0.0
        return [self._ready.popleft() for _ in range(count)], waited

    def _bring(self, count: int) -> float:
        before = time.monotonic()
        for batch in islice(self._batches, max(0, count)):
            # not by a thread of the loader, which would hold up the one that asks the GPU for its work
            batch = batch.pin_memory() if self._device.type == "cuda" else batch
            self._ready.append(batch.to(self._device))
        return time.monotonic() - before


def batches_from(plan: Plan, first_step: int) -> Batches:
    """This rank's micro-batches of a run, on its device."""
    return Batches(load_batches(plan, first_step=first_step), plan.device)


def load_batches(plan: Plan, *, first_step: int) -> Iterator[Batch]:
    """This rank's micro-batches from `first_step` on, in order.

    The step number alone says which rows a step has, so starting late costs nothing.
    """
    training = plan.run.config.training
    for stage in plan.stages:
        steps = range(max(first_step, stage.steps.start), stage.steps.stop)
        if not steps:
            continue
        rows = plan.rows[stage.sequence_length]
        rows.course = stage.course()
        loader: DataLoader[Batch] = DataLoader(
            rows,  # type: ignore[arg-type]  # any object with len() and [] will do
            batch_sampler=row_numbers(stage, stage.divide(training), steps),
            collate_fn=collate,
            num_workers=_loader_workers(plan),
            worker_init_fn=leave_signals_to_the_run,
        )
        yield from loader


def _loader_workers(plan: Plan) -> int:
    """A GPU should not wait for its rows; on a CPU a second process would only take its time."""
    given = plan.run.config.training.loader_workers
    return given if given is not None else GPU_LOADER_WORKERS if plan.device.type == "cuda" else 0


def row_numbers(stage: Stage, division: Division, steps: range) -> Iterator[list[int]]:
    """Row numbers of each micro-batch of one rank."""
    for step in steps:
        first = stage.row_of(step) + division.first
        rows = range(first, first + division.rows)
        for start in range(0, division.rows, division.micro_batch_size):
            yield list(rows[start : start + division.micro_batch_size])
