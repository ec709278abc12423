"""The folder of a fine-tuning run: its settings and what it was made from, in finetune.json, and whose model it is.

RUN/finetune.json   model, data, every setting, columns and labels, hashes of model and rows
RUN/tries/          one folder for each try (`tuning.py`)
RUN/metrics.json    scores; RUN/mistakes.csv: the rows it got most wrong
RUN/model/          the Hugging Face folder
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bertsmith import atomic
from bertsmith.errors import UserError
from bertsmith.finetuning.config import FOUND_OUT, FREE_SETTINGS, FinetuneConfig
from bertsmith.model_source import local_folder
from bertsmith.output_folder import CONFIG
from bertsmith.strict import from_mapping

SETTINGS = "finetune.json"


def find_model(source: Path) -> Path:
    """The Hugging Face folder that a path means: that of a finished run, the path itself, or a model of the hub.

    Raises:
        UserError: There is none.
    """
    source = local_folder(source)
    if (source / CONFIG).is_file() or (source / SETTINGS).is_file():
        if not (source / "model").is_dir():
            raise UserError(f"{source} has no model yet; let the run finish, the same command goes on with it")
        return source / "model"
    for folder in (source, source / "model"):  # the latter: what `finetune --embeddings` wrote
        if (folder / "config.json").is_file():
            return folder
    if not source.exists():
        raise UserError(
            f"{source} does not exist; give the folder of a run, or of a model that save_pretrained wrote, or the id "
            "of one on the hub, as OWNER/NAME"
        )
    raise UserError(
        f"{source} is neither a run nor a model ({CONFIG}, {SETTINGS} and config.json are missing); give another folder"
    )


def model_hash(folder: Path) -> str:
    """Hash of the weights, the shape and the vocabulary of a model."""
    words = folder / "tokenizer.json"
    words = words if words.exists() else folder / "vocab.txt"
    files = sorted([*folder.glob("*.safetensors"), folder / "config.json", words])
    hashes = [atomic.sha256(path) for path in files if path.exists()]
    return hashlib.sha256("".join(hashes).encode("ascii")).hexdigest()


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
    path = folder / SETTINGS
    if not path.exists() or not (folder / "tries").exists():
        return from_mapping(FinetuneConfig, given)
    saved = read_settings(folder)
    now = {"model": str(model.resolve()), "data": str(Path(data).resolve())} | given
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
    path = folder / SETTINGS
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
    if (folder / "tries").exists() and (folder / SETTINGS).exists():
        before = read_settings(folder)["hashes"]
        for name, value in facts["hashes"].items():
            if before.get(name) != value:
                raise UserError(f"the {name} changed since {folder} was begun; give the run a new folder with -o")
    paths = {"model": str(model.resolve()), "data": str(Path(data).resolve())}
    atomic.write_json(folder / SETTINGS, {**paths, "settings": asdict(config), **facts})
