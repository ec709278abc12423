"""ModernBERT in a Hugging Face folder: the keys of its config.json and the names of its tensors.

transformers 5 says which layers look far and how positions turn in `layer_types`
and `rope_parameters`, transformers 4 in `global_attn_every_n_layers` and two
`rope_theta`. Both are written, either is read, and the first counts where they differ.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bertsmith.errors import UserError, require
from bertsmith.model.folder import refuse_others
from bertsmith.model.naming import Naming

SHAPE_KEYS = (
    "attention_dropout", "cls_token_id", "embedding_dropout", "global_attn_every_n_layers", "global_rope_theta",
    "hidden_activation", "hidden_size", "initializer_cutoff_factor", "initializer_range", "intermediate_size",
    "local_attention", "local_rope_theta", "mask_token_id", "max_position_embeddings", "mlp_dropout", "norm_eps",
    "num_attention_heads", "num_hidden_layers", "pad_token_id", "sep_token_id", "vocab_size",
)  # fmt: skip
"""Keys of config.json that are fields of `ModernBertConfig`, by the same names."""

UNSUPPORTED = {
    "attention_bias": (False,),
    "classifier_activation": ("gelu",),
    "classifier_bias": (False,),
    "decoder_bias": (True,),
    "mlp_bias": (False,),
    "norm_bias": (False,),
    "quantization_config": (None,),
    "rope_scaling": (None,),
    "tie_word_embeddings": (True, None),
}
"""Keys of config.json that would make it another model, and the values that do not."""

WRITTEN = ("attention_bias", "classifier_activation", "classifier_bias", "decoder_bias", "mlp_bias", "norm_bias")
"""Keys of `UNSUPPORTED` that config.json has all the same."""

FULL, SLIDING = "full_attention", "sliding_attention"
ROPE_THETA = {FULL: "global_rope_theta", SLIDING: "local_rope_theta"}

MODULES = {
    "embeddings.word_embeddings": ("embeddings.tok_embeddings",),
    "attention_norm": ("attn_norm",),
    "attention.qkv": ("attn.Wqkv",),
    "attention.out": ("attn.Wo",),
    "mlp_norm": ("mlp_norm",),
    "intermediate": ("mlp.Wi",),
    "output": ("mlp.Wo",),
    "mlm_head": ("decoder",),
    "mlm_head.dense": ("head.dense",),
    "mlm_head.norm": ("head.norm",),
    "prediction_head.dense": ("head.dense",),
    "prediction_head.norm": ("head.norm",),
}


def _read_shape(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The fields of `ModernBertConfig`; a key that is not there keeps its default, which is that of transformers."""
    refuse_others(config, path, UNSUPPORTED)
    shape = {key: config[key] for key in SHAPE_KEYS if key in config}
    if shape.get("local_rope_theta", 0) is None:  # transformers 4 then takes the other one
        shape["local_rope_theta"] = shape.get("global_rope_theta", 160_000.0)
    if config.get("layer_types") is not None:
        shape["global_attn_every_n_layers"] = _global_every(config, path)
    rope = config.get("rope_parameters") or {}
    understood = isinstance(rope, dict) and all(
        kind in ROPE_THETA
        and isinstance(values, dict)
        and values.get("rope_type", values.get("type", "default")) == "default"
        and values.keys() <= {"rope_type", "type", "rope_theta"}
        for kind, values in rope.items()
    )
    require(understood, f"rope_parameters in {path} is {rope!r}; only rope_type 'default' for {FULL} and {SLIDING}")
    given = {ROPE_THETA[kind]: values["rope_theta"] for kind, values in rope.items() if "rope_theta" in values}
    return shape | given


def _global_every(config: Mapping[str, Any], path: Path) -> int:
    """The distance between the layers that look far in `layer_types`."""
    types, layers = config["layer_types"], config.get("num_hidden_layers", 22)
    if isinstance(types, list) and len(types) == layers:
        second = next((layer for layer, kind in enumerate(types) if layer and kind == FULL), layers)
        for every in (config.get("global_attn_every_n_layers", 3), second):
            if type(every) is int and every > 0 and types == layer_types(layers, every):
                return every
    raise UserError(
        f"layer_types in {path} is {types!r}; only {layers} layers can be read of which the first and then each n-th "
        f"is {FULL} and the others {SLIDING}"
    )


def layer_types(layers: int, every: int) -> list[str]:
    """`layer_types` of config.json: the first layer looks far, and then each `every`-th."""
    return [SLIDING if layer % every else FULL for layer in range(layers)]


def _config_json(shape: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of config.json, from the fields of a `ModernBertConfig` and what else there is to say."""
    return {
        "classifier_dropout": 0.0,
        "classifier_pooling": "mean",  # nothing trains the first token to stand for the rest
        **shape,
        **{key: UNSUPPORTED[key][0] for key in WRITTEN},
        "bos_token_id": shape["cls_token_id"],
        "eos_token_id": shape["sep_token_id"],
        "layer_types": layer_types(shape["num_hidden_layers"], shape["global_attn_every_n_layers"]),
        "rope_parameters": {
            kind: {"rope_theta": shape[key], "rope_type": "default"} for kind, key in ROPE_THETA.items()
        },
        "sparse_prediction": False,
    }


MODERNBERT = Naming(
    model_type="modernbert",
    title="ModernBERT",
    encoder="model.",
    blocks="layers.",
    modules=MODULES,
    mlm_head="decoder.",
    ignored=("decoder.weight",),
    read_shape=_read_shape,
    config_json=_config_json,
)
