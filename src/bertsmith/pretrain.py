"""A whole pretraining run, in the order things happen.

    text -> tokenizer and shards -> settings -> model -> steps -> RUN/model/

The same call again goes on from the newest checkpoint, and ends with the same
weights as a run that was never interrupted.
"""

import json
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from bertsmith import distributed
from bertsmith.batch import Batch, collate
from bertsmith.checkpoint import (
    Found,
    list_checkpoints,
    load_checkpoint,
    newest_checkpoint,
    read_state,
    save_checkpoint,
    set_aside,
)
from bertsmith.errors import UserError
from bertsmith.examples import TrainingRows
from bertsmith.finish import finish_run
from bertsmith.interrupt import Interrupted, leave_signals_to_the_run, listening
from bertsmith.keyed import text_hash
from bertsmith.measure import compiled_losses, find_device, set_threads
from bertsmith.metrics import MetricsLog
from bertsmith.objective import sum_losses
from bertsmith.optim import AnyOptimizer, learning_rate_at, make_optimizer, set_learning_rate
from bertsmith.plan import Division, Plan, describe, divide, make_plan, seconds_left
from bertsmith.prepare import prepare
from bertsmith.reporter import Reporter
from bertsmith.run_folder import CONFIG, Run, locked, note_environment, open_run, read_run
from bertsmith.step import Measured, evaluate_loss, train_step

QUICK_VALIDATION_ROWS = 512
FULL_VALIDATION_ROWS = 4096
"""Held-out rows measured at intervals, and at the end."""


def pretrain(  # noqa: PLR0915
    folder: Path, given: Mapping[str, Any], origin: Mapping[str, str], reporter: Reporter | None = None
) -> Path:
    """Pretrain a model from text, or go on with a run.

    Args:
        folder: The run's folder.
        given: Settings by name (`config.RunConfig`); all others keep their
            defaults, or what the run decided when it began.
        origin: "flag" or "file" for each setting given.
        reporter: Who to tell; the log when None.

    Returns:
        RUN/model, a Hugging Face folder.

    Raises:
        UserError: A setting, the text or the folder is not usable, or the disk is full.
        Interrupted: The run was asked to stop and has saved its state.
    """
    known = read_run(folder).config.training.device if (folder / CONFIG).exists() else "auto"
    device = find_device(str(given.get("device") or known))
    distributed.start(device.type)
    main = distributed.is_main()
    reporter = reporter if reporter and main else Reporter()
    with ExitStack() as stack:
        stack.callback(distributed.stop)
        run, found = set_up(folder, given, origin, reporter, stack)
        threads = set_threads(run.config.training.threads)
        torch.use_deterministic_algorithms(device.type == "cpu")  # compiled sums would differ from run to run
        plan = make_plan(run, device, reporter)
        training = run.config.training
        steps = training.steps or 0
        if main:
            note_environment(run, reporter, device=device.type, threads=threads, ranks=distributed.world_size())
            distributed.barrier()

        model = plan.new_model()
        optimizer = make_optimizer(
            model, weight_decay=training.weight_decay, beta2=training.adam_beta2, kind=training.optimizer
        )
        state: dict[str, Any] = {"step": 0, "tokens": 0, "seconds": 0.0, "skipped": 0}
        if found.folder is not None:
            load_checkpoint(found.folder, model, optimizer)
            state = read_state(found.folder)
        if state["step"] < steps:
            check_free_disk(run, model)
        division = divide(run)
        losses = compiled_losses() if training.compile == "yes" else sum_losses
        if state["step"] < steps:
            seconds = seconds_left(plan, model, losses, first_step=state["step"])
            describe(plan, reporter, first_step=state["step"], seconds=seconds)
        batches = load_batches(plan.rows, division, run, first_step=state["step"])
        log = stack.enter_context(closing(MetricsLog(folder, first_step=state["step"]))) if main else None
        stop = stack.enter_context(listening())
        watch = plan.watch(reporter)
        last_save = last_step = time.monotonic()
        for step in range(state["step"], steps):
            learning_rate = learning_rate_at(
                step,
                peak=training.learning_rate or 0.0,
                warmup_steps=training.warmup_steps or 0,
                max_steps=steps,
                schedule=training.schedule,
            )
            set_learning_rate(optimizer, learning_rate)
            result = train_step(
                model,
                losses,
                [next(batches).to(device) for _ in range(division.micro_batches)],
                optimizer,
                max_grad_norm=training.max_grad_norm,
                precision=training.precision,
                dropout_key=(training.seed, step) if plan.has_dropout else None,
            )
            now = time.monotonic()
            seconds = now - last_step
            state["step"] = step + 1
            state["tokens"] += result.tokens
            state["seconds"] += seconds
            state["skipped"] += not result.applied
            record = result.record(step + 1, learning_rate, seconds, plan.places_per_step)
            record |= measure_if_due(plan, model, step + 1)
            last_step = time.monotonic()  # measuring is no training time
            if log is not None:
                log.write(record)
                reporter.step(record | {"max_steps": steps})
            watch.look(step + 1, result)
            stopping = distributed.any_rank(stop.signal_number is not None, device)
            due = distributed.any_rank(now - last_save > 60 * training.checkpoint_every, device)
            if stopping or due or step + 1 == steps:
                save(run, model, optimizer, state)
                last_save = last_step = time.monotonic()
            if stopping:
                raise Interrupted(stop.signal_number)
        measured = measure_held_out(plan, model, FULL_VALIDATION_ROWS)
        if main:
            finish_run(model, plan, measured, state, reporter)
        distributed.barrier()
    return run.model


