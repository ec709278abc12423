"""The models: BERT and ModernBERT, and what reads and writes them.

bert.py, modernbert.py      one paper each, top to bottom; norm.py, rotary.py: what only one of them has
packed.py, padded.py        where sequences lie in a batch; the way from a padded one and back
attention.py                the only place that knows kernels; dropout.py: random numbers that a CPU makes fast
heads.py, classifier.py     what stands on the encoder in pretraining, and after fine-tuning
output.py                   what encoder and heads give
first_weights.py            how weights begin; first_embeddings.py, first_attention.py: at what is counted in the text
folder.py                   Hugging Face folders; naming.py, bert_folder.py, modernbert_folder.py: the names in them
architecture.py             what the program must know of each architecture beside its classes
check.py                    what configs are held against
"""

from pathlib import Path
from typing import Literal, overload

from bertsmith.model.architecture import (
    MODEL_TYPES,
    AnyConfig,
    AnyModel,
    AnyPretrainingModel,
    architecture,
    architecture_of,
    has_dropout,
    is_foreign,
    model_type_of,
    multiply_adds,
    multiply_adds_of_query,
    new_config,
    new_model,
    with_dropout,
)
from bertsmith.model.attention import attend
from bertsmith.model.bert import (
    BertBlock,
    BertConfig,
    BertModel,
    BertPooler,
    BertPretrainingModel,
)
from bertsmith.model.folder import ModelFolder, read_config
from bertsmith.model.modernbert import (
    ModernBertBlock,
    ModernBertConfig,
    ModernBertModel,
    ModernBertPretrainingModel,
)
from bertsmith.model.output import BertPretrainingOutput
from bertsmith.model.packed import Packed, pad, unpad

__all__ = [
    "MODEL_TYPES",
    "AnyConfig",
    "AnyModel",
    "AnyPretrainingModel",
    "BertBlock",
    "BertConfig",
    "BertModel",
    "BertPooler",
    "BertPretrainingModel",
    "BertPretrainingOutput",
    "ModernBertBlock",
    "ModernBertConfig",
    "ModernBertModel",
    "ModernBertPretrainingModel",
    "Packed",
    "architecture",
    "architecture_of",
    "attend",
    "has_dropout",
    "is_foreign",
    "load_model",
    "model_type_of",
    "multiply_adds",
    "multiply_adds_of_query",
    "new_config",
    "new_model",
    "pad",
    "read_config",
    "unpad",
    "with_dropout",
]


@overload
def load_model(folder: str | Path, *, heads: Literal[True]) -> AnyPretrainingModel: ...
@overload
def load_model(folder: str | Path, *, heads: Literal[False]) -> AnyModel: ...
@overload
def load_model(folder: str | Path, *, heads: None = None) -> AnyPretrainingModel | AnyModel: ...
def load_model(folder: str | Path, *, heads: bool | None = None) -> AnyPretrainingModel | AnyModel:
    """Read a model of any known architecture from a Hugging Face folder, as float32 and in evaluation mode.

    Args:
        folder: Holds config.json and model.safetensors.
        heads: Whether to read the heads of pretraining too. None: if the folder has them.

    Raises:
        UserError: The folder can not be read, or has no such model.
    """
    folder = Path(folder)
    kind = architecture_of(folder)
    source = ModelFolder(folder, kind.naming)
    if heads or (heads is None and source.has(kind.naming.mlm_head)):
        return kind.pretraining_model.from_pretrained(folder)
    pooler = {"add_pooling_layer": source.has("bert.pooler.")} if kind.adds_pooler else {}  # as it is: no warning
    return kind.model.from_pretrained(folder, **pooler)
