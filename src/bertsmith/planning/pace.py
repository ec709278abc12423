"""Whether a run with a budget of time is on time, and what it does about it."""

import time
from collections import deque

from bertsmith import distributed
from bertsmith.budget import Revisions
from bertsmith.planning.plan import Plan

RECENT = 2
"""Looks at the clock, a twentieth of the run each, that the speed is told from: a machine may have become busier."""

SMALL = 0.02
"""A change of the number of steps by less than this is not made."""

LAST_ROWS, FEWEST_LAST_ROWS = 4096, 256
"""Held-out rows of the last measurement, without a budget of time and with the shortest."""

QUICK_ROWS, FEWEST_QUICK_ROWS = 512, 64
"""Held-out rows of a measurement on the way."""

LAST_SHARE = 0.04
"""Of a budget of time, for that measurement."""

FORWARD_SHARE = 0.5
"""Time of a row that is measured against that of one that is trained on."""


def last_rows(plan: Plan, seconds_per_row: float) -> int:
    """Held-out rows of the last measurement, when training takes so long for a row."""
    budget = plan.clock.budget
    affordable = LAST_ROWS
    if budget is not None and budget.seconds is not None:
        affordable = int(LAST_SHARE * budget.seconds / (FORWARD_SHARE * seconds_per_row))
    return min(LAST_ROWS, max(FEWEST_LAST_ROWS, affordable), plan.held_out.rows_per_epoch)


def quick_rows(plan: Plan) -> int:
    """Held-out rows of a measurement on the way: with a budget of time no more than a hundredth of the rows learnt."""
    if not plan.clock.limits_time:
        return QUICK_ROWS
    first = plan.first_stages
    learnt = sum(len(stage.steps) * stage.places for stage in first) // first[-1].sequence_length
    return min(QUICK_ROWS, max(FEWEST_QUICK_ROWS, learnt // 100))


class Pace:
    """Looks at the clock until the learning rate begins to fall. Without a budget of time it does nothing."""

    def __init__(self, plan: Plan, first_step: int) -> None:
        """Begin, or go on, at `first_step`, with as many steps as the run had in mind there."""
        self._plan = plan
        self._revisions: Revisions | None = None
        if plan.clock.limits_time:
            self._revisions = Revisions(plan.run.folder, plan.steps)
            if first_step == 0 and self._revisions.recorded(0) == plan.steps:
                self._record(0, plan.steps)
            plan.take_steps(self._revisions.steps_at(first_step))
            plan.save()
        self._first_step = first_step
        self._looks: deque[tuple[int, float]] = deque(maxlen=RECENT + 1)  # step and time

    def look(self, step: int) -> bool:
        """Revise the number of steps before `step` if it is time for that; True if it changed."""
        if not self._looks and step > self._first_step:  # the first step may compile
            self._looks.append((step, time.monotonic()))
        revisions, before = self._revisions, self._plan.steps
        if revisions is None or not revisions.is_due(step) or self._has_begun_to_fall(step):
            return False
        steps = revisions.recorded(step)
        if steps is None:
            steps = self._estimate(step)
        self._looks.append((step, time.monotonic()))
        self._record(step, steps)
        self._plan.take_steps(steps)
        self._plan.save()
        return steps != before

    def _has_begun_to_fall(self, step: int) -> bool:
        training = self._plan.run.config.training
        if training.schedule == "constant":
            return False
        share = training.decay_share if training.schedule == "trapezoid" else 1.0
        return step > (1 - share) * self._plan.steps

    def _estimate(self, step: int) -> int:
        """Steps that fit into the time, at the speed of this process lately."""
        plan, steps = self._plan, self._plan.steps
        since, began = self._looks[0] if self._looks else (step, 0.0)
        done = plan.places(range(since, step))
        if done == 0:
            return steps
        seconds_per_place = (time.monotonic() - began) / done
        seconds_per_row = seconds_per_place * plan.stages[-1].sequence_length
        last = last_rows(plan, seconds_per_row) * FORWARD_SHARE * seconds_per_row
        fitting = step + max(1, self._steps_for(int((plan.clock.left() - last) / seconds_per_place), step))
        fitting = int(distributed.from_main(fitting))
        return steps if abs(fitting - steps) < SMALL * steps else fitting

    def _steps_for(self, places: int, step: int) -> int:
        """Steps from `step` on that so many places make, in the stages as they were first made."""
        count, stages = 0, self._plan.first_stages
        for stage in stages:
            here = places // stage.places
            if stage is not stages[-1]:
                here = min(here, len(range(max(step, stage.steps.start), stage.steps.stop)))
            count += max(0, here)
            places -= here * stage.places
        return count

    def _record(self, step: int, steps: int) -> None:
        if self._revisions is not None:
            self._revisions.record(step, steps, seconds=self._plan.clock.used(), write=distributed.is_main())
