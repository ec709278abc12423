"""What prepared data was made from, and in what two preparations differ.

Data that was prepared from another text, tokenizer or setting must never be
used in silence. A fingerprint is plain JSON: small, comparable, and readable
enough to say what changed.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from bertsmith.config import DataConfig
from bertsmith.corpus import SourceFile

RULES, RULES_OF_SPACED = 4, 5
"""Raised whenever a change of the code gives other shards for the same input; the second where a tokenizer tells a
word after a space from one without."""

LISTED_FILES = 1_000
"""Files that are named one by one, to say later which one changed. All count in the hash."""


def files_fingerprint(files: Sequence[SourceFile]) -> dict[str, Any]:
    """Name, size and time of every file of a text, as a hash and, for the first ones, by name."""
    listed = [[file.name, file.size, file.mtime_ns] for file in files]
    return {
        "count": len(files),
        "bytes": sum(file.size for file in files),
        "sha256": hashlib.sha256(json.dumps(listed).encode()).hexdigest(),
        "files": {name: {"size": size, "mtime_ns": time} for name, size, time in listed[:LISTED_FILES]},
    }


def difference(old: dict[str, Any], new: dict[str, Any]) -> str | None:
    """Say in what two fingerprints differ, None when they are equal."""
    if old == new:
        return None
    if old.get("rules") != new["rules"]:
        return "it was prepared by another version of Bertsmith"
    for part, label in (("text", "the text"), ("validation", "the validation text")):
        if old.get(part) != new[part]:
            return f"{label} changed: {_changed_file(old.get(part), new[part])}"
    if old.get("tokenizer") != new["tokenizer"]:
        return "the tokenizer changed"
    return f"the settings changed: {_changed_settings(old.get('settings', {}), new['settings'])}"


def _changed_file(old: dict[str, Any] | None, new: dict[str, Any] | None) -> str:
    """Name a file that differs."""
    if old is None or new is None:
        return "a text of its own was given" if new else "it is a part of the text"
    before, now = old["files"], new["files"]
    complete = old["count"] <= LISTED_FILES and new["count"] <= LISTED_FILES
    for name in sorted(before.keys() | now.keys()):
        if complete and name not in now:
            return f"{name} is gone"
        if complete and name not in before:
            return f"{name} is new"
        if before.get(name) != now.get(name):
            return f"{name} has another size or time"
    return f"it had {old['count']:,} files of {old['bytes']:,} bytes, it has {new['count']:,} of {new['bytes']:,}"


def _changed_settings(old: dict[str, Any], new: dict[str, Any]) -> str:
    names = [name for name in old.keys() | new.keys() if old.get(name) != new.get(name)]
    return ", ".join(f"{name} was {old.get(name)!r}, is {new.get(name)!r}" for name in sorted(names))


def contradictions(config: DataConfig, settings: dict[str, Any], explicit: frozenset[str]) -> list[str]:
    """Settings that were given and that data prepared with `settings` cannot follow.

    A setting that differs from its default was given, whatever `explicit` says;
    one at its default asks for nothing unless it is among `explicit`.
    """
    given, default = asdict(config), asdict(DataConfig())
    free = {"text", "workers"}
    return [
        f"{name} is {given[name]!r}, there {settings.get(name)!r}"
        for name in given
        if name not in free and (given[name] != default[name] or name in explicit) and given[name] != settings.get(name)
    ]
