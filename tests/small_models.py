"""Small models with the same first weights each time."""

from typing import Any

import torch

from bertsmith.model import AnyPretrainingModel, new_config, new_model


def model_of(
    model_type: str, device: str = "cpu", dropout: float = 0.0, *, next_sentence: bool | None = None, **shape: Any
) -> AnyPretrainingModel:
    """A model of three layers for up to 64 tokens out of 500, with a next-sentence head unless it has none.

    Args:
        model_type: "bert" or "modernbert".
        device: Where it is.
        dropout: Of hidden states and of attention.
        next_sentence: Whether it has that head; None: where its architecture has one.
        shape: Other fields of the config.
    """
    config = new_config(
        model_type,
        special_ids={"pad_token_id": 0},
        max_position_embeddings=64,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        **{
            "vocab_size": 500,
            "hidden_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "intermediate_size": 128,
            **shape,
        },
    )
    torch.manual_seed(0)
    return new_model(config, next_sentence=model_type == "bert" if next_sentence is None else next_sentence).to(device)
