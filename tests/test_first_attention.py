"""Heads of a new model that look at the tokens beside each token."""

from pathlib import Path

import pytest
import torch

from bertsmith.errors import UserError
from bertsmith.model.bert import BertBlock, BertConfig, BertPretrainingModel
from bertsmith.model.first_attention import BERT_LAYERS, OFFSETS, PEAK, begin_beside, looking_at
from bertsmith.model.modernbert import ModernBertBlock, ModernBertConfig, ModernBertPretrainingModel
from bertsmith.model.rotary import rotate, rotation
from bertsmith.run_folder import read_run

from runs import train, weights

NO_STEP = {"steps": 1, "learning_rate": 1e-30, "validation_every": 1}


@pytest.mark.parametrize("theta", [10_000.0, 160_000.0])
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("offset", OFFSETS)
def test_scores_are_highest_at_the_offset_wherever_the_query_is(offset: int, head_dim: int, theta: float) -> None:
    query, key = looking_at(offset, head_dim, theta)
    turn = rotation(torch.arange(40), head_dim, theta)
    queries, keys = (rotate(vector.expand(40, 1, -1), turn)[:, 0] for vector in (query, key))
    scores = queries @ keys.T / head_dim**0.5
    for place in (5, 21, 34):
        assert int(scores[place].argmax()) - place == offset
        assert float(scores[place, place + offset]) == pytest.approx(PEAK, rel=1e-4)
        beside = float(scores[place, place + offset + 1])
        assert beside == pytest.approx(float(scores[place, place + offset - 1]), rel=1e-4)
        assert beside < PEAK - 1


def test_heads_that_would_look_at_many_places_alike_begin_anywhere() -> None:
    assert not any(bool(vector.any()) for head_dim in (8, 32) for vector in looking_at(1, head_dim, 10_000.0))


