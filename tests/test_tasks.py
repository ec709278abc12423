"""The parts of a task: files, division, encoding, batches, losses and scores, each against a plain reference."""

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
import torch.nn.functional as F

from bertsmith.finetuning.config import FinetuneConfig
from bertsmith.finetuning.tasks.batches import by_length, collate, rows_of_step
from bertsmith.finetuning.tasks.dataset import fingerprint_of, targets_of
from bertsmith.finetuning.tasks.encoding import Encoded, encode_texts, shorten
from bertsmith.finetuning.tasks.examples import Example, find_labels, read_labelled
from bertsmith.finetuning.tasks.objective import balanced_weights, example_losses, make_objective
from bertsmith.finetuning.tasks.row_sums import row_sums
from bertsmith.finetuning.tasks.scores import calibration, choosing_metric, score_all
from bertsmith.finetuning.tasks.split import hold_out
from bertsmith.model.classifier import BertClassifier, Head
from bertsmith.step import train_step
from bertsmith.tokenizer import Tokenizer, load_tokenizer
from labelled import tagged_rows, tiny_encoder, topic_rows, write_rows


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def tokenizer(encoder: Path) -> Tokenizer:
    return load_tokenizer(encoder)


def examples(count: int = 100, seed: int = 0) -> list[Example]:
    return [Example(n, row["text"], None, row["topic"]) for n, row in enumerate(topic_rows(count, seed), 1)]


def encoded(tokenizer: Tokenizer, texts: list[str], length: int = 32) -> Encoded:
    return encode_texts(tokenizer, list(texts), [None] * len(texts), max_length=length)


def test_each_label_is_held_out_in_its_share() -> None:
    rows = [example._replace(text=f"{example.text} {example.number}") for example in examples(400)]
    kept, held = hold_out(rows, 0.25, "classification", seed=0, purpose=0)
    assert len(kept) + len(held) == 400
    for label in {example.label for example in rows}:
        total = sum(example.label == label for example in rows)
        assert abs(sum(example.label == label for example in held) - total / 4) <= 1


def test_equal_texts_stand_on_one_side_and_order_does_not_matter() -> None:
    rows = examples(60) * 3
    kept, held = hold_out(rows, 0.3, "classification", seed=1, purpose=1)
    assert held
    assert not {example.text for example in kept} & {example.text for example in held}
    again = hold_out(rows[::-1], 0.3, "classification", seed=1, purpose=1)[1]
    assert sorted(again) == sorted(held)


def test_a_label_that_occurs_once_is_learnt_from() -> None:
    rows = [*examples(50), Example(51, "an only one", None, "rare")]
    for seed in range(20):
        assert "rare" in {example.label for example in hold_out(rows, 0.5, "classification", seed=seed, purpose=0)[0]}


def test_many_small_strata_give_their_share_together() -> None:
    rows = [Example(n, f"text {n}", None, f"label {n % 40}") for n in range(120)]
    assert len(hold_out(rows, 0.1, "classification", seed=0, purpose=0)[1]) == 12


def test_numbers_are_held_out_over_their_whole_range() -> None:
    rows = [Example(n, f"text {n}", None, float(n)) for n in range(200)]
    held = hold_out(rows, 0.2, "regression", seed=0, purpose=0)[1]
    assert [sum(first <= example.label < first + 20 for example in held) for first in range(0, 200, 20)] == [4] * 10  # type: ignore[operator]


def test_labels_have_one_name_whatever_the_file(tmp_path: Path) -> None:
    rows = [{"text": f"dog {n}", "label": n % 11} for n in range(33)]
    names = set()
    for suffix in (".jsonl", ".csv", ".parquet"):
        file = read_labelled(str(write_rows(tmp_path / f"r{suffix}", rows)), FinetuneConfig(), None, None)
        names.add(find_labels(file, "classification"))
    assert names == {tuple(map(str, range(11)))}
    truths = [row | {"label": row["label"] > 5} for row in rows]
    for suffix in (".jsonl", ".csv", ".parquet"):
        file = read_labelled(str(write_rows(tmp_path / f"t{suffix}", truths)), FinetuneConfig(), None, None)
        assert find_labels(file, "classification") == ("False", "True")


