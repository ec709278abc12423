"""Pseudo-log-likelihoods: how probable a masked-language model finds each token of a sentence.

A sentence of n tokens becomes n copies, in each of which one token is hidden,
and the score of that token is its log-probability there (Salazar et al.,
"Masked Language Model Scoring", arXiv:1910.14659). A word of several pieces
then gives itself away, so `within_word` hides the pieces to the right of the
scored one in the same word too (Kauf and Ivanova, "A Better Way to Do Masked
Language Model Scoring", arXiv:2305.10588, PLL-word-l2r).

The sum is a score and not a likelihood: the factors do not multiply to a
distribution over sentences. Copies of one length make a batch, so there is no
padding. Letters: n tokens of a sentence, L places of a copy, V vocabulary.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from bertsmith.data.packing import Int64Array
from bertsmith.intervals import ratio_interval
from bertsmith.tokenizer import Tokenizer

Scores = npt.NDArray[np.float64]

CPU_PLACES, GPU_PLACES = 1 << 12, 1 << 16
"""Token places of a batch."""

MOST_PLACES = 512
"""Longest copy of a sentence, also where the model reads more: time and memory grow with the square."""

SPECIAL = -1
"""Word number of [CLS] and [SEP]."""

Tell = Callable[[float], object]
"""Is told the share that is done, in [0, 1]."""


class Scorer(NamedTuple):
    """What scores sentences."""

    network: nn.Module
    """Called as `BertPretrainingModel` is: `network(input_ids, masked_index=...).mlm_logits`."""

    tokenizer: Tokenizer
    max_length: int
    """Longest sequence that it reads, [CLS] and [SEP] included."""


class Sentence(NamedTuple):
    """A text as one model reads it; int64 [n + special tokens]."""

    ids: Int64Array
    """With [CLS] and [SEP]."""

    words: Int64Array
    """Number of the word that each token belongs to, by the tokenizer; SPECIAL for those that are no text."""


def read_sentences(tokenizer: Tokenizer, texts: Sequence[str]) -> list[Sentence]:
    """Turn texts into ids and words; a token without a word is a word of its own."""
    sentences = []
    for encoding in tokenizer.encode_texts(texts):
        words = [-2 - place if word is None else word for place, word in enumerate(encoding.word_ids)]
        is_text = np.asarray(encoding.special_tokens_mask) == 0
        ids = np.asarray(encoding.ids, dtype=np.int64)
        sentences.append(Sentence(ids, np.where(is_text, np.asarray(words, dtype=np.int64), SPECIAL)))
    return sentences


def pseudo_log_likelihoods(
    scorer: Scorer, sentences: Sequence[Sentence], *, within_word: bool, tell: Tell | None = None
) -> list[Scores]:
    """Score every token of every sentence.

    A sentence of more than 512 places, or longer than the model reads, is seen
    through a window for each token: as much as fits, with the token in its middle.

    Args:
        scorer: Its network is in evaluation mode.
        sentences: Equal ones are scored once, so they get equal scores.
        within_word: Hide the pieces to the right in the same word too (PLL-word-l2r).
        tell: Is told how far it is.

    Returns:
        For each sentence float64 [n], natural logarithms, in the order of its tokens without special ones.
    """
    keys = [(sentence.ids.tobytes(), sentence.words.tobytes()) for sentence in sentences]
    distinct = dict(zip(keys, sentences, strict=True))
    numbers = {key: number for number, key in enumerate(distinct)}
    scores = _score(scorer, list(distinct.values()), within_word, tell or float)
    return [scores[numbers[key]] for key in keys]


@dataclass(frozen=True, slots=True)
class PseudoLikelihoodScore:
    """Pseudo-log-likelihood of sentences (PLL-word-l2r): a score and not a likelihood."""

    bits_per_byte: float
    """Minus the scores of all tokens in bits, summed, over the UTF-8 bytes of the sentences as the text has them."""

    interval: tuple[float, float]
    """95 %, for other sentences of the same text."""

    sentences: int
    words: int
    """By the spaces between them."""

    bytes: int
    tokens: int
    unknown_fraction: float
    """Share of the tokens that are unknown: what they stand for the model need not spell."""


def pseudo_likelihood(scorer: Scorer, texts: Sequence[str], tell: Tell | None = None) -> PseudoLikelihoodScore:
    """Score sentences in bits per byte, so that models with different tokenizers can be set side by side.

    Args:
        scorer: The model.
        texts: The sentences, each scored by itself; at least one.
        tell: Is told how far it is.
    """
    sentences = read_sentences(scorer.tokenizer, texts)
    scores = pseudo_log_likelihoods(scorer, sentences, within_word=True, tell=tell)
    bits = np.array([-score.sum() / math.log(2) for score in scores])
    sizes = np.array([float(len(text.encode("utf-8", "replace"))) for text in texts])
    tokens = sum(map(len, scores))
    unknown = sum(int((sentence.ids == scorer.tokenizer.unk_token_id).sum()) for sentence in sentences)
    return PseudoLikelihoodScore(
        float(bits.sum() / sizes.sum()),
        ratio_interval(bits, sizes),
        len(texts),
        sum(len(text.split()) for text in texts),
        int(sizes.sum()),
        tokens,
        unknown / max(tokens, 1),
    )


class _Copies(NamedTuple):
    """A sentence, once for each of its tokens."""

    input_ids: Int64Array
    """int64 [n, L]. With the token, and what else is hidden, as mask tokens."""

    places: Int64Array
    """int64 [n]. Where in its copy the token stands."""

    targets: Int64Array
    """int64 [n]. The token."""


def _copies(sentence: Sentence, *, room: int, mask_token_id: int, within_word: bool) -> _Copies:
    """Hide each token of a sentence in a copy of it, or of the window of `room` tokens around it."""
    text = np.flatnonzero(sentence.words != SPECIAL)
    ids, words = sentence.ids[text], sentence.words[text]
    before, after = sentence.ids[: text[0]], sentence.ids[text[-1] + 1 :]
    here = np.arange(len(ids))
    width = min(len(ids), room)
    first = np.clip(here - width // 2, 0, len(ids) - width)
    seen = first[:, None] + np.arange(width)  # [n, width]
    hidden = seen == here[:, None]
    if within_word:
        hidden |= (seen > here[:, None]) & (words[seen] == words[:, None])
    window = np.where(hidden, mask_token_id, ids[seen])
    left, right = (np.broadcast_to(side, (len(ids), len(side))) for side in (before, after))
    return _Copies(np.concatenate([left, window, right], axis=1), len(before) + here - first, ids)


def _score(scorer: Scorer, sentences: list[Sentence], within_word: bool, tell: Tell) -> list[Scores]:
    """Scores of distinct sentences."""
    scores = [np.zeros(int((sentence.words != SPECIAL).sum())) for sentence in sentences]
    special = [len(sentence.ids) - len(score) for sentence, score in zip(sentences, scores, strict=True)]
    longest = min(scorer.max_length, MOST_PLACES)
    lengths = [min(len(sentence.ids), longest) for sentence in sentences]
    total = sum(len(score) * length for score, length in zip(scores, lengths, strict=True))
    done = 0
    device = next(scorer.network.parameters()).device
    limit = CPU_PLACES if device.type == "cpu" else GPU_PLACES
    order = sorted((number for number, score in enumerate(scores) if len(score)), key=lambda number: -lengths[number])
    copies_of = partial(_copies, mask_token_id=scorer.tokenizer.mask_token_id, within_word=within_word)
    parts = ((number, copies_of(sentences[number], room=longest - special[number])) for number in order)
    for held in _batches(parts, limit):
        joined = _Copies(*(np.concatenate(part) for part in zip(*(copies for _, copies in held), strict=True)))
        found = _log_probabilities(scorer.network, joined, device, limit)
        ends = np.cumsum([len(copies.targets) for _, copies in held])
        for (number, _), values in zip(held, np.split(found, ends[:-1]), strict=True):
            scores[number] = values
        done += joined.input_ids.size
        tell(done / total)
    return scores


def _batches(parts: Iterator[tuple[int, _Copies]], limit: int) -> Iterator[list[tuple[int, _Copies]]]:
    """Gather the copies of sentences of one length until they fill a batch."""
    held: list[tuple[int, _Copies]] = []
    size = 0
    for number, copies in parts:
        more = copies.input_ids.size
        if held and (held[0][1].input_ids.shape[1] != copies.input_ids.shape[1] or size + more > limit):
            yield held
            held, size = [], 0
        held.append((number, copies))
        size += more
    if held:
        yield held


@torch.inference_mode()
def _log_probabilities(network: nn.Module, copies: _Copies, device: torch.device, limit: int) -> Scores:
    """Log-probability of the hidden token of each copy, float64 [n]; in several batches where one has no room."""
    rows = max(1, limit // copies.input_ids.shape[1])
    found: list[Tensor] = []
    done = 0
    while done < len(copies.targets):
        ids, places, targets = (torch.from_numpy(part[done : done + rows]).to(device) for part in copies)
        index = torch.arange(len(ids), device=device) * ids.shape[1] + places
        try:
            logits = network(ids, masked_index=index[:, None]).mlm_logits.float()
        except torch.OutOfMemoryError:
            if rows == 1:
                raise
            torch.cuda.empty_cache()
            rows = max(1, min(rows, len(ids)) // 2)
            continue
        found.append(logits.gather(1, targets[:, None]).squeeze(1) - logits.logsumexp(1))
        done += len(ids)
    return torch.cat(found).cpu().numpy().astype(np.float64)
