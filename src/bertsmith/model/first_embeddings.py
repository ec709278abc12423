"""Embeddings that begin at what stands beside each piece in the text, in place of random ones.

Pieces with the same neighbours ("monday", "tuesday") get embeddings that are alike. That is what a
model has to find out before anything else, and it can be counted: PPMI and a truncated singular
value decomposition give much of what word2vec learns (Levy and Goldberg 2014, "Neural Word Embedding as
Implicit Matrix Factorization"; Levy, Goldberg and Dagan 2015, "Improving Distributional Similarity", whose
smoothing and root are used here).

Letters: V vocabulary, C contexts (the pieces that are counted as neighbours), D hidden.
"""

from math import sqrt

import torch
from torch import Tensor, nn

SMOOTHING = 0.75
"""Power of the neighbours' frequencies, so that rare neighbours say less."""

SCALE, WIDEST = 4.0, 256
"""Length of these embeddings, as a multiple of the random ones' (docs/log.md, "Embeddings that begin at the neighbours
of the pieces"). The embeddings give the scores, too: in models wider than WIDEST they are shorter, so that scores begin
no larger."""

DIRECTIONS = 128
"""Most dimensions that they take, turned at random in a wider model; with more of them the loss is higher (docs/log.md,
"Fewer dimensions for counted embeddings")."""

FITTED = 8192
"""So many of the most frequent pieces decide which mixtures of contexts are kept; the others are read in them."""

ITERATIONS = 3
"""Times that the random mixtures of contexts are sharpened."""

ROWS_AT_ONCE = 1 << 14

KNOWN_FROM = 20
"""Neighbours that a piece must have had; with fewer its embedding stays random."""


@torch.no_grad()
def begin_at_neighbours(embeddings: nn.Embedding, counts: Tensor) -> None:
    """Let new embeddings begin at the neighbours of their pieces. PyTorch's own randomness turns them.

    Args:
        embeddings: float32 [V, D], drawn at random; changed in place. Rows of pieces that are too rare, and of special
            ones that no text holds, such as [MASK], stay as they are.
        counts: float32 [V, C], how often each piece stood near each of the C most frequent ones. Is overwritten.
    """
    weight = embeddings.weight
    seen = counts.sum(1)
    known = seen >= KNOWN_FROM
    frequent = torch.sort(seen, descending=True, stable=True).indices[:FITTED]
    width = min(DIRECTIONS, weight.shape[1])
    directions = truncated_svd(ppmi(counts), width, fitted=frequent)
    if width < weight.shape[1]:
        directions = directions @ torch.linalg.qr(torch.randn(weight.shape[1], width)).Q.T
    lengths = directions.norm(dim=1, keepdim=True)
    known &= lengths[:, 0] > 1e-4 * lengths.max()  # else rounding
    if not known.any():
        return
    length = SCALE * sqrt(min(1, WIDEST / weight.shape[1])) * weight[known].norm(dim=1).mean()
    weight[known] = directions[known] * (length / lengths[known])


def ppmi(counts: Tensor) -> Tensor:
    """Positive pointwise mutual information of pieces and neighbours, in nats: float32 [V, C], in place.

    log P(c | v) / P(c), and 0 where that is negative or nothing was counted.
    """
    of_piece, of_neighbour = counts.sum(1, keepdim=True), counts.sum(0).pow_(SMOOTHING)
    shares = of_neighbour / of_neighbour.sum().clamp_min(1)
    counts.div_(of_piece.clamp_min_(1)).div_(shares.clamp_min_(1e-30))
    return counts.clamp_min_(1).log_()


def truncated_svd(matrix: Tensor, width: int, *, fitted: Tensor | None = None) -> Tensor:
    """U sqrt(S) of the singular value decomposition cut to `width` values, turned at random: float [V, width].

    By subspace iteration from random contexts (arXiv:0909.4061, algorithm 4.4). All that is made on the way is a
    continuous function of the matrix, but for values near 0, where single singular vectors would not be: so other
    threads or machines change the result by rounding only.

    Args:
        matrix: float [V, C].
        width: At most D; where V or C is smaller, the result has a rank below it.
        fitted: int64 [N], rows that the contexts are mixed for; the others follow them. None: all rows.
    """
    some = matrix if fitted is None else matrix[fitted]
    basis = torch.randn(matrix.shape[1], width, dtype=matrix.dtype)
    for _ in range(ITERATIONS):
        basis = _orthonormal(some.T @ (some @ basis))  # [C, D]
    mixed = matrix @ basis  # [V, D]: U S, turned
    return mixed @ _power(_products(mixed), -0.25).to(matrix.dtype)


def _orthonormal(columns: Tensor) -> Tensor:
    """The orthonormal columns nearest to these, float [N, D]; those that depend on others add nothing."""
    return columns @ _power(_products(columns), -0.5).to(columns.dtype)


def _products(columns: Tensor) -> Tensor:
    """Products of columns float [N, D] with one another, float64 [D, D]: they have the square of the condition."""
    products = torch.zeros(columns.shape[1], columns.shape[1], dtype=torch.float64)
    for some in torch.split(columns, ROWS_AT_ONCE):
        products += some.double().T @ some.double()
    return products


def _power(matrix: Tensor, exponent: float) -> Tensor:
    """A power of a symmetric matrix float64 [D, D] without negative eigenvalues; those that are 0 stay 0."""
    values, vectors = torch.linalg.eigh(matrix)
    some = values > values[-1] * 1e-10
    power: Tensor = vectors[:, some] * values[some].pow(exponent) @ vectors[:, some].T
    return power
