"""The folder of a run: whose it is, what was decided, and whether this command may go on with it.

A run's settings are written to RUN/config.toml with the origin of each value
before its first step, and read from there ever after.
"""

import json
import os
import platform
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bertsmith import atomic
from bertsmith.config import (
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
from bertsmith.reporter import Reporter

CONFIG = "config.toml"
ENVIRONMENT = "environment.json"
LOCK = ".lock"
LOCK_ATTEMPTS = 5
"""Tenths of a second to wait for a lock."""


@dataclass(slots=True)
class Run:
    """An open run folder and its settings."""

    folder: Path
    config: RunConfig
    origin: dict[str, str]
    """Where each value that is no default came from: preset, file, flag, measured."""

    is_new: bool

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.folder / "checkpoints"

    @property
    def model(self) -> Path:
        """The Hugging Face folder."""
        return self.folder / "model"

    def decide(self, origin: str, **values: Any) -> None:
        """Fill in settings that nobody gave."""
        self.config = changed(self.config, **values)
        self.origin.update(dict.fromkeys(values, origin))

    def begin_with(self, data_fingerprint: str) -> None:
        """Forget what was decided for other data, before the first checkpoint."""
        path = self.folder / ENVIRONMENT
        known = _read_environment(path).get("data", data_fingerprint)
        if known != data_fingerprint:
            self.forget_decisions()
        atomic.write_json(path, {"data": data_fingerprint})

    def forget_decisions(self) -> None:
        """Put every setting that nobody gave back to its default."""
        defaults = flat(RunConfig())
        decided = [name for name, origin in self.origin.items() if origin not in {"flag", "file"}]
        self.config = changed(self.config, **{name: defaults[name] for name in decided})
        self.origin = {name: origin for name, origin in self.origin.items() if name not in decided}

    def save(self) -> None:
        """Write config.toml."""
        atomic.write_text(self.folder / CONFIG, to_toml(self.config, self.origin))


def open_run(folder: Path, given: Mapping[str, Any], origin: Mapping[str, str]) -> Run:
    """Open a new or an existing run.

    Args:
        folder: The run's folder, which exists.
        given: Settings from flags and configuration file, by name.
        origin: "flag" or "file" for each of them.

    Raises:
        UserError: The run was made with other settings, or its configuration is damaged.
    """
    given = {name: value for name, value in given.items() if value is not None}
    for name in given:
        if table_of(name) is None:
            raise UserError(f"unknown setting '{name}'{suggestion(name, flat(RunConfig()))}")
    check_exclusive(given)
    config_path = folder / CONFIG
    if not config_path.exists():
        return Run(folder, run_config(by_table(given)), dict(origin), is_new=True)
    run = read_run(folder)
    if any(run.checkpoints.glob("*step-*")):
        _refuse_changes(run, given)
        taken = {name: value for name, value in given.items() if name in FREE_SETTINGS}
    else:  # nothing is trained yet: a mistake in the first command can still be put right
        taken = dict(given)
        if any(flat(run.config)[name] != value for name, value in taken.items()):
            run.forget_decisions()
    run.config = changed(run.config, **taken)
    run.origin.update({name: origin[name] for name in taken})
    return run


def read_run(folder: Path) -> Run:
    """Read the settings of an existing run.

    Raises:
        UserError: `folder` is no run, or its configuration is damaged.
    """
    if not (folder / CONFIG).exists():
        raise UserError(f"{folder} is no run: it has no {CONFIG}; give the folder that `bertsmith pretrain` wrote")
    tables = read_toml(folder / CONFIG)
    if not tables.keys() >= TABLES.keys():
        raise UserError(f"{folder / CONFIG} is damaged: it lacks a table; give the run a new folder with -o")
    origin = tables.pop("origin", {})
    return Run(folder, run_config(tables), dict(origin), is_new=False)


def make_folder(folder: Path, *, owned_by: tuple[str, ...] = ()) -> None:
    """Make an output folder, or see that it is empty or holds what this program wrote.

    Args:
        folder: Where to write.
        owned_by: Names of which one shows that the folder is ours.

    Raises:
        UserError: It holds something else, or is not writable.
    """
    try:
        if folder.exists() and not any((folder / name).exists() for name in owned_by):
            if not folder.is_dir():
                raise UserError(f"the output folder {folder} is a file; choose another with -o")
            if any(path.name != LOCK for path in folder.iterdir()):
                raise UserError(f"the output folder {folder} holds something else; choose another with -o")
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f"probe{atomic.TEMPORARY_SUFFIX}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"cannot write to the output folder {folder}: {error.strerror}; choose another with -o"
        ) from error


