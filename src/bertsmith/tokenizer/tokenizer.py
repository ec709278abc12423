"""What the rest of the project calls: text to ids, ids to text, facts about the vocabulary."""

import copy
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import tokenizers
from tokenizers import Encoding

from bertsmith.atomic import write_json, write_text
from bertsmith.tokenizer.remember import Encoded, Remembering, flat_ids, way_to_cut

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""Ids 0 to 4 of a trained vocabulary."""

ROLES = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
"""What each of `SPECIAL_TOKENS` is called in a tokenizer_config.json."""

WORD_MARKERS = ("\u0120", "\u2581")
"""Begin the first piece of a word where no prefix marks the others: byte-level BPE, SentencePiece."""

_UNUSED = re.compile(r"\[unused\d+\]")
_SURROGATE = re.compile("[\ud800-\udfff]")

_T = TypeVar("_T")

BERT_OPTIONS = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}
"""Options in a tokenizer_config.json and in a BertNormalizer."""


class Tokenizer:
    """Turns text into token ids and back. Stands on one tokenizer.json, and never changes."""

    def __init__(self, content: dict[str, Any], names: Mapping[str, str]) -> None:
        """Wrap a complete tokenizer.

        Args:
            content: A tokenizer.json, parsed. It adds [CLS] and [SEP], and neither truncates nor pads.
            names: The token of each of `ROLES`; all are in the vocabulary.
        """
        self._content = content
        self.names = {role: names[role] for role in ROLES}
        """The token of each of `ROLES`."""

        self._tokenizer = tokenizers.Tokenizer.from_str(json.dumps(content))
        self._vocabulary: dict[str, int] = self._tokenizer.get_vocab(with_added_tokens=True)
        ids = [self._vocabulary[self.names[role]] for role in ROLES]
        self.pad_token_id, self.unk_token_id, self.cls_token_id, self.sep_token_id, self.mask_token_id = ids
        self.vocab_size = max(self._vocabulary.values()) + 1
        """Rows that an embedding table needs: the highest id plus 1."""

    @cached_property
    def _literal(self) -> tokenizers.Tokenizer:
        """The same tokenizer, to which "[MASK]" in a text is a bracket, a word and a bracket."""
        literal = tokenizers.Tokenizer.from_str(json.dumps(self._content))
        literal.encode_special_tokens = True
        return literal

    def encode_corpus(self, sentences: Sequence[str]) -> Encoded:
        """Turn text of a corpus into ids.

        Text that spells a special token, such as "[SEP]", is ordinary text here:
        whoever writes a corpus must not be able to end a sentence in the model's eyes.

        Args:
            sentences: Tokenised each by itself.

        Returns:
            The ids of all sentences, without [CLS] and [SEP], and how many each has; none for a sentence without
            characters.
        """
        return self._corpus_encoder(sentences)

    def encode_sentences(self, sentences: Sequence[str]) -> list[list[int]]:
        """The ids of each sentence by itself, as in `encode_corpus`."""
        encoded = self.encode_corpus(sentences)
        return [part.tolist() for part in np.split(encoded.ids, np.cumsum(encoded.lengths)[:-1])][: len(sentences)]

    def encode_running(self, sentences: Sequence[str]) -> Encoded:
        """The ids of sentences as they stand in running text.

        A tokenizer to which " b" is not "b" gets each with the space before it, as what it was trained on had it.
        """
        return self.encode_corpus([f" {each}" for each in sentences] if self.reads_space else sentences)

    @cached_property
    def _corpus_encoder(self) -> Callable[[Sequence[str]], Encoded]:
        """What `encode_corpus` calls: one that remembers, where that is right."""
        if cut := way_to_cut(self._content):
            return Remembering(self._encode_literally, cut)
        return lambda sentences: flat_ids(self._encode_literally(sentences))

    def _encode_literally(self, sentences: Sequence[str]) -> list[list[int]]:
        encode = self._literal.encode_batch_fast
        encodings = _without_surrogates(lambda texts: encode(texts, add_special_tokens=False), list(sentences))
        return [encoding.ids for encoding in encodings]

    def encode_texts(self, texts: Sequence[str]) -> list[Encoding]:
        """Turn texts into ids, each with [CLS] and [SEP]; "[SEP]" in a text is ordinary text, as in a corpus.

        Returns:
            For each text an encoding as `encode` gives it.
        """
        return _without_surrogates(self._literal.encode_batch, list(texts))

    def encode(self, text: str, pair: str | None = None) -> Encoding:
        """Turn what a user typed into ids, with [CLS] and [SEP]; "[MASK]" is the mask token here.

        Args:
            text: The first sentence.
            pair: The second sentence.

        Returns:
            `ids`, `type_ids` (0 up to the first [SEP], then 1), `offsets` (characters of the text that a
            token stands for) and `word_ids` (None for special tokens), lists of one length.
        """
        if pair is None:
            return _without_surrogates(lambda texts: self._tokenizer.encode(texts[0]), [text])
        return _without_surrogates(lambda texts: self._tokenizer.encode(texts[0], texts[1]), [text, pair])

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """Text that the ids stand for, as far as the normaliser kept it."""
        return self._tokenizer.decode([int(each) for each in ids], skip_special_tokens=skip_special_tokens)

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """The piece of each id; the unknown token for an id without one."""
        return [self._tokenizer.id_to_token(int(each)) or self.names["unk_token"] for each in ids]

    def token_to_id(self, token: str) -> int | None:
        """The id of a piece, None when the vocabulary does not hold it."""
        return self._vocabulary.get(token)

    def continues_word(self) -> npt.NDArray[np.bool_]:
        """Whether each piece goes on with the word of the piece before it, for whole-word masking.

        Returns:
            bool [vocab_size]. True for "##x" of WordPiece, for pieces that do not begin with the space
            marker of byte-level BPE (a comma counts to the word before it), False for special tokens.
        """
        prefix = self._content["model"].get("continuing_subword_prefix")
        marked = any(token.startswith(WORD_MARKERS) for token in self._vocabulary)
        special = self._special_ids()
        continues = np.zeros(self.vocab_size, dtype=np.bool_)
        for token, index in self._vocabulary.items():
            if index in special:
                continue
            if prefix:
                continues[index] = token.startswith(prefix) and token != prefix
            else:
                continues[index] = marked and not token.startswith(WORD_MARKERS)
        return continues

    def ordinary_ids(self) -> npt.NDArray[np.int64]:
        """Ids that a random replacement may be drawn from.

        Returns:
            int64, increasing. No special tokens, no "[unused0]" and the like, no ids without a piece.
        """
        special = self._special_ids()
        ordinary = (i for token, i in self._vocabulary.items() if i not in special and not _UNUSED.fullmatch(token))
        return np.array(sorted(ordinary), dtype=np.int64)

    def _special_ids(self) -> set[int]:
        """Ids of the five roles and of everything else that the file calls special."""
        added = self._tokenizer.get_added_tokens_decoder()
        named = {self._vocabulary[name] for name in self.names.values()}
        return named | {index for index, token in added.items() if token.special}

    @cached_property
    def pair_form(self) -> tuple[int, bool]:
        """How two texts are joined: separator tokens between them, and whether the second has type ids of its own.

        (1, True), or (2, False) as in RoBERTa.
        """
        pair = self.encode("a", "a")
        return pair.ids.count(self.sep_token_id) - 1, 1 in pair.type_ids

    @cached_property
    def reads_space(self) -> bool:
        """Whether a word after another one has other ids than alone, where no space stands before it."""
        first, second, both = self.encode_sentences(["a", "b", "a b"])
        return first + second != both

    def save(
        self,
        folder: Path,
        *,
        model_max_length: int,
        model_input_names: Sequence[str] = ("input_ids", "token_type_ids", "attention_mask"),
    ) -> None:
        """Write tokenizer.json and tokenizer_config.json, as transformers loads them.

        Args:
            folder: Made if it is missing.
            model_max_length: Longest input of the model, in tokens.
            model_input_names: What the model takes.
        """
        folder.mkdir(parents=True, exist_ok=True)
        config = {
            # With BertTokenizer transformers 5 puts its own normaliser in the place of the saved one.
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": model_max_length,
            "model_input_names": list(model_input_names),
            "clean_up_tokenization_spaces": False,
            **self.names,
        }
        normalizer = self._content.get("normalizer") or {}
        if normalizer.get("type") == "BertNormalizer":  # for who asks for transformers' BertTokenizer by name
            config |= {theirs: normalizer[ours] for theirs, ours in BERT_OPTIONS.items()}
        write_text(folder / "tokenizer.json", json.dumps(self._content, indent=1, ensure_ascii=False) + "\n")
        write_json(folder / "tokenizer_config.json", config)

    def content(self) -> dict[str, Any]:
        """A copy of the tokenizer.json, parsed."""
        return copy.deepcopy(self._content)

    def fingerprint(self) -> str:
        """Hash of everything that decides the ids: SHA-256 of the tokenizer.json, whatever its layout."""
        canonical = json.dumps(self._content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def _without_surrogates(encode: Callable[[list[str]], _T], texts: list[str]) -> _T:
    """Call the library, and again with U+FFFD in the place of lone surrogates, which it refuses.

    JSON can hold them, and looking for them in every text would cost more than this.
    """
    try:
        return encode(texts)
    except TypeError:
        return encode([replace_surrogates(text) for text in texts])


def replace_surrogates(text: str) -> str:
    """Put U+FFFD in the place of lone surrogates, which are no characters and have no UTF-8."""
    return _SURROGATE.sub("\ufffd", text)
