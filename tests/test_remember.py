"""Looking strings up gives the ids that the library gives."""

import random
import string

import pytest

from bertsmith.tokenizer import remember, train_tokenizer
from bertsmith.tokenizer.remember import way_to_cut

from prose import name, sentence

PROSE = [f"{sentence(draw)} {name(draw)} {name(draw)}" for draw in map(random.Random, range(300))]
ODD = [
    "",
    "\t",
    "\n",
    "\x1c",
    "\x85",
    "\u00a0",
    "\u200b",
    "\u2028",
    "\u0301",
    "\ud800",
    "'s",
    "\u03a3",
    "\u0130",
    "\ufb01",
]
ODD += [
    "[MASK]",
    "[SEP]",
    "\u4e2d\u6587",
    "\U0001f600",
    "a" * 120,
    "don't",
    "x\u0301",
    "3.5",
    "\x00",
    "\u3000",
    "\u180e",
]


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
@pytest.mark.parametrize(("lowercase", "strip_accents"), [(True, True), (True, False), (False, True), (False, False)])
def test_the_ids_are_those_of_the_library(
    monkeypatch: pytest.MonkeyPatch, kind: str, lowercase: bool, strip_accents: bool
) -> None:
    """Strings of odd characters, joined by spaces, single and double, at the ends too."""
    options = {"kind": kind, "lowercase": lowercase, "strip_accents": strip_accents}
    tokenizer = train_tokenizer(PROSE + ODD[14:] * 3, vocab_size=400, at_most=True, **options)
    assert way_to_cut(tokenizer._content)
    monkeypatch.setattr(remember, "MOST_STRINGS", 300)  # forgets now and then
    draw = random.Random(0)
    words = ODD + list(string.punctuation) + " ".join(PROSE).split()[:60]
    for _ in range(40):
        sentences = [
            "".join(draw.choice(words) + draw.choice(["", " ", " ", " ", "  "]) for _ in range(draw.randint(0, 9)))
            for _ in range(50)
        ]
        assert tokenizer.encode_sentences(sentences) == tokenizer._encode_literally(sentences)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = train_tokenizer(PROSE, kind="wordpiece", vocab_size=400, at_most=True)
    encoder = tokenizer._corpus_encoder
    assert isinstance(encoder, remember.Remembering)
    monkeypatch.setattr(remember, "MOST_STRINGS", 20)
    for number in range(50):
        tokenizer.encode_sentences([f"w{number} v{number} u{number}"])
        assert len(encoder._numbers) <= 20 + 3
    monkeypatch.setattr(remember, "MOST_CHARACTERS", 500)
    for _ in range(20):
        tokenizer.encode_sentences(["x" * 100])
        assert encoder._characters <= 500 + 100


def test_a_tokenizer_that_looks_across_spaces_is_never_cut() -> None:
    content = train_tokenizer(PROSE, kind="wordpiece", vocab_size=400, at_most=True)._content
    added = {**content["added_tokens"][0], "content": "New York", "special": False}
    assert not way_to_cut(content | {"added_tokens": [added]})
    assert not way_to_cut(content | {"pre_tokenizer": {"type": "Metaspace"}})
    assert not way_to_cut(content | {"normalizer": {"type": "Precompiled"}})
    assert not way_to_cut(content | {"model": {**content["model"], "dropout": 0.1}})
