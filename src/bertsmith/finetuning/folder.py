"""The folder of a fine-tuning run: its settings and what it was made from, in finetune.json.

RUN/finetune.json   model, data, every setting, columns and labels, hashes of model and rows
RUN/tries/          one folder for each try (`tuning.py`)
RUN/metrics.json    scores; RUN/mistakes.csv: the rows it got most wrong
RUN/model/          the Hugging Face folder
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bertsmith import atomic
from bertsmith.errors import UserError
from bertsmith.finetuning.config import FOUND_OUT, FREE_SETTINGS, FinetuneConfig
from bertsmith.output_folder import FINETUNE
from bertsmith.strict import from_mapping


def open_settings(folder: Path, model: Path, data: str, given: Mapping[str, Any]) -> FinetuneConfig:
    """The settings of a new run, or of one that goes on.

    Args:
        folder: The run's folder.
        model: As `find_model` gives it.
        data: The labelled rows.
        given: Settings by name.

    Raises:
        UserError: It was made with other settings, or finetune.json is damaged.
    """
    given = {  # what is found out, or read again, is not what the user asks for
        name: value
        for name, value in given.items()
        if value is not None and not (value == "auto" and name in FOUND_OUT)
    }
    for name in ("validation", "test"):
        if name in given:
            given[name] = os.path.realpath(os.path.expanduser(given[name]))
    if not _is_begun(folder):
        return from_mapping(FinetuneConfig, given)
    saved = read_settings(folder)
    now = _sources(model, data) | given
    before = {"model": saved["model"], "data": saved["data"]} | saved["settings"]
    different = [
        f"{name} is {before.get(name)} in the run and {value} now"
        for name, value in now.items()
        if before.get(name) != value and name not in FREE_SETTINGS
    ]
    if different:
        raise UserError(
            f"{folder} was made with other settings: {'; '.join(different)}; "
            "leave them as they were, or choose another -o"
        )
    config = from_mapping(FinetuneConfig, saved["settings"])
    return replace(config, **{name: given[name] for name in FREE_SETTINGS & given.keys()})


def read_settings(folder: Path) -> dict[str, Any]:
    """finetune.json of a run.

    Raises:
        UserError: It is damaged.
    """
    path = folder / FINETUNE
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        saved["settings"], saved["columns"], saved["hashes"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}); give the run a new folder with -o") from error
    return dict(saved)


def save_settings(folder: Path, model: Path, data: str, config: FinetuneConfig, facts: Mapping[str, Any]) -> None:
    """Write finetune.json, or see that the model and the rows are still those that it was written for.

    Args:
        folder: The run's folder.
        model: The Hugging Face folder.
        data: The labelled rows.
        config: All settings, decided.
        facts: `kind`, `labels`, `columns` and `hashes`.

    Raises:
        UserError: The model or the rows have changed since the run began.
    """
    if _is_begun(folder):
        before = read_settings(folder)["hashes"]
        for name, value in facts["hashes"].items():
            if before.get(name) != value:
                raise UserError(f"the {name} changed since {folder} was begun; give the run a new folder with -o")
    atomic.write_json(folder / FINETUNE, {**_sources(model, data), "settings": asdict(config), **facts})


def _is_begun(folder: Path) -> bool:
    """Whether a try was begun with the settings that are there."""
    return (folder / FINETUNE).exists() and (folder / "tries").exists()


def _sources(model: Path, data: str) -> dict[str, str]:
    return {"model": str(model.resolve()), "data": str(Path(data).resolve())}
