"""Hugging Face folders: what transformers writes loads here, what is written here loads there, the rest is refused."""

import json
import logging
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

from bertsmith.errors import UserError
from bertsmith.export.graph import task_of
from bertsmith.model import BertConfig, BertModel, BertPretrainingModel, load_model
from bertsmith.sentence_vectors import read_encoder

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its own imports
    transformers = pytest.importorskip("transformers")

SHAPE = {
    "vocab_size": 40,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 36,
    "max_position_embeddings": 12,
}
KEYS = (
    "architectures attention_probs_dropout_prob classifier_dropout dtype torch_dtype hidden_act hidden_dropout_prob "
    "hidden_size initializer_range intermediate_size layer_norm_eps max_position_embeddings model_type "
    "num_attention_heads num_hidden_layers pad_token_id tie_word_embeddings type_vocab_size vocab_size "
    "transformers_version"
)
WEIGHTS = "model.safetensors"


def ids() -> Tensor:
    return torch.arange(20).view(2, 10)


def foreign(cls_name: str, folder: Path, **kwargs: Any) -> Any:
    """A model of transformers with all its tensors random, saved in `folder`."""
    model = getattr(transformers, cls_name)(transformers.BertConfig(**SHAPE)).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder, **kwargs)
    return model


def own(next_sentence: bool = True) -> BertPretrainingModel:
    generator = torch.Generator().manual_seed(0)
    config = BertConfig(**SHAPE, initializer_range=0.3)
    return BertPretrainingModel(config, next_sentence, generator=generator).eval()


def tensors_of(folder: Path) -> dict[str, Tensor]:
    return safetensors.torch.load_file(folder / WEIGHTS)


def rewrite(folder: Path, tensors: dict[str, Tensor]) -> None:
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    safetensors.torch.save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def assert_same(mine: torch.nn.Module, other: torch.nn.Module) -> None:
    first, second = mine.state_dict(), other.state_dict()
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


# Folders of transformers


def test_reads_bert_for_pretraining(tmp_path: Path) -> None:
    theirs = foreign("BertForPreTraining", tmp_path)
    ours = load_model(tmp_path)
    assert isinstance(ours, BertPretrainingModel)
    torch.testing.assert_close(ours(ids()).nsp_logits, theirs(ids()).seq_relationship_logits)


def test_reads_bert_for_masked_lm(tmp_path: Path) -> None:
    theirs = foreign("BertForMaskedLM", tmp_path)
    ours = load_model(tmp_path)
    assert isinstance(ours, BertPretrainingModel)
    assert ours.nsp_head is None
    torch.testing.assert_close(ours(ids()).mlm_logits, theirs(ids()).logits)


def test_reads_bare_bert_model(tmp_path: Path) -> None:
    theirs = foreign("BertModel", tmp_path)
    ours = load_model(tmp_path)
    assert isinstance(ours, BertModel)
    torch.testing.assert_close(ours(ids()).pooled_output, theirs(ids()).pooler_output)


@pytest.mark.parametrize("cls_name", ["BertForPreTraining", "BertForMaskedLM", "BertForSequenceClassification"])
def test_reads_the_encoder_alone_of_any_bert(cls_name: str, tmp_path: Path) -> None:
    theirs = foreign(cls_name, tmp_path)
    ours = load_model(tmp_path, heads=False)
    torch.testing.assert_close(ours(ids()).sequence_output, theirs.bert(ids()).last_hidden_state)


