"""BERT in a Hugging Face folder: the keys of its config.json, the names of its tensors, and its pooler.

Names of tensors differ in two ways: transformers nests them deeper, and keeps
query, key and value apart where ours are one matrix, stacked in that order.
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bertsmith.model.first_weights import initialize
from bertsmith.model.folder import Model, ModelFolder, refuse_others
from bertsmith.model.naming import Naming

logger = logging.getLogger(__name__)

SHAPE_KEYS = (
    "attention_probs_dropout_prob", "hidden_act", "hidden_dropout_prob", "hidden_size", "initializer_range",
    "intermediate_size", "layer_norm_eps", "max_position_embeddings", "num_attention_heads", "num_hidden_layers",
    "pad_token_id", "type_vocab_size", "vocab_size",
)  # fmt: skip
"""Keys of config.json that are fields of `BertConfig`, by the same names."""

UNSUPPORTED = {
    "position_embedding_type": ("absolute", None),
    "is_decoder": (False, None),
    "add_cross_attention": (False, None),
    "tie_word_embeddings": (True, None),
    "quantization_config": (None,),
}
"""Keys of config.json that would make it another model, and the values that do not."""

MODULES = {
    "embeddings.norm": ("embeddings.LayerNorm",),
    "attention.qkv": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "attention.out": ("attention.output.dense",),
    "attention_norm": ("attention.output.LayerNorm",),
    "intermediate": ("intermediate.dense",),
    "output": ("output.dense",),
    "output_norm": ("output.LayerNorm",),
    "mlm_head": ("cls.predictions",),
    "mlm_head.dense": ("cls.predictions.transform.dense",),
    "mlm_head.norm": ("cls.predictions.transform.LayerNorm",),
    "nsp_head": ("cls.seq_relationship",),
}


def _read_shape(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The fields of `BertConfig`; a key that is not there keeps its default, which is that of transformers."""
    refuse_others(config, path, UNSUPPORTED)
    return {key: config[key] for key in SHAPE_KEYS if key in config}


BERT = Naming(
    model_type="bert",
    title="BERT",
    encoder="bert.",
    blocks="encoder.layer.",
    modules=MODULES,
    mlm_head="cls.predictions.",
    ignored=("position_ids", "cls.predictions.decoder.weight", "cls.predictions.decoder.bias"),
    read_shape=_read_shape,
    config_json=lambda shape: {"classifier_dropout": None, **shape},
)


def read_encoder(folder: Path, build: Callable[[dict[str, Any], bool], Model], add_pooling_layer: bool | None) -> Model:
    """Read what is below "bert.". `build` gets the shape, and whether to have a pooler."""
    source = ModelFolder(folder, BERT)
    if source.has("bert.pooler."):
        has_pooler = add_pooling_layer is not False
        return source.load(lambda: build(source.shape, has_pooler), encoder_only=True)
    if not add_pooling_layer:
        if add_pooling_layer is None:
            logger.warning("%s holds no pooler, so pooled_output will be None; use a mean over the tokens", folder)
        return source.load(lambda: build(source.shape, False), encoder_only=True)
    logger.warning("%s holds no pooler; its weights are random until they are trained", folder)
    model = source.load(lambda: build(source.shape, True), encoder_only=True, untrained=("pooler.",))
    initialize(model.get_submodule("pooler"), source.shape.get("initializer_range", 0.02))
    return model
