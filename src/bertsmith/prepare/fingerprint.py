"""What prepared data was made from, and in what two preparations differ.

Data that was prepared from another text, tokenizer or setting must never be
used in silence. A fingerprint is plain JSON: small, comparable, and readable
enough to say what changed.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from bertsmith.config import TRAINED, DataConfig
from bertsmith.corpus import open_corpus
from bertsmith.errors import UserError
from bertsmith.prepare.accents import WHERE_RARE
from bertsmith.prepare.reading import Text
from bertsmith.tokenizer import Tokenizer, load_tokenizer

RULES, RULES_OF_SPACED = 4, 5
"""Raised whenever a change of the code gives other shards for the same input; the second where a tokenizer tells a
word after a space from one without."""

SHARES, BUILT_IN_SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3), (0.1,)
"""Shares of a text that may be held out when none is given: small texts need larger ones. What one share holds out, a
larger one does, too."""

LISTED_FILES = 1_000
"""Files that are named one by one, to say later which one changed. All count in the hash."""

READING = ("text_field", "document", "encoding")
TRAINING = ("tokenizer", "vocab_size", "lowercase", "strip_accents")


class Inputs(NamedTuple):
    """Everything that a preparation reads."""

    corpus: Text
    validation: Text | None
    """A text of its own; None: a share of the corpus."""

    shares: tuple[float, ...]
    """Shares of the sections that may be held out, the least that is enough: one that was given, 0 for `validation`."""

    tokenizer: Tokenizer | None
    """An existing one; None: trained on the text."""

    fingerprint: dict[str, Any]


def read_inputs(config: DataConfig) -> Inputs:
    """Open the text and the tokenizer, and take their fingerprint.

    Raises:
        UserError: One of them is missing or cannot be used.
    """
    refuse_overlap(config)
    options = {name: getattr(config, name) for name in READING}
    corpus = Text(open_corpus(config.text, **options))
    validation = Text(open_corpus((config.validation,), **options)) if config.validation else None
    tokenizer = None if config.tokenizer in TRAINED else load_tokenizer(config.tokenizer)
    shares = held_out_shares(config)
    settings: dict[str, Any] = {**options, "validation_fraction": shares[0]}
    if config.extend_vocab is not None:
        settings["extend_vocab"] = config.extend_vocab
        if tokenizer is None:
            raise UserError(
                f"extend_vocab is {config.extend_vocab}, but the tokenizer is trained on the text anyway; give --init, "
                "an existing --tokenizer, or a larger --vocab-size"
            )
    if tokenizer is None:
        settings |= {name: getattr(config, name) for name in TRAINING}
        if config.strip_accents is None:
            settings["strip_accents"] = config.lowercase and WHERE_RARE
    fingerprint = {
        "rules": RULES_OF_SPACED if tokenizer and tokenizer.reads_space else RULES,
        "text": files_fingerprint(corpus),
        "validation": files_fingerprint(validation) if validation else None,
        "tokenizer": tokenizer.fingerprint() if tokenizer else None,
        "settings": settings,
    }
    return Inputs(corpus, validation, shares, tokenizer, fingerprint)


def refuse_overlap(config: DataConfig) -> None:
    """Hold the paths of the validation text against those of the text.

    Raises:
        UserError: It would be learnt from, too.
    """
    if config.validation is None:
        return
    held_out = Path(config.validation).resolve()
    for source in config.text:
        path = Path(source).resolve()
        if path == held_out or path in held_out.parents or held_out in path.parents:
            raise UserError(
                f"validation is {config.validation}, which is learnt from as part of {source}; name other text, or "
                "leave it out and a share is held out"
            )


def held_out_shares(config: DataConfig) -> tuple[float, ...]:
    """Shares of the sections that may be held out, the least first; 0 where there is a validation text."""
    if config.validation or config.validation_fraction:
        return (0.0 if config.validation else config.validation_fraction or 0.0,)
    return SHARES if config.text else BUILT_IN_SHARES


def held_out_share(state: Mapping[str, Any], inputs: Inputs) -> float:
    """The share that was decided for a preparation when its text was measured."""
    return float(state.get("validation_fraction", inputs.shares[0]))


def files_fingerprint(corpus: Text) -> dict[str, Any]:
    """Name, size and time of every file of a text, as a hash and, for the first ones, by name."""
    files = [[file.name, file.size, file.mtime_ns] for file in corpus.files]
    return {
        "count": len(files),
        "bytes": sum(file.size for file in corpus.files),
        "sha256": hashlib.sha256(json.dumps(files).encode()).hexdigest(),
        "files": {name: {"size": size, "mtime_ns": time} for name, size, time in files[:LISTED_FILES]},
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
