"""The architectures, and what the program must know of each beside its classes."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bertsmith.errors import UserError
from bertsmith.model.bert import BertConfig, BertModel, BertPretrainingModel
from bertsmith.model.bert_folder import BERT
from bertsmith.model.folder import read_config
from bertsmith.model.modernbert import ModernBertConfig, ModernBertModel, ModernBertPretrainingModel
from bertsmith.model.modernbert_folder import MODERNBERT
from bertsmith.model.naming import Naming

AnyConfig = BertConfig | ModernBertConfig
AnyModel = BertModel | ModernBertModel
AnyPretrainingModel = BertPretrainingModel | ModernBertPretrainingModel

MODEL_TYPES = ("bert", "modernbert")
"""Values of model_type in config.json that are read here."""

SHORT = 1024
"""Tokens up to which the global layers of ModernBERT turn positions as the local ones do: so it was pretrained, before
longer sequences came (arXiv:2412.13663, "Context Length Extension")."""


class Architecture(NamedTuple):
    """One architecture."""

    config: type[BertConfig] | type[ModernBertConfig]
    model: type[BertModel] | type[ModernBertModel]
    pretraining_model: type[BertPretrainingModel] | type[ModernBertPretrainingModel]
    naming: Naming
    paper: str
    input_names: tuple[str, ...]
    """What its class in transformers takes."""

    adds_pooler: bool
    """Whether that class has a pooler, random where a folder has none."""

    hidden_dropouts: tuple[str, ...]
    """Fields of the config that `hidden_dropout_prob` stands for."""

    attention_dropout: str
    """The same for `attention_probs_dropout_prob`."""

    fine_tuning_dropout: float
    """What its authors fine-tune with, written to the exported config.json, whatever the pretraining used."""

    feed_forward_matrices: int
    """Matrices of hidden_size x intermediate_size in a block."""

    window: Callable[[Any, int], int | None]
    """Takes (config, layer): farthest place that a token sees on each side, None when it sees its whole sequence."""

    fields_by_length: Callable[[int], dict[str, Any]]
    """Takes the longest sequence and gives the fields of a new config that depend on it."""


def architecture(model_type: str, where: str = "model_type") -> Architecture:
    """What there is to know of an architecture, by its name in config.json; `where` is said when there is none.

    Raises:
        UserError: There is none of that name.
    """
    if model_type == "bert":
        return Architecture(
            config=BertConfig,
            model=BertModel,
            pretraining_model=BertPretrainingModel,
            naming=BERT,
            paper="arXiv:1810.04805",
            input_names=("input_ids", "token_type_ids", "attention_mask"),
            adds_pooler=True,
            hidden_dropouts=("hidden_dropout_prob",),
            attention_dropout="attention_probs_dropout_prob",
            fine_tuning_dropout=0.1,  # arXiv:1810.04805, appendix A.3
            feed_forward_matrices=2,
            window=lambda _config, _layer: None,
            fields_by_length=lambda _length: {},
        )
    if model_type == "modernbert":
        return Architecture(
            config=ModernBertConfig,
            model=ModernBertModel,
            pretraining_model=ModernBertPretrainingModel,
            naming=MODERNBERT,
            paper="arXiv:2412.13663",
            input_names=("input_ids", "attention_mask"),
            adds_pooler=False,
            hidden_dropouts=("embedding_dropout", "mlp_dropout"),
            attention_dropout="attention_dropout",
            fine_tuning_dropout=0.0,  # in the config.json that its authors published
            feed_forward_matrices=3,
            window=ModernBertConfig.window,
            fields_by_length=lambda length: {"global_rope_theta": 10_000.0 if length <= SHORT else 160_000.0},
        )
    raise UserError(f"{where} is {model_type!r}; only 'bert' and 'modernbert' can be read")


def architecture_of(folder: Path) -> Architecture:
    """That of a Hugging Face folder.

    Raises:
        UserError: It is another one, or there is no such folder.
    """
    return architecture(model_type_of(folder), f"model_type in {folder / 'config.json'}")


def is_foreign(folder: Path) -> bool:
    """Whether a Hugging Face folder is neither of a BERT nor of a ModernBERT."""
    return model_type_of(folder) not in MODEL_TYPES


def model_type_of(folder: Path) -> str:
    """What config.json names: BERT where it names nothing, since the oldest ones did not."""
    return str(read_config(folder).get("model_type", "bert"))


def new_config(
    model_type: str,
    *,
    special_ids: Mapping[str, int | None],
    hidden_dropout_prob: float,
    attention_probs_dropout_prob: float,
    max_position_embeddings: int,
    **shape: Any,
) -> AnyConfig:
    """The config of a model to pretrain.

    Args:
        model_type: "bert" or "modernbert".
        special_ids: Ids of special tokens by their field, such as `pad_token_id`; those the config lacks are left out.
        hidden_dropout_prob: Of the embeddings and the feed-forward layers, in [0, 1).
        attention_probs_dropout_prob: Of attention, in [0, 1).
        max_position_embeddings: Longest sequence, in tokens.
        shape: Fields that both configs have.
    """
    kind = architecture(model_type)
    known = {field.name for field in dataclasses.fields(kind.config)}
    shape |= {name: value for name, value in special_ids.items() if name in known}
    shape |= kind.fields_by_length(max_position_embeddings)
    config = kind.config(max_position_embeddings=max_position_embeddings, **shape)
    return with_dropout(config, hidden=hidden_dropout_prob, attention=attention_probs_dropout_prob)


def with_dropout(config: AnyConfig, *, hidden: float, attention: float) -> AnyConfig:
    """The same shape with other dropout."""
    kind = architecture(config.model_type)
    changes: dict[str, Any] = {**dict.fromkeys(kind.hidden_dropouts, hidden), kind.attention_dropout: attention}
    return dataclasses.replace(config, **changes)


def has_dropout(config: AnyConfig) -> bool:
    """Whether a forward pass in training draws random numbers."""
    kind = architecture(config.model_type)
    return any(getattr(config, name) > 0 for name in (*kind.hidden_dropouts, kind.attention_dropout))


def new_model(config: AnyConfig, *, next_sentence: bool) -> AnyPretrainingModel:
    """A model to pretrain, with first weights from PyTorch's generator.

    Raises:
        UserError: It shall predict next sentences and has no head for that.
    """
    return architecture(config.model_type).pretraining_model(config, next_sentence)  # type: ignore[arg-type]


def multiply_adds_of_query(config: AnyConfig, row_length: int) -> int:
    """Those of `multiply_adds` that the last block needs only at the places whose output is asked for."""
    matrices, hidden = architecture(config.model_type).feed_forward_matrices, config.hidden_size
    weights = hidden * (2 * hidden + matrices * config.intermediate_size)  # all but keys and values
    return weights + 2 * hidden * pairs_seen(config, config.num_hidden_layers - 1, row_length) // row_length


def pairs_seen(config: AnyConfig, layer: int, row_length: int) -> int:
    """How many keys all places of a full row see together."""
    window = architecture(config.model_type).window(config, layer)
    reach = row_length - 1 if window is None else min(window, row_length - 1)
    return row_length * (2 * reach + 1) - reach * (reach + 1)  # less at both ends of the row


def multiply_adds(config: AnyConfig, row_length: int) -> int:
    """Multiplications and additions, a pair as one, that the blocks do for one place of a full row, forward.

    Counted are the products with weights, the scores of the keys that a token sees, and the sums they weigh.
    """
    matrices, hidden = architecture(config.model_type).feed_forward_matrices, config.hidden_size
    weights = hidden * (4 * hidden + matrices * config.intermediate_size)
    pairs = sum(pairs_seen(config, layer, row_length) for layer in range(config.num_hidden_layers))
    return config.num_hidden_layers * weights + 2 * hidden * pairs // row_length
