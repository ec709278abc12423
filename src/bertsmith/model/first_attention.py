"""Heads of a new model that look at the tokens beside each token, in place of everywhere at once.

A model of masked words stays near the frequencies of the pieces until some head has found that the words beside a
mask tell most (docs/log.md, "Attention that begins beside each token"). Here heads begin there, as attention of
images can begin as a convolution (arXiv:2505.19985). The product of a query and a key is then a sum of waves over
their distance, highest where the key stands a given number of places from the query.

Rotary positions make such waves by themselves of any query and key that are the same at all places. So ModernBERT's
embeddings get a part in common, which queries and keys read. BERT's positions are learnt: there the waves are
put into the position embeddings, as in arXiv:1706.03762, section 3.5, and a query reads them turned by an angle.
"""

from math import sqrt

import torch
from torch import Tensor

from bertsmith.model.bert import BertBlock, BertPretrainingModel
from bertsmith.model.modernbert import ModernBertBlock, ModernBertPretrainingModel
from bertsmith.model.rotary import frequencies

OFFSETS = (1, -1, 2, -2)
"""Places from the query that the first heads of each layer look at; further heads begin anywhere."""

SHARE = 0.5
"""Of the squared length of what a layer reads, what the embeddings have in common, or what says the position."""

SLOWEST = 0.15
"""Radians a place. Waves slower than this are not used: they don't tell places apart."""

PEAK = 10.0
"""Score of the place that is looked at, before the softmax; one place further it is about a seventh less."""

WAVES = 10_000.0
"""BERT's waves are those of rotary positions of this base and 64 dimensions."""


@torch.no_grad()
def begin_beside(model: BertPretrainingModel | ModernBertPretrainingModel) -> None:
    """Let the heads of new weights begin at the tokens beside each token. The source of randomness is PyTorch's own.

    Of what the weights were before only BERT's positions go; word embeddings are made shorter, and the matrices of
    queries and keys are added to.

    Args:
        model: Its embeddings and the matrices of queries and keys are changed in place.
    """
    if isinstance(model, ModernBertPretrainingModel):
        _begin_modern(model)
    else:
        _begin_bert(model)


def _begin_modern(model: ModernBertPretrainingModel) -> None:
    config, words = model.config, model.bert.embeddings.word_embeddings.weight
    common = _directions(config.hidden_size, 1)[:, 0]  # [D]
    length = words.norm(dim=1).mean()
    words.mul_(sqrt(1 - SHARE)).add_(common * length * sqrt(SHARE))
    head_dim = config.hidden_size // config.num_attention_heads
    read = sqrt(config.hidden_size * SHARE)  # of `common`, in a normalised embedding
    for block in model.bert.blocks:
        assert isinstance(block, ModernBertBlock)
        theta = config.global_rope_theta if block.window is None else config.local_rope_theta
        queries, keys, _ = block.attention.qkv.weight.view(3, config.num_attention_heads, head_dim, -1)
        for head, offset in zip(range(config.num_attention_heads), OFFSETS, strict=False):
            query, key = looking_at(offset, head_dim, theta)
            queries[head] += torch.outer(query, common) / read
            keys[head] += torch.outer(key, common) / read


def _begin_bert(model: BertPretrainingModel) -> None:
    config, embeddings = model.config, model.bert.embeddings
    head_dim = config.hidden_size // config.num_attention_heads
    turns = frequencies(64, WAVES)
    turns = turns[turns >= SLOWEST][: head_dim // 2]  # [W]
    if not len(turns):  # a head of one dimension cannot hold a wave
        return
    directions = _directions(config.hidden_size, 2 * len(turns))  # [D, 2 W]
    angles = torch.arange(config.max_position_embeddings)[:, None] * turns
    waves = torch.cat([angles.cos(), angles.sin()], 1) / sqrt(len(turns))  # [L, 2 W], each of length 1
    words, positions = embeddings.word_embeddings.weight, embeddings.position_embeddings.weight
    length, of_types = (each.norm(dim=1).mean() for each in (words, embeddings.token_type_embeddings.weight))
    words.mul_(sqrt(1 - SHARE))
    positions.copy_(waves @ directions.T * length * sqrt(SHARE))
    share = SHARE * length**2 / (length**2 + of_types**2)
    read = (config.hidden_size * share / len(turns)).sqrt()  # of one wave, in a normalised embedding
    scale = sqrt(PEAK * sqrt(head_dim) / len(turns)) / read
    for block in model.bert.blocks:
        assert isinstance(block, BertBlock)
        queries, keys, _ = block.attention.qkv.weight.view(3, config.num_attention_heads, head_dim, -1)
        cos, sin = directions.T.chunk(2)  # each [W, D]
        for head, offset in zip(range(config.num_attention_heads), OFFSETS, strict=False):
            angle = (offset * turns)[:, None]
            ahead = torch.cat([angle.cos() * cos - angle.sin() * sin, angle.cos() * sin + angle.sin() * cos])
            queries[head, : len(ahead)] += scale * ahead
            keys[head, : len(ahead)] += scale * directions.T


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


def _directions(width: int, number: int) -> Tensor:
    """Orthonormal directions that LayerNorm, which takes off the mean, leaves as they are: float32 [D, number]."""
    directions = torch.randn(width, number)
    orthonormal: Tensor = torch.linalg.qr(directions - directions.mean(0)).Q
    return orthonormal
