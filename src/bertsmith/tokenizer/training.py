"""Training a vocabulary: the same text gives the same pieces in any process, on any number of threads.

The library alone does not promise that for WordPiece: it numbers the characters
inside words in the order of a hash table, and the numbers break ties between
equally frequent pairs. So every character piece is given to it in a fixed
order, as a special token, and the vocabulary that comes out is put into a
tokenizer that knows only the five real special tokens.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping

import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from bertsmith.errors import UserError, suggestion
from bertsmith.tokenizer.assembly import DEFAULT_NAMES, assemble, bert_pipeline, byte_pipeline
from bertsmith.tokenizer.tokenizer import SPECIAL_TOKENS, Tokenizer, replace_surrogates
from bertsmith.tokenizer.words import (
    COVERAGE,
    LONGEST_WORD,
    NEEDED_COVERAGE,
    as_text,
    character_pieces,
    count_words,
    spelt_with,
)

KINDS = ("wordpiece", "bpe")
SMALLEST_CHOICE, LARGEST_CHOICE = 2_048, 32_768
_TILE = 64
_LEAST_FREQUENCY = 2
"""A piece is seen at least so often: one that is seen once cannot be learnt."""

_BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
_Learn = Callable[[int], tuple[models.Model, int]]
"""Gives a model of at most so many pieces, and how many it has."""


def choose_vocab_size(text_bytes: int) -> int:
    """Number of pieces for a text of the given size, where the user names none.

    8,192 for 10 MB, and twice as many for ten times the text: the number of
    distinct words of a text grows with a power of its size (Heaps' law), and so
    the rarest pieces are seen about equally often at any size. At most 32,768:
    above, the embeddings are most of a small model and each costs a row of the
    output matrix at every masked token. At least 2,048: below, most words fall
    apart into characters. A multiple of 64: the matrix kernels of GPUs work on
    tiles of that size and are slower with a remainder.

    Args:
        text_bytes: Size of the training text in UTF-8.

    Returns:
        2,048 for 100 KB and less, 4,096 for 1 MB, 8,192 for 10 MB, 16,384 for 100 MB, 32,768 for 1 GB and more.
    """
    size = 8_192 * 2 ** math.log10(max(text_bytes, 1) / 1e7)
    return min(max(round(size / _TILE) * _TILE, SMALLEST_CHOICE), LARGEST_CHOICE)


def train_tokenizer(
    texts: Iterable[str],
    *,
    kind: str,
    vocab_size: int,
    lowercase: bool = True,
    strip_accents: bool | None = None,
    at_most: bool = False,
) -> Tokenizer:
    """Train a tokenizer on a text.

    Args:
        texts: Any parts of the text, read once. Memory is bounded whatever its size; time is not.
        kind: "wordpiece" as in BERT, or byte-level "bpe", which knows every character of Unicode.
        vocab_size: Number of pieces, the five special tokens included.
        lowercase: Lower-case the text.
        strip_accents: Remove accents; None: exactly when lower-casing, as BERT does.
        at_most: Nobody asked for exactly `vocab_size`. A text that gives fewer pieces gets a smaller vocabulary,
            a multiple of 64 where that matters; one whose characters alone need more gets a larger one.

    Raises:
        UserError: The kind is unknown, the text has no words, gives fewer pieces than `vocab_size`, or needs
            more for its characters alone.
    """
    if kind not in KINDS:
        raise UserError(f"tokenizer is '{kind}'{suggestion(kind, KINDS)}")
    make_pipeline = bert_pipeline if kind == "wordpiece" else byte_pipeline
    pipeline = make_pipeline(lowercase=lowercase, strip_accents=lowercase if strip_accents is None else strip_accents)
    words = count_with(pipeline, texts, of_bytes=kind == "bpe")
    if not words:
        long = f" of at most {LONGEST_WORD} letters" if kind == "wordpiece" else ""
        cure = "--tokenizer bpe, " if kind == "wordpiece" else ""
        raise UserError(
            f"the text holds no words{long} to train a tokenizer on; give {cure}more text, or a --tokenizer that exists"
        )
    smallest, learn = _wordpiece_plan(words) if kind == "wordpiece" else _bpe_plan(words)
    if vocab_size < smallest and at_most:
        vocab_size = smallest * 3 // 2 // _TILE * _TILE + _TILE  # room for words beside thousands of characters
    if vocab_size < smallest:
        raise UserError(
            f"vocab_size is {vocab_size:,}, but the characters of this text and the special tokens alone need "
            f"{smallest:,} pieces; use --vocab-size {smallest} or more"
        )
    model, size = learn(vocab_size)
    if size < vocab_size:
        if not at_most:
            raise UserError(
                f"vocab_size is {vocab_size:,}, but this text gives only {size:,} pieces; use --vocab-size {size} "
                "or less, or give more text"
            )
        if size > _TILE * _TILE:  # below, a remainder costs nothing
            model, _ = learn(size // _TILE * _TILE)
    return assemble(pipeline, model, DEFAULT_NAMES)


def count_with(pipeline: tokenizers.Tokenizer, texts: Iterable[str], *, of_bytes: bool = False) -> dict[str, int]:
    """Count words as a pipeline makes them.

    Args:
        pipeline: One of `assembly.py`.
        texts: Read once.
        of_bytes: It is `byte_pipeline`: a word holds the space before it, and one that is too long is cut in parts.
            Else such a word is left out.
    """
    normalizer, pre_tokenizer = pipeline.normalizer, pipeline.pre_tokenizer

    def normalise(string: str) -> str:
        if normalizer is None:
            return string
        try:
            return str(normalizer.normalize_str(string))
        except UnicodeEncodeError:
            return str(normalizer.normalize_str(replace_surrogates(string)))

    def cut(string: str) -> Iterator[str]:
        for word, _ in pre_tokenizer.pre_tokenize_str(f" {string}" if of_bytes else string):
            if len(word) <= LONGEST_WORD:
                yield word
            elif of_bytes:
                yield from (word[start : start + LONGEST_WORD] for start in range(0, len(word), LONGEST_WORD))

    return count_words(texts, normalise, cut)


def _wordpiece_plan(words: Mapping[str, int]) -> tuple[int, _Learn]:
    """The fewest pieces that WordPiece needs for these words, and what learns a number of pieces.

    Rare characters get no more than a third of the vocabulary, unless there are too few other pieces to fill it.
    """
    pieces = character_pieces(words)
    needed, wanted = (sum(covered < share for _, covered in pieces) for share in (NEEDED_COVERAGE, COVERAGE))

    def learn(size: int) -> tuple[models.Model, int]:
        room = size - len(SPECIAL_TOKENS)
        kept = max(needed, min(wanted, room // 3))
        vocabulary = _merge(words, [piece for piece, _ in pieces[:kept]], size)
        if len(vocabulary) < size and kept < len(pieces):
            vocabulary = _merge(words, [piece for piece, _ in pieces[:room]], size)
        model = models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=LONGEST_WORD)
        return model, len(vocabulary)

    return len(SPECIAL_TOKENS) + needed, learn


def _merge(words: Mapping[str, int], pieces: Iterable[str], size: int) -> dict[str, int]:
    """Join pieces, the most frequent pair first, until there are `size` of them or no pair is left.

    Returns:
        The vocabulary: special tokens, the given pieces in the order of their characters, then the joined ones.
    """
    ordered = sorted(pieces, key=lambda piece: (len(piece), piece))
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        min_frequency=_LEAST_FREQUENCY,
        special_tokens=[*SPECIAL_TOKENS, *ordered],
        limit_alphabet=0,  # no characters but those given
        show_progress=False,
    )
    vocabulary = _train(models.WordPiece(), trainer, spelt_with(words, ordered)).get_vocab()
    return dict(sorted(vocabulary.items(), key=lambda item: item[1]))


def _bpe_plan(words: Mapping[str, int]) -> tuple[int, _Learn]:
    """The fewest pieces that byte-level BPE needs, and what learns a number of pieces."""

    def learn(size: int) -> tuple[models.Model, int]:
        trainer = trainers.BpeTrainer(
            vocab_size=size,
            min_frequency=_LEAST_FREQUENCY,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=_BYTES,
            show_progress=False,
        )
        trained = _train(models.BPE(), trainer, words)
        return trained.model, trained.get_vocab_size()

    return len(SPECIAL_TOKENS) + len(_BYTES), learn


def _train(model: models.Model, trainer: trainers.Trainer, words: Mapping[str, int]) -> tokenizers.Tokenizer:
    """Train on counted words, which the library takes only as text."""
    trained = tokenizers.Tokenizer(model)
    trained.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trained.train_from_iterator(as_text(words), trainer)
    return trained
