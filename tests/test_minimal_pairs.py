"""Minimal pairs: read or refused in one line, level pairs at one half, intervals that hold."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bertsmith.errors import UserError
from bertsmith.evaluation.any_model import open_model
from bertsmith.evaluation.minimal_pairs import Pair, Paradigm, read_paradigms, score_pairs
from bertsmith.evaluation.pll import Scorer
from bertsmith.model import BertPretrainingOutput
from bertsmith.tokenizer import Tokenizer, train_tokenizer

from conftest import development_data
from references import slow_scores, write_foreign

WORDS = "the cat dog sees see cats dogs a and mat".split()
PAIRS = [Pair("The cat sees the dogs.", "The cat see the dogs."), Pair("The dogs see.", "The dogs sees.")]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    text = [" ".join(WORDS)] * 20 + [text for pair in PAIRS for text in pair]
    return train_tokenizer(text, kind="wordpiece", vocab_size=60, lowercase=True, strip_accents=None, at_most=True)


class Fixed(nn.Module):
    """Gives each token of the vocabulary its own logit, whatever it reads."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, _ids: Tensor, masked_index: Tensor) -> BertPretrainingOutput:
        return BertPretrainingOutput(self.logits.expand(len(masked_index), -1), None)


def write_pairs(path: Path, pairs: list[Pair]) -> Path:
    lines = [json.dumps({"sentence_good": good, "sentence_bad": bad, "UID": path.stem}) for good, bad in pairs]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_model_that_scores_all_alike_is_at_one_half(tokenizer: Tokenizer) -> None:
    scorer = Scorer(Fixed(torch.zeros(tokenizer.vocab_size)), tokenizer, 32)
    result = score_pairs(scorer, [Paradigm("agreement", PAIRS), Paradigm("same", [Pair("The cat", "The  CAT")])])
    assert result.accuracy == 0.5
    assert [paradigm.level for paradigm in result.paradigms] == [2, 1]


def test_words_in_another_order_are_level_for_a_model_of_frequencies(tokenizer: Tokenizer) -> None:
    logits = torch.linspace(-3, 3, tokenizer.vocab_size)
    pair = Pair("The cat sees the dogs and a mat.", "A mat sees dogs and the cat the.")
    (result,) = score_pairs(Scorer(Fixed(logits), tokenizer, 32), [Paradigm("order", [pair])]).paradigms
    assert (result.accuracy, result.level) == (0.5, 1)


def test_the_likelier_sentence_is_preferred(tokenizer: Tokenizer) -> None:
    logits = torch.zeros(tokenizer.vocab_size)
    logits[tokenizer.encode("see").ids[1]] = 5.0
    result = score_pairs(Scorer(Fixed(logits), tokenizer, 32), [Paradigm("a", PAIRS), Paradigm("b", PAIRS[1:])])
    assert [paradigm.accuracy for paradigm in result.paradigms] == [0.5, 1.0]
    assert result.paradigms[0].level == 0
    assert result.accuracy == 0.75  # of the paradigms, not of the pairs
    assert result.pairs == 3


def test_the_interval_of_the_mean_covers_it_in_95_of_100_draws() -> None:
    """Paradigms with known shares, drawn many times; the texts stand for their scores."""
    assert 270 <= times_covered((0.5, 0.9, 0.3), 200) <= 298


@pytest.mark.parametrize(("shares", "pairs"), [((0.6, 0.8) * 10, 1), ((0.95,), 20)])
def test_few_pairs_that_came_out_alike_prove_little(shares: tuple[float, ...], pairs: int) -> None:
    """One pair of each paradigm says nothing of how pairs differ, and the interval holds all the same."""
    assert times_covered(shares, pairs) >= 270


