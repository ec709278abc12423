"""The model: BERT, and what reads and writes it."""

from pathlib import Path
from typing import Literal, overload

from bertsmith.errors import UserError
from bertsmith.model.attention import Packed, attend, pad, unpad
from bertsmith.model.bert import (
    BertBlock,
    BertConfig,
    BertEmbeddings,
    BertModel,
    BertOutput,
    BertPooler,
    BertPretrainingModel,
    BertPretrainingOutput,
)
from bertsmith.model.folder import has_pretraining_heads, read_config

__all__ = [
    "BertBlock",
    "BertConfig",
    "BertEmbeddings",
    "BertModel",
    "BertOutput",
    "BertPooler",
    "BertPretrainingModel",
    "BertPretrainingOutput",
    "Packed",
    "attend",
    "load_model",
    "pad",
    "unpad",
]


@overload
def load_model(folder: str | Path, *, heads: Literal[True]) -> BertPretrainingModel: ...
@overload
def load_model(folder: str | Path, *, heads: Literal[False]) -> BertModel: ...
@overload
def load_model(folder: str | Path, *, heads: None = None) -> BertPretrainingModel | BertModel: ...
def load_model(folder: str | Path, *, heads: bool | None = None) -> BertPretrainingModel | BertModel:
    """Read a model of any known architecture from a Hugging Face folder, as float32 and in evaluation mode.

    Args:
        folder: Holds config.json and model.safetensors.
        heads: Whether to read the heads of pretraining too. None: if the folder has them.

    Raises:
        UserError: The folder can not be read, or has no such model.
    """
    folder = Path(folder)
    model_type = read_config(folder).get("model_type")
    if model_type == "bert":
        if heads is None:
            heads = has_pretraining_heads(folder)
        return BertPretrainingModel.from_pretrained(folder) if heads else BertModel.from_pretrained(folder)
    raise UserError(f"model_type in {folder / 'config.json'} is {model_type!r}; only 'bert' can be read")
