"""One try of fine-tuning: steps, validations, the best weights kept, and stopping early or when asked.

RUN/tries/1/
  checkpoints/    the newest step, to go on from
  best/           the weights with the best validation score so far
  metrics.jsonl   a line for each step
  result.json     written when the try is over; then the checkpoints go
"""

import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from math import isfinite
from pathlib import Path
from typing import Any, Literal

import torch

from bertsmith import atomic
from bertsmith.checkpoint import load_checkpoint, save_checkpoint
from bertsmith.checkpoint_folders import (
    checkpoint_name,
    find_damage,
    list_checkpoints,
    newest_checkpoint,
    read_state,
    set_damaged_aside,
)
from bertsmith.errors import UserError
from bertsmith.finetuning.any_classifier import AnyClassifier
from bertsmith.finetuning.tasks.batches import TaskBatch, by_length, collate, rows_of_step
from bertsmith.finetuning.tasks.dataset import Part
from bertsmith.finetuning.tasks.scores import is_better
from bertsmith.finetuning.tasks.scoring import Judged, all_logits, judge
from bertsmith.finetuning.tries import Try, Work
from bertsmith.interrupt import Interrupted, listening
from bertsmith.machine.measure import fastest
from bertsmith.metrics import MetricsLog
from bertsmith.model.classifier import rescale
from bertsmith.optim import AnyOptimizer, learning_rate_at, make_optimizer, set_learning_rate
from bertsmith.reporter import Reporter
from bertsmith.step import StepTooLarge, train_step
from bertsmith.watch import MAX_SKIPPED


def run_try(work: Work, attempt: Try, reporter: Reporter) -> None:
    """Do a try, or what is left of it, and write its result.

    Raises:
        Interrupted: Asked to stop; a checkpoint is written.
        UserError: The disk is full, the memory of the GPU too small, or the losses stay not finite.
    """
    attempt.folder.mkdir(parents=True, exist_ok=True)
    config = work.config
    model = work.new_model(attempt.seed)
    optimizer = make_optimizer(
        model,
        weight_decay=config.weight_decay,
        beta2=config.adam_beta2,
        kind=config.optimizer,
        precision=config.precision,
    )
    state: dict[str, Any] = {"step": 0, "tokens": 0, "seconds": 0.0, "skipped": 0, "best": None, "stale": 0}
    found = newest_checkpoint(attempt.folder / "checkpoints")
    set_damaged_aside(found, reporter.warn)
    if found.folder is not None:
        load_checkpoint(found.folder, model, optimizer)
        state = read_state(found.folder)
    for later in list_checkpoints(attempt.folder / "best"):  # written just before a kill: those steps are done again
        if later.name > checkpoint_name(state["step"]):
            shutil.rmtree(later)
    train(work, attempt, model, optimizer, state, reporter=reporter)
    facts = {"learning_rate": attempt.learning_rate, "seed": attempt.seed, "steps": state["step"]}
    atomic.write_json(attempt.result_file, facts | state["best"] | {"seconds": round(state["seconds"], 2)})
    shutil.rmtree(attempt.folder / "checkpoints", ignore_errors=True)  # superseded by the result


def train(
    work: Work, attempt: Try, model: AnyClassifier, optimizer: AnyOptimizer, state: dict[str, Any], *,
    reporter: Reporter,
) -> None:  # fmt: skip
    """Do the steps that are left; `state` and the weights are updated."""
    config, steps, objective = work.config, work.steps, work.objective()
    batches = batches_from(work, attempt.seed, state["step"])
    skipped = 0
    with closing(MetricsLog(attempt.folder, first_step=state["step"], warn=reporter.warn)) as log, listening() as stop:
        last_save = time.monotonic()
        while state["step"] < steps and state["stale"] < config.patience:
            began = time.monotonic()
            learning_rate = learning_rate_at(
                state["step"],
                peak=attempt.learning_rate,
                warmup_steps=round(config.warmup_fraction * steps),
                max_steps=steps,
                schedule=config.schedule,
            )
            set_learning_rate(optimizer, learning_rate)
            try:
                result = train_step(
                    model,
                    objective.sum_losses,
                    [batch.to(work.device) for batch in next(batches)],
                    optimizer,
                    max_grad_norm=config.max_grad_norm,
                    precision=config.precision,
                    dropout_key=(attempt.seed, state["step"]),
                    terms=objective.terms,
                )
            except (StepTooLarge, torch.OutOfMemoryError) as error:
                raise UserError(
                    f"the memory of the GPU is too small for {config.micro_batch_tokens:,} tokens at once; start again "
                    f"with another -o and --micro-batch-tokens {config.micro_batch_tokens // 2}"
                ) from error
            skipped = 0 if result.applied else skipped + 1
            refuse_divergence(skipped, state["step"], attempt)
            seconds = time.monotonic() - began
            state["step"] += 1
            state["tokens"] += result.tokens
            state["seconds"] += seconds
            state["skipped"] += not result.applied
            record = result.record(state["step"], learning_rate, seconds, result.tokens)
            due = time.monotonic() - last_save > 60 * config.checkpoint_every
            if state["step"] % work.validation_every == 0 or state["step"] == steps:
                record |= validate(work, attempt, model, state)
                due = due or state["stale"] == 0  # the best weights and where to go on from belong together
            log.write(record)
            shown = {"step": (attempt.number - 1) * steps + state["step"], "max_steps": config.tries * steps}
            reporter.step(record | shown)
            due = due or stop.signal_number is not None or log.error is not None
            if due:
                save(attempt.folder / "checkpoints", model, optimizer, state)
                last_save = time.monotonic()
            log.refuse_error(state["step"])
            if due and stop.signal_number is not None:
                raise Interrupted(stop.signal_number)


