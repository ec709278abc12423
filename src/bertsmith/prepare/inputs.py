"""Everything that a preparation reads: the text, several times, and perhaps a tokenizer."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bertsmith.config import TRAINED, DataConfig
from bertsmith.corpus import Corpus, CorpusReport, Section, open_corpus
from bertsmith.errors import UserError
from bertsmith.prepare.accents import WHERE_RARE
from bertsmith.prepare.fingerprint import RULES, RULES_OF_SPACED, files_fingerprint
from bertsmith.tokenizer import Tokenizer, load_tokenizer

SHARES, BUILT_IN_SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3), (0.1,)
"""Shares of a text that may be held out when none is given: small texts need larger ones. What one share holds out, a
larger one does, too."""

READING = ("text_field", "document", "encoding")
TRAINING = ("tokenizer", "vocab_size", "lowercase", "strip_accents")

HELD_CHARACTERS = 32_000_000
"""A smaller text stays in memory once it was read: finding text in source code takes longer than tokenising it."""


class Text:
    """A corpus that is read from the disk each time, or once if it is small."""

    def __init__(self, corpus: Corpus) -> None:
        self.files = corpus.files
        self._corpus = corpus
        self._held: list[Section] | None = None

    def sections(self, report: CorpusReport | None = None) -> Iterator[Section]:
        """All sections from the beginning; always the same.

        Args:
            report: Filled while the text is read from the disk.
        """
        if self._held is not None and report is None:
            yield from self._held
            return
        held, size = [], 0
        for section in self._corpus.sections(report):
            size += len(section.text)
            if size <= HELD_CHARACTERS:
                held.append(section)
            else:
                held.clear()
            yield section
        if size <= HELD_CHARACTERS:
            self._held = held


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
    _refuse_overlap(config)
    options = {name: getattr(config, name) for name in READING}
    corpus = Text(open_corpus(config.text, **options))
    validation = Text(open_corpus((config.validation,), **options)) if config.validation else None
    tokenizer = None if config.tokenizer in TRAINED else load_tokenizer(config.tokenizer)
    shares = _held_out_shares(config)
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
        "text": files_fingerprint(corpus.files),
        "validation": files_fingerprint(validation.files) if validation else None,
        "tokenizer": tokenizer.fingerprint() if tokenizer else None,
        "settings": settings,
    }
    return Inputs(corpus, validation, shares, tokenizer, fingerprint)


def _refuse_overlap(config: DataConfig) -> None:
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


def _held_out_shares(config: DataConfig) -> tuple[float, ...]:
    """Shares of the sections that may be held out, the least first; 0 where there is a validation text."""
    if config.validation:
        return (0.0,)
    if config.validation_fraction:
        return (config.validation_fraction,)
    return SHARES if config.text else BUILT_IN_SHARES


def held_out_share(state: Mapping[str, Any], inputs: Inputs) -> float:
    """The share that was decided for a preparation when its text was measured."""
    return float(state.get("validation_fraction", inputs.shares[0]))
