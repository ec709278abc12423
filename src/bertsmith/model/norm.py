"""BERT's LayerNorm."""

import torch
from torch import Tensor, nn


class BertNorm(nn.LayerNorm):
    """LayerNorm in float32 whose result, in training under autocast, has the precision of the products that read it.

    Autocast alone would leave float32, which has twice the bytes: on an H100 LayerNorm took 6.6 of the 54 ms of
    bert-base's kernels, so it takes 4.2 (docs/log.md, "Steps that a GPU is asked for as a whole").
    """

    def forward(self, x: Tensor) -> Tensor:
        """float [T, D] -> float [T, D]."""
        normed: Tensor = super().forward(x)
        kind = x.device.type
        lowers = self.training and normed.dtype == torch.float32 and torch.is_autocast_enabled(kind)  # float64 stays
        return normed.to(torch.get_autocast_dtype(kind)) if lowers else normed
