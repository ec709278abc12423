"""The plan of a run: its data, its model, and the settings that nobody gave.

Missing settings are found from the text and the machine and written to the run;
on resume nothing is missing, so nothing is found out twice.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

import torch

from bertsmith import distributed
from bertsmith.budget import Clock, first_estimate, parse_budget, seconds_at_last_look
from bertsmith.data.batch import Batch, collate
from bertsmith.data.examples import TrainingRows
from bertsmith.data.keyed import Stream, keyed_seed
from bertsmith.data.shards import read_manifest
from bertsmith.errors import UserError
from bertsmith.machine.device import require_memory
from bertsmith.machine.measure import (
    best_micro_batch,
    compare_precisions,
    compiled_losses,
    halving,
    has_compiler,
    has_fast_half,
    worth_compiling,
)
from bertsmith.machine.memory import even_part, rows_that_fit, training_state
from bertsmith.model import AnyConfig, AnyPretrainingModel
from bertsmith.objective import sum_losses
from bertsmith.planning.decisions import (
    decide_by_budget,
    decide_family,
    decide_length,
    decide_objective,
    decide_recipe,
    decide_shape,
)
from bertsmith.planning.from_settings import first_model, model_config, model_of, parameters_of, rows_of, training_rows
from bertsmith.planning.stages import Stage, make_stages, with_steps
from bertsmith.replay import AnyRows
from bertsmith.reporter import Reporter
from bertsmith.run_folder import Run
from bertsmith.step import SumLosses
from bertsmith.tokenizer import Tokenizer, load_tokenizer
from bertsmith.watch import Watch


@dataclass(slots=True)
class Plan:
    """Everything a run works with, decided; with a budget of time the number of steps may still be revised."""

    run: Run
    manifest: dict[str, Any]
    tokenizer: Tokenizer
    first_stages: tuple[Stage, ...]
    """As the first estimate of the number of steps made them; a revision moves their end alone."""

    stages: tuple[Stage, ...]
    """With the number of steps of now."""

    rows: dict[int, AnyRows]
    """What is learnt from, by length."""

    held_out: TrainingRows
    device: torch.device
    clock: Clock

    is_begun: bool
    """There is a checkpoint."""

    micro_batch_seconds: float | None = None
    """Time of a micro-batch, not compiled, where it was measured."""

    _first_model: AnyPretrainingModel | None = None

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

    def new_model(self) -> AnyPretrainingModel:
        """The model with its first weights, the same at each call. Where a checkpoint has others, with random ones."""
        if self._first_model is not None:
            model, self._first_model = self._first_model, None
            return model
        torch.manual_seed(keyed_seed(self.run.config.training.seed, Stream.INITIAL))
        if self.is_begun:
            return model_of(self.run, self.tokenizer).to(self.device)
        model = (first_model if distributed.is_main() else model_of)(self.run, self.tokenizer).to(self.device)
        with torch.no_grad():  # the others get its weights
            distributed.share([[*model.parameters()]])
        return model

    def keep_first_model(self) -> AnyPretrainingModel:
        """The model to measure with: its weights may not be changed, for the next `new_model` gives it out."""
        self._first_model = self.new_model()
        return self._first_model

    @property
    def largest_share(self) -> int:
        """Rows of a full step of the rank that has most of them; the same number on every rank."""
        return ceil(self.stages[-1].rows / distributed.world_size())

    def losses(self) -> SumLosses:
        """The objective, compiled where the run does so and there is a compiler."""
        return (
            compiled_losses() if has_compiler(self.device) and self.run.config.training.compile == "yes" else sum_losses
        )

    @property
    def steps(self) -> int:
        """Steps of the whole run, as it is planned now."""
        return self.run.config.training.steps or 0

    def take_steps(self, steps: int) -> None:
        """Make the run so many steps long from here on."""
        if steps != self.steps:
            self.run.decide("measured", steps=steps)
            self.stages = with_steps(self.first_stages, steps)

    def fit_into(self, seconds: float) -> None:
        """Before the first step: make the run as long as its time allows, when all its steps would take `seconds`."""
        self.take_steps(max(1, int(distributed.from_main(self.steps * self.clock.left() / seconds))))
        again = [name for name in ("warmup_steps", "validation_every") if self.run.origin.get(name) == "default"]
        self.run.decide("default", **dict.fromkeys(again))
        decide_length(self.run, self.rows[self.run.config.training.sequence_length])
        self.first_stages = self.stages = stages_of(self.run, self.rows, self.steps)

    def save(self) -> None:
        """Write the decisions to the run, on the main rank."""
        if distributed.is_main():
            self.run.save()

    def places(self, steps: range) -> int:
        """Token places of some steps, padding included."""
        common = (range(max(steps.start, s.steps.start), min(steps.stop, s.steps.stop)) for s in self.stages)
        return sum(stage.places * len(part) for stage, part in zip(self.stages, common, strict=True))

    def first_rows(self, number: int) -> Batch:
        """The first full-length rows, on the device: what speed is measured with."""
        return collate(self.rows[self.run.config.training.sequence_length].__getitems__(list(range(number)))).to(
            self.device
        )

    def watch(self, reporter: Reporter) -> Watch:
        """Who looks at the losses of this run."""
        training = self.run.config.training
        return Watch(
            reporter,
            unigram_loss=self.manifest["unigram_loss"],
            learning_rate=training.learning_rate or 0.0,
            max_steps=training.steps or 0,
        )


def stages_of(run: Run, rows: Mapping[int, AnyRows], steps: int) -> tuple[Stage, ...]:
    """The stages of a run of so many steps."""
    return make_stages(replace(run.config.training, steps=steps), lambda length: rows[length].rows_per_epoch)


def make_plan(
    run: Run, device: torch.device, reporter: Reporter, *, started: float, seconds_before: float, is_begun: bool
) -> Plan:
    """Open the prepared data and decide what is not decided yet; the decisions are saved with the run.

    Args:
        run: Its text is prepared.
        device: Where to train.
        reporter: Who to tell.
        started: When this command began, by `time.monotonic`.
        seconds_before: Time that earlier commands have spent on the run.
        is_begun: It has a checkpoint, so that nothing that matters may change.
    """
    manifest = read_manifest(run.folder / "data")
    tokenizer = load_tokenizer(run.folder / "tokenizer")
    decide_family(run)
    decide_objective(run, manifest)
    if not is_begun:
        decide_recipe(run)
    training = run.config.training
    used = max(seconds_before, seconds_at_last_look(run.folder))
    clock = Clock(parse_budget(training.budget) if training.budget else None, started=started, used_before=used)
    rows = {
        length: training_rows(run, length) for length in (training.sequence_length, training.short_length) if length
    }
    if clock.budget is not None and training.steps is None:
        decide_by_budget(run, clock, rows[training.sequence_length], tokenizer, device)
    decide_shape(run)
    decide_length(run, rows[training.sequence_length])
    steps = run.config.training.steps or 1
    first_stages = stages_of(run, rows, first_estimate(run.folder) or steps if clock.limits_time else steps)
    held_out = rows_of(run, "validation", training.sequence_length)
    stages = with_steps(first_stages, steps)
    plan = Plan(run, manifest, tokenizer, first_stages, stages, rows, held_out, device, clock, is_begun)
    require_memory(plan.parameters(), device)
    decide_by_measuring(plan, reporter)
    if run.config.training.device == "auto":
        run.decide("measured", device=device.type)
    plan.save()
    return plan


def decide_by_measuring(plan: Plan, reporter: Reporter) -> None:
    """Measure precision, micro-batch size and compiling where they are not given, in about a second each."""
    run = plan.run
    if run.config.training.compile == "yes" and not has_compiler(plan.device):
        if not plan.is_begun and run.origin.get("compile") != "measured":
            raise UserError("compile is 'yes', but no C++ compiler was found; install g++ or give --compile no")
        reporter.warn(
            "this run compiles its steps and no C++ compiler was found: they are slower until g++ is there, and may "
            "differ in rounding"
        )
    for stage in plan.stages:
        stage.divide(run.config.training)  # refuses more ranks than rows
    share = plan.largest_share
    _take_accumulation(run, plan.stages[-1].rows, share)
    training = run.config.training
    is_decided = training.micro_batch_size is not None and "auto" not in (training.precision, training.compile)
    if is_decided and plan.device.type != "cpu":
        return
    reporter.progress("measuring this machine", 0.0)
    model = plan.keep_first_model()
    state = training_state(model, optimizer=training.optimizer, averaged=training.average_decay > 0)
    if training.precision == "auto":
        if half := has_fast_half(plan.device):
            most = rows_that_fit(model, plan.first_rows, "auto", state=state)
            speed, _ = compare_precisions(model, plan.first_rows, min(share, training.micro_batch_size or share, most))
            half = speed.precision == "bfloat16"
        run.decide("measured", precision="bfloat16" if distributed.from_main(half) else "float32")
    precision = run.config.training.precision
    if training.micro_batch_size is None:
        most = rows_that_fit(model, plan.first_rows, precision, state=state)
        size, seconds = best_micro_batch(model, share, plan.first_rows, precision, most=most, state=state)
        run.decide("measured", micro_batch_size=int(distributed.from_main(size)))
        plan.micro_batch_seconds = seconds
    else:
        most = rows_that_fit(model, plan.first_rows, precision, state=state, share=1.0)
        take_what_fits(plan, most, reporter)
    if training.compile == "auto":
        division = plan.stages[-1].divide(run.config.training)
        good, _ = halving(  # a size that was given may be too large for a GPU, as the steps will find out, too
            division.micro_batch_size,
            lambda rows: worth_compiling(
                model,
                plan.first_rows(rows),
                precision,
                micro_batches=ceil(division.rows / rows) * (training.steps or 1),
                plain=plan.micro_batch_seconds,
            ),
        )
        run.decide("measured", compile="yes" if distributed.from_main(good) else "no")
    reporter.progress("measuring this machine", 1.0)


def _take_accumulation(run: Run, rows: int, share: int) -> None:
    """Turn `gradient_accumulation_steps` into a micro-batch size, the same on every rank."""
    training = run.config.training
    pieces = training.gradient_accumulation_steps
    if training.micro_batch_size is not None or pieces is None:
        return
    if rows % pieces:
        raise UserError(
            f"gradient_accumulation_steps is {pieces}, which does not divide the {rows} rows of a step; "
            "give a divisor of them, or --micro-batch-size"
        )
    run.decide("default", micro_batch_size=ceil(share / pieces))


def take_what_fits(plan: Plan, most: int, reporter: Reporter) -> None:
    """Hold a known micro-batch against the rows that fit: a CPU kills a program that takes too much memory.

    In a run that has begun, and one that chose the size itself, it becomes smaller, as on a GPU.

    Raises:
        UserError: A size that was given does not fit.
    """
    run, given = plan.run, plan.run.config.training.micro_batch_size or 1
    size = min(given, plan.largest_share)
    smaller = int(distributed.from_main(size if size <= most else even_part(size, most)))
    if smaller >= size:
        return
    if not plan.is_begun and run.origin.get("micro_batch_size") in {"flag", "file"}:
        raise UserError(
            f"micro_batch_size is {given}, which does not fit into the free memory; give --micro-batch-size {smaller}"
        )
    run.decide("memory", micro_batch_size=smaller)
    reporter.warn(f"the free memory is too small for {size} rows at once; going on with {smaller}")
