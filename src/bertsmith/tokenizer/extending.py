"""Adding words of a text to a WordPiece vocabulary: those that it cuts most often into pieces."""

import json
from collections.abc import Iterable

import tokenizers

from bertsmith.errors import UserError
from bertsmith.tokenizer.tokenizer import Tokenizer
from bertsmith.tokenizer.training import count_with

LEAST_COUNT = 5
"""A word is seen at least so often: one that is seen less is hardly learnt."""


def extend_tokenizer(tokenizer: Tokenizer, texts: Iterable[str], count: int) -> Tokenizer:
    """Give whole words a piece of their own; all ids that there are stay.

    Those are taken whose pieces, times how often the word was seen, save most tokens; of equal
    ones the first by their characters. Words without a letter, and those of which a part is unknown, are left out.

    Args:
        tokenizer: A WordPiece.
        texts: Any parts of the text, read once.
        count: Words to add.

    Returns:
        A new tokenizer; the ids of the words follow the highest there was.

    Raises:
        UserError: The tokenizer is none, or the text has fewer such words.
    """
    content = tokenizer.content()
    if content["model"]["type"] != "WordPiece":
        raise UserError(
            f"extend_vocab is {count}, but the tokenizer is {content['model']['type']}, and words can be added to "
            "WordPiece alone; leave it out, or train a new one with --tokenizer wordpiece"
        )
    words = count_with(tokenizers.Tokenizer.from_str(json.dumps(content)), texts)
    seen = sorted(word for word, times in words.items() if times >= LEAST_COUNT and any(map(str.isalpha, word)))
    pieces = dict(zip(seen, tokenizer.encode_sentences(seen), strict=True))
    saved = {
        word: words[word] * (len(ids) - 1)
        for word, ids in pieces.items()
        if len(ids) > 1 and tokenizer.unk_token_id not in ids
    }
    if len(saved) < count:
        cure = f"use --extend-vocab {len(saved)} or less" if saved else "leave --extend-vocab out"
        raise UserError(
            f"extend_vocab is {count:,}, but only {len(saved):,} words that are cut into pieces are seen {LEAST_COUNT} "
            f"times or more; {cure}, or give more text"
        )
    chosen = sorted(saved, key=lambda word: (-saved[word], word))[:count]
    content["model"]["vocab"] |= {word: tokenizer.vocab_size + number for number, word in enumerate(chosen)}
    return Tokenizer(content, tokenizer.names)
