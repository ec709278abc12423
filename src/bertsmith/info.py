"""What a run is and how far it is, read from its folder alone: new, running, stopped or finished."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from bertsmith.checkpoint_folders import find_damage, list_checkpoints, newest_checkpoint
from bertsmith.config import RunConfig, flat
from bertsmith.data.shards import read_manifest
from bertsmith.data.shards import verify as verify_shards
from bertsmith.errors import UserError
from bertsmith.metrics import read_metrics
from bertsmith.output_folder import CONFIG, FINETUNE, LOCK
from bertsmith.run_folder import Run, read_run

RECENT_STEPS = 100
"""Steps whose mean is shown: one step alone is noise."""


def run_facts(folder: Path, *, verify: bool = False) -> dict[str, Any]:
    """Facts about a run, or about a folder with prepared text, as plain JSON values.

    Args:
        folder: The run. It is only read, so another process may be at work in it.
        verify: Read every shard and checkpoint and hold it against its hash.

    Returns:
        `state` ("prepared", "preparing", "running", "stopped" or "finished"), `settings` (but for plain
        defaults), `data`, `progress`, `checkpoints`, `model`, and `damaged`, a line for each damaged file. What
        is not there yet is None.

    Raises:
        UserError: The folder is of another kind, or its configuration is damaged.
    """
    data = folder / "data"
    damaged: list[str] = []
    is_run = (folder / CONFIG).is_file()
    if not is_run and not any((data / name).is_file() for name in ("manifest.json", "state.json")):
        raise UserError(f"{folder} is {_other_kind(folder)}; give a folder that `bertsmith pretrain` wrote")
    facts: dict[str, Any] = {"folder": str(folder), "state": "prepared", "settings": None, "progress": None}
    facts |= {"data": _data_facts(data, damaged, verify=verify), "checkpoints": None, "model": None}
    if is_run:
        run = read_run(folder)
        facts["settings"] = _settings(run)
        facts["progress"] = _progress(run)
        facts["checkpoints"] = _checkpoints(run, damaged, verify=verify)
        facts["model"] = str(run.model) if run.model.is_dir() else None
        facts["state"] = _state(folder, facts)
    elif facts["data"] is None:
        facts["state"] = "preparing"
    return facts | {"damaged": damaged, "verified": verify}


def _other_kind(folder: Path) -> str:
    """What a folder is that is no run of pretraining."""
    for name, kind in (
        (FINETUNE, "a fine-tuning run, whose scores are in its metrics.json"),
        ("comparison.json", "a comparison, whose table is in its comparison.json"),
        ("modules.json", "a model of sentence-transformers"),
        ("model/modules.json", "a run of `finetune --embeddings`, whose figures are in its metrics.json"),
        ("config.json", "a model and no run"),
    ):
        if (folder / name).is_file():
            return kind
    return "neither a run nor prepared text"


def _state(folder: Path, facts: Mapping[str, Any]) -> str:
    if is_locked(folder):
        return "preparing" if facts["data"] is None else "running"
    return "stopped" if facts["model"] is None else "finished"


def is_locked(folder: Path) -> bool:
    """Whether a process works on a run (see `output_folder.locked`). False where the system has no such locks."""
    if os.name == "nt" or not (folder / LOCK).is_file():
        return False
    import fcntl

    with (folder / LOCK).open("rb") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)  # let go when the file is closed, at once
        except BlockingIOError:
            return True
    return False


def _settings(run: Run) -> dict[str, dict[str, Any]]:
    """The settings that were given or decided, with where they came from; plain defaults are left out."""
    defaults = flat(RunConfig())
    return {
        name: {"value": value, "origin": run.origin.get(name, "default")}
        for name, value in flat(run.config).items()
        if value != defaults[name]
    }


def _data_facts(data: Path, damaged: list[str], *, verify: bool) -> dict[str, Any] | None:
    """Counts of the prepared text; None while there is none."""
    if not (data / "manifest.json").is_file():
        return None
    try:
        manifest = read_manifest(data)
        damaged += [f"{data / name} is damaged or missing" for name in verify_shards(data, full=verify)]
        text, splits = manifest["corpus"]["text"], manifest["splits"]
    except (UserError, KeyError, TypeError) as error:
        damaged.append(str(error) if isinstance(error, UserError) else f"{data / 'manifest.json'} is damaged")
        return None
    return {
        **{name: text[name] for name in ("documents", "duplicates", "words", "text_bytes")},
        "train_tokens": splits["train"]["tokens"],
        "validation_tokens": splits["validation"]["tokens"],
        "shards": sum(len(split["shards"]) for split in splits.values()),
        **{name: manifest[name] for name in ("vocab_size", "unigram_loss", "uniform_loss", "unknown_fraction")},
    }


def _progress(run: Run) -> dict[str, Any]:
    """Steps done and what the last ones gave, from the log of the run."""
    log = [line for line in read_metrics(run.folder) if {"tokens", "skipped", "tokens_per_second"} <= line.keys()]
    recent = log[-RECENT_STEPS:]
    measured = [line for line in log if "validation_mlm_loss" in line]
    progress: dict[str, Any] = {
        "step": log[-1]["step"] if log else 0,
        "steps": run.config.training.steps,
        "tokens": sum(line["tokens"] for line in log),
        "skipped": sum(line["skipped"] for line in log),
        "tokens_per_second": _speed(recent),
    }
    for name in ("mlm_loss", "mlm_accuracy", "nsp_loss", "nsp_accuracy"):
        progress[name] = _mean(recent, name)
        progress[f"validation_{name}"] = measured[-1].get(f"validation_{name}") if measured else None
    return progress | {"validation_step": measured[-1]["step"] if measured else None}


def _mean(log: Sequence[Mapping[str, Any]], name: str) -> float | None:
    values = [line[name] for line in log if line.get(name) is not None]
    return fmean(values) if values else None


def _speed(log: Sequence[Mapping[str, Any]]) -> float | None:
    """Tokens of several steps over their time: a mean of the speeds would favour the short steps."""
    seconds = sum(line["tokens"] / line["tokens_per_second"] for line in log if line["tokens_per_second"])
    return sum(line["tokens"] for line in log) / seconds if seconds else None


def _checkpoints(run: Run, damaged: list[str], *, verify: bool) -> dict[str, Any]:
    """Names of the checkpoints, and the newest whole one, which the run would go on from."""
    found = newest_checkpoint(run.checkpoints)
    names = [checkpoint.name for checkpoint in list_checkpoints(run.checkpoints)]
    damaged += found.damaged.values()
    newest = found.folder.name if found.folder else None
    older = names[: names.index(newest)] if newest in names else []
    for name in older if verify else []:
        problem = find_damage(run.checkpoints / name)
        if problem and (run.checkpoints / name).exists():  # a running process removes old ones
            damaged.append(f"checkpoint {name} is damaged ({problem})")
    return {"all": names, "newest": newest}


def describe_run(facts: Mapping[str, Any]) -> list[str]:
    """Describe a run, or a folder with prepared text, for a person.

    Args:
        facts: As `run_facts` gives them.
    """
    lines = [_headline(facts), *_data_lines(facts["data"])]
    if facts["progress"]:
        lines += _progress_lines(facts["progress"])
    if facts["checkpoints"] is not None:
        names, newest = facts["checkpoints"]["all"], facts["checkpoints"]["newest"]
        lines.append(f"checkpoints: {', '.join(names) or 'none yet'}" + (f"; newest whole: {newest}" if newest else ""))
    if facts["model"]:
        lines.append(f"model: {facts['model']}")
    lines += [f"damaged: {line}" for line in facts["damaged"]]
    if facts["verified"] and not facts["damaged"]:
        lines.append("verified: all shards and checkpoints match their hashes")
    if facts["settings"]:
        lines.append("settings, plain defaults left out:")
        lines += [
            f"  {name} = {_shown(entry['value'])}  ({entry['origin']})" for name, entry in facts["settings"].items()
        ]
    return lines


def _headline(facts: Mapping[str, Any]) -> str:
    line = f"{facts['folder']}: {facts['state']}"
    progress = facts["progress"]
    if progress and progress["steps"]:
        line += f", step {progress['step']:,} of {progress['steps']:,} ({progress['step'] / progress['steps']:.0%})"
    return line


def _data_lines(data: Mapping[str, Any] | None) -> list[str]:
    if data is None:
        return ["data: not prepared yet"]
    return [
        f"data: {data['documents']:,} documents, {data['words']:,} words, {data['text_bytes'] / 1e6:,.1f} MB; "
        f"{data['train_tokens']:,} tokens to learn from, {data['validation_tokens']:,} held out; "
        f"vocabulary {data['vocab_size']:,}, {data['unknown_fraction']:.2%} unknown",
        f"levels: uniform guess {data['uniform_loss']:.3f} nats, token frequencies alone {data['unigram_loss']:.3f}",
    ]


def _progress_lines(progress: Mapping[str, Any]) -> list[str]:
    lines = []
    means = _losses(progress, "")
    if means:
        lines.append(f"last steps: {means}")
    held_out = _losses(progress, "validation_")
    if held_out:
        lines.append(f"held out, step {progress['validation_step']:,}: {held_out}")
    if progress["tokens_per_second"]:
        lines.append(f"speed: {progress['tokens_per_second']:,.0f} tokens/s; {progress['tokens']:,} tokens so far")
    if progress["skipped"]:
        lines.append(f"skipped: {progress['skipped']:,} steps that were not finite")
    return lines


def _losses(progress: Mapping[str, Any], prefix: str) -> str:
    return "; ".join(
        f"{task} loss {progress[f'{prefix}{task}_loss']:.3f}, {progress[f'{prefix}{task}_accuracy']:.1%} right"
        for task in ("mlm", "nsp")
        if progress[f"{prefix}{task}_loss"] is not None
    )


def _shown(value: Any) -> str:
    return " ".join(value) if isinstance(value, tuple) else str(value)
