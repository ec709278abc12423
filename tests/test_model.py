"""BERT on its own: how it begins, padding, packing, dropout, compiling (with ModernBERT), and what it refuses."""

import copy
import shutil
from itertools import accumulate
from math import inf, nan
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bertsmith.errors import UserError
from bertsmith.model import BertConfig, BertModel, BertPretrainingModel, Packed

from small_models import model_of

VOCAB = 50


def config(**changes: Any) -> BertConfig:
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return BertConfig(**{"vocab_size": VOCAB, "max_position_embeddings": 16, **shape, **dropout, **changes})


def model(next_sentence: bool = True, **changes: Any) -> BertPretrainingModel:
    """A model whose weights are large enough for every part to matter."""
    generator = torch.Generator().manual_seed(0)
    return BertPretrainingModel(config(initializer_range=0.3, **changes), next_sentence, generator=generator)


def ids_of(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(5, VOCAB, shape, generator=torch.Generator().manual_seed(seed))


def packed_rows(lengths: list[int], row_length: int | None) -> tuple[dict[str, Any], list[Tensor]]:
    """A packed batch, and the ids of its sequences."""
    ids = ids_of(sum(lengths))
    batch = {
        "input_ids": ids,
        "token_type_ids": (ids % 2).clone(),
        "position_ids": torch.cat([torch.arange(length) for length in lengths]),
        "packed": Packed(torch.tensor([0, *accumulate(lengths)], dtype=torch.int32), max(lengths), row_length),
    }
    return batch, list(ids.split(lengths))


# How it begins


def test_weights_are_normal_and_cut_at_two_sigma() -> None:
    weights = BertModel(config(vocab_size=20_000)).embeddings.word_embeddings.weight
    assert weights.abs().max() <= 0.04
    assert weights.abs().max() > 0.0399
    assert weights.std().item() == pytest.approx(0.02 * 0.8796, rel=0.01)  # of a normal distribution cut at two sigma
    assert weights.mean().item() == pytest.approx(0.0, abs=1e-4)
    assert (weights.abs() < 0.02).float().mean().item() == pytest.approx(0.6827 / 0.9545, rel=0.01)


def test_biases_begin_at_zero_and_layer_norm_as_the_identity() -> None:
    for name, parameter in BertPretrainingModel(config()).named_parameters():
        if name.endswith("norm.weight"):
            assert (parameter == 1).all(), name
        elif name.endswith("bias"):
            assert (parameter == 0).all(), name
        else:
            assert 0 < parameter.abs().max() <= 0.04, name


def test_same_seed_same_weights() -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(BertPretrainingModel(config()).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_same_generator_same_weights_whatever_the_global_seed() -> None:
    first = BertPretrainingModel(config(), generator=torch.Generator().manual_seed(3)).state_dict()
    torch.manual_seed(99)
    second = BertPretrainingModel(config(), generator=torch.Generator().manual_seed(3)).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_names_of_parameters_are_stable() -> None:
    names = set(BertPretrainingModel(config(num_hidden_layers=1)).state_dict())
    modules = {
        "bert.embeddings.norm", "bert.blocks.0.attention.qkv", "bert.blocks.0.attention.out",
        "bert.blocks.0.attention_norm", "bert.blocks.0.intermediate", "bert.blocks.0.output",
        "bert.blocks.0.output_norm", "bert.pooler.dense", "mlm_head.dense", "mlm_head.norm", "nsp_head",
    }  # fmt: skip
    embeddings = {f"bert.embeddings.{kind}_embeddings.weight" for kind in ("word", "position", "token_type")}
    leaves = {f"{module}.{leaf}" for module in modules for leaf in ("weight", "bias")}
    assert names == embeddings | leaves | {"mlm_head.bias"}


def test_decoder_is_the_word_embedding() -> None:
    """One more word vector changes one more score, and the scores send their gradient into it."""
    net = model()
    net(ids_of(1, 4)).mlm_logits[..., 1].sum().backward()  # no 1 among the ids
    assert net.bert.embeddings.word_embeddings.weight.grad[1].abs().sum() > 0


# Padding and packing


def test_padding_content_changes_neither_output_nor_gradient() -> None:
    mask = torch.ones(3, 8, dtype=torch.int64)
    mask[0, 5:], mask[1, :3], mask[2, 3:5] = 0, 0, 0
    results = []
    for seed in (1, 2):
        net = model()
        ids, types = (torch.where(mask.bool(), ids_of(3, 8), ids_of(3, 8, seed=seed)), ids_of(3, 8, seed=seed) % 2)
        output = net(ids, mask, torch.where(mask.bool(), 0, types))
        (output.mlm_logits[mask.bool()].square().sum() + output.nsp_logits.square().sum()).backward()
        results.append([*output, *(parameter.grad for parameter in net.parameters())])
    assert all(torch.equal(first, second) for first, second in zip(*results, strict=True))


def test_a_padded_row_equals_the_row_without_padding() -> None:
    net = model()
    ids, mask = ids_of(2, 8), torch.tensor([[1] * 8, [1] * 5 + [0] * 3])
    padded, alone = net(ids, mask), net(ids[1:, :5])
    torch.testing.assert_close(padded.mlm_logits[1:, :5], alone.mlm_logits)
    torch.testing.assert_close(padded.nsp_logits[1:], alone.nsp_logits)


def test_left_padded_row_is_pooled_at_its_first_real_token() -> None:
    net = BertModel(config(initializer_range=0.3))
    output = net(ids_of(1, 8), torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1]]))
    torch.testing.assert_close(output.pooled_output, net.pooler(output.sequence_output[:, 2]))


