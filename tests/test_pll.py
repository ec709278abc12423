"""Pseudo-log-likelihoods: those of a slow loop over transformers, whatever the batch, the word or the length."""

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from bertsmith.evaluation import pll
from bertsmith.evaluation.any_model import OpenModel, open_model
from bertsmith.evaluation.pll import (
    SPECIAL,
    Scorer,
    Sentence,
    pseudo_likelihood,
    pseudo_log_likelihoods,
    read_sentences,
)
from bertsmith.tokenizer import Tokenizer, train_tokenizer

from prose import write_prose
from references import CLASSES, slow_scores, write_foreign

CPU = torch.device("cpu")
TEXTS = [
    "The old dog sees the quiet river near Bavatoni.",
    "Unbelievable captains, they're crossing!",
    "The dog.",
    "A",
    "The old dog sees the quiet river near Bavatoni.",
    "[MASK] and [SEP] are only words here.",
]


class Recorder(torch.nn.Module):
    """Answers with a level score, and keeps what it was given, so that each window can be looked at."""

    def __init__(self, mask: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.mask = mask
        self.seen: list[list[int]] = []

    def forward(self, ids: torch.Tensor, masked_index: torch.Tensor):
        self.seen.extend(ids.tolist())
        assert (ids.flatten()[masked_index] == self.mask).all()
        return type("Output", (), {"mlm_logits": torch.zeros(len(masked_index), 64)})


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    lines = write_prose(tmp_path_factory.mktemp("prose") / "prose.txt").read_text(encoding="utf-8").splitlines()
    return {
        kind: train_tokenizer(lines, kind=kind, vocab_size=size, lowercase=True, strip_accents=None, at_most=False)
        for kind, size in (("wordpiece", 150), ("bpe", 400))
    }


@pytest.fixture(scope="module", params=CLASSES)
def model(request: pytest.FixtureRequest, tokenizers: dict[str, Tokenizer], tmp_path_factory: pytest.TempPathFactory):
    tokenizer = tokenizers["bpe" if request.param == "roberta" else "wordpiece"]
    folder = tmp_path_factory.mktemp(request.param)
    return open_model(str(write_foreign(folder, request.param, tokenizer)), CPU)


@pytest.mark.parametrize("within_word", [False, True])
def test_scores_equal_a_slow_loop_in_float64(model: OpenModel, within_word: bool) -> None:
    texts = [text for text in TEXTS if "[MASK]" not in text]  # which transformers would read as the mask token
    found = pseudo_log_likelihoods(model.scorer, read_sentences(model.tokenizer, texts), within_word=within_word)
    expected = slow_scores(Path(model.source), texts, within_word=within_word)
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-4)
    assert np.ptp(np.concatenate(expected)) > 1


def test_words_of_several_pieces_score_lower_when_their_pieces_are_hidden_too(model: OpenModel) -> None:
    """Only tokens with a piece of their word to the right may change."""
    sentences = read_sentences(model.tokenizer, TEXTS)
    alone, hidden = (pseudo_log_likelihoods(model.scorer, sentences, within_word=within) for within in (False, True))
    changed = 0
    for sentence, one, other in zip(sentences, alone, hidden, strict=True):
        words = sentence.words[sentence.words != SPECIAL].tolist()
        more_follows = [first == second for first, second in pairwise([*words, None])]
        changed += int((np.abs(one - other) > 1e-5)[more_follows].sum())
        np.testing.assert_allclose(one[~np.array(more_follows)], other[~np.array(more_follows)], rtol=0, atol=1e-5)
    assert changed > 5


@pytest.mark.parametrize("places", [1, 100, 10_000])
def test_batches_do_not_change_scores(model: OpenModel, places: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sentences = read_sentences(model.tokenizer, TEXTS)
    expected = pseudo_log_likelihoods(model.scorer, sentences, within_word=True)
    monkeypatch.setattr(pll, "CPU_PLACES", places)
    shares: list[float] = []
    found = pseudo_log_likelihoods(model.scorer, sentences, within_word=True, tell=shares.append)
    for mine, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, other, rtol=0, atol=1e-5)
    assert shares == sorted(shares)
    assert shares[-1] == 1


