"""ModernBERT against transformers: the same weights must give the same numbers and the same gradients."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bertsmith.data.rows import IGNORE_INDEX
from bertsmith.model import ModernBertConfig, ModernBertModel, ModernBertPretrainingModel
from bertsmith.model.modernbert_folder import MODERNBERT
from bertsmith.model.naming import hf_names

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its own imports
    transformers = pytest.importorskip("transformers")
    from transformers.models.modernbert import modeling_modernbert

SIZES = {
    "two global layers": {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 4, "intermediate_size": 40},
    "heads of 6": {"hidden_size": 30, "num_attention_heads": 5, "num_hidden_layers": 3, "intermediate_size": 50},
    "heads of 64": {"hidden_size": 128, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 192},
}
VOCAB, LENGTH = 60, 33
WINDOWS = {"shorter": 8, "as long": 32, "longer": 128}
"""`local_attention`: half of it reaches to each side."""

IDS = {"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
KINDS = [("eager", torch.float32, 1e-5), ("sdpa", torch.float32, 1e-5), ("sdpa", torch.float64, 1e-10)]
"""Its eager attention takes the softmax in float32, whatever the model is in."""


def rotate_exactly(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
    """`apply_rotary_pos_emb` of transformers, which rounds queries and keys to float32, without the rounding."""
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    rotate_half = modeling_modernbert.rotate_half
    return q * cos + rotate_half(q) * sin, k * cos + rotate_half(k) * sin


def foreign_model(cls: str, **changes: Any) -> Any:
    """A model of transformers with all its tensors random, so that hidden states are of the size of 1."""
    shape = {**IDS, "vocab_size": VOCAB, "max_position_embeddings": 40, **SIZES["two global layers"], **changes}
    model = getattr(transformers, cls)(transformers.ModernBertConfig(**shape)).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.2 * noise if name.endswith("norm.weight") else noise / model.config.hidden_size**0.5)
    return model


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Token ids, the mask of real ones (whole, right-padded, short, one token, left-padded), and labels."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, VOCAB, (5, LENGTH), generator=generator)  # id 0, [PAD], is read as a token too
    mask = torch.ones(5, LENGTH, dtype=torch.int64)
    mask[1, 20:] = 0
    mask[2, 3:] = 0
    mask[3, 1:] = 0
    mask[4, :12] = 0
    is_target = (torch.rand(5, LENGTH, generator=generator) < 0.3) & mask.bool()
    return ids, mask, torch.where(is_target, ids.flip(0), IGNORE_INDEX)


@pytest.mark.parametrize(("implementation", "dtype", "tolerance"), KINDS)
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("size", SIZES)
def test_pretraining_equals_transformers(
    size: str,
    window: str,
    implementation: str,
    dtype: torch.dtype,
    tolerance: float,
    *,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Hidden states of all layers, logits, loss, and the gradient of every tensor."""
    if dtype == torch.float64:
        monkeypatch.setattr(modeling_modernbert, "apply_rotary_pos_emb", rotate_exactly)
    shape = {"local_attention": WINDOWS[window], "attn_implementation": implementation, **SIZES[size]}
    theirs = foreign_model("ModernBertForMaskedLM", **shape)
    assert theirs.config._attn_implementation == implementation
    theirs.save_pretrained(tmp_path)
    ours = ModernBertPretrainingModel.from_pretrained(tmp_path).to(dtype)
    theirs = theirs.to(dtype)
    close = {"rtol": 0, "atol": tolerance}
    ids, mask, labels = inputs()
    real, masked_index = mask.bool(), (labels != IGNORE_INDEX).flatten().nonzero().squeeze(1)

    expected = theirs(ids, mask, labels=labels, output_hidden_states=True)
    encoded = ours.bert(ids, mask, output_hidden_states=True)
    assert len(encoded.hidden_states) == len(expected.hidden_states)
    for mine, other in zip(encoded.hidden_states, expected.hidden_states, strict=True):
        torch.testing.assert_close(mine[real], other[real], **close)
        assert not mine[~real].any()
    torch.testing.assert_close(encoded.sequence_output, encoded.hidden_states[-1])
    torch.testing.assert_close(ours(ids, mask).mlm_logits[real], expected.logits[real], **close)
    output = ours(ids, mask, masked_index=masked_index)
    torch.testing.assert_close(output.mlm_logits, expected.logits.flatten(0, 1)[masked_index], **close)

    loss = F.cross_entropy(output.mlm_logits, labels.flatten()[masked_index])
    expected_loss = F.cross_entropy(expected.logits.flatten(0, 1), labels.flatten())
    torch.testing.assert_close(loss, expected_loss, **close)
    torch.testing.assert_close(loss.float(), expected.loss, rtol=1e-6, atol=1e-5)  # theirs is float32 in any case
    loss.backward()
    expected_loss.backward()
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        (hf_name,) = hf_names(name, MODERNBERT)
        torch.testing.assert_close(
            parameter.grad, gradients.pop(hf_name), **close, msg=lambda text, n=hf_name: f"{n}: {text}"
        )
    assert not gradients


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_activation": "relu"},
        {"hidden_activation": "gelu_pytorch_tanh"},
        {"rope_parameters": {"full_attention": {"rope_theta": 50.0, "rope_type": "default"}}},
        {"local_attention": 9},
        {"norm_eps": 0.5},
        {"layer_types": ["full_attention", "sliding_attention"] * 2},
        {"layer_types": ["full_attention"] * 4},
    ],
)
def test_other_shapes_equal_transformers(changes: dict[str, Any], tmp_path: Path) -> None:
    theirs = foreign_model("ModernBertForMaskedLM", **{"local_attention": 8, **changes})
    theirs.save_pretrained(tmp_path)
    ours = ModernBertPretrainingModel.from_pretrained(tmp_path)
    ids, mask, _ = inputs()
    expected = theirs(ids, mask).logits[mask.bool()]
    torch.testing.assert_close(ours(ids, mask).mlm_logits[mask.bool()], expected, rtol=0, atol=1e-5)