@pytest.mark.parametrize("mask", [[[0] * 8, [1] * 8, [0] * 8], [[0] * 8] * 3])
def test_rows_without_any_token_give_zeros(mask: list[list[int]]) -> None:
    net = model()
    output = net.bert(ids_of(3, 8), torch.tensor(mask))
    assert not output.sequence_output[0].any()
    assert output.pooled_output.isfinite().all()
    output.pooled_output.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize(
    ("lengths", "row_length"),
    [([5, 3, 8, 6, 2], 8), ([5, 3, 8, 6, 2, 0, 0], 8), ([8, 8], 8), ([5, 11, 1, 0, 7], None)],
)
def test_packed_sequences_equal_each_sequence_alone(lengths: list[int], row_length: int | None) -> None:
    net = model()
    batch, sequences = packed_rows(lengths, row_length)
    output = net(**batch)
    for number, (ids, logits) in enumerate(zip(sequences, output.mlm_logits.split(lengths), strict=True)):
        if len(ids):
            alone = net(ids[None], token_type_ids=ids[None] % 2)
            torch.testing.assert_close(logits, alone.mlm_logits[0])
            torch.testing.assert_close(output.nsp_logits[number], alone.nsp_logits[0])
    assert output.nsp_logits.shape == (len(lengths), 2)
    assert output.nsp_logits.isfinite().all()


def test_packed_positions_are_counted_in_each_sequence_when_not_given() -> None:
    net = model()
    batch, _ = packed_rows([5, 3, 8], 8)
    given = net(**batch)
    del batch["position_ids"]
    assert torch.equal(net(**batch).mlm_logits, given.mlm_logits)


@pytest.mark.parametrize("mask", [None, torch.tensor([[1] * 8, [1] * 5 + [0] * 3])])
def test_logits_at_masked_places_are_those_of_the_full_call(mask: Tensor | None) -> None:
    net, ids, index = model(), ids_of(2, 8), torch.tensor([1, 4, 8, 12])
    everywhere = net(ids, mask).mlm_logits
    assert everywhere.shape == (2, 8, VOCAB)
    torch.testing.assert_close(net(ids, mask, masked_index=index).mlm_logits, everywhere.flatten(0, 1)[index])


def test_hidden_states_are_those_of_every_layer() -> None:
    net = BertModel(config())
    output = net(ids_of(2, 8), output_hidden_states=True)
    assert len(output.hidden_states) == 3
    assert torch.equal(output.hidden_states[-1], output.sequence_output)
    assert net(ids_of(2, 8)).hidden_states is None


def test_without_next_sentences_there_is_no_pooler() -> None:
    net = model(next_sentence=False)
    assert net.bert.pooler is None
    assert net(ids_of(2, 8)).nsp_logits is None


# Dropout


def test_dropout_is_off_in_evaluation_mode() -> None:
    net = model(hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5).eval()
    without = model().eval()
    assert torch.equal(net(ids_of(2, 8)).mlm_logits, without(ids_of(2, 8)).mlm_logits)


@pytest.mark.parametrize("kind", ["hidden_dropout_prob", "attention_probs_dropout_prob"])
def test_dropout_is_decided_by_the_seed(kind: str) -> None:
    net = model(**{kind: 0.5}).train()
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(net(ids_of(2, 8)).mlm_logits)
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.allclose(outputs[0], outputs[2])


# Compiling


def summed_loss(net: nn.Module, batch: dict[str, Any], index: Tensor) -> Tensor:
    output = net(**batch, masked_index=index)
    loss = F.cross_entropy(output.mlm_logits, ids_of(len(index), seed=3))
    if output.nsp_logits is None:
        return loss
    return loss + F.cross_entropy(output.nsp_logits, ids_of(len(output.nsp_logits)) % 2)


BOTH = pytest.mark.parametrize(("model_type", "shape"), [("bert", {}), ("modernbert", {"local_attention": 4})])


