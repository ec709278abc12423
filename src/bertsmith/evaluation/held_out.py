"""Text to measure on: a fixed sample of it, as training rows of one model or as sentences.

Which parts are taken is decided by hashes of the text, so it is the same for
every model, whatever its tokenizer, and on every machine.
"""

import heapq
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from bertsmith.corpus import Section, split_sentences
from bertsmith.corpus.documents import WORD_CHARACTERS
from bertsmith.data.examples import Objective, SpecialIds, TrainingRows
from bertsmith.data.keyed import text_hash
from bertsmith.data.masking import Masking
from bertsmith.data.packing import Int64Array
from bertsmith.errors import UserError
from bertsmith.planning.from_settings import VALIDATION_MLM_PROBABILITY, VALIDATION_SEED
from bertsmith.prepare.chunks import section_share, shard_content
from bertsmith.tokenizer import Tokenizer

TEXT_WORDS = 400_000
"""Of a longer text so many words are measured, about 4,096 rows of 128 tokens."""


class Sample(NamedTuple):
    """Whole sections of a text."""

    sections: list[Section]
    """In the order of their hashes."""

    words: int
    all_words: int
    """Of the whole text."""


def count_words(text: str) -> int:
    """Words by the spaces between them, or eighths of characters where these are more."""
    return max(len(text.split()), len(text) // WORD_CHARACTERS)


def sample_sections(sections: Iterable[Section], words: int = TEXT_WORDS) -> Sample:
    """Take sections in the order of their hashes until they hold so many words. What is not taken is not kept.

    Args:
        sections: A text; read once.
        words: Fewest words of the sample, where the text has them.
    """
    held: list[tuple[float, int, int, Section]] = []  # a heap; the highest hash on top
    kept = total = 0
    for number, section in enumerate(sections):
        size = count_words(section.text)
        heapq.heappush(held, (-section_share(section, b"evaluate"), -number, size, section))
        kept, total = kept + size, total + size
        while kept - held[0][2] >= words:
            kept -= heapq.heappop(held)[2]
    return Sample([section for *_, section in sorted(held, reverse=True)], kept, total)


def sample_sentences(sections: Iterable[Section], most_words: int) -> list[str]:
    """Distinct sentences in the order of their hashes, `most_words` words at most but one sentence at least."""
    distinct = dict.fromkeys(sentence for section in sections for sentence in split_sentences(section.text))
    taken: list[str] = []
    words = 0
    for sentence in sorted(distinct, key=text_hash):
        words += count_words(sentence)
        if words > most_words and taken:
            break
        taken.append(sentence)
    return taken


class TextTokens:
    """A text in memory as the token source of `TrainingRows`."""

    def __init__(self, sections: Iterable[Section], tokenizer: Tokenizer) -> None:
        """Turn sections into ids, as `bertsmith prepare` does.

        Args:
            sections: The text.
            tokenizer: Makes the ids.

        Raises:
            UserError: The text has no token.
        """
        held = sorted(sections, key=lambda section: section.document)  # sections of a document stand together
        documents, texts = [section.document for section in held], [section.text for section in held]
        content = shard_content(documents, texts, tokenizer)
        self.ids = content.ids.astype(np.int64)
        self.num_tokens = len(self.ids)
        if not self.num_tokens:
            raise UserError("the text has no token; give a text with words")
        self.section_starts = content.section_starts.astype(np.int64)
        self.section_document = content.section_document
        self.sentence_starts = content.sentence_starts.astype(np.int64)

    def take(self, places: Int64Array) -> Int64Array:
        """Token ids at places of the text."""
        return self.ids[places]


def text_rows(
    source: TextTokens,
    tokenizer: Tokenizer,
    *,
    sequence_length: int,
    objective: Objective,
) -> TrainingRows:
    """Rows of a text, with masks as in every run: the same for any two models with one tokenizer.

    Args:
        source: The text as ids of the tokenizer.
        tokenizer: What made them.
        sequence_length: Places in a row.
        objective: Without pairs, with next sentences or with the order of sentences.
    """
    return TrainingRows(
        source,
        sequence_length=sequence_length,
        objective=objective,
        special=SpecialIds(tokenizer.pad_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id),
        masking=Masking(
            mlm_probability=VALIDATION_MLM_PROBABILITY,
            mask_token_id=tokenizer.mask_token_id,
            replacement_ids=tokenizer.ordinary_ids(),
            seed=VALIDATION_SEED,
        ),
        short_sequence_probability=0.0,
        seed=VALIDATION_SEED,
    )
