"""Heads of a new model that look at the tokens beside each token, in place of everywhere at once.

A model of masked words stays near the frequencies of the pieces until some head has found that the words beside a
mask tell most (docs/log.md, "Attention that begins beside each token"). Here heads begin there, as attention of
images can begin as a convolution (arXiv:2505.19985). The product of a query and a key is then a sum of waves over
their distance, highest where the key stands a given number of places from the query.

Rotary positions make such waves by themselves of any query and key that are the same at all places. So ModernBERT's
embeddings get a part in common, which queries and keys read. BERT's positions are learnt: there the waves are
put into the position embeddings, as in arXiv:1706.03762, section 3.5, and a query reads them turned by an angle.

Letters: V vocabulary, L places, D hidden, K head_dim, W waves.
"""

from math import sqrt

import torch
from torch import Tensor

from bertsmith.model.bert import BertBlock, BertConfig, BertPretrainingModel
from bertsmith.model.modernbert import ModernBertBlock, ModernBertConfig, ModernBertPretrainingModel
from bertsmith.model.rotary import rotary_frequencies

OFFSETS = (1, -1, 2, -2)
"""Places from the query that the first heads of a layer look at; further heads begin anywhere."""

SHARE = 0.5
"""Of the squared length of what a layer reads, what the embeddings have in common, or what says the position."""

SLOWEST = 0.15
"""Radians a place. Waves slower than this are not used: they don't tell places apart."""

FEWEST_WAVES = 5
"""With fewer a head would look at far places, too; it begins anywhere. Rotary heads of 64 dimensions have 6 or 7: in
rows of some thousand tokens even they match some far places nearly as well."""

BERT_LAYERS = 4
"""Of BERT so many begin so, and the others anywhere: each layer adds to what says the position, so that deep ones
would not find it any more. ModernBERT turns queries and keys in each layer anew."""

PEAK = 10.0
"""Score of the place that is looked at, before the softmax; one place further it is about a seventh less, with 64
dimensions."""

WAVES = 10_000.0
"""BERT's waves are those of rotary positions of this base and 64 dimensions."""


def can_begin_beside(config: BertConfig | ModernBertConfig) -> bool:
    """Whether the heads of a model have the dimensions for enough waves."""
    head_dim = config.hidden_size // config.num_attention_heads
    if isinstance(config, ModernBertConfig):
        return bool(looking_at(1, head_dim, config.global_rope_theta)[1].any())
    return len(_waves_of_bert(config)) >= FEWEST_WAVES


@torch.no_grad()
def begin_beside(model: BertPretrainingModel | ModernBertPretrainingModel, counts: Tensor) -> None:
    """Let the heads of new weights begin at the tokens beside each token. The source of randomness is PyTorch's own.

    Word embeddings are made shorter by what says the position, or is common to all; that is BERT's position
    embeddings, which are overwritten, or is added to ModernBERT's word embeddings. The matrices of queries and keys
    are added to.

    Args:
        model: Its embeddings and the matrices of queries and keys are changed in place, if its heads are wide enough.
        counts: int64 [V], how often each piece is read: its embedding counts as often in the usual length of one.
    """
    if not can_begin_beside(model.config):
        return
    words, often = model.bert.embeddings.word_embeddings.weight, counts.to(torch.float32) + 1e-6
    usual = float((words.norm(dim=1) * often).sum() / often.sum())
    if isinstance(model, ModernBertPretrainingModel):
        _begin_modern(model, usual)
    else:
        _begin_bert(model, usual)


