"""Sentences."""

import random

import pytest

from bertsmith.corpus import split_sentences

from corpus_helpers import without_space


@pytest.mark.parametrize(
    "sentences",
    [
        ["Dr. Smith lives in Washington D.C. with his dog.", "He is 4.5 years old.", "Is he?", "Yes!"],
        ['"What is it?" he said.', '"Nothing."', "They went on."],
        ["The lobster , also known as Homarus , is big .", "It weighs 6 kg ( 13 lb ) ."],
        ["我们是学生。", "你好吗？", "是的！"],
        ["すべての人間は自由である。", "尊厳と権利とについて平等である。"],
        ["यह एक वाक्य है।", "यह दूसरा वाक्य है।"],
        ["هل أنت بخير؟", "نعم."],
        ["មនុស្សទាំងអស់កើតមកមានសេរីភាព។", "ពួកគេមានវិចារណញ្ញាណ៕"],
        ["Բոլոր մարդիկ ծնվում են ազատ։", "Նրանք ունեն բանականություն։"],
    ],
)
def test_sentences_are_found(sentences: list[str]) -> None:
    joint = "" if sentences[0].endswith("。") else " "
    assert split_sentences(joint.join(sentences)) == sentences


def test_no_sentence_crosses_a_line_end() -> None:
    assert split_sentences("A heading\nAnd a sentence\n\nthat goes on. Two.") == [
        "A heading", "And a sentence", "that goes on.", "Two.",
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["", " ", "\n\n", "\u00a0\u2028"])
def test_white_space_has_no_sentence(text: str) -> None:
    assert split_sentences(text) == []


def test_no_character_is_lost_whatever_the_text() -> None:
    rng = random.Random(1)
    letters = "ab A.?!\"'()[]“”«»‘ \t\n01-–…。！？।؟។\u200c\u200d\u00a0\u2028\x85\u3000é北अ😀e\u0301\ufeff\x1c"
    for _ in range(5_000):
        text = "".join(rng.choices(letters, k=rng.randint(1, 40)))
        found = split_sentences(text)
        assert without_space(found) == without_space([text])
        assert all(sentence and sentence == sentence.strip() for sentence in found)


@pytest.mark.parametrize("unit", ["«a. ", "'a \"b. (c ", "x", "word ", "我们", "我们。", ". ", '"'])
def test_long_hostile_line_takes_little_time_and_loses_nothing(unit: str) -> None:
    text = unit * (200_000 // len(unit))
    assert without_space(split_sentences(text)) == without_space([text])


def test_long_line_is_cut_like_a_short_one() -> None:
    sentence = "Mr. Smith paid 3.50 for the 2.4 kg of Mrs. Brown's best apples."
    assert split_sentences(" ".join([sentence] * 500)) == [sentence] * 500
