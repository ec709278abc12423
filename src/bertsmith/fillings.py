"""Held-out sentences with one word hidden, the same ones always, and what a model guesses for it.

What the model learns from is the user's: a run keeps these sentences for its own folder alone.
"""

import unicodedata
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bertsmith.data.examples import TokenSource
from bertsmith.data.packing import Int64Array
from bertsmith.model import AnyPretrainingModel
from bertsmith.predict import guess
from bertsmith.tokenizer import Tokenizer

EXAMPLES = 5
"""Sentences."""

CANDIDATES = 3
"""Guesses kept for each."""

SENTENCE_TOKENS = (8, 40)
"""Shortest and longest sentence that is shown: enough to guess from, and not more than a line or two."""

SENTENCES_TRIED = 1000
"""Sentences looked at for one example. Text without fitting ones gives fewer examples."""


class Example(NamedTuple):
    """A sentence with one word hidden."""

    ids: list[int]
    """With [CLS] and [SEP], and [MASK] for the word."""

    truth: int
    """Id of the word."""


class Filling(NamedTuple):
    """A sentence with one word hidden, and what a model guesses there."""

    before: str
    """The sentence up to the hidden word."""

    mask: str
    after: str
    truth: str
    guesses: list[tuple[str, float]]
    """Pieces with their probabilities, best first."""


def fill_examples(model: AnyPretrainingModel, tokenizer: Tokenizer, examples: Iterable[Example]) -> list[Filling]:
    """Guess the hidden words of examples.

    Args:
        model: On any device, in any mode; it is left as it was.
        tokenizer: The one it was trained with.
        examples: As `hide_words` gives them.
    """
    fillings = []
    mask = tokenizer.tokens([tokenizer.mask_token_id])[0]
    for example in examples:
        (candidates,) = guess(model, tokenizer, example.ids, top_k=CANDIDATES)
        ids = example.ids[1:-1]
        text = tokenizer.decode(ids, skip_special_tokens=False)
        spelt = tokenizer.decode(ids[: ids.index(tokenizer.mask_token_id)]).count(mask)  # by the sentence itself
        parts = text.split(mask)
        before, after = mask.join(parts[: spelt + 1]), mask.join(parts[spelt + 1 :])
        truth = tokenizer.decode([example.truth]).strip()
        guesses = [(candidate.token, candidate.probability) for candidate in candidates]
        fillings.append(Filling(before, mask, after, truth, guesses))
    return fillings


def one_line(text: str) -> str:
    """A text as one line, without characters that could steer a terminal."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())


def hide_words(held_out: TokenSource, tokenizer: Tokenizer, *, longest: int) -> Iterator[Example]:
    """Up to `EXAMPLES` sentences from places spread evenly over the text, each with one ordinary word hidden.

    Args:
        held_out: Whole sentences are taken.
        tokenizer: Tells which pieces are words.
        longest: Tokens that the model reads, [CLS] and [SEP] included.
    """
    fewest, most = SENTENCE_TOKENS
    most = min(most, longest - 2)
    continues = tokenizer.continues_word()
    bounds = np.append(held_out.sentence_starts, held_out.num_tokens)
    lengths = np.diff(bounds)
    fitting = np.flatnonzero((lengths >= fewest) & (lengths <= most))
    for part in np.array_split(fitting, EXAMPLES):
        for number in part[:SENTENCES_TRIED]:
            ids = held_out.take(np.arange(bounds[number], bounds[number + 1]))
            words = ordinary_words(ids, continues, tokenizer)
            if words:
                place = words[len(words) // 2]
                hidden = [*ids[:place].tolist(), tokenizer.mask_token_id, *ids[place + 1 :].tolist()]
                yield Example([tokenizer.cls_token_id, *hidden, tokenizer.sep_token_id], int(ids[place]))
                break


def ordinary_words(ids: Int64Array, continues: npt.NDArray[np.bool_], tokenizer: Tokenizer) -> list[int]:
    """Find the words of a sentence that are worth guessing.

    Args:
        ids: [L]. A sentence.
        continues: [V]. Whether a piece goes on with a word.
        tokenizer: Spells the pieces.

    Returns:
        Places of the words that are one piece of letters alone: 4 or more, which leaves out most function
        words, or any number in a script without upper case, such as Chinese, where words are shorter.
    """
    inside = continues[ids]
    alone = np.flatnonzero(~inside & ~np.append(inside[1:], False))
    words = {int(place): tokenizer.decode([int(ids[place])]).strip() for place in alone}
    return [
        place
        for place, word in words.items()
        if (len(word) >= 4 or word.lower() == word.upper()) and word and all(map(_is_letter, word))
    ]


def _is_letter(character: str) -> bool:
    """A letter, or a mark that belongs to one."""
    return unicodedata.category(character)[0] in "LM"
