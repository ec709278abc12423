"""The settings as the command line takes them: a flag for each, merged with a configuration file."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import click

from bertsmith.config import EXCLUSIVE_SETTINGS, TABLES, TRAINED, read_toml
from bertsmith.errors import UserError, suggestion
from bertsmith.presets import RECIPE_SETTINGS
from bertsmith.strict import check_value

Command = Callable[..., None]

PATH = click.Path(path_type=Path)
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def settings(*tables: type, only: tuple[str, ...] | None = None) -> Callable[[Command], Command]:
    """Give a command a flag for each setting of the tables, or for `only` these; those typed are passed on."""

    def decorate(command: Command) -> Command:
        for table in reversed(tables):
            types = get_type_hints(table)
            for field in reversed(dataclasses.fields(table)):
                if get_origin(types[field.name]) is not tuple and (only is None or field.name in only):
                    command = _flag(field, types[field.name])(command)
        return command

    return decorate


def _flag(field: "dataclasses.Field[Any]", annotation: Any) -> Callable[[Command], Command]:
    """The command-line option of one setting. Its default is shown, and applied later."""
    flag = "--" + field.name.replace("_", "-")
    help_text = field.metadata["help"]
    if field.name in RECIPE_SETTINGS:
        help_text += " [preset]" if "[" not in help_text else ""
    elif field.default is not None:
        help_text += f" [{str(field.default).lower() if isinstance(field.default, bool) else field.default}]"
    if get_origin(annotation) in (Union, UnionType):
        annotation = get_args(annotation)[0]
    if annotation is bool:
        return click.option(f"{flag}/--no-{flag[2:]}", default=None, help=help_text)
    choices = click.Choice(get_args(annotation)) if get_origin(annotation) is Literal else annotation
    return click.option(flag, type=choices, default=None, help=help_text)


def settings_of(config: Path, *, decided: bool = False) -> dict[str, Any]:
    """The settings that a configuration file gives, by name.

    Args:
        config: Written by a user or a run.
        decided: Take what a run found out, too. Its budget has become a number of steps.
    """
    given = {}
    tables = read_toml(config)
    wrote = tables.pop("origin", None)  # in a file that a run wrote
    for table, values in tables.items():
        types = get_type_hints(TABLES[table])
        for name, value in values.items():
            if name not in types:
                raise UserError(f"unknown setting '{table}.{name}' in {config}{suggestion(name, types)}")
            is_given = wrote is None or wrote.get(name) in {"flag", "file"}
            if is_given or (decided and table != "data"):  # else it is found out anew; a prepared text says its own
                given[name] = check_value(f"{table}.{name}", value, types[name])
    if decided:
        if wrote is not None:  # by a version that did not know all settings: it trained as without the new ones
            known = {f.name: f.default for table in ("model", "training") for f in dataclasses.fields(TABLES[table])}
            given = {name: value for name, value in known.items() if value is not None} | given
        for name in ("family", "budget", "epochs", "gradient_accumulation_steps"):
            given.pop(name, None)
        if given.get("init"):
            given.pop("preset", None)  # it is the model that says the shape
        if given.get("steps") is None:
            raise UserError(f"{config} is no plan: it has no steps; give the config.toml that `bertsmith plan` wrote")
    return given


def gather(
    text: tuple[str, ...], flags: dict[str, Any], config: Path | None, *, decided: bool = False
) -> tuple[dict[str, Any], dict[str, str]]:
    """Merge configuration file and flags, flags first.

    Args:
        text: Arguments of the command.
        flags: Flags by name, None where not typed.
        config: The file.
        decided: As in `settings_of`.

    Returns:
        The settings given, by name, and the origin of each.
    """
    given = settings_of(config, decided=decided) if config is not None else {}
    typed = {name: value for name, value in flags.items() if value is not None}
    if text:
        typed["text"] = text
    if decided and "preset" in given:
        _refuse_another_size(typed, given["preset"], config)
    for pair in EXCLUSIVE_SETTINGS:  # a flag wins over the file, also where it says it another way
        if any(name in typed for name in pair):
            given = {name: value for name, value in given.items() if name not in pair}
    origin = {**dict.fromkeys(given, "file"), **dict.fromkeys(typed, "flag")}
    given.update(typed)
    for name in ("text", "validation", "tokenizer", "init", "replay"):
        if name in given:
            given[name] = _absolute(given[name])
    return given, origin


def _refuse_another_size(typed: dict[str, Any], preset: str, plan: Path | None) -> None:
    """A plan has decided shape, rate and rows for its preset: under the name of another one it would lie."""
    for name, known in (("preset", preset), ("family", preset.partition("-")[0])):
        if typed.get(name, known) != known:
            raise UserError(
                f"the plan {plan} is of {preset} and --{name} is {typed[name]}; leave --{name} out, or make another "
                f"plan with `bertsmith plan --{name} {typed[name]}`"
            )


def default_folder(text: tuple[str, ...], suffix: str = "") -> Path:
    """runs/NAME and a suffix, with the name of the first input; runs/demo for the built-in text."""
    name = Path(text[0]).resolve().name.split(".")[0] if text else "demo"
    return Path("runs") / f"{name or 'run'}{suffix}"


def named(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    """A path that was given; an empty one is that of an unset variable of the shell, and would be the current folder.

    Raises:
        UserError: It is empty.
    """
    if not value.strip():
        raise UserError("a path is empty; give a file")
    return value


def _absolute(value: Any) -> Any:
    """Make paths that exist independent of the current folder; other names stay as they are."""
    if isinstance(value, tuple):
        return tuple(_absolute(item) for item in value)
    if not value.strip():  # an unset variable of the shell; Path("") would be the current folder
        raise UserError("a path is empty; give a file or folder")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # a run's settings are kept as UTF-8
        raise UserError(f"the path {value!a} is no valid UTF-8; rename it, or name the folder it is in") from error
    return value if value in TRAINED or not Path(value).exists() else str(Path(value).resolve())
