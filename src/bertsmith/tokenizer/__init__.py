"""Text to token ids and back: training, saving and loading.

This package alone uses the `tokenizers` library.

    words.py      a text as words with counts, in bounded memory; its characters
    training.py   words -> vocabulary, the same one in every process
    extending.py  words of a text that get a piece of their own
    matching.py   pieces of two vocabularies that stand for the same text
    assembly.py   vocabulary -> complete tokenizer: normaliser, special tokens, [CLS] and [SEP]
    loading.py    files of our own, of transformers and of google-research/bert
    remember.py   ids of the strings between spaces, for encoding a whole corpus
    tokenizer.py  what the rest of the project calls
"""

from bertsmith.tokenizer.extending import extend_tokenizer
from bertsmith.tokenizer.loading import load_fitting_tokenizer, load_tokenizer, longest_input
from bertsmith.tokenizer.matching import same_pieces
from bertsmith.tokenizer.remember import Encoded
from bertsmith.tokenizer.tokenizer import ROLES, SPECIAL_TOKENS, Tokenizer, replace_surrogates
from bertsmith.tokenizer.training import choose_vocab_size, train_tokenizer

__all__ = [
    "ROLES",
    "SPECIAL_TOKENS",
    "Encoded",
    "Tokenizer",
    "choose_vocab_size",
    "extend_tokenizer",
    "load_fitting_tokenizer",
    "load_tokenizer",
    "longest_input",
    "replace_surrogates",
    "same_pieces",
    "train_tokenizer",
]
