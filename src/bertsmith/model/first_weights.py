"""How weights begin: drawn as google-research/bert draws them, scores at frequencies, or not at all."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import erf, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bertsmith.model.heads import MaskedLanguageHead


def draw_truncated_normal(weight: Tensor, std: float, cutoff: float, generator: torch.Generator | None) -> None:
    """Fill a tensor from a normal distribution of mean 0 that is cut at `cutoff` sigma on both sides, in place.

    By inverting the distribution function, one draw a value. `nn.init.trunc_normal_` of PyTorch 2.13 draws by
    rejection, eight times as slowly and with other values than earlier releases.

    Args:
        weight: float32 or float64, of any shape. One on the meta device has no numbers to fill.
        std: Sigma, before the cut.
        cutoff: In sigma.
        generator: As of `initialize`.
    """
    if weight.is_meta:  # what follows would change nothing and load the compiler, as in `without_weights`
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


@torch.no_grad()
def begin_at_frequencies(head: MaskedLanguageHead, log_frequencies: npt.NDArray[np.float64]) -> None:
    """Let a new head score each piece by its frequency: that is the bias (arXiv:2212.09686).

    That is what a model learns first, in some hundred steps, and here need not learn.

    Args:
        head: Its bias [V] is changed.
        log_frequencies: [V], in nats.
    """
    head.bias.copy_(torch.from_numpy(log_frequencies))


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
