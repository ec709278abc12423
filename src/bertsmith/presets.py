"""The models by name, and how each is trained when nothing else is said."""

from dataclasses import dataclass
from typing import Any, Literal

FIRST_WEIGHTS = (("output_bias", "unigram"), ("embedding_init", "ppmi"), ("attention_init", "neighbours"))
"""What can be counted in the text need not be learnt: all new models begin with it (docs/log.md, "BERT whose first
weights are counted")."""

SHAPE = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size")
"""Fields of a model's config that a preset fills in; settings of the same names win over it."""

FEW_ROWS, LONG_RUN = 16, 2e6
"""Rows of a step, and tokens of a run from which on twice as many rows were better."""


@dataclass(frozen=True, slots=True)
class Preset:
    """Shape of a model, and how it is trained when nothing else is said (docs/log.md has the runs)."""

    model_type: Literal["bert", "modernbert"]
    """The architecture, by its name in config.json."""

    num_hidden_layers: int
    hidden_size: int
    intermediate_size: int
    muon_rate: float
    """Peak learning rate with Muon."""

    adamw_rate: float
    global_batch_size: int
    """Rows in a step: few, since a small model learns more from many steps than from large ones, at first."""

    recipe: tuple[tuple[str, Any], ...] = FIRST_WEIGHTS
    """Other settings of the training: names and values."""

    @property
    def has_next_sentence_head(self) -> bool:
        """Whether transformers has a class of this architecture with a head for next sentences."""
        return self.model_type == "bert"

    def rows_of_step(self, tokens: float) -> int:
        """Rows in a step of a run over so many tokens: later on a model learns more from larger steps.

        Measured on two small ModernBERTs with 16 rows and 32 (docs/log.md, "More rows in longer runs"); others keep
        theirs.
        """
        is_long = tokens >= LONG_RUN and self.model_type == "modernbert" and self.global_batch_size == FEW_ROWS
        return self.global_batch_size * (2 if is_long else 1)

    def shape(self, hidden_size: int | None = None) -> dict[str, int]:
        """The fields of a model's config, those that follow from the width adapted to another one."""
        width = hidden_size or self.hidden_size
        return {
            "num_hidden_layers": self.num_hidden_layers,
            "hidden_size": width,
            "num_attention_heads": max(1, width // 64),
            "intermediate_size": max(1, self.intermediate_size * width // self.hidden_size),
        }

    def is_shape_of(self, model: Any) -> bool:
        """Whether a config, of a run or of a model, has this shape."""
        return all(getattr(model, name) == value for name, value in self.shape().items())


Family = Literal["bert", "modern"]
"""The 2018 architecture, or ModernBERT."""

MODERN_RECIPE = (
    ("schedule", "trapezoid"),
    ("mlm_probability", 0.3),
    ("end_probability", 0.15),
    ("muon_scale", 2.0),
    *FIRST_WEIGHTS,
)
"""What paid for modern-tiny, and most of it for modern-mini (docs/benchmarks.md, "The recipe, lever by lever")."""

PRESETS = {
    "bert-tiny": Preset("bert", 2, 128, 512, 2.5e-3, 2e-3, 16),
    "bert-mini": Preset("bert", 4, 256, 1024, 1.5e-3, 1e-3, 16),
    "bert-small": Preset("bert", 4, 512, 2048, 8e-4, 5e-4, 16),
    "bert-medium": Preset("bert", 8, 512, 2048, 6e-4, 4e-4, 32),
    "bert-base": Preset("bert", 12, 768, 3072, 4e-4, 2e-4, 64),
    "bert-large": Preset("bert", 24, 1024, 4096, 2e-4, 1e-4, 128),
    "modern-tiny": Preset("modernbert", 2, 128, 352, 2.5e-3, 2e-3, 16, MODERN_RECIPE),
    "modern-mini": Preset("modernbert", 4, 256, 672, 1.5e-3, 1e-3, 16, MODERN_RECIPE),
    "modern-small": Preset("modernbert", 4, 512, 1376, 8e-4, 5e-4, 16, MODERN_RECIPE),
    "modern-medium": Preset("modernbert", 8, 512, 1376, 6e-4, 4e-4, 32, MODERN_RECIPE),
    "modern-base": Preset("modernbert", 22, 768, 1152, 4e-4, 2e-4, 64, MODERN_RECIPE),
    "modern-large": Preset("modernbert", 28, 1024, 2624, 2e-4, 1e-4, 128, MODERN_RECIPE),
}
"""Sizes of google-research/bert; heads = hidden_size / 64. modern-base and modern-large are those of arXiv:2412.13663;
the smaller ones have the layers of their bert namesakes and, within 3 %, the weights in their blocks: a gated layer has
three matrices where BERT has two, so it is about 2/3 as wide. The learning rates of modern-* are those of bert-* and
not tuned."""


RECIPE_SETTINGS = {name for preset in PRESETS.values() for name, _ in preset.recipe}
"""What a preset may decide besides the shape, the rate and the rows of a step."""


def sizes_of(family: Family) -> tuple[str, ...]:
    """The presets of an architecture, smallest first."""
    return tuple(name for name in PRESETS if name.startswith(f"{family}-"))
