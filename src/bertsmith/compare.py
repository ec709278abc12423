"""Setting models side by side on the user's own task: one protocol, several seeds, plain baselines, one table.

    rows --one division--> training, validation and test rows, the same for all
    each model, each seed --finetune.py--> predictions of the test rows
    plain methods --comparison/baselines.py--> predictions of the test rows
    all predictions --comparison/contenders.py--> intervals and verdicts

    FOLDER/settings.json               what was asked for, and a hash of the rows
    FOLDER/MODEL-HASH/seed-0/          a fine-tuning run; test.safetensors: its predictions of the test rows
    FOLDER/comparison.json             the table

The same call again does what is not done yet; more models and more seeds may be asked for.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save

from bertsmith import atomic
from bertsmith.comparison.baselines import baselines
from bertsmith.comparison.contenders import Answers, Comparison, judge_all
from bertsmith.errors import UserError
from bertsmith.finetune import finetune_and_judge
from bertsmith.finetuning.any_classifier import inspect_folder, refuse_unfit
from bertsmith.finetuning.config import FREE_SETTINGS, FinetuneConfig
from bertsmith.finetuning.outcome import Outcome
from bertsmith.finetuning.tasks.dataset import TaskData, load_task
from bertsmith.finetuning.tasks.scores import choosing_metric
from bertsmith.machine.device import find_device, require_memory
from bertsmith.model_source import find_model, model_hash
from bertsmith.output_folder import locked, new_folder
from bertsmith.reporter import Reporter
from bertsmith.strict import from_mapping

SETTINGS, ANSWERS, TABLE = "settings.json", "test.safetensors", "comparison.json"


class _Aside(Reporter):
    """Passes on how far a run is and what went wrong, and counts its steps among those of all runs."""

    def __init__(self, reporter: Reporter, name: str, place: int, runs: int) -> None:
        self._reporter, self._name, self._place, self._runs = reporter, name, place, runs

    def say(self, line: str) -> None:
        """Nothing: the table says it."""

    def warn(self, line: str) -> None:
        """With the name of the run."""
        self._reporter.warn(f"{self._name}: {line}")

    def progress(self, task: str, fraction: float) -> None:
        """With the name of the run."""
        self._reporter.progress(f"{self._name}: {task}", fraction)

    def step(self, values: dict[str, Any]) -> None:
        """A step of this run is a step of all."""
        steps = values["max_steps"]
        self._reporter.step(values | {"step": self._place * steps + values["step"], "max_steps": self._runs * steps})


def compare(
    folder: Path,
    models: Sequence[str],
    data: str,
    given: Mapping[str, Any],
    *,
    seeds: int = 3,
    keep_models: bool = False,
    reporter: Reporter | None = None,
) -> Comparison:
    """Fine-tune each model with each seed on the same rows, and tell which are better.

    Args:
        folder: Where to.
        models: Runs, folders or hub ids; the others are held against the first.
        data: Labelled rows, as for `finetune`.
        given: Settings by name (`FinetuneConfig`), the same for all.
        seeds: Runs of each model.
        keep_models: Keep the fine-tuned weights of each run.
        reporter: Who to tell; the log when None.

    Raises:
        UserError: A setting, a model, the rows or the folder is not usable.
        Interrupted: Asked to stop; the same call goes on.
    """
    reporter = reporter or Reporter()
    config = _protocol(given, seeds)
    sources = {model: find_model(Path(model)) for model in models}
    if len({source.resolve() for source in sources.values()}) < len(models):
        raise UserError(f"a model is named twice: {', '.join(models)}; name each once")
    starts = {model: inspect_folder(source) for model, source in sources.items()}  # all, before hours of work on one
    for model, start in starts.items():
        require_memory(start.parameters, find_device(config.device), cure=f"leave {model} out")
    first = starts[models[0]]
    reporter.progress("reading the rows", 0.0)
    task = load_task(data, config, first.tokenizer, longest=first.longest)
    reporter.progress("reading the rows", 1.0)
    for source in sources.values():
        refuse_unfit(source, task.head)
    limits = {model: min(start.longest, config.max_length or start.longest) for model, start in starts.items()}
    metric = choosing_metric(task.kind, task.head.labels, config.metric)
    config = replace(config, metric=metric)
    for line in task.notes:
        reporter.say(line)
    with ExitStack() as stack:
        stack.enter_context(new_folder(folder, owned_by=(SETTINGS,)))
        stack.enter_context(locked(folder))
        _note_settings(folder, data, config, task)
        runs = [(model, seed) for seed in range(seeds) for model in models]
        for place, (model, seed) in enumerate(runs):
            run = _run_folder(folder, sources[model], seed)
            if not (run / ANSWERS).exists():
                aside = _Aside(reporter, f"{model}, seed {seed}", place, len(runs))
                settings = {**given, "metric": metric, "seed": seed, "split_seed": config.split_seed}
                if config.max_length:
                    settings["max_length"] = limits[model]
                outcome = finetune_and_judge(run, sources[model], data, settings, aside)
                _keep_answers(run, outcome, task, keep_models=keep_models)
        reporter.progress("the plain methods", 0.0)
        table = judge_all(task, metric, _models(folder, sources, limits, seeds), baselines(task, metric))
        reporter.progress("the plain methods", 1.0)
        atomic.write_json(folder / TABLE, asdict(table))
    return table


def _protocol(given: Mapping[str, Any], seeds: int) -> FinetuneConfig:
    """The settings that all runs share.

    Raises:
        UserError: One makes no sense.
    """
    if seeds < 1:
        raise UserError(f"seeds is {seeds}; give 1 or more, 3 to see how much they differ")
    config = from_mapping(FinetuneConfig, {name: value for name, value in given.items() if value is not None})
    if config.test is None and not config.test_fraction:
        raise UserError("test_fraction is 0, but models are compared on test rows; give a share, or a file with --test")
    return replace(config, split_seed=config.split_seed or 0)


def _note_settings(folder: Path, data: str, config: FinetuneConfig, task: TaskData) -> None:
    """Write settings.json, or see that what is there was measured on the same rows with the same settings."""
    now = {"data": str(Path(data).resolve()), "rows": task.fingerprint, "settings": asdict(config)}
    path = folder / SETTINGS
    if path.exists():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
            pairs = {"data": (before["data"], now["data"])}
            has_other_rows = before["rows"] != now["rows"]
            settings = {name: value for name, value in asdict(config).items() if name not in FREE_SETTINGS}
            pairs |= {name: (before["settings"].get(name), value) for name, value in settings.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is damaged ({error}); choose another folder with -o") from error
        different = [f"{name} was {old} and is {new}" for name, (old, new) in pairs.items() if old != new]
        if different:
            raise UserError(f"{folder} compares otherwise: {different[0]}; leave it as it was, or choose another -o")
        if has_other_rows:
            raise UserError(f"the rows of {data} changed since {folder} was begun; choose another folder with -o")
    atomic.write_json(path, now)


def _run_folder(folder: Path, source: Path, seed: int) -> Path:
    """Where the run of a model is: named by what the model is, so that a changed one is not taken for it."""
    name = source.parent.name if source.name == "model" else source.name
    return folder / f"{name}-{model_hash(source)[:8]}" / f"seed-{seed}"


def _keep_answers(run: Path, outcome: Outcome, task: TaskData, *, keep_models: bool) -> None:
    """Write the predictions of the test rows, which say that the run is over; its weights may go."""
    if outcome.task.fingerprint != task.fingerprint:
        raise UserError(f"the rows changed while {run} was at work; start again with another -o")
    judged = outcome.judged["test"]
    chosen = outcome.tries[outcome.chosen - 1]
    answers = {
        "probabilities": np.concatenate(judged.probabilities),
        "lengths": np.array([len(each) for each in judged.probabilities]),
        "seconds": np.array([sum(each["seconds"] for each in outcome.tries), outcome.seconds["test"]]),
        "parameters": np.array([outcome.parameters]),
        "learning_rate": np.array([chosen["learning_rate"]]),
    }
    atomic.write_bytes(run / ANSWERS, save(answers))
    if not keep_models:  # only now: until here a kill loses nothing
        for path in (run / "model", run / "tries"):
            shutil.rmtree(path, ignore_errors=True)


def _models(folder: Path, sources: Mapping[str, Path], limits: Mapping[str, int], seeds: int) -> list[Answers]:
    """What the finished runs of each model say."""
    found = []
    for model, source in sources.items():
        runs = [load_file(_run_folder(folder, source, seed) / ANSWERS) for seed in range(seeds)]
        learning, predicting = np.mean([each["seconds"] for each in runs], axis=0)
        found.append(
            Answers(
                name=model,
                is_baseline=False,
                probabilities=[np.split(each["probabilities"], np.cumsum(each["lengths"])[:-1]) for each in runs],
                seconds=float(learning),
                rows_per_second=len(runs[0]["lengths"]) / max(float(predicting), 1e-9),
                parameters=int(runs[0]["parameters"][0]),
                max_length=limits[model],
            )
        )
    return found