@contextmanager
def new_folder(folder: Path, *, owned_by: tuple[str, ...]) -> Iterator[None]:
    """Make an output folder as `make_folder` does, and take it away again when a mistake kept it from being used.

    Only what this command made goes: a folder that was there before stays, and
    so does one that holds more than the settings of the command.

    Raises:
        UserError: As `make_folder`.
    """
    was_there = folder.exists()
    make_folder(folder, owned_by=owned_by)
    try:
        yield
    except UserError:
        if not was_there and not any(path.name not in (CONFIG, LOCK) for path in folder.iterdir()):
            shutil.rmtree(folder, ignore_errors=True)
        raise


def refuse_run(folder: Path) -> None:
    """Keep other commands from writing into the folder of a run.

    Raises:
        UserError: It is one.
    """
    if (folder / CONFIG).exists():
        raise UserError(f"{folder} is a run, which has its own tokenizer and shards; give another folder with -o")


def _refuse_changes(run: Run, given: Mapping[str, Any]) -> None:
    saved = flat(run.config)
    differences = [
        f"{name} is {_shown(saved[name])} in the run and {_shown(value)} now"
        for name, value in given.items()
        if name not in FREE_SETTINGS
        and saved[name] not in (value, _absolute(value))
        and run.origin.get(name) != "memory"  # the run itself had to change what was given
    ]
    if differences:
        raise UserError(
            f"{run.folder} was made with other settings: {'; '.join(differences)}; "
            "leave them as they were, or start a new run with --fresh or another -o"
        )


def _absolute(value: Any) -> Any:
    """What a path was saved as: text that is gone is still the same text."""
    if isinstance(value, tuple):
        return tuple(os.path.abspath(item) for item in value)
    return os.path.abspath(value) if isinstance(value, str) else value


def _shown(value: Any) -> str:
    return " ".join(value) if isinstance(value, tuple) else "not set" if value is None else str(value)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from working on the same run; a killed process leaves no lock.

    Raises:
        UserError: Another process works on it.
    """
    if os.name == "nt":  # no flock there
        yield
        return
    import fcntl

    with (folder / LOCK).open("w") as handle:
        for attempt in range(LOCK_ATTEMPTS):  # `bertsmith info` holds it for a moment
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if attempt + 1 == LOCK_ATTEMPTS:
                    raise UserError(
                        f"another process is working on {folder}; wait for it, or choose another folder with -o"
                    ) from error
                time.sleep(0.1)
        yield


def to_toml(config: RunConfig, origin: Mapping[str, str]) -> str:
    """All settings as TOML. What is not set is left out: TOML has no null."""
    lines = ["# Written by Bertsmith. A run reads its settings from here; to change them, start a new run."]
    for table, cls in TABLES.items():
        lines += ["", f"[{table}]"]
        values = {f.name: getattr(getattr(config, table), f.name) for f in fields(cls)}
        lines += [f"{name} = {_toml_value(value)}" for name, value in values.items() if value is not None]
    lines += ["", "# Where each value came from; those not named are defaults.", "[origin]"]
    lines += [f"{name} = {_toml_value(value)}" for name, value in origin.items()]
    return "\n".join(lines) + "\n"


def _toml_value(value: Any) -> str:
    """A TOML scalar or list of strings. JSON strings are TOML strings."""
    if isinstance(value, float):
        return repr(value)
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _read_environment(path: Path) -> dict[str, Any]:
    """environment.json, or nothing where it is missing or torn: it only informs."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def note_environment(folder: Path, reporter: Reporter, **facts: Any) -> None:
    """Write versions and machine to environment.json, and say what has changed since the run began.

    The exactness of a resume holds on the same machine with the same versions.
    No host, user or file names are written.
    """
    path = folder / ENVIRONMENT
    packages = ("bertsmith", "torch", "numpy", "tokenizers", "safetensors", "pyarrow")
    now = {
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "system": platform.system(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        **facts,
    }
    before = _read_environment(path)
    for name in ("torch", "device", "threads", "ranks", "machine"):
        if before.get(name, now[name]) != now[name]:
            reporter.warn(
                f"the run began with {name} {before[name]} and goes on with {now[name]}: "
                "its result may differ in rounding from an uninterrupted run"
            )
    atomic.write_json(path, {**now, **before})