def test_header_of_conll_files_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "tags.txt"
    path.write_text("-DOCSTART- -X- O O\n\nEU NNP B-NP B-ORG\nrejects VBZ B-VP O\n\nPeter NNP B-NP B-PER\n")
    file = read_labelled(str(path), FinetuneConfig(), None, None)
    assert [(example.number, example.text, example.label) for example in file.examples] == [
        (3, ("EU", "rejects"), ("B-ORG", "O")),
        (6, ("Peter",), ("B-PER",)),
    ]
    assert find_labels(file, "tagging") == ("O", "B-ORG", "B-PER")
    named = read_labelled(str(path), FinetuneConfig(label="2"), None, None)
    assert named.examples[0].label == ("NNP", "VBZ")


@pytest.mark.parametrize("first", range(0, 14, 3))
@pytest.mark.parametrize("second", range(0, 14, 4))
@pytest.mark.parametrize("room", [7, 10])
def test_pairs_are_cut_as_the_library_does(first: int, second: int, room: int, tokenizer: Tokenizer) -> None:
    library = tokenizers.Tokenizer.from_str(json.dumps(tokenizer._content))
    library.enable_truncation(room + 3, strategy="longest_first")
    types = library.encode("dog " * first, "dog " * second).type_ids
    keep_first, keep_second = shorten(first, second, room)
    assert types == [0] * (keep_first + 2) + [1] * (keep_second + 1)


def test_inputs_are_those_of_the_tokenizer(tokenizer: Tokenizer) -> None:
    texts = [example.text for example in examples(20)]
    for text, each in zip(texts, encoded(tokenizer, [str(t) for t in texts]).sequences, strict=True):
        assert each.ids.tolist() == tokenizer.encode(str(text)).ids
    (pair,) = encode_texts(tokenizer, ["the dog"], ["a ship"], max_length=32).sequences
    assert collate([pair]).token_type_ids.tolist() == tokenizer.encode("the dog", "a ship").type_ids


