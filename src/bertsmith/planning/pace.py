"""Whether a run with a budget of time is on time, and what it does about it."""

import time
from bisect import bisect_right
from collections import deque

from bertsmith import distributed
from bertsmith.budget import Revisions
from bertsmith.planning.duration import seconds_of_last_rows
from bertsmith.planning.plan import Plan

RECENT = 6
"""Looks at the clock, a sixtieth of the run each, that the speed is told from: a machine may have become busier."""

SMALL = 0.02
"""A change of the number of steps by less than this is not made."""

FALLS_EARLY_UNTIL, SETTLED = 0.7, 0.8
"""Shares of the steps and of the time: the clock is looked at until both are past and the rate falls. By the steps
alone one cut would settle a run, and a machine that was busy for a while would end it early. A rate that falls already
jumps a little when the number of steps changes. (docs/log.md, "A machine that is busy for a while")"""


class Pace:
    """Looks at the clock until the number of steps is settled. Without a budget of time it does nothing."""

    def __init__(self, plan: Plan, first_step: int) -> None:
        """Begin, or go on, at `first_step`, with as many steps as the run had in mind there."""
        self._plan = plan
        self._revisions: Revisions | None = None
        if plan.clock.limits_time:
            self._revisions = Revisions(plan.run.folder, plan.steps)
            if first_step == 0 and self._revisions.recorded(0) == plan.steps:
                self._record(0, plan.steps)
            plan.take_revisions(self._revisions.until(first_step))
            plan.save()
        self._first_step = first_step
        self._looks: deque[tuple[int, float]] = deque(maxlen=RECENT + 1)  # step and time

    def look(self, step: int) -> bool:
        """Revise the number of steps before `step` if it is time for that; True if it changed."""
        if not self._looks and step > self._first_step:  # the first step may compile
            self._looks.append((step, time.monotonic()))
        revisions, before = self._revisions, self._plan.steps
        if revisions is None or not revisions.is_due(step):
            return False
        steps = revisions.recorded(step)
        if steps is None:  # the main process decides, by its clock
            steps = before if distributed.from_main(self._is_settled(step)) else self._estimate(step)
        self._looks.append((step, time.monotonic()))
        self._record(step, steps)
        if steps == before:
            return False
        self._plan.take_steps(steps, at=step)
        self._plan.save()
        return True

    def _is_settled(self, step: int) -> bool:
        """Whether the number of steps stays as it is: the learning rate falls to its end, and the end is near."""
        training = self._plan.run.config.training
        if training.schedule == "constant":
            return False
        share = training.decay_share if training.schedule == "trapezoid" else 1.0
        falls = step > max(1 - share, FALLS_EARLY_UNTIL) * self._plan.steps
        return falls and self._plan.clock.share_used() > SETTLED

    def _estimate(self, step: int) -> int:
        """Steps that fit into the time, at the speed of this process lately."""
        plan, steps = self._plan, self._plan.steps
        since, began = self._looks[0] if self._looks else (step, 0.0)
        done = plan.places(range(since, step))
        if done == 0:
            return steps
        seconds_per_place = (time.monotonic() - began) / done
        seconds_per_row = seconds_per_place * plan.stages[-1].sequence_length
        last = seconds_of_last_rows(plan, seconds_per_row)
        fitting = self._steps_with((plan.clock.left() - last) / seconds_per_place, step)
        fitting = int(distributed.from_main(fitting))
        return steps if abs(fitting - steps) < SMALL * steps else fitting

    def _steps_with(self, places: float, step: int) -> int:
        """Steps of a run that has so many places from `step` on, at least one step more."""
        fewest, more = step + 1, 1
        while self._plan.places_left(fewest + more, at=step) <= places:
            more *= 2
        counts = range(fewest, fewest + more)
        return fewest + max(
            0, bisect_right(counts, places, key=lambda steps: self._plan.places_left(steps, at=step)) - 1
        )

    def _record(self, step: int, steps: int) -> None:
        if self._revisions is not None:
            self._revisions.record(step, steps, seconds=self._plan.clock.used(), write=distributed.is_main())