def times_covered(shares: tuple[float, ...], pairs: int) -> int:
    """Of 300 draws of so many pairs of each paradigm, those whose interval holds the mean of the true shares."""
    draw, covered, scorer = np.random.default_rng(0), 0, ab_scorer()
    for _ in range(300):
        hits = [draw.random(pairs) < share for share in shares]
        paradigms = [
            Paradigm(str(number), [Pair("a", "b") if hit else Pair("b", "a") for hit in part])
            for number, part in enumerate(hits)
        ]
        result = score_pairs(scorer, paradigms)
        covered += result.interval[0] <= sum(shares) / len(shares) <= result.interval[1]
    return covered


def ab_scorer() -> Scorer:
    """Likes "a" better than "b"."""
    tokenizer = train_tokenizer(
        ["a b"] * 9, kind="wordpiece", vocab_size=20, lowercase=True, strip_accents=None, at_most=True
    )
    logits = torch.zeros(tokenizer.vocab_size)
    logits[tokenizer.encode("a").ids[1]] = 1.0
    return Scorer(Fixed(logits), tokenizer, 8)


def test_files_are_paradigms_and_a_subset_is_chosen_by_hash(tmp_path: Path) -> None:
    many = [Pair(f"The {number} cats see.", f"The {number} cats sees.") for number in range(20)]
    write_pairs(tmp_path / "b.jsonl", many)
    write_pairs(tmp_path / "a.jsonl", PAIRS)
    (tmp_path / "README.md").write_text("Not pairs.")
    assert [(name, len(pairs)) for name, pairs in read_paradigms(tmp_path)] == [("a", 2), ("b", 20)]
    chosen = read_paradigms(tmp_path, 5)[1].pairs
    write_pairs(tmp_path / "b.jsonl", many[::-1])
    assert read_paradigms(tmp_path, 5)[1].pairs == chosen
    assert set(chosen) < set(many)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2, is no JSON"),
        ('{"good": "a", "bad": "b"}', "line 2, has no sentence_good and sentence_bad"),
        ('{"sentence_good": "a", "sentence_bad": 1}', "line 2, has no sentence_good and sentence_bad"),
        ('{"sentence_good": "a", "sentence_bad": " "}', "line 2, has no sentence_good and sentence_bad"),
        ("[1, 2]", "line 2, has no sentence_good and sentence_bad"),
    ],
)
def test_wrong_lines_are_named(tmp_path: Path, line: str, message: str) -> None:
    file = write_pairs(tmp_path / "a.jsonl", PAIRS[:1])
    file.write_text(file.read_text() + line + "\n")
    with pytest.raises(UserError, match=message):
        read_paradigms(tmp_path)


def test_folders_without_pairs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no \.jsonl file"):
        read_paradigms(tmp_path)
    with pytest.raises(UserError, match="is no folder"):
        read_paradigms(tmp_path / "nowhere")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(UserError, match="holds no pairs"):
        read_paradigms(tmp_path)
    (tmp_path / "empty.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read"):
        read_paradigms(tmp_path)


@pytest.mark.slow
def test_blimp_is_read_whole_and_scored_as_a_slow_loop_does(tmp_path: Path) -> None:
    folder = development_data("blimp")
    everything = read_paradigms(folder)
    assert {len(pairs) for _, pairs in everything} == {1000}
    paradigms = read_paradigms(folder, 2)
    texts = [text for _, pairs in everything for pair in pairs[:100] for text in pair]
    tokenizer = train_tokenizer(
        texts, kind="wordpiece", vocab_size=1500, lowercase=True, strip_accents=None, at_most=True
    )
    model = open_model(str(write_foreign(tmp_path, "bert", tokenizer)), torch.device("cpu"))
    result = score_pairs(model.scorer, paradigms)
    for (name, pairs), found in zip(paradigms, result.paradigms, strict=True):
        good, bad = (
            [sum(scores) for scores in slow_scores(tmp_path, list(side), within_word=False)]
            for side in zip(*pairs, strict=True)
        )
        assert found.name == name
        assert found.accuracy == np.mean(np.array(good) > np.array(bad))
