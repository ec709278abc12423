"""The steps of a run: batches in, updates, a line in the log, checkpoints, and stopping when asked."""

import time
from contextlib import AbstractContextManager, closing, nullcontext
from functools import partial
from math import isfinite
from typing import Any, NoReturn

import torch

from bertsmith import distributed
from bertsmith.averaging import WeightAverage
from bertsmith.checkpoint import save_checkpoint
from bertsmith.data.batch import batches_of
from bertsmith.diary import Diary
from bertsmith.errors import UserError, require
from bertsmith.interrupt import Interrupted, listening
from bertsmith.loading import batches_from
from bertsmith.machine.measure import GPU_PROBE_PLACES, halving
from bertsmith.machine.work import matrix_rate
from bertsmith.metrics import MetricsLog
from bertsmith.model import AnyPretrainingModel, has_dropout
from bertsmith.objective import sum_losses
from bertsmith.optim import AnyOptimizer, MuonWithAdamW, learning_rate_at, set_learning_rate
from bertsmith.output_folder import CONFIG
from bertsmith.planning.duration import quick_rows
from bertsmith.planning.pace import Pace
from bertsmith.planning.plan import Plan
from bertsmith.planning.stages import work_of_step
from bertsmith.recorder import Recorder, recorder_on
from bertsmith.reporter import Reporter
from bertsmith.run_folder import lasting_settings
from bertsmith.step import (
    CompilerFailed,
    Measured,
    StepResult,
    StepTooLarge,
    SumLosses,
    evaluate_loss,
    train_step,
)
from bertsmith.watch import Watch


def train(
    plan: Plan,
    model: AnyPretrainingModel,
    losses: SumLosses,
    optimizer: AnyOptimizer,
    state: dict[str, Any],
    *,
    reporter: Reporter,
    diary: Diary,
    average: WeightAverage | None = None,
) -> None:
    """Do the steps that are left.

    Args:
        plan: What is trained on, and how.
        model: With the weights of `state["step"]`; updated.
        losses: `objective.sum_losses`, as it is or compiled.
        optimizer: Its state belongs to the same step; updated.
        state: `step`, `tokens`, `seconds` and `skipped` so far; updated.
        reporter: Who to tell.
        diary: Keeps what people look at.
        average: Of the weights; updated, and measured in their place.

    Raises:
        Interrupted: Asked to stop; a checkpoint is written.
        UserError: A checkpoint could not be written, or the losses stay not finite.
    """
    plan.run.trains = True
    training, device, config = plan.run.config.training, plan.device, plan.config
    pace = Pace(plan, state["step"])
    batches = batches_from(plan, state["step"])
    watch = Watch(
        reporter,
        unigram_loss=plan.manifest["unigram_loss"],
        learning_rate=training.learning_rate or 0.0,
        max_steps=plan.steps,
    )
    recorder = make_recorder(plan, model, reporter)
    peak = matrix_rate(device, training.precision, quick=True) * distributed.world_size()
    with open_log(plan, state["step"], reporter) as log, listening() as stop:
        last_save = last_step = time.monotonic()
        step = state["step"]
        while step < plan.steps:
            if pace.look(step):
                batches = batches_from(plan, step)
            stage = plan.stage_of(step)
            learning_rate = take_learning_rate(plan, optimizer, step)
            division = stage.divide(plan.run.config.training)
            try:
                micro_batches, waited = batches.take(division.micro_batches)
                result = train_step(
                    model,
                    losses,
                    micro_batches,
                    optimizer,
                    max_grad_norm=training.max_grad_norm,
                    precision=training.precision,
                    dropout_key=(training.seed, step) if has_dropout(config) else None,
                    first_row=division.first,
                    recorder=recorder,
                    meanwhile=partial(batches.fetch, division.micro_batches) if device.type == "cuda" else None,
                )
            except (StepTooLarge, CompilerFailed) as failure:
                losses = change_after(failure, plan, losses, step, reporter)
                recorder = make_recorder(plan, model, reporter)
                batches = batches_from(plan, step)
                continue
            step += 1
            if average is not None and result.applied:
                average.update(step)
            now = time.monotonic()
            seconds = now - last_step
            count(state, step, result, seconds)
            record = result.record(step, learning_rate, seconds, stage.places)
            record |= {
                "input_wait": round(waited / seconds, 5),
                "matrix_share": round(work_of_step(config, training, stage, step) / seconds / peak, 4),
            }
            if step == plan.steps or step % (training.validation_every or 1) == 0:
                with average.in_place() if average else nullcontext():
                    record |= measure_on_the_way(plan, model, step, diary)
            last_step = time.monotonic()  # measuring is no training time
            if log is not None:
                log.write(record)
                reporter.step(record | {"unigram_loss": plan.manifest["unigram_loss"], "max_steps": plan.steps})
            watch.look(step, result)
            stopping = distributed.any_rank(
                stop.signal_number is not None or (log is not None and log.error is not None)
            )
            due = distributed.any_rank(now - last_save > 60 * training.checkpoint_every)
            if stopping or due or step == plan.steps:
                save(plan, model, optimizer, state, average)
                stopping = stopping or distributed.any_rank(stop.signal_number is not None)  # asked meanwhile
                last_save = last_step = time.monotonic()
            last_step += diary.write_page(at_once=stopping)  # nor is this
            if stopping:
                stop_together(log, step, stop.signal_number)