def _begin_modern(model: ModernBertPretrainingModel, usual: float) -> None:
    config = model.config
    heads, head_dim = config.num_attention_heads, config.hidden_size // config.num_attention_heads
    common = _directions(config.hidden_size, 1)[:, 0]  # [D]
    words = model.bert.embeddings.word_embeddings.weight
    words.mul_(sqrt(1 - SHARE)).add_(common * usual * sqrt(SHARE))
    read = sqrt(config.hidden_size * SHARE)  # of `common`, in a normalised embedding
    for block in model.bert.blocks:
        assert isinstance(block, ModernBertBlock)
        theta = config.global_rope_theta if block.window is None else config.local_rope_theta
        queries, keys, _ = block.attention.qkv.weight.view(3, heads, head_dim, -1)
        for head, offset in zip(range(heads), OFFSETS, strict=False):
            query, key = looking_at(offset, head_dim, theta)
            queries[head] += torch.outer(query, common) / read
            keys[head] += torch.outer(key, common) / read


def _begin_bert(model: BertPretrainingModel, usual: float) -> None:
    config, embeddings = model.config, model.bert.embeddings
    heads, head_dim = config.num_attention_heads, config.hidden_size // config.num_attention_heads
    turns = _waves_of_bert(config)
    directions = _directions(config.hidden_size, 2 * len(turns))  # [D, 2 W]
    angles = torch.arange(config.max_position_embeddings)[:, None] * turns
    waves = torch.cat([angles.cos(), angles.sin()], 1) / sqrt(len(turns))  # [L, 2 W], each of length 1
    embeddings.word_embeddings.weight.mul_(sqrt(1 - SHARE))
    embeddings.position_embeddings.weight.copy_(waves @ directions.T * usual * sqrt(SHARE))
    of_types = float(embeddings.token_type_embeddings.weight.norm(dim=1).mean())
    share = SHARE * usual**2 / (usual**2 + of_types**2)
    read = sqrt(config.hidden_size * share / len(turns))  # of one wave, in a normalised embedding
    scale = sqrt(PEAK * sqrt(head_dim) / len(turns)) / read
    cos, sin = directions.T.chunk(2)  # each [W, D]
    for block in list(model.bert.blocks)[:BERT_LAYERS]:
        assert isinstance(block, BertBlock)
        queries, keys, _ = block.attention.qkv.weight.view(3, heads, head_dim, -1)
        for head, offset in zip(range(heads), OFFSETS, strict=False):
            angle = (offset * turns)[:, None]
            ahead = torch.cat([angle.cos() * cos - angle.sin() * sin, angle.cos() * sin + angle.sin() * cos])
            queries[head, : len(ahead)] += scale * ahead
            keys[head, : len(ahead)] += scale * directions.T


def _waves_of_bert(config: BertConfig) -> Tensor:
    """Radians a place of the waves that its heads and embeddings have room for, float32 [W]."""
    turns = rotary_frequencies(64, WAVES)
    head_dim = config.hidden_size // config.num_attention_heads
    return turns[turns >= SLOWEST][: min(head_dim // 2, (config.hidden_size - 1) // 2)]


def looking_at(offset: int, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """A query and a key, the same at all places, which after their turns match best `offset` places apart.

    Their product, divided by sqrt(K), is PEAK times the mean of cos(f (distance - offset)) over the frequencies f
    that are used, where distance is that of the key from the query.

    Returns:
        float32 [K] each; all 0 where there are too few waves.
    """
    turns = rotary_frequencies(head_dim, theta)
    used = turns >= SLOWEST
    if used.sum() < FEWEST_WAVES:
        return torch.zeros(head_dim), torch.zeros(head_dim)
    length = used * sqrt(PEAK * sqrt(head_dim) / int(used.sum()))
    query = torch.cat([length * (offset * turns).cos(), length * (offset * turns).sin()])
    return query, torch.cat([length, 0 * length])  # a pair of dimensions lies in both halves of a vector


def _directions(width: int, number: int) -> Tensor:
    """Orthonormal directions that LayerNorm, which takes off the mean, leaves as they are: float32 [D, number]."""
    directions = torch.randn(width, number)
    orthonormal: Tensor = torch.linalg.qr(directions - directions.mean(0)).Q
    return orthonormal
