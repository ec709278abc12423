"""The folder of a run: whose it is, what was decided, and whether this command may go on with it.

A run's settings are written to RUN/config.toml with the origin of each value
before its first step, and read from there ever after.
"""

import json
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, get_type_hints

from bertsmith import atomic
from bertsmith.budget import REVISIONS
from bertsmith.config import (
    EXCLUSIVE_SETTINGS,
    FREE_SETTINGS,
    TABLES,
    RunConfig,
    by_table,
    changed,
    check_exclusive,
    flat,
    read_toml,
    run_config,
    table_of,
)
from bertsmith.errors import UserError, suggestion
from bertsmith.output_folder import CONFIG
from bertsmith.reporter import Reporter
from bertsmith.strict import check_value

ENVIRONMENT = "environment.json"

GIVEN = frozenset({"flag", "file"})
"""Origins of values that the user gave."""

FORCED = frozenset({"memory", "compiler"})
"""Origins of values that a run had to change, whatever was given: too little memory, a compiler that failed."""


@dataclass(slots=True)
class Run:
    """An open run folder and its settings."""

    folder: Path
    config: RunConfig
    origin: dict[str, str]
    """Where each value came from: default, preset, file, flag, init, measured, memory, compiler."""

    trains: bool = False
    """Its steps have begun, so that the settings are those of what is in the folder."""

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.folder / "checkpoints"

    @property
    def model(self) -> Path:
        """The Hugging Face folder."""
        return self.folder / "model"

    def decide(self, origin: str, **values: Any) -> None:
        """Fill in settings that nobody gave, or change those that are FORCED."""
        self.config = changed(self.config, **values)
        self.origin.update(dict.fromkeys(values, origin))

    def begin_with(self, data_fingerprint: str) -> None:
        """Forget what was decided for other data, before the first checkpoint."""
        path = self.folder / ENVIRONMENT
        known = atomic.read_json(path).get("data", data_fingerprint)
        if known != data_fingerprint:
            self.forget_decisions()
        atomic.write_json(path, {"data": data_fingerprint})

    def forget_decisions(self) -> None:
        """Put every setting that nobody gave back to its default."""
        defaults = flat(RunConfig())
        decided = [name for name, origin in self.origin.items() if origin not in GIVEN | {"init"}]
        self.config = changed(self.config, **{name: defaults[name] for name in decided})
        self.origin = {name: origin for name, origin in self.origin.items() if name not in decided}
        (self.folder / REVISIONS).unlink(missing_ok=True)

    def drop_rivals(self, given: Mapping[str, Any]) -> bool:
        """Forget settings, given earlier, that say another way what is given now; True if there were any."""
        rivals = {
            other
            for pair in EXCLUSIVE_SETTINGS
            for one, other in (pair, pair[::-1])
            if one in given and other not in given and self.origin.get(other) in GIVEN
        }
        self.config = changed(self.config, **dict.fromkeys(rivals))
        self.origin = {name: origin for name, origin in self.origin.items() if name not in rivals}
        return bool(rivals)

    def save(self) -> None:
        """Write config.toml."""
        atomic.write_text(self.folder / CONFIG, to_toml(self.config, self.origin))


def open_run(folder: Path, given: Mapping[str, Any], origin: Mapping[str, str]) -> Run:
    """Open a new or an existing run.

    Args:
        folder: The run's folder, which exists.
        given: Settings from flags and configuration file, by name. None: not given.
        origin: "flag" or "file" for each of them.

    Raises:
        UserError: The run was made with other settings, or its configuration is damaged.
    """
    given = {name: value for name, value in given.items() if value is not None}
    for name, value in given.items():
        if (table := table_of(name)) is None:
            raise UserError(f"unknown setting '{name}'{suggestion(name, flat(RunConfig()))}")
        given[name] = check_value(f"{table}.{name}", value, get_type_hints(TABLES[table])[name])  # as a run keeps it
    check_exclusive(given)
    config_path = folder / CONFIG
    if not config_path.exists():
        return Run(folder, run_config(by_table(given)), {name: origin[name] for name in given})
    run = read_run(folder)
    if any(run.checkpoints.glob("*step-*")):
        _refuse_changes(run, given)
        taken = {name: value for name, value in given.items() if name in FREE_SETTINGS}
    else:  # nothing is trained yet: a mistake in the first command can still be put right
        taken = dict(given)
        said_otherwise = run.drop_rivals(taken)
        if said_otherwise or any(flat(run.config)[name] != value for name, value in taken.items()):
            run.forget_decisions()
    run.config = changed(run.config, **taken)
    run.origin.update({name: origin[name] for name in taken})
    return run


@contextmanager
def mistakes_forgotten(run: Run) -> Iterator[None]:
    """Put config.toml back when a command is refused before its first step, in a run that has no checkpoint.

    Else the next command would be refused for the same setting, although it leaves it out as it was told. Of the
    first command of a run its text alone is kept.
    """
    path = run.folder / CONFIG
    before = path.read_text(encoding="utf-8") if path.exists() else None
    try:
        yield
    except UserError:
        if not run.trains and not any(run.checkpoints.glob("*step-*")):
            text = changed(RunConfig(), text=run.config.data.text)
            atomic.write_text(path, before or to_toml(text, {"text": "flag"} if run.config.data.text else {}))
        raise


