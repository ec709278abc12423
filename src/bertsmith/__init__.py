"""Your text in, your own BERT out.

The names below are loaded when they are first used, so that importing the
package costs nothing.
"""

from importlib import import_module
from typing import Any

_HOME = {
    "Batch": "data.batch",
    "BertBlock": "model",
    "BertConfig": "model",
    "BertModel": "model",
    "BertPooler": "model",
    "BertPretrainingModel": "model",
    "ModernBertBlock": "model",
    "ModernBertConfig": "model",
    "ModernBertModel": "model",
    "ModernBertPretrainingModel": "model",
    "TrainingRows": "data.examples",
    "UserError": "errors",
    "collate": "data.batch",
    "count_targets": "objective",
    "fill": "predict",
    "load_for_prediction": "predict",
    "load_model": "model",
    "load_tokenizer": "tokenizer",
    "learning_rate_at": "optim",
    "open_rows": "data.examples",
    "sum_losses": "objective",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'bertsmith' has no attribute '{name}'")
    return getattr(import_module(f"bertsmith.{_HOME[name]}"), name)
