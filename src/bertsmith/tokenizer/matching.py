"""Which pieces of two vocabularies stand for the same text, whatever marks where a word begins."""

import json
from collections import defaultdict
from typing import NamedTuple

from tokenizers import decoders

from bertsmith.tokenizer.tokenizer import Tokenizer

_SPACE = "\u2581"
"""Stands for a space in SentencePiece."""


class _Form(NamedTuple):
    """What a piece stands for."""

    begins_word: bool
    text: str


def same_pieces(new: Tokenizer, old: Tokenizer) -> dict[int, list[int]]:
    """Find the pieces of one vocabulary in another.

    Vocabularies that mark words alike are compared by their pieces: "##ing" is "##ing". Others by what a piece
    stands for: "the" and "##ing" of WordPiece are "\u0120the" and "ing" of byte-level BPE. Signs are found whether
    they begin a word or not, since WordPiece makes each a word. Special tokens have names.

    Args:
        new: Whose pieces are looked for.
        old: In which.

    Returns:
        For each id of `new` that is there, its ids in `old`, at least one.
    """
    pieces = new.tokens(range(new.vocab_size))
    named = {i for i, piece in enumerate(pieces) if new.token_to_id(piece) == i}  # some ids have no piece
    if _marks(new) != _marks(old):
        named -= set(new.ordinary_ids().tolist())
    found = {i: [known] for i in sorted(named) if (known := old.token_to_id(pieces[i])) is not None}
    if _marks(new) == _marks(old):
        return found
    places: defaultdict[_Form, list[int]] = defaultdict(list)
    for index, form in _forms(old).items():
        places[form].append(index)
        if not any(map(str.isalnum, form.text)):
            places[form._replace(begins_word=not form.begins_word)].append(index)
    return found | {index: places[form] for index, form in _forms(new).items() if form in places}


def _marks(tokenizer: Tokenizer) -> str:
    """What tells pieces that begin a word from others: a prefix, bytes with a space among them, or a sign."""
    content = tokenizer.content()
    if content["model"]["type"] == "WordPiece":
        return f"prefix {content['model'].get('continuing_subword_prefix')}"
    return "bytes" if '"ByteLevel"' in json.dumps([content["pre_tokenizer"], content["decoder"]]) else "sign"


def _forms(tokenizer: Tokenizer) -> dict[int, _Form]:
    """What each ordinary piece stands for; of bytes, those that are whole characters."""
    kind, _, prefix = _marks(tokenizer).partition(" ")
    decode = decoders.ByteLevel().decode
    forms = {}
    ids = tokenizer.ordinary_ids().tolist()
    for index, piece in zip(ids, tokenizer.tokens(ids), strict=True):
        if kind == "prefix":
            is_inside = piece.startswith(prefix) and piece != prefix
            form = _Form(not is_inside, piece.removeprefix(prefix) if is_inside else piece)
        else:
            text = decode([piece]) if kind == "bytes" else piece.replace(_SPACE, " ")
            form = _Form(text.startswith(" "), text.removeprefix(" "))
        if form.text and "\ufffd" not in form.text:
            forms[index] = form
    return forms
