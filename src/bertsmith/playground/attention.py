"""How much each token looks at each other token, in every layer and head. L tokens, H heads, K head_dim."""

from typing import Any

import torch
from torch import Tensor

from bertsmith.model import attend
from bertsmith.model.attention import project
from bertsmith.model.bert import BertModel, BertSelfAttention
from bertsmith.model.modernbert import ModernBertModel, ModernBertSelfAttention
from bertsmith.model.rotary import Reach, rotate


@torch.no_grad()
def attention_weights(encoder: BertModel | ModernBertModel, input_ids: Tensor, token_type_ids: Tensor) -> Tensor:
    """The attention weights of one sequence, as the encoder itself computes them.

    A kernel gives the mean of the values under its weights; where the value of token n is the n-th unit vector, that
    mean is the weights. So windows and turned queries are those of the model, whatever its kernel.

    Args:
        encoder: In evaluation mode.
        input_ids: int64 [L], with [CLS] and [SEP].
        token_type_ids: int64 [L].

    Returns:
        float [layers, H, L, L]; each row sums to 1.
    """
    found: list[Tensor] = []

    def look(module: Any, inputs: tuple[Any, ...]) -> None:
        hidden, where = inputs
        q, k, _ = project(module.qkv, hidden, None, module.num_heads)
        if isinstance(where, Reach):
            q, k = rotate(q, where.turn), rotate(k, where.turn)
        packed = where.packed if isinstance(where, Reach) else where
        tokens = q.shape[0]
        units = torch.eye(tokens, dtype=q.dtype, device=q.device)[:, None].expand(-1, q.shape[1], -1)
        found.append(attend(q, k, units, packed).transpose(0, 1))

    layers = [part for part in encoder.modules() if isinstance(part, BertSelfAttention | ModernBertSelfAttention)]
    hooks = [layer.register_forward_pre_hook(look) for layer in layers]
    try:
        encoder(input_ids[None], token_type_ids=token_type_ids[None])
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(found)