def test_reads_weights_in_several_files(tmp_path: Path) -> None:
    theirs = foreign("BertForPreTraining", tmp_path, max_shard_size="20kB")
    assert not (tmp_path / WEIGHTS).exists()
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    torch.testing.assert_close(load_model(tmp_path, heads=True)(ids()).mlm_logits, theirs(ids()).prediction_logits)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_become_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    foreign("BertForPreTraining", tmp_path)
    rewrite(tmp_path, {name: tensor.to(dtype) for name, tensor in tensors_of(tmp_path).items()})
    ours = load_model(tmp_path)
    assert {parameter.dtype for parameter in ours.parameters()} == {torch.float32}
    word = tensors_of(tmp_path)["bert.embeddings.word_embeddings.weight"]
    assert torch.equal(ours.bert.embeddings.word_embeddings.weight, word.float())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_default_dtype_of_pytorch_changes_nothing_that_is_read(dtype: torch.dtype, tmp_path: Path) -> None:
    foreign("BertForPreTraining", tmp_path)
    try:
        torch.set_default_dtype(dtype)
        ours = load_model(tmp_path)
    finally:
        torch.set_default_dtype(torch.float32)
    assert {parameter.dtype for parameter in ours.parameters()} == {torch.float32}


def test_reads_names_of_old_folders(tmp_path: Path) -> None:
    """LayerNorm.gamma and .beta, the constant position_ids, and second copies of the tied tensors."""
    foreign("BertForPreTraining", tmp_path)
    new = load_model(tmp_path)
    tensors = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in tensors_of(tmp_path).items()
    }
    tensors["bert.embeddings.position_ids"] = torch.arange(12)[None]
    tensors["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"]
    tensors["cls.predictions.decoder.bias"] = tensors["cls.predictions.bias"]
    rewrite(tmp_path, tensors)
    assert_same(load_model(tmp_path), new)


