"""A whole fine-tuning run, in the order things happen.

    labelled rows -> task -> encoder with a new layer -> tries -> scores -> RUN/model/

The same call again goes on where the run was stopped, and ends with the same
weights as a run that was never interrupted.
"""

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Any

import torch

from bertsmith.errors import UserError
from bertsmith.fillings import one_line
from bertsmith.finetuning.any_classifier import inspect_folder, refuse_unfit
from bertsmith.finetuning.config import FinetuneConfig
from bertsmith.finetuning.folder import open_settings, save_settings
from bertsmith.finetuning.outcome import Outcome, describe_outcome, model_card, write_mistakes, write_scores
from bertsmith.finetuning.tasks.dataset import TaskData, load_task
from bertsmith.finetuning.tasks.scores import choosing_metric, is_better
from bertsmith.finetuning.tries import Try, Work, list_tries
from bertsmith.finetuning.tuning import best_model, judge_model, measured_precision, run_try
from bertsmith.finish import publish_model
from bertsmith.machine.device import find_device, require_memory, set_determinism, set_threads
from bertsmith.model_source import find_model, model_hash
from bertsmith.output_folder import FINETUNE, locked, new_folder
from bertsmith.reporter import Reporter
from bertsmith.run_folder import note_environment

STEP_GOAL = 600
FEWEST_EPOCHS, MOST_EPOCHS = 3.0, 20.0
"""Default length of a try: epochs for STEP_GOAL steps, within these bounds; early stopping may end it sooner."""

LEAST_STEPS = 200
"""Default length of a try where more than MOST_EPOCHS are fewer steps, and nothing would be learnt (docs/log.md)."""

RATE, RATE_WIDTH, HIGHEST_RATE = 6e-4, 256, 1e-3
"""Default peak learning rate, measured at this width (docs/log.md); it falls with the square of the width, which
meets what the paper used at 768 (arXiv:1810.04805, appendix A.3)."""

SHORTEST_INTERVAL, LONGEST_INTERVAL = 10, 500
"""Steps between validations when nothing else is said: an epoch, within these bounds. A few steps change the score of
a few rows by chance alone, and would end the try. Many validation rows are read less often, or a try would spend its
time on them."""

FEWEST_VALIDATIONS = 10
"""Of a try with many validation rows."""


def finetune(
    folder: str | Path, model: str | Path, data: str, given: Mapping[str, Any], reporter: Reporter | None = None
) -> Path:
    """Fine-tune a model on labelled rows, or go on with a run.

    Args:
        folder: The run's folder.
        model: A run, a Hugging Face folder of any encoder, or the id of one on the hub.
        data: CSV, TSV, JSON lines, Parquet, or columns of words and tags.
        given: Settings by name (`FinetuneConfig`); all others keep their
            defaults, or what the run decided when it began.
        reporter: Who to tell; the log when None.

    Returns:
        RUN/model, a Hugging Face folder.

    Raises:
        UserError: A setting, the model, the rows or the folder is not usable, or the disk is full.
        Interrupted: The run was asked to stop and has saved its state.
    """
    finetune_and_judge(Path(folder), Path(model), data, given, reporter)
    return Path(folder) / "model"


