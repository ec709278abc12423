"""Embeddings that begin at the neighbours of the pieces: counted, decomposed, and put where a new model begins."""

from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import bertsmith.planning.from_settings as from_settings
from bertsmith.data.shards import open_shards, shard_name
from bertsmith.errors import UserError
from bertsmith.interrupt import Interrupted
from bertsmith.model import first_embeddings
from bertsmith.model.first_embeddings import (
    KNOWN_FROM,
    SCALE,
    SMOOTHING,
    WIDEST,
    begin_at_neighbours,
    ppmi,
    truncated_svd,
)
from bertsmith.planning.making import make_plan
from bertsmith.prepare import neighbours
from bertsmith.prepare.facts import count_ids
from bertsmith.prepare.neighbours import count_neighbours
from bertsmith.reporter import Reporter
from bertsmith.run_folder import read_run

from runs import Listener, train, weights

VOCABULARY = 160
NO_STEP = {"steps": 1, "learning_rate": 1e-30, "validation_every": 1}
"""A step that changes nothing."""


@pytest.fixture(scope="module")
def prepared(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RUN/data of a text in several sections."""
    folder = tmp_path_factory.mktemp("prepared") / "run"
    train(folder, text, **NO_STEP)
    return folder / "data"


def counted_in_a_loop(folder: Path, frequencies: np.ndarray, columns: int) -> np.ndarray:
    """The same, pair by pair."""
    shards = open_shards(folder, "train")
    ids = shards.take(np.arange(shards.num_tokens))
    column = {int(piece): number for number, piece in enumerate(np.argsort(-frequencies, kind="stable")[:columns])}
    counts = np.zeros((len(frequencies), columns))
    for start, end in zip(shards.section_starts[:-1], shards.section_starts[1:], strict=True):
        for place in range(start, end):
            for other in range(max(start, place - 2), min(end, place + 3)):
                if other != place and int(ids[other]) in column:
                    counts[ids[place], column[int(ids[other])]] += 1
    return counts


@pytest.mark.parametrize("columns", [VOCABULARY, 20])
def test_neighbours_are_those_within_two_places_in_the_same_section(
    columns: int, prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "CONTEXTS", columns)
    frequencies = count_ids(prepared, "train", VOCABULARY)
    found = count_neighbours(prepared, "train", frequencies)
    assert len(open_shards(prepared, "train").section_starts) > 10
    assert np.array_equal(found, counted_in_a_loop(prepared, frequencies, columns))


def test_a_large_vocabulary_has_fewer_neighbours_and_a_damaged_shard_is_named(
    prepared: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(neighbours, "MAX_COUNTS", 10 * VOCABULARY + 5)
    frequencies = count_ids(prepared, "train", VOCABULARY)
    assert count_neighbours(prepared, "train", frequencies).shape == (VOCABULARY, 10)
    (tmp_path / "manifest.json").write_bytes((prepared / "manifest.json").read_bytes())
    with pytest.raises(UserError, match=f"{shard_name('train', 0)} is damaged: it is missing"):
        count_neighbours(tmp_path, "train", frequencies)


def test_ppmi_is_that_of_a_loop() -> None:
    counts = np.random.default_rng(0).poisson(0.7, (12, 7)).astype(np.float32)
    counts[3] = 0  # a piece that does not occur
    counts[:, 4] = 0
    found = ppmi(torch.from_numpy(counts.copy()))
    share = counts.sum(0).astype(np.float64) ** SMOOTHING / (counts.sum(0).astype(np.float64) ** SMOOTHING).sum()
    for piece in range(12):
        for neighbour in range(7):
            count = float(counts[piece, neighbour])
            expected = max(0.0, log(count / counts[piece].sum() / share[neighbour])) if count else 0.0
            assert float(found[piece, neighbour]) == pytest.approx(expected, abs=1e-6)


def falling(rows: int, columns: int, values: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
    """A float64 matrix of these singular values, and U sqrt(S)."""
    left, right = (torch.linalg.qr(torch.randn(size, len(values), dtype=torch.float64)).Q for size in (rows, columns))
    scale = torch.tensor(values, dtype=torch.float64)
    return left * scale @ right.T, left * scale.sqrt()


def test_truncated_svd_are_those_of_the_singular_value_decomposition() -> None:
    """But for a rotation: so the products of the rows are compared."""
    torch.manual_seed(0)
    matrix, expected = falling(40, 30, [100.0, 60, 30, 10, 1e-4, 1e-5])
    found = truncated_svd(matrix, 4)
    torch.testing.assert_close(found @ found.T, expected[:, :4] @ expected[:, :4].T, rtol=1e-3, atol=1e-3)
    strengths = found.pow(2).sum(0)
    assert strengths.max() < 100 * strengths.min()  # turned: no dimension holds most of it


def test_rows_that_are_not_fitted_follow_those_that_are() -> None:
    torch.manual_seed(0)
    matrix, expected = falling(40, 30, [100.0, 60, 30, 10])
    found = truncated_svd(matrix, 4, fitted=torch.arange(8))  # these have all that the others consist of
    torch.testing.assert_close(found @ found.T, expected @ expected.T, rtol=1e-6, atol=1e-6)


def test_the_most_frequent_pieces_decide_which_contexts_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_embeddings, "FITTED", 4)
    counts = torch.zeros(24, 4)
    counts[20:22, 0] = counts[22:, 1] = 1000.0
    counts[:10, 2] = counts[10:20, 3] = 30.0  # many, each of them rare, beside others
    embeddings = nn.Embedding(24, 2)
    before = embeddings.weight.detach().clone()
    begin_at_neighbours(embeddings, counts)
    assert (embeddings.weight == before).all(1).tolist() == [True] * 20 + [False] * 4


@pytest.mark.parametrize("shape", [(6, 30), (30, 5)])
def test_more_dimensions_than_the_matrix_has_are_no_error(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix, expected = falling(*shape, [5.0, 4, 3, 2, 1])
    found = truncated_svd(matrix, 16)
    assert found.shape == (shape[0], 16)
    torch.testing.assert_close(found @ found.T, expected @ expected.T, rtol=1e-6, atol=1e-6)


def test_rounding_stays_rounding_where_singular_values_are_equal() -> None:
    matrix, _ = falling(40, 30, [5.0, 5, 5, 5, 5, 5])
    changed = matrix + 1e-9 * torch.randn_like(matrix)
    torch.manual_seed(1)
    first = truncated_svd(matrix, 6)
    torch.manual_seed(1)
    torch.testing.assert_close(truncated_svd(changed, 6), first, rtol=0, atol=1e-6)


def test_pieces_with_the_same_neighbours_begin_alike_and_rare_ones_at_random() -> None:
    torch.manual_seed(0)
    counts = torch.from_numpy(np.random.default_rng(0).poisson(2.0, (50, 50)).astype(np.float32) * 3)
    counts[7] = counts[8] * 2
    counts[9] = 0
    counts[10] = torch.eye(50)[3] * (KNOWN_FROM - 1)
    embeddings = nn.Embedding(50, 16)
    before = embeddings.weight.detach().clone()
    begin_at_neighbours(embeddings, counts)
    after = embeddings.weight.detach()
    assert torch.equal(after[9:11], before[9:11])
    known = [piece for piece in range(50) if piece not in {9, 10}]
    lengths = after[known].norm(dim=1)
    expected = SCALE * float(before[known].norm(dim=1).mean())
    torch.testing.assert_close(lengths, torch.full_like(lengths, expected))
    likeness = torch.nn.functional.cosine_similarity(after[7], after[known])
    assert likeness[known.index(8)] > 0.999
    assert likeness[[known.index(piece) for piece in known if piece not in {7, 8}]].max() < 0.9


@pytest.mark.parametrize(("width", "longer"), [(64, SCALE), (WIDEST, SCALE), (4 * WIDEST, SCALE / 2)])
def test_in_wide_models_scores_begin_no_larger(width: int, longer: float) -> None:
    torch.manual_seed(0)
    embeddings = nn.Embedding(40, width).requires_grad_(False)
    before = embeddings.weight.norm(dim=1).mean()
    begin_at_neighbours(embeddings, torch.randint(0, 9, (40, 40)).float())
    assert float(embeddings.weight.norm(dim=1).mean() / before) == pytest.approx(longer, rel=1e-4)


def test_wide_embeddings_are_those_of_fewer_dimensions_turned(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = torch.randint(0, 9, (40, 40)).float()
    products = []
    for width in (8, 32):
        monkeypatch.setattr(first_embeddings, "DIRECTIONS", 8)
        torch.manual_seed(0)
        embeddings = nn.Embedding(40, width).requires_grad_(False)
        torch.manual_seed(0)
        begin_at_neighbours(embeddings, counts.clone())
        vectors = nn.functional.normalize(embeddings.weight)
        products.append(vectors @ vectors.T)
    assert torch.linalg.matrix_rank(embeddings.weight) == 8 < embeddings.weight.shape[1]
    torch.testing.assert_close(*products, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("counts", [0, 40])
def test_a_text_that_says_nothing_leaves_all_at_random(counts: int) -> None:
    """No piece that is known, or each beside all others as often."""
    embeddings = nn.Embedding(5, 4)
    before = embeddings.weight.detach().clone()
    begin_at_neighbours(embeddings, torch.full((5, 5), float(counts)))
    assert torch.equal(embeddings.weight, before)


@pytest.mark.parametrize(
    ("preset", "name"),
    [
        ("bert-tiny", "bert.embeddings.word_embeddings.weight"),
        ("modern-tiny", "model.embeddings.tok_embeddings.weight"),
    ],
)
def test_nothing_but_the_embeddings_begins_otherwise(preset: str, name: str, text: Path, tmp_path: Path) -> None:
    begun = {}
    for way in ("normal", "ppmi"):
        settings = {"preset": preset, "output_bias": "unigram", "attention_init": "normal"}
        train(tmp_path / way, text, embedding_init=way, **settings, **NO_STEP)
        begun[way] = weights(tmp_path / way)
    normal, ppmi = begun["normal"], begun["ppmi"]
    assert [each for each in normal if not torch.allclose(normal[each], ppmi[each], atol=1e-20)] == [name]
    changed = (normal[name] != ppmi[name]).any(1)
    frequencies = count_ids(tmp_path / "ppmi" / "data", "train", VOCABULARY)
    assert not changed[frequencies == 0].any()  # [CLS], [MASK] and others
    assert changed[frequencies > KNOWN_FROM].all()
    card = (tmp_path / "ppmi" / "model" / "README.md").read_text(encoding="utf-8")
    assert "| embeddings at first | from the neighbours of the pieces in the text |" in card


def test_a_run_goes_on_without_counting_again(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: dict[str, Any] = {"preset": "modern-tiny", "embedding_init": "ppmi", "steps": 4}
    train(tmp_path / "straight", text, **settings)
    with pytest.raises(Interrupted):
        train(tmp_path / "stopped", text, Listener(stop_after=2), **settings)
    monkeypatch.setattr(from_settings, "count_neighbours", lambda *_: pytest.fail("counted again"))
    train(tmp_path / "stopped", text, **settings)
    straight, stopped = weights(tmp_path / "straight"), weights(tmp_path / "stopped")
    assert all(torch.equal(straight[name], stopped[name]) for name in straight)


def test_a_plan_counts_nothing_without_a_budget_of_time(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[int] = []
    monkeypatch.setattr(from_settings, "count_neighbours", lambda *_: counted.append(1) or np.ones((160, 160), "f"))
    for number, changes in enumerate(({"steps": 3}, {"budget": "1e12flop"}, {"budget": "1h"})):
        train(tmp_path / str(number), text, **{"steps": None, **changes}, plan_only=True)
    assert len(counted) == 1


def test_what_was_measured_begins_as_what_was_not(text: Path, tmp_path: Path) -> None:
    """What is measured is the model that the run begins with, before anything is counted."""
    train(tmp_path / "run", text, plan_only=True)
    run, device = read_run(tmp_path / "run"), torch.device("cpu")
    plan = make_plan(run, device, Reporter(), started=0.0, seconds_before=0.0, is_begun=False)
    plan.new_model(counted=False)  # forget what was measured
    fresh = plan.new_model().state_dict()
    measured = plan.model_to_measure()
    torch.randn(3)
    begun = plan.new_model()
    assert begun is measured
    assert all(torch.equal(value, fresh[name]) for name, value in begun.state_dict().items())
    drawn = plan.new_model(counted=False).state_dict()
    assert any(not torch.equal(value, fresh[name]) for name, value in drawn.items())


def test_counting_that_does_not_fit_is_one_line(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(from_settings, "free_memory", lambda: 8 * VOCABULARY**2 - 1)
    with pytest.raises(UserError, match=r"0\.0 GB are free; give --embedding-init normal, or free"):
        train(tmp_path / "run", text, **NO_STEP)
    train(tmp_path / "run", text, **NO_STEP, embedding_init="normal")
    monkeypatch.setattr(from_settings, "free_memory", lambda: 8 * VOCABULARY**2)
    train(tmp_path / "other", text, **NO_STEP)