def set_up(
    folder: Path, given: Mapping[str, Any], origin: Mapping[str, str], reporter: Reporter, stack: ExitStack
) -> tuple[Run, Found]:
    """Open the run's folder and prepare its text, on the main rank; the others wait and read what it decided.

    Returns:
        The run, and the checkpoint to go on from.
    """
    if not distributed.is_main():
        distributed.barrier()
        run = read_run(folder)
        return run, newest_checkpoint(run.checkpoints)
    run = open_run(folder, given, origin)
    stack.enter_context(locked(folder))
    found = newest_checkpoint(run.checkpoints)
    for line, damaged in zip(found.damaged, found.damaged_folders, strict=True):
        reporter.warn(f"{line}; it is kept as {set_aside(damaged).name}")
    run.save()
    prepare_text(run, reporter, keep_existing=found.folder is not None)
    return run, found


def prepare_text(run: Run, reporter: Reporter, *, keep_existing: bool) -> None:
    """Make the tokenizer and the shards, or find them made; forget what was decided for other text."""
    prepared = prepare(
        run.config.data,
        run.folder,
        report=reporter.say,
        progress=reporter.progress,
        keep_existing=keep_existing,
        sequence_length=run.config.training.sequence_length,
    )
    if not keep_existing:
        run.begin_with(fingerprint_of(prepared.manifest))


def fingerprint_of(manifest: Mapping[str, Any]) -> str:
    """Hash of what the shards were made from."""
    return text_hash(json.dumps(manifest["fingerprint"], sort_keys=True)).hex()


def load_batches(rows: TrainingRows, division: Division, run: Run, *, first_step: int) -> Iterator[Batch]:
    """This rank's micro-batches from `first_step` on, in order.

    The step number alone says which rows a step has, so starting late costs nothing.
    """
    training = run.config.training
    loader: DataLoader[Batch] = DataLoader(
        rows,  # type: ignore[arg-type]  # any object with len() and [] will do
        batch_sampler=_RowNumbers(division, range(first_step, training.steps or 0), training.global_batch_size),
        collate_fn=collate,
        num_workers=training.loader_workers,
        worker_init_fn=leave_signals_to_the_run,
        pin_memory=torch.cuda.is_available() and training.device != "cpu",
    )
    return iter(loader)


class _RowNumbers:
    """Row numbers of each micro-batch of one rank."""

    def __init__(self, division: Division, steps: range, global_batch_size: int) -> None:
        self.division = division
        self.steps = steps
        self.global_batch_size = global_batch_size

    def __len__(self) -> int:
        return len(self.steps) * self.division.micro_batches

    def __iter__(self) -> Iterator[list[int]]:
        for step in self.steps:
            first = step * self.global_batch_size + distributed.rank() * self.division.rows
            for start in range(first, first + self.division.rows, self.division.micro_batch_size):
                yield list(range(start, min(start + self.division.micro_batch_size, first + self.division.rows)))


def measure_if_due(plan: Plan, model: torch.nn.Module, step: int) -> dict[str, float | None]:
    """The held-out loss, by name, at the end and every `validation_every` steps; else nothing."""
    training = plan.run.config.training
    if step != training.steps and step % (training.validation_every or 1):
        return {}
    measured = measure_held_out(plan, model, QUICK_VALIDATION_ROWS)
    return {f"validation_{name}": value if isfinite(value) else None for name, value in measured.losses().items()}


def measure_held_out(plan: Plan, model: torch.nn.Module, most_rows: int) -> Measured:
    """Loss on held-out rows with fixed masks, each rank measuring its share."""
    numbers = list(range(min(most_rows, plan.held_out.rows_per_epoch)))[distributed.rank() :: distributed.world_size()]
    size = divide(plan.run).micro_batch_size

    def batches() -> Iterable[Batch]:
        for start in range(0, len(numbers), size):
            yield collate(plan.held_out.__getitems__(numbers[start : start + size])).to(plan.device)

    return evaluate_loss(model, sum_losses, batches(), precision=plan.run.config.training.precision)


def check_free_disk(run: Run, model: torch.nn.Module) -> None:
    """Look for room for the checkpoints before the first step.

    Raises:
        UserError: The disk is too full.
    """
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    more = max(0, run.config.training.keep - len(list_checkpoints(run.checkpoints))) + 1  # one more while saving
    needed = weights * (3 * more + 1)  # weights and two moments each, and the model at the end
    free = shutil.disk_usage(run.folder).free
    if free < needed:
        raise UserError(
            f"{free / 1e6:,.0f} MB are free at {run.folder} and the checkpoints need {needed / 1e6:,.0f} MB; "
            "free some, lower --keep, or choose another disk with -o"
        )


def save(run: Run, model: torch.nn.Module, optimizer: AnyOptimizer, state: dict[str, Any]) -> None:
    """Write a checkpoint, on the main rank.

    Raises:
        UserError: It could not be written; the earlier ones are untouched.
    """
    if not distributed.is_main():
        return
    try:
        save_checkpoint(run.checkpoints, model, optimizer, state, keep=run.config.training.keep)
    except OSError as error:
        raise UserError(
            f"the checkpoint of step {state['step']:,} could not be written to {run.checkpoints}: "
            f"{error.strerror or error}; earlier checkpoints are whole: make room and give the same command again"
        ) from error
