"""The plan of a run: everything that it works with, decided (`making.py` decides)."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any

import torch

from bertsmith import distributed
from bertsmith.budget import Clock, first_estimate
from bertsmith.data.batch import Batch
from bertsmith.data.examples import TrainingRows
from bertsmith.data.keyed import Stream, keyed_seed
from bertsmith.machine.compiling import compiled_losses, has_compiler
from bertsmith.model import AnyConfig, AnyPretrainingModel
from bertsmith.objective import sum_losses
from bertsmith.planning.decisions import decide_length
from bertsmith.planning.from_settings import (
    begin_as_set,
    drawn_model,
    first_rows,
    model_config,
    model_of,
    parameters_of,
)
from bertsmith.planning.stages import Stage, Turns, make_stages, places_of, turns_of
from bertsmith.presets import FIRST_WEIGHTS
from bertsmith.replay import AnyRows
from bertsmith.run_folder import Run
from bertsmith.step import SumLosses
from bertsmith.tokenizer import Tokenizer


@dataclass(slots=True)
class Plan:
    """Everything a run works with, decided; with a budget of time the number of steps may still be revised."""

    run: Run
    manifest: dict[str, Any]
    tokenizer: Tokenizer
    rows: dict[int, AnyRows]
    """What is learnt from, by length."""

    held_out: TrainingRows
    device: torch.device
    clock: Clock

    is_begun: bool
    """There is a checkpoint."""

    stages: tuple[Stage, ...] = field(init=False)
    """With the number of steps of now."""

    turns: Turns = field(init=False)
    """Of `stages`; it depends on all revisions so far, since what is done stays."""

    first_stages: tuple[Stage, ...] = field(init=False)
    """As the first estimate of the number of steps made them: they fix how many rows are measured on the way."""

    micro_batch_seconds: float | None = None
    """Time of a micro-batch, not compiled, where it was measured."""

    _measured: AnyPretrainingModel | None = None
    """Given out by the next `new_model`, lest a large one be made twice."""

    def __post_init__(self) -> None:
        self._take_turns(turns_of(self.run.config.training))
        begun_with = first_estimate(self.run.folder) if self.clock.limits_time else None
        self.first_stages = self.stages_with(begun_with or self.steps)

    @property
    def config(self) -> AnyConfig:
        """The model as it is pretrained."""
        return model_config(self.run, self.tokenizer)

    def stage_of(self, step: int) -> Stage:
        """The stage that a step belongs to."""
        return next(stage for stage in self.stages if step in stage.steps)

    def parameters(self) -> int:
        """Numbers in the model."""
        return parameters_of(self.run, self.tokenizer)

    def new_model(self, *, counted: bool = True) -> AnyPretrainingModel:
        """The model as it begins, the same at each call. Where a checkpoint has other weights, a random one.

        Args:
            counted: With what the settings want counted in the text, which takes seconds.
        """
        model, self._measured = self._measured, None
        if model is None:
            torch.manual_seed(keyed_seed(self.run.config.training.seed, Stream.INITIAL))
            make = model_of if self.is_begun or not distributed.is_main() else drawn_model
            model = make(self.run, self.tokenizer).to(self.device)
        if counted and not self.is_begun:
            self._count(model)
        return model

    def _count(self, model: AnyPretrainingModel) -> None:
        """Change a model that was drawn. One process does so, and the others get its weights."""
        training = self.run.config.training
        if distributed.is_main() and any(getattr(training, name) == value for name, value in FIRST_WEIGHTS):
            torch.manual_seed(keyed_seed(training.seed, Stream.COUNTED))
            begin_as_set(model.cpu(), training, self.run.folder / "data")
            model.to(self.device)
        with torch.no_grad():
            distributed.share([[*model.parameters()]])

    def model_to_measure(self) -> AnyPretrainingModel:
        """A model whose weights may not be changed, for the next `new_model` begins with it."""
        self._measured = self.new_model(counted=False)
        return self._measured

    @property
    def largest_share(self) -> int:
        """Rows of a full step of the rank that has most of them; the same number on every rank."""
        return ceil(self.stages[-1].rows / distributed.world_size())

    def losses(self) -> SumLosses:
        """The objective, compiled where the run does so and there is a compiler."""
        is_compiled = self.run.config.training.compile == "yes" and has_compiler(self.device)
        return compiled_losses() if is_compiled else sum_losses

    @property
    def steps(self) -> int:
        """Steps of the whole run, as it is planned now."""
        return self.run.config.training.steps or 0

    def take_steps(self, steps: int, *, at: int) -> None:
        """Make the run so many steps long from step `at` on."""
        if steps != self.steps:
            self.run.decide("measured", steps=steps)
            self._take_turns(self.turns.revised(self.run.config.training, at=at))

    def take_revisions(self, revisions: Sequence[tuple[int, int]]) -> None:
        """Do again what earlier looks at the clock did: from which step on the run was so many steps long, in order."""
        (_, first), *others = revisions
        self.run.decide("measured", steps=first)
        self._take_turns(turns_of(self.run.config.training))
        for at, steps in others:
            self.take_steps(steps, at=at)

    def places_left(self, steps: int, *, at: int) -> int:
        """Token places from step `at` on if the run were so many steps long, padding included."""
        training = replace(self.run.config.training, steps=steps)
        stages = self.stages_with(steps, self.turns.revised(training, at=at))
        return places_of(stages, range(at, steps))

    def fit_into(self, seconds: float) -> None:
        """Before the first step: make the run as long as its time allows, when all of it would take `seconds`."""
        steps = max(1, int(distributed.from_main(self.steps * self.clock.left() / seconds)))
        self.run.decide("measured", steps=steps)
        again = [name for name in ("warmup_steps", "validation_every") if self.run.origin.get(name) == "default"]
        self.run.decide("default", **dict.fromkeys(again))
        decide_length(self.run, self.rows[self.run.config.training.sequence_length])
        self._take_turns(turns_of(self.run.config.training))
        self.first_stages = self.stages

    def _take_turns(self, turns: Turns) -> None:
        self.turns, self.stages = turns, self.stages_with(self.steps, turns)

    def stages_with(self, steps: int, turns: Turns | None = None) -> tuple[Stage, ...]:
        """The stages if the run were so many steps long; `turns`: after a revision."""
        training = replace(self.run.config.training, steps=steps)
        return make_stages(training, lambda length: self.rows[length].rows_per_epoch, turns)

    def save(self) -> None:
        """Write the decisions to the run, on the main rank."""
        if distributed.is_main():
            self.run.save()

    def places(self, steps: range) -> int:
        """Token places of some steps, padding included."""
        return places_of(self.stages, steps)

    def first_rows(self, number: int) -> Batch:
        """The first full-length rows, on the device: what speed and memory are measured with."""
        return first_rows(self.rows[self.run.config.training.sequence_length], number, self.device)
