"""From a vocabulary to a complete tokenizer: normaliser, words, special tokens, [CLS] and [SEP]."""

import json
from collections.abc import Mapping

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

from bertsmith.tokenizer.tokenizer import ROLES, SPECIAL_TOKENS, Tokenizer
from bertsmith.tokenizer.words import WORD_PATTERN

DEFAULT_NAMES = dict(zip(ROLES, SPECIAL_TOKENS, strict=True))


def bert_pipeline(*, lowercase: bool, strip_accents: bool, split_chinese: bool = True) -> tokenizers.Tokenizer:
    """A tokenizer without pieces that cuts text into words as BERT does.

    Control characters go, white space becomes a space, Chinese characters and punctuation stand alone.
    """
    tokenizer = tokenizers.Tokenizer(models.WordPiece())
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=split_chinese, strip_accents=strip_accents, lowercase=lowercase
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    return tokenizer


def byte_pipeline(*, lowercase: bool, strip_accents: bool) -> tokenizers.Tokenizer:
    """A tokenizer without pieces that cuts text into words of bytes, the space before a word included.

    Text that looks the same becomes the same (Unicode NFC), begins with a space, and any white space becomes one
    space: a space is a token here, and tables and indented text would be full of them.
    """
    tokenizer = tokenizers.Tokenizer(models.BPE())
    steps: list[normalizers.Normalizer] = [normalizers.NFD()] if strip_accents else []
    steps += [normalizers.Lowercase()] if lowercase else []
    steps += [normalizers.StripAccents()] if strip_accents else []
    steps += [normalizers.NFC(), normalizers.Prepend(" "), normalizers.Replace(Regex(r"\s+"), " ")]
    tokenizer.normalizer = normalizers.Sequence(steps)
    words = pre_tokenizers.Split(Regex(WORD_PATTERN), behavior="isolated")
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, as_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def assemble(pipeline: tokenizers.Tokenizer, model: models.Model, names: Mapping[str, str]) -> Tokenizer:
    """Put a model into a pipeline and complete it.

    Args:
        pipeline: One of the above; changed in place.
        model: Holds the pieces.
        names: The token of each of `ROLES`; all are among the pieces.
    """
    pipeline.model = model
    complete(pipeline, names)
    return Tokenizer(json.loads(pipeline.to_str()), names)


def complete(tokenizer: tokenizers.Tokenizer, names: Mapping[str, str]) -> bool:
    """Make a tokenizer what the project expects of one, whoever made it.

    Special tokens are found in text, [CLS] A [SEP] and [CLS] A [SEP] B [SEP] are made with type ids 0 and 1,
    and nothing is truncated or padded.

    Args:
        tokenizer: Changed in place.
        names: The token of each of `ROLES`; all are among its pieces.

    Returns:
        Whether anything had to be changed.
    """
    changed = False
    found = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    byte_level = isinstance(tokenizer.decoder, decoders.ByteLevel)
    for role in ROLES:
        if names[role] not in found:
            # Training hides a word together with the space before it, so [MASK] in a text takes that space too.
            takes_space = byte_level and role == "mask_token"
            tokenizer.add_special_tokens([AddedToken(names[role], special=True, normalized=False, lstrip=takes_space)])
            changed = True
    if tokenizer.truncation is not None or tokenizer.padding is not None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        changed = True
    if not _makes_pairs(tokenizer, names):
        tokenizer.post_processor = _template(tokenizer, names, byte_level=byte_level)
        changed = True
    return changed


def _makes_pairs(tokenizer: tokenizers.Tokenizer, names: Mapping[str, str]) -> bool:
    """Whether a tokenizer adds [CLS] and [SEP] as training does."""
    cls, sep = (tokenizer.token_to_id(names[role]) for role in ("cls_token", "sep_token"))
    text = tokenizer.encode("a", add_special_tokens=False).ids
    single, pair = tokenizer.encode("a"), tokenizer.encode("a", "a")
    first, second = [cls, *text, sep], [*text, sep]
    return (
        single.ids == first
        and pair.ids == first + second
        and pair.type_ids == [0] * len(first) + [1] * len(second)
        and single.type_ids == [0] * len(first)
    )


def _template(
    tokenizer: tokenizers.Tokenizer, names: Mapping[str, str], *, byte_level: bool
) -> processors.PostProcessor:
    """What adds [CLS] and [SEP]."""
    cls, sep = names["cls_token"], names["sep_token"]
    template = processors.TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (cls, sep)],
    )
    # Offsets of a byte-level token would hold the space before the word.
    return processors.Sequence([processors.ByteLevel(trim_offsets=True), template]) if byte_level else template
