"""Reading tokenizers: our own, those of transformers 4 and 5, and the vocab.txt of google-research/bert."""

import json
import sys
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import models

from bertsmith.atomic import read_json
from bertsmith.errors import UserError, suggestion
from bertsmith.tokenizer.assembly import DEFAULT_NAMES, assemble, bert_pipeline, complete
from bertsmith.tokenizer.tokenizer import BERT_OPTIONS, ROLES, Tokenizer
from bertsmith.tokenizer.words import LONGEST_WORD


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


def load_fitting_tokenizer(folder: Path, vocab_size: int) -> Tokenizer:
    """The tokenizer of a model folder.

    Raises:
        UserError: It is not there, or it has more pieces than the model.
    """
    tokenizer = load_tokenizer(folder)
    if tokenizer.vocab_size > vocab_size:
        raise UserError(
            f"the tokenizer in {folder} has {tokenizer.vocab_size:,} pieces and the model {vocab_size:,}; "
            "they do not belong together: get the folder again"
        )
    return tokenizer


def longest_input(folder: Path) -> int:
    """The longest input that a model folder's tokenizer_config.json names; without limit where it names none."""
    try:
        return max(1, int(read_json(folder / "tokenizer_config.json")["model_max_length"]))  # some write 1e30 for "any"
    except (ValueError, KeyError, TypeError, OverflowError):
        return sys.maxsize


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
    raise UserError(
        f"tokenizer '{source}' does not exist{suggestion(str(source), ('wordpiece', 'bpe', 'an existing path'))}"
    )


def _load_json(file: Path, config: dict[str, Any], names: dict[str, str]) -> Tokenizer:
    content = _read_object(file)
    normalizer = content.get("normalizer")
    given = {ours: config[theirs] for theirs, ours in BERT_OPTIONS.items() if theirs in config}
    if given and _is_bert(config) and isinstance(normalizer, dict) and normalizer.get("type") == "BertNormalizer":
        content = content | {"normalizer": normalizer | given}  # transformers follows its configuration here
    try:
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(content))
        tokenizer.encode("a")  # some faults show only here
    except Exception as error:  # the library raises nothing more special
        raise UserError(f"{file} is not a tokenizer ({error}); save it again, or give another --tokenizer") from error
    _require_names(file, tokenizer.get_vocab(with_added_tokens=True), names)
    return Tokenizer(json.loads(tokenizer.to_str()) if complete(tokenizer, names) else content, names)


def _load_vocabulary(file: Path, config: dict[str, Any], names: dict[str, str]) -> Tokenizer:
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")  # a line end only: pieces may hold any other separator
    except (UnicodeDecodeError, OSError) as error:
        raise UserError(f"{file} is not a vocabulary ({error}); give a vocab.txt with one piece a line") from error
    vocabulary = {piece: number for number, piece in enumerate(lines) if piece}
    _require_names(file, vocabulary, names)
    lowercase = config.get("do_lower_case")
    if lowercase is None:
        ordinary = (piece for piece in vocabulary if not (piece.startswith("[") and piece.endswith("]")))
        lowercase = not any(piece != piece.lower() for piece in ordinary)
    strip_accents = config.get("strip_accents")
    pipeline = bert_pipeline(
        lowercase=lowercase,
        strip_accents=lowercase if strip_accents is None else strip_accents,
        split_chinese=config.get("tokenize_chinese_chars", True),
    )
    model = models.WordPiece(vocabulary, unk_token=names["unk_token"], max_input_chars_per_word=LONGEST_WORD)
    return assemble(pipeline, model, names)


def _require_names(file: Path, vocabulary: dict[str, int], names: dict[str, str]) -> None:
    missing = [name for name in names.values() if name not in vocabulary]
    if missing:
        raise UserError(f"{file} has no {', '.join(missing)}; a BERT needs them, give another --tokenizer")


def _is_bert(config: dict[str, Any]) -> bool:
    return str(config.get("tokenizer_class") or "Bert").startswith("Bert")


def _content(token: Any) -> str | None:
    """The text of a token, which transformers writes as a string or as an object."""
    return token.get("content") if isinstance(token, dict) else token


def _read_object(file: Path) -> dict[str, Any]:
    """A JSON object; an empty one when the file does not exist."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({error}); save the tokenizer again") from error
    if not isinstance(value, dict):
        raise UserError(f"{file} holds no JSON object; save the tokenizer again")
    return value
