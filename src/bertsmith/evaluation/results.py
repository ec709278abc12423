"""What was measured of one model."""

from dataclasses import dataclass

from bertsmith.evaluation.minimal_pairs import MinimalPairScore
from bertsmith.evaluation.pll import PseudoLikelihoodScore
from bertsmith.evaluation.token_scores import MaskedScore, NextSentenceScore


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What was measured of one model; None where there was nothing to measure it on."""

    model: str
    """As it was named."""

    parameters: int
    vocab_size: int
    max_length: int
    """Longest sequence, in tokens."""

    step: int | None
    """Of a run, the step whose weights these are."""

    text: str | None
    """The held-out text, in words."""

    masked: MaskedScore | None
    next_sentences: NextSentenceScore | None
    pseudo_likelihood: PseudoLikelihoodScore | None
    minimal_pairs: MinimalPairScore | None
