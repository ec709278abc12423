"""Reading tokenizers: our own, those of transformers 4 and 5, and the vocab.txt of google-research/bert."""

import json
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import models

from bertsmith.errors import UserError, suggestion
from bertsmith.tokenizer.assembly import DEFAULT_NAMES, assemble, bert_pipeline, complete
from bertsmith.tokenizer.tokenizer import ROLES, Tokenizer
from bertsmith.tokenizer.words import LONGEST_WORD

_BERT_OPTIONS = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}
"""Options in a tokenizer_config.json and in a BertNormalizer."""


def load_tokenizer(source: str | Path) -> Tokenizer:
    """Open a tokenizer that somebody trained.

    What it lacks is added: [CLS] and [SEP] around a text, and recognising special tokens in it. Truncation and
    padding are switched off.

    Args:
        source: A tokenizer.json, a vocab.txt, a folder with one of them, or a run.

    Raises:
        UserError: There is none, it is broken, or a special token is missing.
    """
    file = _find(Path(source))
    config = _read_object(file.with_name("special_tokens_map.json")) | _read_object(
        file.with_name("tokenizer_config.json")
    )
    names = {role: _content(config.get(role)) or DEFAULT_NAMES[role] for role in ROLES}
    if file.suffix == ".json":
        return _load_json(file, config, names)
    return _load_vocabulary(file, config, names)


def _find(source: Path) -> Path:
    """The file that a path means."""
    if source.is_file():
        return source
    for folder in (source, source / "tokenizer"):
        for name in ("tokenizer.json", "vocab.txt"):
            if (folder / name).is_file():
                return folder / name
    if source.is_dir():
        raise UserError(f"{source} holds neither tokenizer.json nor vocab.txt; give a folder or file of a tokenizer")
    raise UserError(f"tokenizer '{source}' does not exist{suggestion(str(source), ('wordpiece', 'bpe', 'a path'))}")
