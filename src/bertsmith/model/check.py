"""What the shape of a model may be, said in one line when it is something else."""

from dataclasses import asdict
from math import inf
from typing import Any

from bertsmith.errors import require

COUNTS = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
    "max_position_embeddings", "type_vocab_size", "global_attn_every_n_layers", "local_attention",
)  # fmt: skip
POSITIVE = (
    "initializer_range", "initializer_cutoff_factor", "layer_norm_eps", "norm_eps", "global_rope_theta",
    "local_rope_theta",
)  # fmt: skip
PROBABILITIES = (
    "hidden_dropout_prob", "attention_probs_dropout_prob", "embedding_dropout", "attention_dropout", "mlp_dropout",
)  # fmt: skip
"""Fields by the kind of number in them; each architecture has some."""

LARGEST = 10**6
"""Larger numbers are slips of the hand, and such a matrix may have more bytes than PyTorch counts."""


def check_shape(config: Any) -> None:
    """Check the fields of a `BertConfig` or `ModernBertConfig`.

    Raises:
        UserError: A value has the wrong type or range, or two of them contradict each other.
    """
    values = asdict(config)
    counts, positive, probabilities = ([n for n in names if n in values] for names in (COUNTS, POSITIVE, PROBABILITIES))
    for name in counts:
        fits = type(values[name]) is int and 0 < values[name] <= LARGEST
        require(fits, f"{name} is {values[name]!r}; give a whole number from 1 to {LARGEST:,}, as int")
    for name in (*positive, *probabilities):
        fits = isinstance(values[name], int | float) and type(values[name]) is not bool  # NumPy's float64 is a float
        require(fits, f"{name} is {values[name]!r}; give a number, as int or float")
    for name in positive:
        require(0 < values[name] < inf, f"{name} is {values[name]!r}; give a number above 0 and below infinity")
    for name in probabilities:
        require(0 <= values[name] < 1, f"{name} is {values[name]!r}; give a probability in [0, 1)")
    heads, width, pad = config.num_attention_heads, config.hidden_size, config.pad_token_id
    require(width % heads == 0, f"num_attention_heads is {heads}; give a divisor of hidden_size, {width}")
    fits = pad is None or (type(pad) is int and 0 <= pad < config.vocab_size)
    require(fits, f"pad_token_id is {pad!r}; give an id below vocab_size, {config.vocab_size}")
