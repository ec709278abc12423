"""ModernBERT on its own: packing, the window, its folder both ways, and what it refuses."""

import json
import warnings
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from bertsmith.errors import UserError
from bertsmith.model import (
    BertConfig,
    ModernBertConfig,
    ModernBertModel,
    ModernBertPretrainingModel,
    Packed,
    has_dropout,
    load_model,
    multiply_adds,
    new_config,
    new_model,
    with_dropout,
)
from bertsmith.model.rotary import Rotation, kept_angles, rotate, rotation

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its own imports
    transformers = pytest.importorskip("transformers")

VOCAB = 50
IDS = {"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3, "mask_token_id": 4}
SHAPE = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 48}
WEIGHTS = "model.safetensors"


def config(**changes: Any) -> ModernBertConfig:
    return ModernBertConfig(
        **{"vocab_size": VOCAB, "max_position_embeddings": 16, "local_attention": 4, **SHAPE, **IDS, **changes}
    )


def model(**changes: Any) -> ModernBertPretrainingModel:
    """A model whose weights are large enough for every part to matter."""
    generator = torch.Generator().manual_seed(0)
    return ModernBertPretrainingModel(config(initializer_range=0.3, **changes), generator=generator).eval()


def ids_of(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(5, VOCAB, shape, generator=torch.Generator().manual_seed(seed))


def packed_of(lengths: list[int], row_length: int | None) -> Packed:
    return Packed(torch.tensor([0, *accumulate(lengths)], dtype=torch.int32), max(lengths), row_length)


# The model


def test_names_of_parameters_are_stable() -> None:
    block = ("attention_norm", "attention.qkv", "attention.out", "mlp_norm", "intermediate", "output")
    modules = ["bert.embeddings.word_embeddings", "bert.embeddings.norm", "bert.final_norm", "mlm_head.dense"]
    modules += ["mlm_head.norm", *(f"bert.blocks.1.{name}" for name in block)]
    modules += [f"bert.blocks.0.{name}" for name in block[1:]]  # no norm before the first attention
    names = set(model(num_hidden_layers=2).state_dict())
    assert names == {f"{module}.weight" for module in modules} | {"mlm_head.bias"}


def test_same_generator_same_weights_whatever_the_global_seed() -> None:
    first = model().state_dict()
    torch.manual_seed(99)
    assert all(torch.equal(tensor, first[name]) for name, tensor in model().state_dict().items())


@pytest.mark.parametrize(
    ("lengths", "row_length"),
    [([5, 3, 8, 6, 2], 8), ([5, 3, 8, 6, 2, 0, 0], 8), ([8, 8], 8), ([5, 11, 1, 0, 7], None)],
)
def test_packed_sequences_equal_each_sequence_alone(lengths: list[int], row_length: int | None) -> None:
    """Positions are counted in each sequence, and no window reaches into the next one."""
    net, ids = model(), ids_of(sum(lengths))
    logits = net(ids, packed=packed_of(lengths, row_length)).mlm_logits
    for part, sequence in zip(logits.split(lengths), ids.split(lengths), strict=True):
        if len(sequence):
            torch.testing.assert_close(part, net(sequence[None]).mlm_logits[0])


def test_padding_content_changes_neither_output_nor_gradient() -> None:
    mask = torch.ones(3, 8, dtype=torch.int64)
    mask[0, 5:], mask[1, :3], mask[2] = 0, 0, 0
    results = []
    for seed in (1, 2):
        net = model()
        logits = net(torch.where(mask.bool(), ids_of(3, 8), ids_of(3, 8, seed=seed)), mask).mlm_logits
        logits[mask.bool()].square().sum().backward()
        results.append([logits, *(parameter.grad for parameter in net.parameters())])
    assert all(torch.equal(first, second) for first, second in zip(*results, strict=True))
    assert all(tensor.isfinite().all() for tensor in results[0])


def test_only_distances_matter() -> None:
    net, ids = model(), ids_of(1, 8)
    moved = net(ids, position_ids=torch.arange(8)[None] + 5).mlm_logits
    torch.testing.assert_close(moved, net(ids).mlm_logits, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(net(ids, position_ids=torch.zeros(1, 8)).mlm_logits, moved, atol=1e-2)


def test_a_local_layer_does_not_see_beyond_its_window() -> None:
    """Of two layers the second is local, so the first one's states reach two places far."""
    block = model().bert.blocks
    assert [part.window for part in block] == [None, 2, 2, None]
    net = model(global_attn_every_n_layers=5).bert
    net.blocks = net.blocks[1:2]
    ids = ids_of(1, 12)
    changed = ids.clone()
    changed[0, 6] = 1
    differs = (net(ids).sequence_output != net(changed).sequence_output).any(-1)[0]
    assert differs.nonzero().flatten().tolist() == [4, 5, 6, 7, 8]


def test_segments_are_not_looked_at() -> None:
    net, ids = model(), ids_of(2, 8)
    assert torch.equal(net(ids, None, ids % 2).mlm_logits, net(ids).mlm_logits)


def test_logits_at_masked_places_are_those_of_the_full_call() -> None:
    net, ids, index = model(), ids_of(2, 8), torch.tensor([1, 4, 8, 12])
    everywhere = net(ids).mlm_logits
    torch.testing.assert_close(net(ids, masked_index=index).mlm_logits, everywhere.flatten(0, 1)[index])


@pytest.mark.parametrize("kind", ["embedding_dropout", "attention_dropout", "mlp_dropout"])
def test_dropout_is_decided_by_the_seed_and_off_in_evaluation(kind: str) -> None:
    net, ids = model(**{kind: 0.5}), ids_of(2, 8)
    assert torch.equal(net(ids).mlm_logits, model()(ids).mlm_logits)
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(net.train()(ids).mlm_logits)
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.allclose(outputs[0], outputs[2])


# One face for all architectures


def made(model_type: str, length: int = 128) -> Any:
    dropout = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.2}
    return new_config(model_type, special_ids=IDS, max_position_embeddings=length, vocab_size=VOCAB, **dropout, **SHAPE)


def test_settings_become_fields_of_the_architecture() -> None:
    bert, modern = made("bert"), made("modernbert")
    assert (bert.hidden_dropout_prob, bert.attention_probs_dropout_prob) == (0.1, 0.2)
    assert (modern.embedding_dropout, modern.mlp_dropout, modern.attention_dropout) == (0.1, 0.1, 0.2)
    assert (modern.pad_token_id, modern.cls_token_id, modern.sep_token_id, modern.mask_token_id) == (0, 2, 3, 4)
    assert (modern.global_rope_theta, made("modernbert", 2048).global_rope_theta) == (10_000, 160_000)
    for each in (bert, modern):
        assert has_dropout(each)
        assert not has_dropout(with_dropout(each, hidden=0.0, attention=0.0))
        assert type(new_model(each, next_sentence=False).config) is type(each)


def test_multiply_adds_are_those_of_pytorchs_counter() -> None:
    """Where every token sees the whole row; with a window the pairs that are seen, counted one by one."""
    from torch.utils.flop_counter import FlopCounterMode

    length = 16
    shape = {**SHAPE, "vocab_size": VOCAB, "max_position_embeddings": length}
    for each in (BertConfig(**shape), config(local_attention=64)):
        net = new_model(with_dropout(each, hidden=0.0, attention=0.0), next_sentence=False).bert
        with FlopCounterMode(display=False) as counter:
            net(ids_of(2, length))
        assert counter.get_total_flops() == 2 * 2 * length * multiply_adds(each, length)
    seen = sum(abs(i - j) <= 2 for i in range(length) for j in range(length))
    fewer = 2 * SHAPE["hidden_size"] * (length**2 - seen) // length * 2
    assert multiply_adds(config(local_attention=64), length) - multiply_adds(config(), length) == fewer


# Its folder


def tensors_of(folder: Path) -> dict[str, Tensor]:
    return safetensors.torch.load_file(folder / WEIGHTS)


def change_config(folder: Path, remove: tuple[str, ...] = (), **changes: Any) -> None:
    path = folder / "config.json"
    keys = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in keys.items() if key not in remove}))


