"""What stands on the encoder during pretraining, how weights begin, and the activations by name.

Letters: D hidden, V vocabulary.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from math import erf, sqrt
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

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
        raise UserError(f"{key} is '{name}'{suggestion(str(name), ACTIVATIONS)}")
    return ACTIVATIONS[name]


def draw_truncated_normal(weight: Tensor, std: float, cutoff: float, generator: torch.Generator | None) -> None:
    """Fill a tensor from a normal distribution of mean 0 that is cut at `cutoff` sigma on both sides, in place.

    By inverting the distribution function, one draw a value. `nn.init.trunc_normal_` of PyTorch 2.13 draws by
    rejection, eight times as slowly and with other values than releases before it.
    """
    if weight.is_meta:
        return
    share = erf(cutoff / sqrt(2))  # of the whole distribution, within the cut
    weight.uniform_(-share, share, generator=generator).erfinv_().mul_(std * sqrt(2))
    weight.clamp_(-cutoff * std, cutoff * std)  # rounding


@torch.no_grad()
def initialize(module: nn.Module, std: float, generator: torch.Generator | None = None, *, cutoff: float = 2.0) -> None:
    """Draw the weights of a module as google-research/bert does.

    Matrices and embeddings come from a normal distribution cut at two sigma, so
    their standard deviation is 0.88 x `std`; biases are 0, LayerNorm begins as
    the identity.

    Args:
        module: Its submodules are filled in the order in which they were made.
        std: Sigma of the normal distribution, before the cut.
        generator: Source of the randomness; None: PyTorch's own, set by `torch.manual_seed`.
        cutoff: Where the distribution is cut, in sigma.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            draw_truncated_normal(part.weight, std, cutoff, generator)
        elif isinstance(part, nn.LayerNorm):
            nn.init.ones_(part.weight)
        if isinstance(part, nn.Linear | nn.LayerNorm | MaskedLanguageHead) and part.bias is not None:
            nn.init.zeros_(part.bias)


class _NothingDrawn(TorchFunctionMode):
    """Leaves out the draws by which PyTorch's layers begin."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in {"normal_", "uniform_", "kaiming_uniform_"}:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


@contextmanager
def without_weights() -> Iterator[None]:
    """Modules made in here have shapes and no numbers: tensors on PyTorch's meta device.

    Drawing would change nothing there, but loads PyTorch's compiler, more than a second (torch 2.13).
    """
    with torch.device("meta"), _NothingDrawn():
        yield


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
