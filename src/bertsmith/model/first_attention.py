"""Heads of a new ModernBERT that look at the tokens beside each token, in place of everywhere at once.

A model of masked words stays near the frequencies of the pieces until some head has found that the words beside a
mask tell most (docs/log.md, "Attention that begins at the neighbours"). Here heads begin there, as attention of
images can begin as a convolution (arXiv:2505.19985), by what rotary positions do: all embeddings get a part in
common, queries and keys read it alone, and after their turns the product of two is largest where the key
stands a given number of places from the query.
"""

from math import sqrt

import torch
from torch import Tensor

from bertsmith.model.modernbert import ModernBertBlock, ModernBertPretrainingModel
from bertsmith.model.rotary import frequencies

OFFSETS = (1, -1, 2, -2)
"""Places from the query that the first heads of each layer look at; further heads begin anywhere."""

COMMON_SHARE = 0.5
"""Of the squared length of an embedding, what all have in common."""

SLOWEST = 0.15
"""Radians a place. Pairs of dimensions that turn by less are not used: they don't tell places apart."""

PEAK = 10.0
"""Score of the place that is looked at, before the softmax; one place further it is a seventh less."""


@torch.no_grad()
def begin_beside(model: ModernBertPretrainingModel) -> None:
    """Let the heads of new weights begin at the tokens beside each token. The source of randomness is PyTorch's own.

    What the weights were before is still in them: the common part is added to the embeddings, which are made shorter
    by as much, and to the matrices of queries and keys.

    Args:
        model: Its embeddings and the matrices of queries and keys are changed in place.
    """
    config, weight = model.config, model.bert.embeddings.word_embeddings.weight
    common = torch.randn(config.hidden_size)
    common -= common.mean()  # LayerNorm takes it away
    common /= common.norm()
    length = weight.norm(dim=1).mean()
    weight.mul_(sqrt(1 - COMMON_SHARE)).add_(common * length * sqrt(COMMON_SHARE))
    head_dim = config.hidden_size // config.num_attention_heads
    read = sqrt(config.hidden_size * COMMON_SHARE)  # of `common`, in a normalised embedding
    for block in model.bert.blocks:
        assert isinstance(block, ModernBertBlock)
        theta = config.global_rope_theta if block.window is None else config.local_rope_theta
        queries, keys, _ = block.attention.qkv.weight.view(3, config.num_attention_heads, head_dim, -1)
        for head, offset in zip(range(config.num_attention_heads), OFFSETS, strict=False):
            query, key = looking_at(offset, head_dim, theta)
            queries[head] += torch.outer(query, common) / read
            keys[head] += torch.outer(key, common) / read


def looking_at(offset: int, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """A query and a key, the same at all places, which after their turns match best `offset` places apart.

    Their product, divided by sqrt(K), is PEAK times the mean of cos(f (distance - offset)) over the frequencies f
    that are used, where distance is that of the key from the query.

    Returns:
        float32 [K] each.
    """
    turns = frequencies(head_dim, theta)
    used = turns >= SLOWEST
    length = used * sqrt(PEAK * sqrt(head_dim) / int(used.sum()))
    query = torch.cat([length * (offset * turns).cos(), length * (offset * turns).sin()])
    return query, torch.cat([length, 0 * length])  # a pair of dimensions lies in both halves of a vector