def test_the_bare_encoder_equals_transformers(tmp_path: Path) -> None:
    theirs = foreign_model("ModernBertModel", local_attention=8)
    theirs.save_pretrained(tmp_path)
    ours = ModernBertModel.from_pretrained(tmp_path)
    ids, mask, _ = inputs()
    expected = theirs(ids, mask).last_hidden_state[mask.bool()]
    torch.testing.assert_close(ours(ids, mask).sequence_output[mask.bool()], expected, rtol=0, atol=1e-5)


def test_given_positions_and_holes_equal_transformers(tmp_path: Path) -> None:
    """Within the window: there a hole is a distance, while the window of transformers' FlashAttention has no holes."""
    theirs = foreign_model("ModernBertModel", local_attention=128)
    theirs.save_pretrained(tmp_path)
    ours = ModernBertModel.from_pretrained(tmp_path)
    ids, mask, _ = inputs()
    mask[0, 5:9] = 0
    for positions in (None, torch.arange(LENGTH).flip(0)[None]):
        expected = theirs(ids, mask, position_ids=positions).last_hidden_state[mask.bool()]
        mine = ours(ids, mask, position_ids=positions).sequence_output[mask.bool()]
        torch.testing.assert_close(mine, expected, rtol=0, atol=1e-5)


def test_dropout_stands_where_transformers_has_it(tmp_path: Path) -> None:
    theirs = foreign_model("ModernBertForMaskedLM", embedding_dropout=0.1, attention_dropout=0.2, mlp_dropout=0.3)
    theirs.save_pretrained(tmp_path)
    ours = ModernBertPretrainingModel.from_pretrained(tmp_path)
    assert ours.bert.embeddings.dropout.chance == theirs.model.embeddings.drop.p == 0.1
    for mine, other in zip(ours.bert.blocks, theirs.model.layers, strict=True):
        assert mine.attention.dropout_prob == mine.attention.dropout.chance == other.attn.out_drop.p == 0.2
        assert mine.dropout.chance == other.mlp.drop.p == 0.3


def test_weights_begin_with_the_spread_of_transformers() -> None:
    """Embeddings and what reads the residual stream alike, what adds to it smaller; all cut at two sigma."""
    shape = {"vocab_size": 3000, "hidden_size": 128, "intermediate_size": 160, "num_hidden_layers": 3}
    theirs = transformers.ModernBertForMaskedLM(transformers.ModernBertConfig(num_attention_heads=2, **IDS, **shape))
    config = ModernBertConfig(num_attention_heads=2, pad_token_id=0, **shape)
    ours = ModernBertPretrainingModel(config, generator=torch.Generator().manual_seed(0))
    for name, parameter in ours.named_parameters():
        other = theirs.get_parameter(hf_names(name, MODERNBERT)[0])
        if parameter.ndim == 2:
            assert parameter.std().item() == pytest.approx(other.std().item(), rel=0.05), name
            assert parameter.abs().max().item() == pytest.approx(other.abs().max().item(), rel=0.02), name
        else:
            assert torch.equal(parameter, other), name