def take_learning_rate(plan: Plan, optimizer: AnyOptimizer, step: int) -> float:
    """Give the optimizer that of a step, as the run is planned now."""
    training = plan.run.config.training
    rate = learning_rate_at(
        step,
        peak=training.learning_rate or 0.0,
        warmup_steps=training.warmup_steps or 0,
        max_steps=plan.steps,
        schedule=training.schedule,
        decay_share=training.decay_share,
    )
    set_learning_rate(optimizer, rate)
    return rate


def make_recorder(plan: Plan, model: torch.nn.Module, reporter: Reporter) -> Recorder | None:
    """A GPU is asked for the pieces of a step as a whole, where they are those of one process alone."""
    is_alone = distributed.world_size() == 1
    return recorder_on(plan.device, model.parameters(), reporter.warn) if is_alone else None


def stop_together(log: MetricsLog | None, step: int, signal_number: int | None) -> NoReturn:
    """End the steps on all ranks, once the main one has saved: torchrun ends all when one has ended.

    Raises:
        UserError: The log could not be written, which is why.
        Interrupted: Asked to stop.
    """
    distributed.barrier()
    if log is not None:
        log.refuse_error(step)
    raise Interrupted(signal_number)


def open_log(plan: Plan, step: int, reporter: Reporter) -> AbstractContextManager[MetricsLog | None]:
    """The run's log, which goes on at `step`; one rank writes it."""
    if not distributed.is_main():
        return nullcontext()
    return closing(MetricsLog(plan.run.folder, first_step=step, warn=reporter.warn))


def count(state: dict[str, Any], step: int, result: StepResult, seconds: float) -> None:
    """Add a step to what the run has done so far."""
    state["step"] = step
    state["tokens"] += result.tokens
    state["seconds"] += seconds
    state["skipped"] += not result.applied


def change_after(
    failure: StepTooLarge | CompilerFailed, plan: Plan, losses: SumLosses, step: int, reporter: Reporter
) -> SumLosses:
    """Make it possible to repeat a step, on all ranks; the losses to go on with."""
    if isinstance(failure, StepTooLarge):
        take_smaller_micro_batches(plan, reporter)
        return losses
    reporter.warn(
        f"compiling failed before step {step + 1:,}, so the steps are slower from here on and may differ in rounding: "
        f"{failure}"
    )
    return sum_losses


def take_smaller_micro_batches(plan: Plan, reporter: Reporter) -> None:
    """Halve the micro-batch after the GPU's memory ran out, on all ranks; the run keeps the new size.

    Raises:
        UserError: It cannot be smaller.
    """
    size = min(plan.run.config.training.micro_batch_size or 1, plan.largest_share)
    torch.cuda.empty_cache()
    if size == 1:
        raise UserError(
            "the memory of the GPU is too small for a micro-batch of 1 row; start a new run with a shorter "
            "--sequence-length or a smaller --preset"
        )
    plan.run.decide("memory", micro_batch_size=size // 2)
    plan.save()
    reporter.warn(f"the memory of the GPU is too small for {size} rows at once; going on with {size // 2}")


def measure_on_the_way(plan: Plan, model: AnyPretrainingModel, step: int, diary: Diary) -> dict[str, float | None]:
    """The held-out loss, by name. The sentences of the diary are filled by the same weights."""
    measured = measure_held_out(plan, model, quick_rows(plan))
    diary.fill(model, step)
    return {f"validation_{name}": value if isfinite(value) else None for name, value in measured.losses().items()}


def measure_held_out(plan: Plan, model: torch.nn.Module, most_rows: int) -> Measured:
    """Loss on held-out rows with fixed masks, each rank measuring its share.

    A GPU is given more rows at once than a short step has, and fewer where recorded steps leave it no room.
    """
    numbers = list(range(min(most_rows, plan.held_out.rows_per_epoch)))[distributed.rank() :: distributed.world_size()]
    stage, precision = plan.stages[-1], plan.run.config.training.precision
    division = stage.divide(plan.run.config.training)

    def measure(rows: int) -> Measured:
        batches = (batch.to(plan.device) for batch in batches_of(plan.held_out, numbers, rows))
        return evaluate_loss(model, sum_losses, batches, precision=precision)

    size = division.micro_batch_size
    if plan.device.type != "cuda":
        return measure(size)
    return halving(max(size, GPU_PROBE_PLACES // stage.sequence_length), measure)[0]


def save(
    plan: Plan,
    model: torch.nn.Module,
    optimizer: AnyOptimizer,
    state: dict[str, Any],
    average: WeightAverage | None = None,
) -> None:
    """Write a checkpoint, on the main rank.

    Raises:
        UserError: It could not be written; the earlier ones are untouched. Or the folder of the run is gone, and what
            were written there could not be continued.
    """
    if isinstance(optimizer, MuonWithAdamW):
        optimizer.collect()
    if not distributed.is_main():
        return
    run = plan.run
    gone = f"{run.folder / CONFIG} was removed while the run trained, so that step {state['step']:,} can't be kept"
    require((run.folder / CONFIG).exists(), f"{gone}; put the folder back, or begin again")
    try:
        kept = state | {"wall_seconds": plan.clock.used(), "settings": lasting_settings(run)}
        save_checkpoint(run.checkpoints, model, optimizer, kept, average=average, keep=run.config.training.keep)
    except OSError as error:
        raise UserError(
            f"the checkpoint of step {state['step']:,} could not be written to {run.checkpoints}: "
            f"{error.strerror or error}; earlier checkpoints are whole: make room and give the same command again"
        ) from error
