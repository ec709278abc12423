"""The sizes of BERT by name, and how each is trained when nothing else is said."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Preset:
    """Shape of a model, and how it is trained when nothing else is said (docs/log.md has the runs)."""

    num_hidden_layers: int
    hidden_size: int
    muon_rate: float
    """Peak learning rate with Muon."""

    adamw_rate: float
    global_batch_size: int
    """Rows in a step: few, since a small model learns more from many steps than from large ones."""


PRESETS = {
    "bert-tiny": Preset(2, 128, 2.5e-3, 2e-3, 16),
    "bert-mini": Preset(4, 256, 1.5e-3, 1e-3, 16),
    "bert-small": Preset(4, 512, 8e-4, 5e-4, 16),
    "bert-medium": Preset(8, 512, 6e-4, 4e-4, 32),
    "bert-base": Preset(12, 768, 4e-4, 2e-4, 64),
    "bert-large": Preset(24, 1024, 2e-4, 1e-4, 128),
}
"""Sizes of google-research/bert; heads = hidden_size / 64, intermediate_size = 4 x hidden_size."""

BERT_SIZES = tuple(PRESETS)
"""Smallest first."""