def looked_at(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Attention to the places from 4 before to 4 behind each token, mean over the tokens: [H, 9]."""
    shares = (torch.einsum("ihk,jhk->hij", query, key) / query.shape[-1] ** 0.5).softmax(-1)
    return torch.stack([shares.diagonal(place, 1, 2).mean(1) for place in range(-4, 5)], 1)


def assert_beside(looked: torch.Tensor) -> None:
    for head, shares in enumerate(looked):
        if head < len(OFFSETS):
            assert int(shares.argmax()) - 4 == OFFSETS[head]
            assert shares.max() > 0.3
        else:
            assert shares.max() < 0.1


def begin_with_known(model: BertPretrainingModel | ModernBertPretrainingModel, known: int) -> None:
    """As a run does where the text holds so many of the 500 pieces: their embeddings are four times as long."""
    counts = (torch.arange(500) < known).long()
    model.bert.embeddings.word_embeddings.weight[:known] *= 4
    begin_beside(model, counts)


@pytest.mark.parametrize("known", [500, 50])
@pytest.mark.parametrize("heads", [2, 8])
def test_heads_of_a_new_modernbert_look_beside(heads: int, known: int) -> None:
    """In all layers, on tokens drawn at random."""
    torch.manual_seed(0)
    shape = {"hidden_size": 64 * heads, "num_attention_heads": heads, "intermediate_size": 32}
    config = ModernBertConfig(vocab_size=500, num_hidden_layers=4, pad_token_id=0, **shape)
    model = ModernBertPretrainingModel(config).requires_grad_(False)
    begin_with_known(model, known)
    hidden = model.bert(torch.randint(1, known, (1, 40)), output_hidden_states=True).hidden_states
    assert hidden is not None
    for block, before in zip(model.bert.blocks, hidden, strict=False):
        assert isinstance(block, ModernBertBlock)
        theta = config.global_rope_theta if block.window is None else config.local_rope_theta
        qkv = block.attention.qkv(block.attention_norm(before[0])).unflatten(-1, (3, heads, 64))
        assert_beside(
            looked_at(*(rotate(part, rotation(torch.arange(40), 64, theta)) for part in qkv[:, :2].unbind(1)))
        )


@pytest.mark.parametrize("known", [500, 50])
@pytest.mark.parametrize("heads", [2, 8])
def test_heads_of_the_first_layers_of_a_new_bert_look_beside(heads: int, known: int) -> None:
    """With feed-forward layers as wide as BERT's, which add to what says the position."""
    torch.manual_seed(0)
    shape = {"hidden_size": 64 * heads, "num_attention_heads": heads, "intermediate_size": 256 * heads}
    config = BertConfig(vocab_size=500, num_hidden_layers=BERT_LAYERS + 2, max_position_embeddings=64, **shape)
    model = BertPretrainingModel(config).requires_grad_(False).eval()
    begin_with_known(model, known)
    hidden = model.bert(torch.randint(1, known, (1, 40)), output_hidden_states=True).hidden_states
    assert hidden is not None
    for layer, (block, before) in enumerate(zip(model.bert.blocks, hidden, strict=False)):
        assert isinstance(block, BertBlock)
        query, key, _ = block.attention.qkv(before[0]).unflatten(-1, (3, heads, 64)).unbind(1)
        if layer < BERT_LAYERS:
            assert_beside(looked_at(query, key))
        else:
            assert looked_at(query, key).max() < 0.1


@pytest.mark.parametrize(
    ("preset", "embeddings", "queries"),
    [
        ("bert-tiny", ["position_embeddings.weight", "word_embeddings.weight"], ["key.weight", "query.weight"]),
        ("modern-tiny", ["tok_embeddings.weight"], ["Wqkv.weight"]),
    ],
)
def test_nothing_but_embeddings_and_what_looks_begins_otherwise(
    preset: str, embeddings: list[str], queries: list[str], text: Path, tmp_path: Path
) -> None:
    begun = {}
    for way in ("normal", "neighbours"):
        settings = {"preset": preset, "hidden_size": 64, "num_attention_heads": 1, "embedding_init": "normal"}
        train(tmp_path / way, text, attention_init=way, **settings, **NO_STEP)
        begun[way] = weights(tmp_path / way)
    normal, beside = begun["normal"], begun["neighbours"]
    changed = [name for name in normal if not torch.allclose(normal[name], beside[name], atol=1e-20)]
    assert sorted({name.split(".")[-2] + ".weight" for name in changed}) == sorted(embeddings + queries)
    assert len(changed) == len(embeddings) + 2 * len(queries)  # in both layers
    for name in (name for name in changed if name.endswith("Wqkv.weight")):
        values = slice(2 * len(normal[name]) // 3, None)
        assert torch.equal(normal[name][values], beside[name][values])
    card = (tmp_path / "neighbours" / "model" / "README.md").read_text(encoding="utf-8")
    assert "| attention at first | with heads at the tokens beside each token |" in card


@pytest.mark.parametrize(("preset", "width"), [("bert-tiny", 8), ("modern-tiny", 32)])
def test_heads_that_are_too_narrow_begin_at_random_and_say_so(
    preset: str, width: int, text: Path, tmp_path: Path
) -> None:
    narrow = {"preset": preset, "hidden_size": width, "num_attention_heads": 1, **NO_STEP}
    train(tmp_path / "run", text, **narrow)
    assert read_run(tmp_path / "run").config.training.attention_init == "normal"
    assert "attention at first" not in (tmp_path / "run" / "model" / "README.md").read_text(encoding="utf-8")
    with pytest.raises(UserError, match=f"heads of {width} dimensions are too narrow"):
        train(tmp_path / "other", text, attention_init="neighbours", **narrow)


@pytest.mark.parametrize(("width", "heads"), [(8, 8), (8, 4), (24, 2), (12, 1)])
def test_any_width_of_bert_is_no_error(width: int, heads: int) -> None:
    config = BertConfig(vocab_size=20, hidden_size=width, num_attention_heads=heads, intermediate_size=8)
    assert_finite(BertPretrainingModel(config))


@pytest.mark.parametrize(("width", "heads"), [(8, 4), (24, 2), (12, 1)])
def test_any_width_of_modernbert_is_no_error(width: int, heads: int) -> None:
    shape = {"hidden_size": width, "num_attention_heads": heads, "intermediate_size": 8}
    config = ModernBertConfig(vocab_size=20, pad_token_id=0, num_hidden_layers=2, **shape)
    assert_finite(ModernBertPretrainingModel(config))


def assert_finite(model: BertPretrainingModel | ModernBertPretrainingModel) -> None:
    begin_beside(model, torch.ones(20, dtype=torch.int64))
    assert all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())