def finetune_and_judge(
    folder: Path, model: Path, data: str, given: Mapping[str, Any], reporter: Reporter | None = None
) -> Outcome:
    """What `finetune` does, and all that it writes, with the predictions of the held-out rows."""
    reporter = reporter or Reporter()
    source = find_model(model)
    with ExitStack() as stack:
        stack.enter_context(new_folder(folder, owned_by=(FINETUNE,)))
        stack.enter_context(locked(folder))
        config = open_settings(folder, source, data, given)
        device = find_device(config.device)
        threads = set_threads(config.threads)
        set_determinism(device)

        start = inspect_folder(source)
        if (config.max_length or 0) > start.longest:
            raise UserError(
                f"max_length is {config.max_length}, but {model} reads {start.longest} tokens; give at most these"
            )
        require_memory(start.parameters, device, cure="give a smaller model")
        reporter.progress("reading the rows", 0.0)
        task = load_task(data, config, start.tokenizer, longest=start.longest)
        reporter.progress("reading the rows", 1.0)
        refuse_unfit(source, task.head)
        config = decide(config, task, start.hidden_size, device, threads)
        work = Work(config, source, task, device)
        if config.precision == "auto":
            config = replace(config, precision=measured_precision(work))
            work = replace(work, config=config)
        save_settings(folder, source, data, config, facts_of(task, source))
        note_environment(folder, reporter, device=device.type, threads=threads, ranks=1)
        for line in describe_task(task, config, start.reads):
            reporter.say(line)

        tries = list_tries(folder, config)
        for attempt in tries:
            if not attempt.result_file.exists():
                run_try(work, attempt, reporter)
        chosen = choose(tries, work.metric)

        best = best_model(work, chosen)
        judged, seconds = {}, {}
        for name, part in task.held_out.items():
            began = time.monotonic()
            judged[name] = judge_model(work, best, part, precision="float32", scaled=True)
            seconds[name] = time.monotonic() - began
        outcome = Outcome(
            task,
            config,
            judged,
            [attempt.result for attempt in tries],
            chosen.number,
            parameters=sum(p.numel() for p in best.parameters()),
            reads=start.reads,
            seconds=seconds,
        )
        write_scores(folder, outcome)
        write_mistakes(folder, outcome)
        card = model_card(outcome)
        publish_model(folder / "model", best, start.tokenizer, card, reporter, max_length=config.max_length)
        for line in describe_outcome(outcome):
            reporter.say(line)
        reporter.say(
            f"the model is in {folder / 'model'}, scores in {folder / 'metrics.json'}, "
            f"the rows it got most wrong in {folder / 'mistakes.csv'}"
        )
    return outcome


def decide(config: FinetuneConfig, task: TaskData, width: int, device: torch.device, threads: int) -> FinetuneConfig:
    """Fill in the settings that nobody gave.

    Raises:
        UserError: A setting does not fit the task.
    """
    if config.class_weights == "balanced" and task.kind == "regression":
        raise UserError("class_weights is 'balanced', but a number has no classes; leave it out")
    inputs = len(task.train.inputs)
    batch_size = min(config.batch_size, inputs)
    per_epoch = ceil(inputs / batch_size)
    most_epochs = max(MOST_EPOCHS, float(ceil(LEAST_STEPS * batch_size / inputs)))
    epochs = config.epochs or min(most_epochs, max(FEWEST_EPOCHS, float(round(STEP_GOAL / per_epoch))))
    many = min(len(task.validation.inputs), int(epochs * inputs) // FEWEST_VALIDATIONS) // batch_size
    interval = max(SHORTEST_INTERVAL, min(LONGEST_INTERVAL, per_epoch), many)
    return replace(
        config,
        learning_rate=config.learning_rate or min(HIGHEST_RATE, RATE * (RATE_WIDTH / width) ** 2),
        epochs=epochs,
        validation_every=config.validation_every or interval,
        metric=choosing_metric(task.kind, task.head.labels, config.metric),
        device=device.type,  # type: ignore[arg-type]  # one of the kinds that find_device gives
        threads=threads,
    )


def facts_of(task: TaskData, source: Path) -> dict[str, Any]:
    """What finetune.json says about the task."""
    return {
        "kind": task.kind,
        "labels": list(task.head.labels),
        "columns": task.columns._asdict(),
        "hashes": {"model": model_hash(source), "rows": task.fingerprint},
    }


def describe_task(task: TaskData, config: FinetuneConfig, reads: str) -> list[str]:
    """What is about to happen, as lines."""
    labels = task.head.labels
    names = ", ".join(one_line(label)[:40] for label in labels[:8]) + (", ..." if len(labels) > 8 else "")
    what = "a number" if task.kind == "regression" else f"{len(labels)} labels ({names})"
    sizes = [f"{name} {len(part.examples):,}" for name, part in task.parts.items()]
    lines = [f"{task.kind} of {task.columns.describe()}: {what}; rows: {', '.join(sizes)}", *task.notes]
    if not task.head.per_token:
        lines.append(f"a text is read as {reads}")
    batch_size = min(config.batch_size, len(task.train.inputs))
    return [
        *lines,
        f"at most {config.epochs:g} epochs of {batch_size} rows a step, rate {config.learning_rate:g}, "
        f"{config.metric} chooses" + (f", {config.tries} tries" if config.tries > 1 else ""),
    ]


def choose(tries: list[Try], metric: str) -> Try:
    """The try with the best validation score; of equal ones the first."""
    best = tries[0]
    for attempt in tries[1:]:
        if is_better(metric, attempt.result["score"], best.result["score"]):
            best = attempt
    return best