@pytest.mark.parametrize("room", [0, 1, 3])
def test_a_full_gpu_gets_fewer_copies_at_once(
    room: int, tokenizers: dict[str, Tokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(tokenizers["wordpiece"].mask_token_id)
    answer = recorder.forward

    def forward(ids: torch.Tensor, masked_index: torch.Tensor):
        if len(ids) > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return answer(ids, masked_index)

    monkeypatch.setattr(recorder, "forward", forward)
    sentence = Sentence(np.array([2, *range(40, 52), 3]), np.array([SPECIAL, *range(12), SPECIAL]))
    scorer = Scorer(recorder, tokenizers["wordpiece"], 32)
    if room == 0:
        with pytest.raises(torch.OutOfMemoryError):
            pseudo_log_likelihoods(scorer, [sentence], within_word=False)
        return
    (scores,) = pseudo_log_likelihoods(scorer, [sentence], within_word=False)
    assert len(scores) == len(recorder.seen) == len({tuple(copy) for copy in recorder.seen}) == 12


def test_special_tokens_in_a_text_are_words(model: OpenModel) -> None:
    (sentence,) = read_sentences(model.tokenizer, [TEXTS[-1]])
    assert model.tokenizer.mask_token_id not in sentence.ids
    assert (sentence.words == SPECIAL).sum() == 2


def test_equal_sentences_have_equal_scores(model: OpenModel) -> None:
    scores = pseudo_log_likelihoods(model.scorer, read_sentences(model.tokenizer, TEXTS), within_word=False)
    assert (scores[0] == scores[4]).all()


def test_a_long_sentence_is_seen_through_windows_with_the_token_in_the_middle(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["wordpiece"]
    mask, ids = tokenizer.mask_token_id, list(range(40, 52))
    words = np.array([SPECIAL, 0, 1, 2, 2, 2, 3, 4, 5, 6, 7, 8, 9, SPECIAL])
    sentence, recorder = Sentence(np.array([2, *ids, 3]), words), Recorder(mask)
    (scores,) = pseudo_log_likelihoods(Scorer(recorder, tokenizer, 7), [sentence], within_word=True)
    seen = recorder.seen
    np.testing.assert_allclose(scores, -math.log(64))
    assert all(len(window) == 7 and window[0] == 2 and window[-1] == 3 for window in seen)
    assert seen[0] == [2, mask, 41, 42, 43, 44, 3]
    assert seen[3] == [2, 41, 42, mask, mask, 45, 3]  # a word of three pieces, its second
    assert seen[6] == [2, 44, 45, mask, 47, 48, 3]
    assert seen[11] == [2, 47, 48, 49, 50, mask, 3]


def test_a_model_that_reads_long_texts_is_shown_a_part_of_them(tokenizers: dict[str, Tokenizer]) -> None:
    """Whole copies of a text without a sentence end would take gigabytes and days."""
    tokenizer = tokenizers["wordpiece"]
    recorder = Recorder(tokenizer.mask_token_id)
    sentence = Sentence(np.array([2, *[40] * 700, 3]), np.array([SPECIAL, *range(700), SPECIAL]))
    (scores,) = pseudo_log_likelihoods(Scorer(recorder, tokenizer, 8192), [sentence], within_word=True)
    assert len(scores) == len(recorder.seen) == 700
    assert {len(window) for window in recorder.seen} == {512}


def test_long_texts_equal_windows_scored_by_themselves(model: OpenModel) -> None:
    text = " ".join(["the old dog sees the quiet river"] * 12)
    (sentence,) = read_sentences(model.tokenizer, [text])
    assert len(sentence.ids) > model.max_length == 48
    (scores,) = pseudo_log_likelihoods(model.scorer, [sentence], within_word=False)
    place = len(scores) // 2
    first = place - 23
    ids = np.concatenate([sentence.ids[:1], sentence.ids[1 + first : 1 + first + 46], sentence.ids[-1:]])
    window = Sentence(ids, np.array([SPECIAL, *range(46), SPECIAL]))
    assert scores[place] == pytest.approx(
        pseudo_log_likelihoods(model.scorer, [window], within_word=False)[0][23], 1e-5
    )


def test_bits_per_byte_are_those_of_the_text(model: OpenModel) -> None:
    texts = ["The old dog.", "Née \N{SNOWMAN}", "\x00"]
    scores = pseudo_log_likelihoods(model.scorer, read_sentences(model.tokenizer, texts), within_word=True)
    found = pseudo_likelihood(model.scorer, texts)
    assert found.bytes == 12 + 8 + 1
    assert found.words == 3 + 2 + 1
    assert found.tokens == sum(map(len, scores))
    assert found.bits_per_byte == pytest.approx(-sum(score.sum() for score in scores) / math.log(2) / found.bytes)
    assert found.interval[0] < found.bits_per_byte < found.interval[1]