def batches_from(work: Work, seed: int, first_step: int) -> Iterator[list[TaskBatch]]:
    """The micro-batches of each step from `first_step` on. The step number alone says which rows it has."""
    inputs, targets = work.data.train.inputs, work.learning_targets()
    for step in range(first_step, work.steps):
        numbers = rows_of_step(step, count=len(inputs), batch_size=work.batch_size, seed=seed)
        groups = by_length(inputs, numbers, work.config.micro_batch_tokens)
        yield [collate([inputs[n] for n in group], [targets[n] for n in group]) for group in groups]


def measured_precision(work: Work) -> Literal["bfloat16", "float32"]:
    """ "bfloat16" where the first step of the first try is faster with it, else "float32"."""
    batch = next(batches_from(work, work.config.seed, 0))[0].to(work.device)
    faster = fastest(work.new_model(work.config.seed), batch, work.objective().sum_losses).precision
    return "bfloat16" if faster == "bfloat16" else "float32"


def refuse_divergence(skipped: int, step: int, attempt: Try) -> None:
    """Stop a try whose losses stay not finite.

    Raises:
        UserError: They do.
    """
    if skipped >= MAX_SKIPPED:
        raise UserError(
            f"{skipped} steps in a row had no finite loss or gradient (step {step:,}, learning_rate "
            f"{attempt.learning_rate:g}); start again with another -o and a lower --learning-rate"
        )


def judge_model(work: Work, model: AnyClassifier, part: Part, *, precision: str, scaled: bool) -> Judged:
    """Score a model on a part of the data.

    Args:
        work: The run.
        model: On its device.
        part: Held-out rows.
        precision: "float32" or "bfloat16".
        scaled: Whether it gives numbers as they are in the data.
    """
    logits = all_logits(model, part.inputs, places=work.config.micro_batch_tokens, precision=precision)
    if not scaled and work.data.kind == "regression":
        mean, deviation = work.scale
        logits = [each.double() * deviation + mean for each in logits]
    return judge(logits, part, work.data.head)


def validate(work: Work, attempt: Try, model: AnyClassifier, state: dict[str, Any]) -> dict[str, Any]:
    """Measure on the validation rows, keep the weights if they are the best so far, and count if they are not.

    Returns:
        The scores, by name with "validation_" before it.
    """
    judged = judge_model(work, model, work.data.validation, precision=work.config.precision, scaled=False)
    score, best = judged.scores.values[work.metric], state["best"]
    measured = {f"validation_{name}": value for name, value in judged.scores.values.items()}
    measured["validation_loss"] = judged.loss
    if not isfinite(judged.loss):
        raise UserError(
            f"the validation loss is {judged.loss} (learning_rate {attempt.learning_rate:g}); "
            "start again with another -o and a lower --learning-rate"
        )
    is_tie = best is not None and score == best["score"] and judged.loss < best["validation_loss"]
    if best is None or is_better(work.metric, score, best["score"]) or is_tie:
        state["best"] = {"best_step": state["step"], "score": score, **measured}
        state["stale"] = 0
        save(attempt.folder / "best", model, None, state, keep=2)
    else:
        state["stale"] += 1
    return measured | {"shown": f"validation_{work.metric}"}


def save(
    folder: Path, model: AnyClassifier, optimizer: AnyOptimizer | None, state: dict[str, Any], *, keep: int = 1
) -> None:
    """Write a checkpoint, of which the newest stay.

    Raises:
        UserError: It could not be written.
    """
    try:
        save_checkpoint(folder, model, optimizer, state, keep=keep)
    except OSError as error:
        raise UserError(
            f"the weights of step {state['step']:,} could not be written to {folder}: {error.strerror or error}; "
            "make room and give the same command again"
        ) from error


def best_model(work: Work, attempt: Try) -> AnyClassifier:
    """The model of a try at its best validation score, giving numbers as they are in the data.

    Raises:
        UserError: Its weights are damaged.
    """
    weights = attempt.folder / "best" / checkpoint_name(attempt.result["best_step"])
    if problem := find_damage(weights):
        raise UserError(f"{weights} is damaged ({problem}); start again with another -o")
    model = work.new_model(attempt.seed)
    load_checkpoint(weights, model)
    rescale(model.last_layer, *work.scale)
    return model.eval()