def read_run(folder: Path) -> Run:
    """Read the settings of an existing run.

    Raises:
        UserError: `folder` is no run, or its configuration is damaged.
    """
    if not (folder / CONFIG).exists():
        raise UserError(f"{folder} is no run: it has no {CONFIG}; give the folder that `bertsmith pretrain` wrote")
    tables = read_toml(folder / CONFIG)
    if not tables.keys() >= {*TABLES, "origin"}:
        raise UserError(f"{folder / CONFIG} is damaged: it lacks a table; give the run a new folder with -o")
    origin = tables.pop("origin")
    run = Run(folder, run_config(tables), dict(origin))
    if run.config.training.steps is None and any(run.checkpoints.glob("step-*")):
        raise UserError(f"{folder / CONFIG} is damaged: a run with checkpoints has a number of steps; put it back")
    return run


def _refuse_changes(run: Run, given: Mapping[str, Any]) -> None:
    saved = flat(run.config)
    differences = [
        f"{name} is {_shown(saved[name])} in the run and {_shown(value)} now"
        for name, value in given.items()
        if name not in FREE_SETTINGS
        and saved[name] not in (value, _absolute(value))
        and run.origin.get(name) not in FORCED
    ]
    if differences:
        raise UserError(
            f"{run.folder} was made with other settings: {'; '.join(differences)}; "
            "leave them as they were, or start a new run with --fresh or another -o"
        )


def lasting_settings(run: Run) -> dict[str, Any]:
    """The settings that a checkpoint must be continued with: all of model and training that change the weights.

    Left out is what a run itself may have to change on its way.
    """
    changing = FREE_SETTINGS | {"budget"}
    if run.config.training.budget is not None:
        changing |= {"steps"}
    if run.origin.get("micro_batch_size") == "memory":
        changing |= {"micro_batch_size"}
    values = flat(run.config)
    return {name: value for name, value in values.items() if table_of(name) != "data" and name not in changing}


def refuse_edits(run: Run, saved: Mapping[str, Any]) -> None:
    """Hold the settings against those that a checkpoint was made with.

    Raises:
        UserError: config.toml was changed by hand since.
    """
    now = lasting_settings(run)
    differences = [
        f"{name} was {_shown(value)} and is {_shown(now[name])}"
        for name, value in saved.items()
        if name in now and now[name] != value
    ]
    if differences:
        raise UserError(
            f"{run.folder / CONFIG} was changed after the last checkpoint: {'; '.join(differences)}; "
            "put it back, or start a new run with --fresh"
        )


def _absolute(value: Any) -> Any:
    """What a path was saved as: text that is gone is still the same text."""
    if isinstance(value, tuple):
        return tuple(os.path.abspath(item) for item in value)
    return os.path.abspath(value) if isinstance(value, str) else value


def _shown(value: Any) -> str:
    return " ".join(value) if isinstance(value, tuple) else "not set" if value is None else str(value)


def to_toml(config: RunConfig, origin: Mapping[str, str]) -> str:
    """All settings as TOML. What is not set is left out: TOML has no null."""
    lines = ["# Written by Bertsmith. A run reads its settings from here; to change them, start a new run."]
    for table, cls in TABLES.items():
        lines += ["", f"[{table}]"]
        values = {f.name: getattr(getattr(config, table), f.name) for f in fields(cls)}
        lines += [f"{name} = {_toml_value(value)}" for name, value in values.items() if value is not None]
    lines += ["", "# Where each value came from; those not named are defaults. --config takes those of a flag or file"]
    lines += ["# alone and finds out the others anew, whatever stands above; --plan takes them all.", "[origin]"]
    lines += [f"{name} = {_toml_value(value)}" for name, value in origin.items()]
    return "\n".join(lines) + "\n"


def _toml_value(value: Any) -> str:
    """A TOML scalar or list of strings. JSON strings are TOML strings."""
    if isinstance(value, float):
        return repr(float(value))  # that of NumPy's float64 is no TOML
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # as of Bertsmith itself, where it runs from its sources
        return "not installed"


def note_environment(folder: Path, reporter: Reporter, **facts: Any) -> None:
    """Write versions and machine to environment.json, and say what has changed since the run began.

    The exactness of a resume holds on the same machine with the same versions.
    No host, user or file names are written.
    """
    path = folder / ENVIRONMENT
    packages = ("bertsmith", "torch", "numpy", "tokenizers", "safetensors", "pyarrow")
    now = {
        "python": platform.python_version(),
        **{name: _version(name) for name in packages},
        "system": platform.system(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        **facts,
    }
    before = atomic.read_json(path)
    for name in ("torch", "device", "threads", "ranks", "machine"):
        if before.get(name, now[name]) != now[name]:
            reporter.warn(
                f"the run began with {name} {before[name]} and goes on with {now[name]}: "
                "its result may differ in rounding from an uninterrupted run"
            )
    atomic.write_json(path, {**now, **before})