def test_reading_leaves_the_random_state_alone(tmp_path: Path) -> None:
    own().save_pretrained(tmp_path)
    before = torch.get_rng_state()
    load_model(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_are_copies_aligned_as_new_ones(tmp_path: Path) -> None:
    own().save_pretrained(tmp_path)
    ours = load_model(tmp_path)
    (tmp_path / WEIGHTS).write_bytes(b"")
    assert_same(ours, own())
    assert all(parameter.data_ptr() % 64 == 0 for parameter in ours.parameters())


def test_a_read_model_is_in_evaluation_mode_and_can_learn(tmp_path: Path) -> None:
    own().save_pretrained(tmp_path)
    ours = load_model(tmp_path)
    assert not ours.training
    assert all(parameter.requires_grad for parameter in ours.parameters())


# The pooler


def test_a_missing_pooler_is_said_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    own(next_sentence=False).save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        ours = BertModel.from_pretrained(tmp_path)
    assert ours.pooler is None
    assert "holds no pooler, so pooled_output will be None" in caplog.text
    caplog.clear()
    assert load_model(tmp_path, heads=False).pooler is None  # the commands say themselves what matters to them
    assert not caplog.records


def test_a_missing_pooler_is_made_when_asked_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    own(next_sentence=False).save_pretrained(tmp_path)
    torch.manual_seed(0)
    with caplog.at_level(logging.WARNING):
        ours = BertModel.from_pretrained(tmp_path, add_pooling_layer=True)
    assert 0 < ours.pooler.dense.weight.abs().max() <= 0.6
    assert not ours.pooler.dense.bias.any()
    assert "random until they are trained" in caplog.text


def test_a_pooler_can_be_left_out(tmp_path: Path) -> None:
    own().save_pretrained(tmp_path)
    assert BertModel.from_pretrained(tmp_path, add_pooling_layer=False).pooler is None


# Folders of ours


@pytest.mark.parametrize("next_sentence", [True, False])
def test_a_folder_of_ours_reads_back_bit_for_bit(next_sentence: bool, tmp_path: Path) -> None:
    own(next_sentence).save_pretrained(tmp_path)
    ours = load_model(tmp_path)
    assert_same(ours, own(next_sentence))
    assert ours.config == own().config


def test_an_encoder_reads_back_bit_for_bit(tmp_path: Path) -> None:
    own().bert.save_pretrained(tmp_path)
    assert_same(BertModel.from_pretrained(tmp_path), own().bert)


@pytest.mark.parametrize(
    ("next_sentence", "cls_name"), [(True, "BertForPreTraining"), (False, "BertForMaskedLM"), (None, "BertModel")]
)
def test_a_folder_of_ours_has_the_names_and_shapes_of_transformers(
    next_sentence: bool | None, cls_name: str, tmp_path: Path
) -> None:
    ours = own(next_sentence is not False)
    (ours.bert if next_sentence is None else ours).save_pretrained(tmp_path / "ours")
    foreign(cls_name, tmp_path / "theirs")
    mine, other = tensors_of(tmp_path / "ours"), tensors_of(tmp_path / "theirs")
    assert {name: tensor.shape for name, tensor in mine.items()} == {name: t.shape for name, t in other.items()}
    with safe_open(tmp_path / "ours" / WEIGHTS, framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_config_json_has_exactly_the_agreed_keys(tmp_path: Path) -> None:
    own().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert set(config) == set(KEYS.split())
    assert config["dtype"] == config["torch_dtype"] == "float32"
    assert {key: config[key] for key in SHAPE} == SHAPE


@pytest.mark.parametrize(
    ("auto", "next_sentence", "cls_name"),
    [
        ("AutoModelForPreTraining", True, "BertForPreTraining"),
        ("AutoModelForMaskedLM", False, "BertForMaskedLM"),
        ("AutoModel", None, "BertModel"),
    ],
)
def test_transformers_loads_the_named_class_silently(
    auto: str, next_sentence: bool | None, cls_name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ours = own(next_sentence is not False)
    (ours.bert if next_sentence is None else ours).save_pretrained(tmp_path)
    transformers.logging.disable_progress_bar()
    theirs, info = getattr(transformers, auto).from_pretrained(tmp_path, output_loading_info=True)
    transformers.logging.enable_progress_bar()
    assert capfd.readouterr() == ("", "")
    assert not any(info.values())
    assert type(theirs).__name__ == cls_name == json.loads((tmp_path / "config.json").read_text())["architectures"][0]
    if next_sentence is not None:
        torch.testing.assert_close(theirs(ids())[0], ours(ids()).mlm_logits)


@pytest.mark.parametrize(
    ("auto", "next_sentence", "unexpected", "missing"),
    [
        ("AutoModelForMaskedLM", True, {"bert.pooler", "cls.seq_relationship"}, set()),
        ("AutoModel", True, {"cls.predictions", "cls.seq_relationship"}, set()),
        ("AutoModel", False, {"cls.predictions"}, {"pooler.dense"}),
    ],
)
def test_other_classes_report_only_heads_and_pooler(
    auto: str, next_sentence: bool, unexpected: set[str], missing: set[str], tmp_path: Path
) -> None:
    own(next_sentence).save_pretrained(tmp_path)
    _, info = getattr(transformers, auto).from_pretrained(tmp_path, output_loading_info=True)
    assert {".".join(name.split(".")[:2]) for name in info["unexpected_keys"]} == unexpected
    assert {".".join(name.split(".")[:2]) for name in info["missing_keys"]} == missing
    assert not info["mismatched_keys"]


def test_saving_leaves_no_other_file_and_replaces_the_old_ones(tmp_path: Path) -> None:
    own(next_sentence=False).save_pretrained(tmp_path)
    own().save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", WEIGHTS}
    assert_same(load_model(tmp_path), own())


# What is refused


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_model(folder)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_pickle_is_refused_and_never_opened(tmp_path: Path) -> None:
    own().save_pretrained(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({}))
    message = refusal(tmp_path)
    assert "only pytorch_model.bin, a pickle" in message
    assert "save it again with save_pretrained" in message


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    own().save_pretrained(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    assert f"holds no {WEIGHTS}" in refusal(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_no_numbers_are_refused(value: float, tmp_path: Path) -> None:
    model = own()
    with torch.no_grad():
        model.bert.blocks[1].intermediate.bias[7] = value
    model.save_pretrained(tmp_path)
    message = refusal(tmp_path)
    assert "bert.encoder.layer.1.intermediate.dense.bias in" in message
    assert "has values that are no numbers; get the model again" in message


@pytest.mark.parametrize("name", ["nowhere", "a_file", "."])
def test_what_is_no_model_folder_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "a_file").write_text("text")
    assert "holds no config.json" in refusal(tmp_path / name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot read"),
        ("[]", "is no JSON object"),
        ('{"architectures": 5}', "is 5; it must be a list of names"),
    ],
)
def test_a_broken_config_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    assert message in refusal(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "roberta"}, "is 'roberta'; only 'bert' and 'modernbert' can be read"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type in"),
        ({"is_decoder": True}, "is_decoder in"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings in"),
        ({"hidden_act": "silu"}, "hidden_act is 'silu'"),
        ({"num_attention_heads": 5}, "num_attention_heads is 5"),
        ({"vocab_size": "40"}, "vocab_size is '40'"),
        ({"vocab_size": 41}, "is [40, 24], but config.json asks for [41, 24]"),
        ({"hidden_size": 3_000_000_000}, "hidden_size is 3000000000; give a whole number from 1 to 1,000,000"),
        ({"num_hidden_layers": 3}, "lacks tensors bert.encoder.layer.2.attention.self.query.weight"),
        ({"num_hidden_layers": 1}, "has unknown tensors bert.encoder.layer.1."),
    ],
)
def test_another_model_than_a_plain_bert_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    own().save_pretrained(tmp_path)
    change_config(tmp_path, **changes)
    assert message in refusal(tmp_path)


def test_missing_tensors_are_named(tmp_path: Path) -> None:
    own().save_pretrained(tmp_path)
    tensors = tensors_of(tmp_path)
    del tensors["cls.predictions.bias"]
    rewrite(tmp_path, tensors)
    assert "lacks tensor cls.predictions.bias" in refusal(tmp_path)


def test_integer_weights_are_refused(tmp_path: Path) -> None:
    own().save_pretrained(tmp_path)
    rewrite(tmp_path, {name: tensor.to(torch.int8) for name, tensor in tensors_of(tmp_path).items()})
    assert "is I8; only F32" in refusal(tmp_path)


@pytest.mark.parametrize("kept", [0, 5, 1000, -1])
def test_a_cut_off_file_is_refused(kept: int, tmp_path: Path) -> None:
    own().save_pretrained(tmp_path)
    path = tmp_path / WEIGHTS
    path.write_bytes(path.read_bytes()[:kept])
    assert "damaged or cut off" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["model-00002-of-00002.safetensors", "../elsewhere.safetensors", 3])
def test_an_index_with_a_file_that_is_not_there_is_refused(name: Any, tmp_path: Path) -> None:
    own().save_pretrained(tmp_path / "folder")
    (tmp_path / "folder" / WEIGHTS).rename(tmp_path / "elsewhere.safetensors")
    index = {"weight_map": {"bert.pooler.dense.weight": name}}
    (tmp_path / "folder" / "model.safetensors.index.json").write_text(json.dumps(index))
    assert f"has no file {name!r}" in refusal(tmp_path / "folder")


def test_a_bare_encoder_has_no_heads_to_read(tmp_path: Path) -> None:
    own().bert.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="has no head for masked words"):
        BertPretrainingModel.from_pretrained(tmp_path)


def test_a_folder_that_does_not_say_what_it_is_is_a_bert(tmp_path: Path) -> None:
    """As those were written before there were others: read everywhere, not by fine-tuning alone."""
    foreign("BertForPreTraining", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["model_type"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert isinstance(load_model(tmp_path), BertPretrainingModel)
    assert isinstance(read_encoder(tmp_path, pooler=True), BertModel)
    assert task_of(tmp_path) == "fill-mask"