def test_few_long_texts_are_tokenised_at_once(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [str(each.text) for each in examples(9)] + ["dog " * 50, "cat"]
    pairs = [text[::-1] if number % 3 else None for number, text in enumerate(texts)]
    words = [tuple(text.split()) for text in texts]
    before = encode_texts(tokenizer, texts, pairs, max_length=32), encode_texts(tokenizer, words, pairs, max_length=32)
    sizes: list[tuple[int, int]] = []
    encode = tokenizer.encode_sentences

    def noted(given: list[str]) -> list[list[int]]:
        sizes.append((len(given), sum(map(len, given))))
        return encode(given)

    monkeypatch.setattr(tokenizer, "encode_sentences", noted)
    monkeypatch.setattr("bertsmith.finetuning.tasks.encoding.TEXTS_AT_ONCE", 2)
    monkeypatch.setattr("bertsmith.finetuning.tasks.encoding.CHARACTERS_AT_ONCE", 150)
    for old, given in zip(before, (texts, words), strict=True):
        sizes.clear()
        new = encode_texts(tokenizer, given, pairs, max_length=32)
        assert [(e.ids.tolist(), e.second, e.row, e.places.tolist()) for e in new.sequences] == [
            (e.ids.tolist(), e.second, e.row, e.places.tolist()) for e in old.sequences
        ]
        assert new.cut == old.cut
        assert len(sizes) >= 6
    assert max(characters for _, characters in sizes) <= 200  # one text alone may be longer


def test_the_fingerprint_is_that_of_all_rows_as_json() -> None:
    parts = {"train": examples(9), "validation": examples(1), "test": [Example(1, ("a", "b"), None, ("O", "é"))]}
    parts["score"] = [Example(2, "x", "y", 1.5)]
    whole = json.dumps([[name, rows] for name, rows in parts.items()])
    assert fingerprint_of(parts) == hashlib.sha256(whole.encode()).hexdigest()


def test_text_cannot_spell_a_special_token(tokenizer: Tokenizer) -> None:
    (each,) = encoded(tokenizer, ["dog [SEP] cat [MASK]"]).sequences
    assert each.ids.tolist().count(tokenizer.sep_token_id) == 1
    assert tokenizer.mask_token_id not in each.ids


def test_every_word_is_tagged_once_in_long_sentences_too(tokenizer: Tokenizer) -> None:
    rows = tagged_rows(5)
    words = (*(word for row in rows for word in row["tokens"]), "\u200b")
    tags = (*(tag for row in rows for tag in row["tags"]), "O")
    sentence = Example(1, words, None, tags)
    inputs = encode_texts(tokenizer, [words], [None], max_length=12).sequences
    assert len(inputs) > 1
    assert max(len(each.ids) for each in inputs) <= 12
    head = Head("tagging", ("O", *sorted({tag for tag in tags if tag != "O"})))
    found = np.concatenate(targets_of([sentence], inputs, head))
    assert [head.labels[tag] for tag in found] == list(tags)
    firsts = [int(each.ids[place]) for each in inputs for place in each.places]
    assert firsts[:-1] == [tokenizer.encode_sentences([word])[0][0] for word in words[:-1]]
    assert firsts[-1] == tokenizer.unk_token_id


def test_an_epoch_has_every_row_once_and_a_step_stands_alone() -> None:
    steps = [rows_of_step(step, count=50, batch_size=8, seed=3) for step in range(13)]
    rows = np.concatenate(steps)
    assert sorted(rows[:50]) == list(range(50)) == sorted(rows[50:100])
    assert rows[:50].tolist() != rows[50:100].tolist()
    assert np.array_equal(rows_of_step(7, count=50, batch_size=8, seed=3), steps[7])


def test_groups_hold_like_lengths_within_their_places(tokenizer: Tokenizer) -> None:
    inputs = encoded(tokenizer, [str(each.text) for each in examples(40)]).sequences
    groups = list(by_length(inputs, np.arange(40), 64))
    assert sorted(np.concatenate(groups)) == list(range(40))
    assert all(len(group) * max(len(inputs[n].ids) for n in group) <= 64 for group in groups)


@pytest.mark.parametrize("kind", ["classification", "multi-label", "regression"])
def test_micro_batches_change_a_step_by_rounding_only(kind: str, encoder: Path, tokenizer: Tokenizer) -> None:
    head = Head(kind, ("score",) if kind == "regression" else ("animals", "food", "ships"))
    rows = examples(12)
    if kind == "regression":
        rows = [each._replace(label=float(each.number)) for each in rows]
    inputs = encoded(tokenizer, [str(each.text) for each in rows]).sequences
    targets = targets_of(rows, inputs, head)
    weights = None if kind == "regression" else balanced_weights(head, targets)
    objective = make_objective(head, weights)

    def updated(places: int) -> tuple[torch.Tensor, float]:
        torch.manual_seed(0)
        model = BertClassifier.start(encoder, head)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        groups = by_length(inputs, np.arange(12), places)
        batches = [collate([inputs[n] for n in group], [targets[n] for n in group]) for group in groups]
        result = train_step(
            model, objective.sum_losses, batches, optimizer,
            max_grad_norm=math.inf, precision="float32", dropout_key=None, terms=objective.terms,
        )  # fmt: skip
        return model.classifier.weight.detach(), result.measured.loss

    (whole, loss), (parts, same_loss) = updated(10_000), updated(16)
    torch.testing.assert_close(parts, whole)
    assert same_loss == pytest.approx(loss, rel=1e-5)


def test_losses_are_the_textbook_ones() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, 2, 1, 0])
    plain = -logits.softmax(-1)[torch.arange(6), labels].log()
    torch.testing.assert_close(example_losses(Head("classification", ("a", "b", "c")), logits, labels), plain)
    there = F.one_hot(labels, 3).float()
    chance = logits.sigmoid()
    plain = -(there * chance.log() + (1 - there) * (1 - chance).log())
    torch.testing.assert_close(example_losses(Head("multi-label", ("a", "b", "c")), logits, there), plain)


def test_balanced_weights_make_labels_count_alike() -> None:
    targets = [np.array([label]) for label in [0] * 8 + [1] * 2]
    weights = balanced_weights(Head("classification", ("a", "b")), targets)
    assert weights.tolist() == pytest.approx([0.625, 2.5])
    present = [np.array([[1.0, 0.0]], dtype=np.float32)] * 3 + [np.array([[0.0, 1.0]], dtype=np.float32)]
    assert balanced_weights(Head("multi-label", ("a", "b")), present).tolist() == pytest.approx([1 / 3, 3.0])


def test_a_constant_model_is_calibrated_when_it_says_how_often_it_is_right() -> None:
    right = np.arange(100) < 70
    assert calibration(np.full(100, 0.7), right)[0] == pytest.approx(0.0)
    error, table = calibration(np.full(100, 0.95), right)
    assert error == pytest.approx(0.25)
    assert table == [{"from": 0.9, "to": 1.0, "answers": 100, "confidence": pytest.approx(0.95), "right": 0.7}]


