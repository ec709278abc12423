"""What stands on the encoder during pretraining, and the activations by name.

Letters: D hidden, V vocabulary.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bertsmith.errors import UserError, suggestion

Activation = Callable[[Tensor], Tensor]

ACTIVATIONS: dict[str, Activation] = {
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
}
"""Activations by their names in config.json. "gelu" is the exact one, with erf, as in the paper."""


def activation(name: str, key: str = "hidden_act") -> Activation:
    """The function of that name; `key` is where the name stood.

    Raises:
        UserError: There is none of that name.
    """
    if str(name) not in ACTIVATIONS:
        hint = suggestion(str(name), ACTIVATIONS, cutoff=0.8)  # a name that is less alike is of another function
        raise UserError(f"{key} is '{name}'{hint}")
    return ACTIVATIONS[name]


class MaskedLanguageHead(nn.Module):
    """Scores every piece of the vocabulary for each token (arXiv:1810.04805, section 3.1, task 1).

    The last matrix is the word embedding itself, so a piece is scored by how
    alike the head's output and its embedding are. It is an argument of
    `forward` and no parameter here: one tensor, stored and optimised once.
    """

    def __init__(
        self, hidden_size: int, vocab_size: int, hidden_act: str, layer_norm_eps: float, *, inner_bias: bool = True
    ) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size, bias=inner_bias)
        self.activation = activation(hidden_act)
        self.norm = nn.LayerNorm(hidden_size, eps=layer_norm_eps, bias=inner_bias)
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    def forward(self, hidden: Tensor, word_embeddings: Tensor) -> Tensor:
        """Hidden states float [..., D] and embeddings float [V, D] give logits float [..., V]."""
        return F.linear(self.norm(self.activation(self.dense(hidden))), word_embeddings, self.bias)
