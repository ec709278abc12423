"""A moving average of the weights, which is measured and exported in the place of the weights themselves."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average of all parameters, in float32 beside them.

    Early on the decay is (1 + step) / (10 + step), so that the first, random weights
    are soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Begin with the model's weights.

        Args:
            model: On its device.
            decay: Weight of the past in each step, in (0, 1).
        """
        self._parameters = dict(model.named_parameters())
        self._decay = decay
        self.tensors = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}
        """By the names of the parameters."""

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after optimizer step `step`, counted from 1."""
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.tensors.values()), list(self._parameters.values()), 1 - decay)

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on with a saved average."""
        for name, tensor in tensors.items():
            self.tensors[name].copy_(tensor)

    @torch.no_grad()
    def give_to_model(self) -> None:
        """Give the model the averaged weights for good."""
        for name, parameter in self._parameters.items():
            parameter.copy_(self.tensors[name])

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Give the model the averaged weights for a while."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for name, parameter in self._parameters.items():
            weights = parameter.clone()
            parameter.copy_(self.tensors[name])
            self.tensors[name].copy_(weights)
