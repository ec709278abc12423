"""The stages of a run: how long its rows are, and how many make a step.

Most runs have one. A run may begin with fewer rows a step, or with shorter rows,
more of them, so that a step has as many places. Each stage has a closed form for
the rows of a step, so a run goes on anywhere at once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from math import ceil
from typing import NamedTuple

from bertsmith import distributed
from bertsmith.config import TrainingConfig
from bertsmith.data.examples import Course
from bertsmith.data.masking import share_at
from bertsmith.errors import UserError
from bertsmith.machine.work import step_operations
from bertsmith.model import AnyConfig

RAMP = (4, 2)
"""In each half of the ramp a step has this part of its rows."""

SOME_STEPS = 1000
"""Enough to tell the shares of the stages from."""


class Division(NamedTuple):
    """How the rows of a step are divided."""

    first: int
    """First row of this rank, counted in the step."""

    rows: int
    """Rows of this rank."""

    micro_batch_size: int

    @property
    def micro_batches(self) -> int:
        """Micro-batches of this rank and step; the last may have fewer rows."""
        return ceil(self.rows / self.micro_batch_size)


@dataclass(frozen=True, slots=True)
class Stage:
    """Some steps of a run, all of one shape."""

    steps: range
    sequence_length: int
    rows: int
    """Rows of a step over all ranks."""

    first_row: int
    """Number of the first row of the first step, counted over all epochs."""

    max_steps: int
    """Steps of the whole run."""

    @property
    def places(self) -> int:
        """Token places of a step, padding included."""
        return self.rows * self.sequence_length

    def row_of(self, step: int) -> int:
        """Number of the first row of a step."""
        return self.first_row + (step - self.steps.start) * self.rows

    def course(self) -> Course:
        """How far the run is at each row."""
        return Course(self.first_row, self.steps.start, self.rows, self.max_steps)

    def divide(self, training: TrainingConfig) -> Division:
        """How a step is divided: micro-batches of as many places as those of full-length rows.

        Where the rows do not divide evenly, the first ranks have one more: losses are sums over all
        of them, so the update is the same.

        Raises:
            UserError: There are more ranks than rows.
        """
        ranks, rank = distributed.world_size(), distributed.rank()
        if self.rows < ranks:
            raise UserError(
                f"a step has {self.rows} rows, which {ranks} processes cannot share; start at most {self.rows} "
                "processes, or a new run with a larger --global-batch-size"
            )
        least, more = divmod(self.rows, ranks)
        rows = least + (rank < more)
        size = training.micro_batch_size or rows
        first = rank * least + min(rank, more)
        return Division(first, rows, min(rows, max(1, size * training.sequence_length // self.sequence_length)))


class Turns(NamedTuple):
    """Numbers of the steps with which a new shape of steps begins; 0 where there is none."""

    half_ramp: int
    """Steps have a quarter of their rows before it, then half."""

    ramp: int
    """Steps have all rows from here on."""

    short: int
    """Rows have their full length from here on."""

    def revised(self, training: TrainingConfig, *, at: int) -> "Turns":
        """Those of a run whose number of steps was revised before step `at`: what is done stays as it was done.

        The others keep their shares of the run, so that no revision leaves a run without its long rows.
        """
        pairs = zip(self, turns_of(training), strict=True)
        return Turns(*(before if before <= at else max(after, at) for before, after in pairs))


def turns_of(training: TrainingConfig) -> Turns:
    """The turns of a run that knows its number of steps from the start."""
    steps = training.steps or 1
    ramp = round(training.batch_ramp * steps)
    return Turns(ramp // 2, ramp, round(training.short_share * steps) if training.short_length else 0)


def make_stages(
    training: TrainingConfig, rows_per_epoch: Callable[[int], int], turns: Turns | None = None
) -> tuple[Stage, ...]:
    """The stages of a run, in order.

    Args:
        training: With the number of steps and the rows of a step decided.
        rows_per_epoch: Rows of an epoch, by the length of a row.
        turns: Where they are not those of `turns_of`, after a revision.

    Raises:
        UserError: The rows of a step cannot be made a quarter.
    """
    steps, rows, length = training.steps or 1, training.global_batch_size or 1, training.sequence_length
    half, ramp, short = turns or turns_of(training)
    if ramp and rows % max(RAMP):
        raise UserError(
            f"a ramp begins with a quarter of the rows, and global_batch_size is {rows}; give a multiple of 4"
        )
    bounds = sorted({0, steps, *(bound for bound in (half, ramp, short) if 0 < bound < steps)})
    stages: list[Stage] = []
    read = Fraction(0)  # epochs before the stage
    for start, stop in pairwise(bounds):
        now = (training.short_length or length) if start < short else length
        part = next((part for part, end in zip(RAMP, (half, ramp), strict=True) if start < end), 1)
        count = rows // part * (length // now)
        stages.append(Stage(range(start, stop), now, count, ceil(read * rows_per_epoch(now)), steps))
        read += Fraction((stop - start) * count, rows_per_epoch(now))
    return tuple(stages)


def places_of(stages: Sequence[Stage], steps: range) -> int:
    """Token places of some steps, padding included."""
    parts = (range(max(steps.start, stage.steps.start), min(steps.stop, stage.steps.stop)) for stage in stages)
    return sum(stage.places * len(part) for stage, part in zip(stages, parts, strict=True))


def work_of_step(config: AnyConfig, training: TrainingConfig, stage: Stage, step: float) -> float:
    """Operations that a step cannot do without, all ranks together."""
    progress = step / stage.max_steps
    predictions = share_at(training.mlm_probability, training.end_probability, progress) * stage.places
    return step_operations(config, tokens=stage.places, row_length=stage.sequence_length, predictions=predictions)


def mean_work(config: AnyConfig, training: TrainingConfig) -> float:
    """Operations of a step, the mean over a run, whatever its number of steps: its first ones may have fewer rows."""
    work = 0.0
    for stage in _stages_of_some_run(training):
        middle = (stage.steps.start + stage.steps.stop) / 2
        work += len(stage.steps) * work_of_step(config, training, stage, middle)
    return work / SOME_STEPS


def mean_rows(training: TrainingConfig) -> float:
    """Rows of a step, the mean over a run, whatever its number of steps; short ones count by their places."""
    return places_of(_stages_of_some_run(training), range(SOME_STEPS)) / SOME_STEPS / training.sequence_length


def _stages_of_some_run(training: TrainingConfig) -> tuple[Stage, ...]:
    return make_stages(replace(training, steps=SOME_STEPS), lambda _length: 1)
