"""Heads of a new ModernBERT that look at the tokens beside each token."""

from pathlib import Path

import pytest
import torch

from bertsmith.errors import UserError
from bertsmith.model.first_attention import OFFSETS, PEAK, begin_beside, looking_at
from bertsmith.model.modernbert import ModernBertBlock, ModernBertConfig, ModernBertPretrainingModel
from bertsmith.model.rotary import rotate, rotation

from runs import train, weights

NO_STEP = {"steps": 1, "learning_rate": 1e-30, "validation_every": 1}


@pytest.mark.parametrize("theta", [10_000.0, 160_000.0])
@pytest.mark.parametrize("head_dim", [4, 16, 64])
@pytest.mark.parametrize("offset", OFFSETS)
def test_scores_are_highest_at_the_offset_wherever_the_query_is(offset: int, head_dim: int, theta: float) -> None:
    query, key = looking_at(offset, head_dim, theta)
    turn = rotation(torch.arange(64), head_dim, theta)
    queries, keys = (rotate(vector.expand(64, 1, 1, -1), turn)[:, 0, 0] for vector in (query, key))
    scores = queries @ keys.T / head_dim**0.5
    for place in (5, 31, 58):
        assert int(scores[place, place - 5 : place + 6].argmax()) - 5 == offset
        assert float(scores[place, place + offset]) == pytest.approx(PEAK, rel=1e-4)
        beside = float(scores[place, place + offset + 1])
        assert beside == pytest.approx(float(scores[place, place + offset - 1]), rel=1e-4)
        assert beside < PEAK - 1


@pytest.mark.parametrize("heads", [1, 2, 8])
def test_heads_of_a_new_model_look_beside(heads: int) -> None:
    """The weights that attention gives, in a model with all layers, on tokens drawn at random."""
    torch.manual_seed(0)
    config = ModernBertConfig(
        vocab_size=500,
        hidden_size=64 * heads,
        num_hidden_layers=4,
        num_attention_heads=heads,
        intermediate_size=32,
        pad_token_id=0,
    )
    model = ModernBertPretrainingModel(config).requires_grad_(False)
    begin_beside(model)
    ids = torch.randint(1, 500, (1, 40))
    hidden = model.bert(ids, output_hidden_states=True).hidden_states
    assert hidden is not None
    for block, before in zip(model.bert.blocks, hidden, strict=False):
        assert isinstance(block, ModernBertBlock)
        theta = config.global_rope_theta if block.window is None else config.local_rope_theta
        qkv = block.attention.qkv(block.attention_norm(before[0])).unflatten(-1, (3, heads, 64))
        query, key = rotate(qkv[:, :2], rotation(torch.arange(40), 64, theta)).unbind(1)
        shares = (torch.einsum("ihk,jhk->hij", query, key) / 8).softmax(-1)
        for head in range(heads):
            offset = OFFSETS[head] if head < len(OFFSETS) else None
            looked = torch.tensor([float(shares[head].diagonal(place).mean()) for place in range(-4, 5)])
            if offset is None:
                assert looked.max() < 0.1
            else:
                assert int(looked.argmax()) - 4 == offset
                assert looked.max() > 0.3


def test_nothing_but_embeddings_and_what_looks_begins_otherwise(text: Path, tmp_path: Path) -> None:
    begun = {}
    for way in ("normal", "neighbours"):
        train(tmp_path / way, text, preset="modern-tiny", attention_init=way, embedding_init="normal", **NO_STEP)
        begun[way] = weights(tmp_path / way)
    normal, beside = begun["normal"], begun["neighbours"]
    changed = [name for name in normal if not torch.allclose(normal[name], beside[name], atol=1e-20)]
    assert changed == [
        "model.embeddings.tok_embeddings.weight",
        *(name for name in normal if name.endswith("attn.Wqkv.weight")),
    ]
    for name in changed[1:]:
        values = slice(2 * len(normal[name]) // 3, None)
        assert torch.equal(normal[name][values], beside[name][values])
    card = (tmp_path / "neighbours" / "model" / "README.md").read_text(encoding="utf-8")
    assert "| attention at first | with heads at the tokens beside each token |" in card


def test_bert_has_no_such_heads(text: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="attention_init is 'neighbours', which needs the rotary positions of ModernB"):
        train(tmp_path / "run", text, preset="bert-tiny", attention_init="neighbours")
    assert not (tmp_path / "run").exists()