def test_scores_of_a_small_table_by_hand() -> None:
    given = [np.array([row]) for row in ([0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.7, 0.3])]
    scores = score_all("classification", ("a", "b"), given, [np.array([n]) for n in (0, 0, 1, 1)])
    assert scores.values["accuracy"] == 0.75
    assert scores.values["macro_f1"] == pytest.approx((0.8 + 2 / 3) / 2)
    assert scores.values["matthews"] == pytest.approx(1 / math.sqrt(3))
    assert scores.details["confusion"] == [[2, 0], [1, 1]]


def test_a_model_that_gives_one_answer_has_no_correlation() -> None:
    given = [np.array([[1.0, 0.0]])] * 4
    scores = score_all("classification", ("a", "b"), given, [np.array([n]) for n in (0, 0, 1, 1)])
    assert scores.values["matthews"] == 0.0
    numbers = score_all("regression", ("score",), [np.array([[3.0]])] * 4, [np.array([[float(n)]]) for n in range(4)])
    assert numbers.values["pearson"] == numbers.values["spearman"] == 0.0


def test_an_entity_counts_only_whole() -> None:
    labels = ("O", "B-x", "I-x")
    truth = [np.array([0, 1, 2]), np.array([1, 0, 0])]
    guess = [np.eye(3)[[0, 1, 0]], np.eye(3)[[1, 0, 0]]]
    scores = score_all("tagging", labels, guess, truth)
    assert scores.values["entity_f1"] == pytest.approx(0.5)
    assert scores.values["accuracy"] == pytest.approx(5 / 6)


def test_tags_of_one_sentence_do_not_make_an_accuracy_surer() -> None:
    truth = [np.zeros(10, dtype=np.int64)] * 20
    spread = [[1, 1, row % 2, 0, 0, 0, 0, 0, 0, 0] for row in range(20)]
    together = [[int(row % 4 == 0)] * 10 for row in range(20)]  # as many wrong tags, whole sentences of them
    (least, most), (low, high), alike = (
        score_all("tagging", ("N", "V"), [np.eye(2)[row] for row in rows], truth).details["accuracy_interval"]
        for rows in (spread, together, [[0] * 10] * 20)
    )
    assert most - least == pytest.approx(2 * 1.96 * math.sqrt(0.25 * 0.75 / 200), abs=0.01)
    assert high - low > 3 * (most - least)
    assert alike[0] < 1.0 == alike[1]


def test_where_no_entity_is_true_or_guessed_its_scores_are_0() -> None:
    scores = score_all("tagging", ("O", "B-x", "I-x"), [np.eye(3)[[0, 0]]], [np.array([0, 0])])
    assert scores.values["entity_f1"] == scores.values["entity_precision"] == scores.values["entity_recall"] == 0.0
    assert scores.values["accuracy"] == 1.0
    assert scores.details["by_entity"] == {}


@pytest.mark.parametrize(
    "labels",
    [
        ("O", "B-x", "I-x", "E-x", "S-x"),
        ("O", "B-x", "I-x", "L-x", "U-x"),
        ("O", "B-x", "M-x", "E-x", "S-x"),
        ("O", "B", "I", "L", "U"),
    ],
)
def test_entities_are_the_same_whatever_marks_their_ends(labels: tuple[str, ...]) -> None:
    truth, guess = [1, 2, 3, 4, 4, 0], [1, 2, 3, 4, 0, 4]
    assert choosing_metric("tagging", labels, None) == "entity_f1"
    given, wanted = [np.eye(5)[guess]], [np.array(truth)]
    assert score_all("tagging", labels, given, wanted).values["entity_f1"] == pytest.approx(2 / 3)
    sums = row_sums("entity_f1", "tagging", labels, given, wanted)
    assert sums.value(sums.sums.sum(0)) == pytest.approx(2 / 3)


def test_tags_without_marks_are_no_entities() -> None:
    assert choosing_metric("tagging", ("O", "PER", "LOC"), None) == "accuracy"
    assert choosing_metric("tagging", ("B", "I", "N"), None) == "accuracy"
    given = [np.eye(4)[[1, 3, 2]]]
    scores = score_all("tagging", ("O", "B-x", "I-x", "X"), given, [np.array([1, 0, 2])])
    assert scores.values["entity_f1"] == 1.0  # a tag that is no mark is none
