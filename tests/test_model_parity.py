"""The model against transformers: the same weights must give the same numbers and the same gradients."""

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bertsmith.data.rows import IGNORE_INDEX
from bertsmith.model import BertModel, BertPretrainingModel
from bertsmith.model.bert_folder import BERT
from bertsmith.model.naming import hf_names

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its own imports
    transformers = pytest.importorskip("transformers")

SIZES = {
    "two heads of 16": {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 64},
    "heads of 5": {"hidden_size": 30, "num_attention_heads": 6, "num_hidden_layers": 3, "intermediate_size": 50},
    "heads of 64": {"hidden_size": 128, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 512},
}
VOCAB, ROWS, LENGTH = 60, 4, 17
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


class Inputs(NamedTuple):
    input_ids: Tensor
    attention_mask: Tensor
    token_type_ids: Tensor
    labels: Tensor
    next_sentence_label: Tensor


def foreign_config(**changes: Any) -> Any:
    shape = {"vocab_size": VOCAB, "max_position_embeddings": 20, **SIZES["two heads of 16"], **changes}
    return transformers.BertConfig(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **shape)


def randomise(model: torch.nn.Module) -> None:
    """Every tensor at random, biases and LayerNorm too: a wrong one of these is then seen."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.2 * noise if name.endswith("LayerNorm.weight") else 0.2 * noise)


def foreign_model(cls: Any, config: Any) -> Any:
    model = cls(config).eval()
    randomise(model)
    return model


def inputs() -> Inputs:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, VOCAB, (ROWS, LENGTH), generator=generator)  # id 0, [PAD], is read as a token too
    mask = torch.ones(ROWS, LENGTH, dtype=torch.int64)
    mask[1, 9:] = 0
    mask[2, 1:] = 0
    mask[3, 5:8] = 0  # a hole
    types = torch.randint(0, 2, (ROWS, LENGTH), generator=generator)
    is_target = (torch.rand(ROWS, LENGTH, generator=generator) < 0.3) & mask.bool()
    labels = torch.where(is_target, ids.flip(0), IGNORE_INDEX)
    return Inputs(ids, mask, types, labels, torch.tensor([0, 1, 1, 0]))


@pytest.fixture(params=SIZES)
def shape(request: pytest.FixtureRequest) -> dict[str, int]:
    return SIZES[request.param]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_pretraining_equals_transformers(
    shape: dict[str, int], implementation: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    """Hidden states of all layers, pooled output, logits, losses, and the gradient of every tensor."""
    config = foreign_config(attn_implementation=implementation, **shape)
    theirs = foreign_model(transformers.BertForPreTraining, config)
    assert theirs.config._attn_implementation == implementation
    theirs.save_pretrained(tmp_path)
    ours = BertPretrainingModel.from_pretrained(tmp_path).to(dtype)
    theirs = theirs.to(dtype)
    close = {"rtol": 0, "atol": TOLERANCE[dtype]}
    batch = inputs()
    real = batch.attention_mask.bool()

    expected = theirs(**batch._asdict(), output_hidden_states=True)
    expected_pooled = theirs.bert(*batch[:3]).pooler_output
    masked_index = (batch.labels != IGNORE_INDEX).flatten().nonzero().squeeze(1)
    encoded = ours.bert(*batch[:3], output_hidden_states=True)
    everywhere = ours(*batch[:3])
    output = ours(*batch[:3], masked_index=masked_index)

    assert len(encoded.hidden_states) == len(expected.hidden_states)
    for mine, other in zip(encoded.hidden_states, expected.hidden_states, strict=True):
        torch.testing.assert_close(mine[real], other[real], **close)
        assert not mine[~real].any()
    torch.testing.assert_close(encoded.pooled_output, expected_pooled, **close)
    torch.testing.assert_close(everywhere.mlm_logits[real], expected.prediction_logits[real], **close)
    torch.testing.assert_close(output.mlm_logits, expected.prediction_logits.flatten(0, 1)[masked_index], **close)
    torch.testing.assert_close(output.nsp_logits, expected.seq_relationship_logits, **close)

    mlm_loss = F.cross_entropy(output.mlm_logits, batch.labels.flatten()[masked_index])
    nsp_loss = F.cross_entropy(output.nsp_logits, batch.next_sentence_label)
    expected_mlm_loss = F.cross_entropy(expected.prediction_logits.flatten(0, 1), batch.labels.flatten())
    torch.testing.assert_close(mlm_loss, expected_mlm_loss, **close)
    torch.testing.assert_close(nsp_loss, expected.loss - expected_mlm_loss, **close)
    torch.testing.assert_close(mlm_loss + nsp_loss, expected.loss, **close)

    (mlm_loss + nsp_loss).backward()
    expected.loss.backward()
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        names = hf_names(name, BERT)
        for hf_name, mine in zip(names, parameter.grad.chunk(len(names)), strict=True):
            torch.testing.assert_close(
                mine, gradients.pop(hf_name), **close, msg=lambda text, n=hf_name: f"{n}: {text}"
            )
    assert not gradients


@pytest.mark.parametrize("hidden_act", ["relu", "gelu_new", "gelu_pytorch_tanh"])
def test_other_activations_equal_transformers(hidden_act: str, tmp_path: Path) -> None:
    theirs = foreign_model(transformers.BertForMaskedLM, foreign_config(hidden_act=hidden_act))
    theirs.save_pretrained(tmp_path)
    ours = BertPretrainingModel.from_pretrained(tmp_path)
    ids = inputs().input_ids
    torch.testing.assert_close(ours(ids).mlm_logits, theirs(ids).logits, rtol=0, atol=1e-5)


def test_given_positions_equal_transformers(tmp_path: Path) -> None:
    theirs = foreign_model(transformers.BertModel, foreign_config())
    theirs.save_pretrained(tmp_path)
    ours = BertModel.from_pretrained(tmp_path)
    ids, mask = inputs()[:2]
    positions = torch.arange(LENGTH).flip(0)[None]
    expected = theirs(ids, mask, position_ids=positions).last_hidden_state
    output = ours(ids, mask, position_ids=positions).sequence_output
    torch.testing.assert_close(output[mask.bool()], expected[mask.bool()], rtol=0, atol=1e-5)


def test_left_padding_gives_the_hidden_states_of_transformers(tmp_path: Path) -> None:
    theirs = foreign_model(transformers.BertModel, foreign_config())
    theirs.save_pretrained(tmp_path)
    ours = BertModel.from_pretrained(tmp_path)
    ids, mask = inputs().input_ids, inputs().attention_mask.flip(1)
    expected = theirs(ids, mask).last_hidden_state
    output = ours(ids, mask)
    torch.testing.assert_close(output.sequence_output[mask.bool()], expected[mask.bool()], rtol=0, atol=1e-5)
