"""Rows, pairs, cuts and masks: what every epoch must hold."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertsmith.config import DataConfig
from bertsmith.data.examples import Course, TrainingRows, open_rows
from bertsmith.data.rows import IGNORE_INDEX, Row
from bertsmith.errors import UserError
from bertsmith.prepare import prepare

from corpora import CLS, FIRST_WORD, MASK, PAD, SEP, lognormal, make_corpus, make_masking, make_rows
from prose import write_prose


def unmasked(row: Row) -> np.ndarray:
    ids = row.input_ids.copy()
    filled = row.labels != IGNORE_INDEX
    ids[row.masked_places[filled]] = row.labels[filled]
    return ids


def sequences(row: Row) -> list[tuple[np.ndarray, np.ndarray, int]]:
    """(ids, token types, next-sentence label) of each sequence in a row."""
    ends = np.cumsum(row.lengths[:-1])
    ids = unmasked(row)
    parts = zip(ends - row.lengths[:-1], ends, row.next_sentence_label[:-1], strict=True)
    return [(ids[a:b], row.token_type_ids[a:b], int(label)) for a, b, label in parts if b > a]


def epoch_rows(rows: TrainingRows, epoch: int) -> list[Row]:
    first = epoch * rows.rows_per_epoch
    return rows.__getitems__(list(range(first, first + rows.rows_per_epoch)))


@pytest.mark.parametrize("objective", ["mlm", "mlm+nsp", "mlm+sop"])
@pytest.mark.parametrize("epoch", [0, 3])
@pytest.mark.parametrize("lengths", [lognormal(0, 60), [1] * 40 + [2] * 40 + [61, 62, 500], [40] * 300])
def test_every_token_is_seen_exactly_once_an_epoch(objective: str, epoch: int, lengths: list[int]) -> None:
    corpus = make_corpus(lengths)
    ids = np.concatenate([unmasked(row) for row in epoch_rows(make_rows(corpus, objective=objective), epoch)])
    words = np.sort(ids[ids >= FIRST_WORD])
    assert np.array_equal(words, np.arange(corpus.num_tokens) + FIRST_WORD)


@pytest.mark.parametrize("objective", ["mlm", "mlm+nsp", "mlm+sop"])
def test_sequences_are_framed_and_never_cross_a_section(objective: str) -> None:
    corpus = make_corpus(lognormal(2, 60))
    for row in epoch_rows(make_rows(corpus, objective=objective), 1):
        assert row.lengths.sum() == 64
        for ids, types, label in sequences(row):
            assert ids[0] == CLS
            assert ids[-1] == SEP
            parts = np.split(ids[1:-1], np.flatnonzero(ids[1:-1] == SEP))
            parts = [part[part != SEP] for part in parts]
            assert len(parts) == (2 if label != IGNORE_INDEX else 1)
            assert types.sum() == (len(parts[1]) + 1 if len(parts) == 2 else 0)
            for part in parts:
                places = part - FIRST_WORD
                assert np.array_equal(places, np.arange(places[0], places[0] + len(places)))
                section = np.searchsorted(corpus.section_starts, places[[0, -1]], side="right")
                assert section[0] == section[1]


def test_pairs_follow_or_come_from_another_document_and_are_balanced() -> None:
    documents = [i // 3 for i in range(240)]
    corpus = make_corpus(lognormal(3, 240), documents=documents)
    labels = []
    for row in epoch_rows(make_rows(corpus), 0):
        for ids, _, label in sequences(row):
            if label == IGNORE_INDEX:
                continue
            labels.append(label)
            middle = np.flatnonzero(ids == SEP)[0]
            last_of_first, first_of_second = ids[middle - 1] - FIRST_WORD, ids[middle + 1] - FIRST_WORD
            assert first_of_second in corpus.sentence_starts
            assert last_of_first + 1 in corpus.sentence_starts
            section = np.searchsorted(corpus.section_starts, [last_of_first, first_of_second], side="right") - 1
            if label == 0:
                assert first_of_second == last_of_first + 1
            else:
                assert documents[section[0]] != documents[section[1]]
    assert len(labels) > 500
    assert abs(np.mean(labels) - 0.5) < 0.005


def test_pairs_of_one_document_come_from_distant_sections() -> None:
    corpus = make_corpus([500] * 30, documents=[0] * 30)
    negatives = 0
    for row in epoch_rows(make_rows(corpus), 0):
        for ids, _, label in sequences(row):
            if label == 1:
                negatives += 1
                middle = np.flatnonzero(ids == SEP)[0]
                sections = (ids[[middle - 1, middle + 1]] - FIRST_WORD) // 500
                assert abs(sections[0] - sections[1]) >= 2
    assert negatives > 100


def test_lengths_say_nothing_about_the_label() -> None:
    corpus = make_corpus(lognormal(4, 400))
    second: dict[int, list[int]] = {0: [], 1: []}
    for row in epoch_rows(make_rows(corpus), 0):
        for _, types, label in sequences(row):
            if label != IGNORE_INDEX:
                second[label].append(int(types.sum()))
    spread = np.std(second[0]) / np.sqrt(len(second[1]))
    assert abs(np.mean(second[0]) - np.mean(second[1])) < 5 * spread


@pytest.mark.parametrize(
    "lengths",
    [lognormal(5, 500, 6.0), lognormal(6, 2000, 3.5), [100] * 900, list(range(70, 101)) * 40, [5, 6, 7] * 300],
    ids=["articles", "notes", "equal", "half-full", "tiny"],
)
def test_padding_stays_below_two_percent(lengths: list[int]) -> None:
    rows = make_rows(make_corpus(lengths), objective="mlm", sequence_length=128)
    padding = sum(int(row.lengths[-1]) for row in epoch_rows(rows, 0)) / (128 * rows.rows_per_epoch)
    assert padding < 0.02


def test_about_a_tenth_of_the_sequences_are_shorter() -> None:
    rows = make_rows(make_corpus([64_000] * 4), objective="mlm")
    sizes = np.concatenate([row.lengths[:-1] for row in epoch_rows(rows, 0)])
    sizes = sizes[sizes > 0]
    assert 0.08 < np.mean(sizes < 64) < 0.12


def test_a_row_does_not_depend_on_what_it_is_made_with() -> None:
    corpus = make_corpus(lognormal(7, 60))
    together = make_rows(corpus).__getitems__([5, 3, 700, 12])
    for number, row in zip([5, 3, 700, 12], together, strict=True):
        alone = make_rows(corpus)[number]
        assert all(np.array_equal(a, b) for a, b in zip(row, alone, strict=True))


def test_epochs_differ_in_cuts_pairs_and_masks_but_not_in_size() -> None:
    rows = make_rows(make_corpus(lognormal(8, 60)))
    first, second = epoch_rows(rows, 0), epoch_rows(rows, 1)
    cuts = [{tuple(unmasked(row)) for row in epoch} for epoch in (first, second)]
    assert len(cuts[0] & cuts[1]) < 0.05 * rows.rows_per_epoch
    sizes = [sorted(int((row.lengths[:-1] > 0).sum()) for row in epoch) for epoch in (first, second)]
    assert sizes[0] == sizes[1]


def test_one_seed_gives_the_same_rows_and_another_others() -> None:
    corpus = make_corpus(lognormal(9, 60))
    one, again, other = (make_rows(corpus, seed=seed)[4] for seed in (0, 0, 1))
    assert np.array_equal(one.input_ids, again.input_ids)
    assert not np.array_equal(one.input_ids, other.input_ids)


def test_shapes_are_the_same_in_every_row() -> None:
    rows = make_rows(make_corpus(lognormal(10, 60)))
    shapes = {tuple(part.shape for part in row) for row in epoch_rows(rows, 0)}
    assert len(shapes) == 1


def mask_many(row_length: int = 128, rows: int = 800, **changes: Any) -> tuple[np.ndarray, np.ndarray, Any]:
    corpus = make_corpus([4000])
    ids = np.random.default_rng(0).integers(FIRST_WORD, 4000, (rows, row_length))
    maskable = np.ones(ids.shape, dtype=bool)
    maskable[:, 0] = maskable[:, -1] = False
    masking = make_masking(corpus, **changes)
    return ids, maskable, masking.apply(ids, maskable, epoch=np.zeros(rows, dtype=int), row=np.arange(rows))


def test_masks_have_the_shares_of_the_paper() -> None:
    ids, maskable, masked = mask_many()
    filled = masked.labels != IGNORE_INDEX
    total = filled.sum()
    assert abs(total / maskable.sum() - 0.15) < 0.001
    seen = np.take_along_axis(masked.input_ids, masked.places, axis=1)[filled]
    assert abs(np.mean(seen == MASK) - 0.8) < 4 * np.sqrt(0.16 / total)
    assert abs(np.mean(seen == masked.labels[filled]) - 0.1) < 4 * np.sqrt(0.09 / total)
    assert np.array_equal(np.take_along_axis(ids, masked.places, axis=1)[filled], masked.labels[filled])


def test_every_place_is_chosen_equally_often() -> None:
    _, maskable, masked = mask_many(rows=4000)
    counts = np.bincount(masked.places[masked.labels != IGNORE_INDEX], minlength=128)
    assert counts[~maskable[0]].sum() == 0
    expected = counts.sum() / maskable[0].sum()
    chi_squared = ((counts[maskable[0]] - expected) ** 2 / expected).sum()
    assert chi_squared < 126 + 5 * np.sqrt(2 * 126)


def test_only_chosen_tokens_change_and_special_tokens_are_never_drawn() -> None:
    ids, _, masked = mask_many()
    changed = masked.input_ids != ids
    allowed = np.zeros_like(changed)
    np.put_along_axis(allowed, masked.places, masked.labels != IGNORE_INDEX, axis=1)
    assert not (changed & ~allowed).any()
    assert set(np.unique(masked.input_ids[changed])) & {PAD, CLS, SEP, 1} == set()


def test_whole_words_are_masked_whole_with_the_right_share() -> None:
    continues = np.zeros(4005, dtype=bool)
    continues[2000:] = True
    ids, maskable, masked = mask_many(rows=3000, units="word", continues_word=continues)
    chosen = np.zeros(ids.shape, dtype=bool)
    np.put_along_axis(chosen, masked.places, masked.labels != IGNORE_INDEX, axis=1)
    joined = continues[ids[:, 1:]] & maskable[:, 1:] & maskable[:, :-1]
    assert np.array_equal(chosen[:, 1:][joined], chosen[:, :-1][joined])
    assert abs(chosen.sum() / maskable.sum() - 0.15) < 0.002


def test_spans_are_masked_whole_with_the_right_share_and_length() -> None:
    ids, maskable, masked = mask_many(rows=3000, units="span")
    chosen = np.zeros(ids.shape, dtype=bool)
    np.put_along_axis(chosen, masked.places, masked.labels != IGNORE_INDEX, axis=1)
    assert abs(chosen.sum() / maskable.sum() - 0.15) < 0.002
    runs = (chosen[:, 1:] & ~chosen[:, :-1]).sum() + chosen[:, 0].sum()
    assert 3.0 < chosen.sum() / runs < 5.0  # neighbouring spans join, long ones may not fit


def test_the_share_of_masked_tokens_moves_with_the_run() -> None:
    corpus = make_corpus([4000])
    ids = np.random.default_rng(0).integers(FIRST_WORD, 4000, (600, 128))
    masking = make_masking(corpus, mlm_probability=0.3, end_probability=0.15)
    progress = np.repeat([0.0, 0.5, 1.0], 200)
    zeros = np.zeros(600, dtype=int)
    masked = masking.apply(ids, np.ones(ids.shape, bool), epoch=zeros, row=np.arange(600), progress=progress)
    shares = (masked.labels != IGNORE_INDEX).reshape(3, -1).sum(1) / (200 * 128)
    assert np.allclose(shares, [0.3, 0.225, 0.15], atol=0.002)


@pytest.mark.parametrize(
    ("length", "shares", "epochs", "chance", "least", "most_again"),
    [
        (128, (0.15, None), 7, 0.68, 0.97, 0.04),  # by chance 1 - 0.85 ** 7
        (32, (0.15, None), 7, 0.68, 0.9, 0.11),
        (128, (0.5, 0.1), 4, 0.77, 0.95, 0.15),  # an epoch takes less than the one before
        (128, (0.3, 0.15), 5, 0.72, 0.95, 0.1),
    ],
)
def test_covering_masks_choose_other_tokens_in_each_epoch_until_nearly_all_were(
    length: int, shares: tuple[float, float | None], epochs: int, *, chance: float, least: float, most_again: float
) -> None:
    corpus = make_corpus(lognormal(40, 200))
    reached = {}
    for covering in (False, True):
        masking = make_masking(corpus, mlm_probability=shares[0], end_probability=shares[1], covering=covering)
        rows = make_rows(corpus, objective="mlm", sequence_length=length, masking=masking)
        rows.course = Course(0, 0, 1, rows.rows_per_epoch * epochs)
        seen = np.zeros((epochs, corpus.num_tokens), dtype=bool)
        for epoch in range(epochs):
            for row in epoch_rows(rows, epoch):
                seen[epoch, row.labels[row.labels != IGNORE_INDEX] - FIRST_WORD] = True  # ids say where they stand
        reached[covering] = seen.any(0).mean()
    assert reached[False] == pytest.approx(chance, abs=0.02)
    assert reached[True] > least
    assert (seen[0] & seen[1]).sum() / seen[1].sum() < most_again


def test_sentence_order_swaps_half_of_the_pairs_and_loses_nothing() -> None:
    corpus = make_corpus(lognormal(3, 240))
    rows = make_rows(corpus, objective="mlm+sop")
    labels, tokens = [], []
    for row in epoch_rows(rows, 0):
        for ids, _, label in sequences(row):
            tokens += [int(each) for each in ids if each >= FIRST_WORD]
            if label == IGNORE_INDEX:
                continue
            labels.append(label)
            first, second = (part - FIRST_WORD for part in np.split(ids[1:-1], [np.flatnonzero(ids == SEP)[0] - 1]))
            second = second[1:]
            assert (second[0] == first[-1] + 1) if label == 0 else (first[0] == second[-1] + 1)
            assert max(first[0], second[0]) in corpus.sentence_starts
    assert sorted(tokens) == list(range(FIRST_WORD, FIRST_WORD + corpus.num_tokens))
    assert len(labels) > 500
    assert abs(np.mean(labels) - 0.5) < 0.005


def test_a_row_with_one_token_still_predicts_it() -> None:
    corpus = make_corpus([1] * 30)
    row = make_rows(corpus, objective="mlm", sequence_length=16)[0]
    assert (row.labels != IGNORE_INDEX).sum() >= 1


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"split": "test"}, "split is 'test'; expected one of train, validation"),
        ({"objective": "nsp"}, r"objective is 'nsp'; did you mean 'mlm\+nsp'"),
        ({"mask_units": "words"}, "mask_units is 'words'; did you mean 'word'"),
        ({"mlm_probability": 1.5}, "mlm_probability is 1.5; give a share between 0 and 1"),
        ({"end_probability": 0.0}, "end_probability is 0.0; give a share between 0 and 1"),
        ({"sequence_length": 3}, "sequence_length is 3; give 16 places or more"),
    ],
)
def test_rows_that_cannot_be_are_refused(given: dict[str, Any], complaint: str, prepared: Path) -> None:
    with pytest.raises(UserError, match=complaint):
        open_rows(prepared, **given)


def test_rows_of_no_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="gone is no folder; give a run, or what `bertsmith prepare` wrote"):
        open_rows(tmp_path / "gone")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    text = write_prose(folder / "prose.txt")
    config = DataConfig(text=(str(text),), document="blank-line", vocab_size=160, validation_fraction=0.2, workers=1)
    prepare(config, folder / "data-of-prose", report=print, sequence_length=16)
    return folder / "data-of-prose"
