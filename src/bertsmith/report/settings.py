"""How a run was made: command, machine, hashes, settings."""

import shlex
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from bertsmith.config import RunConfig, flat
from bertsmith.report.facts import RunFacts
from bertsmith.report.html import add, add_table, section
from bertsmith.run_folder import GIVEN


def add_settings(main: Element, facts: RunFacts) -> None:
    """All that is needed to do a run again."""
    part = section(main, "How it was made", "The command, with the settings of a configuration file as flags:")
    add(part, "pre", command(facts.run.config, facts.run.origin, facts.folder))
    columns = add(part, "div", class_="columns")
    known = [(name, str(value)) for name, value in facts.environment.items() if name != "data"]
    block = add(columns, "div")
    add(block, "h3", "Environment")
    add_table(block, (), known)
    block = add(columns, "div")
    add(block, "h3", "SHA-256")
    add_table(block, (), hashes(facts), class_="hashes")
    details = add(part, "details")
    add(details, "summary", "All settings, and where each came from")
    origin = facts.run.origin
    rows = [(name, shown(value), origin.get(name, "default")) for name, value in flat(facts.run.config).items()]
    add_table(details, ("setting", "value", "origin"), rows)


def hashes(facts: RunFacts) -> list[tuple[str, str]]:
    """What identifies the text, the tokenizer and the model."""
    known = {
        "text and its preparation": facts.environment.get("data"),
        "tokenizer": facts.manifest.get("tokenizer"),
        "model/model.safetensors": facts.weights_hash,
    }
    return [(name, str(value)) for name, value in known.items() if value]


def command(config: RunConfig, origin: dict[str, str], folder: Path) -> str:
    """The command of a run: its text, and each setting that a flag or a file gave."""
    words = ["bertsmith", "pretrain"]
    for name, value in flat(config).items():
        if name == "text":
            words[2:2] = value
        elif origin.get(name) in GIVEN and value is not None:
            flag = name.replace("_", "-")
            words += (
                [f"--{flag}" if value else f"--no-{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]
            )
    return shlex.join([*words, "-o", str(folder)])


def shown(value: Any) -> str:
    """A setting's value; "-" where there is none."""
    return " ".join(map(str, value)) if isinstance(value, tuple) else "-" if value is None else str(value)