@pytest.mark.parametrize("bare", [False, True])
def test_a_folder_of_ours_reads_back_bit_for_bit(bare: bool, tmp_path: Path) -> None:
    ours = model(num_hidden_layers=2, embedding_dropout=0.1)
    (ours.bert if bare else ours).save_pretrained(tmp_path)
    read = load_model(tmp_path)
    assert isinstance(read, ModernBertModel if bare else ModernBertPretrainingModel)
    assert read.config == ours.config
    state = (ours.bert if bare else ours).state_dict()
    assert read.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in read.state_dict().items())


def test_the_encoder_alone_is_read_from_a_folder_with_a_head(tmp_path: Path) -> None:
    ours = model()
    ours.save_pretrained(tmp_path)
    read = load_model(tmp_path, heads=False)
    assert torch.equal(read(ids_of(2, 8)).sequence_output, ours.bert(ids_of(2, 8)).sequence_output)


@pytest.mark.parametrize(
    ("auto", "cls_name"), [("AutoModelForMaskedLM", "ModernBertForMaskedLM"), ("AutoModel", "ModernBertModel")]
)
@pytest.mark.parametrize("keys", ["both", "4.x", "5.x"])
def test_transformers_loads_a_folder_of_ours_silently(
    auto: str, cls_name: str, keys: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ours = model(global_attn_every_n_layers=2, global_rope_theta=50.0, local_rope_theta=9.0)
    (ours if auto == "AutoModelForMaskedLM" else ours.bert).save_pretrained(tmp_path)
    old, new = (
        ("global_attn_every_n_layers", "global_rope_theta", "local_rope_theta"),
        ("layer_types", "rope_parameters"),
    )
    change_config(tmp_path, remove={"both": (), "4.x": new, "5.x": old}[keys])
    transformers.logging.disable_progress_bar()
    theirs, info = getattr(transformers, auto).from_pretrained(tmp_path, output_loading_info=True)
    transformers.logging.enable_progress_bar()
    assert capfd.readouterr() == ("", "")
    assert not any(info.values())
    assert type(theirs).__name__ == cls_name == json.loads((tmp_path / "config.json").read_text())["architectures"][0]
    expected = ours(ids_of(2, 16)).mlm_logits if auto == "AutoModelForMaskedLM" else ours.bert(ids_of(2, 16))[0]
    torch.testing.assert_close(theirs(ids_of(2, 16))[0], expected, rtol=1e-4, atol=1e-4)
    read = load_model(tmp_path)
    assert torch.equal(read(ids_of(2, 16))[0], expected)
    named = {name: getattr(theirs.config, name) for name in ("pad_token_id", "cls_token_id", "sep_token_id")}
    assert named == {name: IDS[name] for name in named}
    assert (theirs.config.bos_token_id, theirs.config.eos_token_id) == (2, 3)


def test_a_folder_of_transformers_has_the_same_tensors(tmp_path: Path) -> None:
    ours = model()
    ours.save_pretrained(tmp_path / "ours")
    theirs = transformers.ModernBertForMaskedLM(transformers.ModernBertConfig(vocab_size=VOCAB, **SHAPE, **IDS))
    theirs.save_pretrained(tmp_path / "theirs")
    mine, other = ({n: t.shape for n, t in tensors_of(tmp_path / name).items()} for name in ("ours", "theirs"))
    assert mine == other


@pytest.mark.parametrize("cls_name", ["ModernBertForSequenceClassification", "ModernBertForMaskedLM"])
@pytest.mark.parametrize("keys", ["4.x", "5.x"])
def test_reads_the_encoder_of_folders_of_transformers(cls_name: str, keys: str, tmp_path: Path) -> None:
    shape = {**SHAPE, **IDS, "vocab_size": VOCAB, "local_attention": 4}
    theirs = getattr(transformers, cls_name)(transformers.ModernBertConfig(**shape)).eval()
    theirs.save_pretrained(tmp_path)
    if keys == "4.x":
        old = {"global_attn_every_n_layers": 3, "global_rope_theta": 160000.0, "local_rope_theta": 10000.0}
        change_config(tmp_path, remove=("layer_types", "rope_parameters"), **old)
    ours = load_model(tmp_path, heads=None if cls_name.endswith("Classification") else False)
    assert isinstance(ours, ModernBertModel)
    torch.testing.assert_close(ours(ids_of(2, 16)).sequence_output, theirs.model(ids_of(2, 16)).last_hidden_state)


def test_the_config_of_modernbert_base_is_read() -> None:
    """The keys and values that its authors published, written for transformers 4.48."""
    from bertsmith.model.modernbert_folder import MODERNBERT

    published = {
        "architectures": ["ModernBertForMaskedLM"], "attention_bias": False, "attention_dropout": 0.0,
        "bos_token_id": 50281, "classifier_activation": "gelu", "classifier_bias": False, "classifier_dropout": 0.0,
        "classifier_pooling": "mean", "cls_token_id": 50281, "decoder_bias": True, "deterministic_flash_attn": False,
        "embedding_dropout": 0.0, "eos_token_id": 50282, "global_attn_every_n_layers": 3,
        "global_rope_theta": 160000.0, "gradient_checkpointing": False, "hidden_activation": "gelu",
        "hidden_size": 768, "initializer_cutoff_factor": 2.0, "initializer_range": 0.02, "intermediate_size": 1152,
        "layer_norm_eps": 1e-05, "local_attention": 128, "local_rope_theta": 10000.0,
        "max_position_embeddings": 8192, "mlp_bias": False, "mlp_dropout": 0.0, "model_type": "modernbert",
        "norm_bias": False, "norm_eps": 1e-05, "num_attention_heads": 12, "num_hidden_layers": 22,
        "pad_token_id": 50283, "position_embedding_type": "absolute", "sep_token_id": 50282,
        "tie_word_embeddings": True, "torch_dtype": "float32", "transformers_version": "4.47.0.dev0",
        "vocab_size": 50368,
    }  # fmt: skip
    read = ModernBertConfig(**MODERNBERT.read_shape(published, Path("config.json")))
    assert read == ModernBertConfig()
    one_theta = MODERNBERT.read_shape(published | {"local_rope_theta": None}, Path("config.json"))
    assert one_theta["local_rope_theta"] == one_theta["global_rope_theta"] == 160_000
    with torch.device("meta"):
        parameters = sum(p.numel() for p in ModernBertPretrainingModel(read).parameters())
        theirs = transformers.ModernBertForMaskedLM(transformers.ModernBertConfig(**published))
    assert parameters == sum(p.numel() for p in theirs.parameters()) == 149_655_232


# What is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention_bias": True}, "attention_bias in"),
        ({"mlp_bias": True}, "mlp_bias in"),
        ({"norm_bias": True}, "norm_bias in"),
        ({"classifier_bias": True}, "classifier_bias in"),
        ({"decoder_bias": False}, "decoder_bias in"),
        ({"classifier_activation": "silu"}, "classifier_activation in"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings in"),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, "rope_scaling in"),
        ({"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "rope_parameters in"),
        ({"rope_parameters": {"full_attention": {"type": "linear", "factor": 2}}}, "rope_parameters in"),
        ({"rope_parameters": {"full_attention": {"partial_rotary_factor": 0.5}}}, "rope_parameters in"),
        ({"rope_parameters": {"rope_theta": 10.0}}, "rope_parameters in"),
        ({"rope_parameters": 3}, "rope_parameters in"),
        ({"layer_types": ["sliding_attention"] * 4}, "layer_types in"),
        ({"layer_types": ["full_attention"] * 3}, "layer_types in"),
        ({"layer_types": 4}, "layer_types in"),
        ({"hidden_activation": "silu"}, "hidden_activation is 'silu'"),
        ({"local_attention": -1}, "local_attention is -1; give a whole number from 1"),
        ({"num_attention_heads": 32}, "num_attention_heads is 32; give one that cuts hidden_size, 32, into even parts"),
        ({"vocab_size": 51}, "is [50, 32], but config.json asks for [51, 32]"),
        ({"num_hidden_layers": 5, "layer_types": None}, "lacks tensors model.layers.4.attn_norm.weight"),
        ({"num_hidden_layers": 3, "layer_types": None}, "has unknown tensors model.layers.3."),
    ],
)
def test_another_model_than_a_plain_modernbert_is_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    model().save_pretrained(tmp_path)
    change_config(tmp_path, **changes)
    with pytest.raises(UserError) as caught:
        load_model(tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_bare_encoder_has_no_head_to_read(tmp_path: Path) -> None:
    model().bert.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="has no head for masked words"):
        ModernBertPretrainingModel.from_pretrained(tmp_path)


def test_next_sentences_are_refused() -> None:
    with pytest.raises(UserError, match="no head for next sentences"):
        new_model(config(), next_sentence=True)


def test_too_long_a_row_is_refused() -> None:
    with pytest.raises(UserError, match="a row has 17 tokens; this model takes 1 to 16"):
        model()(ids_of(1, 17))


@pytest.mark.parametrize("head_dim", [8, 64])
def test_angles_that_a_compiler_keeps_are_those_that_it_would_compute(head_dim: int) -> None:
    """`kept_angles` is for compiled code on a GPU, and computes anywhere."""
    places = torch.arange(40).repeat(3)
    torch.library.opcheck(kept_angles, (places, head_dim, 1e4))

    def turned(vectors: Tensor) -> Tensor:
        return rotate(vectors, Rotation(*kept_angles(places, head_dim, 1e4)))

    vectors = torch.randn(120, 1, 2, head_dim)
    expected = rotate(vectors, rotation(places, head_dim, 1e4))
    assert torch.equal(turned(vectors), expected)
    compiled = torch.compile(turned, backend="aot_eager")(vectors)
    assert torch.equal(compiled, expected)