@BOTH
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_packed_call_is_one_graph_for_all_batches(
    model_type: str, shape: dict[str, int], dropout: float, precision: torch.dtype
) -> None:
    """No graph break, and other boundaries compile nothing anew."""
    torch.compiler.reset()
    net = model_of(model_type, dropout=dropout, **shape)
    net.compile(backend="eager", fullgraph=True, dynamic=False)
    index = torch.tensor([1, 4, 8, 12, 0, 0])
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
        summed_loss(net, packed_rows([5, 3, 8, 6, 2, 0, 0], 8)[0], index).backward()
        with torch.compiler.set_stance("fail_on_recompile"):
            summed_loss(net, packed_rows([2, 2, 2, 2, 8, 3, 5], 8)[0], index).backward()


@BOTH
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*script_method.* is deprecated:DeprecationWarning")  # PyTorch's, when it loads
def test_compiled_packed_call_equals_eager(model_type: str, shape: dict[str, int]) -> None:
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("needs a C++ compiler")
    torch.compiler.reset()
    eager = model_of(model_type, initializer_range=0.3, hidden_size=32, num_hidden_layers=2, **shape)
    compiled = copy.deepcopy(eager)
    compiled.compile(fullgraph=True, dynamic=False)
    batch, _ = packed_rows([5, 3, 8, 6, 2, 0, 0], 8)
    index = torch.tensor([1, 4, 8, 12, 0, 0])
    losses = [summed_loss(net, batch, index) for net in (eager, compiled)]
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(*losses)
    for mine, other in zip(eager.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-5)


def test_autocast_leaves_a_float64_model_as_it_is() -> None:
    ours, ids = model().double().train(), ids_of(2, 9)
    expected = ours(ids).mlm_logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ours(ids).mlm_logits, expected)


# What it refuses


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_attention_heads": 5}, "num_attention_heads is 5; give a divisor of hidden_size, 32"),
        ({"hidden_size": 0}, "hidden_size is 0; give a whole number from 1"),
        ({"vocab_size": "50"}, "vocab_size is '50'; give a whole number from 1"),
        ({"hidden_dropout_prob": 1.0}, "hidden_dropout_prob is 1.0; give a probability in"),
        ({"attention_probs_dropout_prob": None}, "attention_probs_dropout_prob is None; give a number"),
        ({"layer_norm_eps": 0.0}, "layer_norm_eps is 0.0; give a number above 0"),
        ({"layer_norm_eps": inf}, "layer_norm_eps is inf; give a number above 0 and below infinity"),
        ({"initializer_range": nan}, "initializer_range is nan; give a number above 0 and below infinity"),
        (
            {"hidden_size": np.int64(32)},
            r"hidden_size is np.int64\(32\); give a whole number from 1 to 1,000,000, as int",
        ),
        ({"hidden_dropout_prob": False}, "hidden_dropout_prob is False; give a number, as int or float"),
        ({"pad_token_id": 50}, "pad_token_id is 50; give an id below vocab_size, 50"),
        ({"hidden_act": "gelu_nwe"}, "hidden_act is 'gelu_nwe'; did you mean 'gelu_new'"),
        ({"hidden_act": "gelu_python"}, "hidden_act is 'gelu_python'; expected one of gelu, "),
    ],
)
def test_wrong_shape_is_refused_when_made(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config(**changes)


def test_a_float64_of_numpy_is_a_float() -> None:
    assert config(hidden_dropout_prob=np.linspace(0, 0.2, 3)[1]) == config(hidden_dropout_prob=0.1)


def test_too_long_a_row_is_refused() -> None:
    with pytest.raises(UserError, match="a row has 17 tokens; this model takes 1 to 16"):
        model()(ids_of(1, 17))


def test_ids_without_rows_are_refused() -> None:
    with pytest.raises(UserError, match=r"input_ids has the shape \(8,\); give \[rows, tokens\]"):
        model()(ids_of(8))


def test_mask_of_another_shape_is_refused() -> None:
    with pytest.raises(UserError, match=r"attention_mask has the shape \(2, 7\); give it that of input_ids, \(2, 8\)"):
        model()(ids_of(2, 8), torch.ones(2, 7))


def test_mask_with_a_packed_batch_is_refused() -> None:
    batch, _ = packed_rows([5, 3], 8)
    with pytest.raises(UserError, match="attention_mask is given with packed"):
        model()(attention_mask=torch.ones(8), **batch)


def test_a_mask_is_no_list_of_places() -> None:
    ids = torch.randint(1, VOCAB, (2, 8))
    with pytest.raises(UserError, match=r"queries are torch\.bool; give places"):
        model()(ids, masked_index=ids > 3)
