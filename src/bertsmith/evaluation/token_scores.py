"""Guessing masked tokens and next sentences of held-out text, with the levels that knowing nothing gives.

Masks are a function of the row alone and the same for every model with the
same tokenizer; 15 % of the tokens, whatever a model was trained with.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from bertsmith.corpus import Section
from bertsmith.data.batch import Batch, batches_of
from bertsmith.data.examples import Objective, TrainingRows
from bertsmith.data.packing import Int64Array
from bertsmith.data.shards import read_manifest
from bertsmith.evaluation.any_model import OpenModel
from bertsmith.evaluation.held_out import TextTokens, text_rows
from bertsmith.evaluation.pll import Tell
from bertsmith.intervals import wilson_interval
from bertsmith.objective import sum_losses
from bertsmith.planning.from_settings import rows_of
from bertsmith.run_folder import Run
from bertsmith.step import Measured, evaluate_loss

MOST_ROWS = 4096
"""Rows measured, as at the end of a run."""

BATCH_ROWS = 16


@dataclass(frozen=True, slots=True)
class MaskedScore:
    """Guessing masked tokens."""

    loss: float
    """Nats per masked token. Comparable only between models with one tokenizer and one text."""

    accuracy: float
    tokens: int
    """Masked ones."""

    sequence_length: int
    """Places in a row."""

    unigram_loss: float
    """Nats, of a model that knows only how often each token occurs."""

    unigram_counts: Literal["training text", "the text itself"]
    """Where those frequencies are from. The text's own fit it better than any known beforehand could."""

    uniform_loss: float
    """Nats, of a model that knows nothing: the logarithm of the vocabulary."""


@dataclass(frozen=True, slots=True)
class NextSentenceScore:
    """Telling whether one sentence follows another, or whether two stand in their order; half of the pairs do."""

    accuracy: float
    interval: tuple[float, float]
    """95 %, Wilson."""

    pairs: int


@dataclass(frozen=True, slots=True)
class TokenScores:
    """Both tasks of pretraining, on one text."""

    masked: MaskedScore
    next_sentences: NextSentenceScore | None
    """None for a model without that head."""


def score_own_rows(model: OpenModel, run: Run, tell: Tell) -> TokenScores:
    """Measure a run on its own held-out rows: what it says of itself at its end, in float32."""
    rows, manifest = rows_of(run, "validation", run.config.training.sequence_length), read_manifest(run.folder / "data")
    measured = _measure(model, rows, tell)
    masked = MaskedScore(
        loss=measured.mlm_loss,
        accuracy=measured.mlm_accuracy,
        tokens=measured.mlm_targets,
        sequence_length=rows.sequence_length,
        unigram_loss=manifest["unigram_loss"],
        unigram_counts="training text",
        uniform_loss=manifest["uniform_loss"],
    )
    return TokenScores(masked, _next_sentences(measured))


def score_text(model: OpenModel, sections: Sequence[Section], sequence_length: int, tell: Tell) -> TokenScores:
    """Measure a model on a text.

    Masked tokens stand in rows without pairs, so that models with and without next sentences see the same
    rows. Pairs are measured on rows of their own, of the kind that a run was trained on.

    Args:
        model: Its tokenizer makes the ids.
        sections: The text.
        sequence_length: Places in a row; fewer when the model reads fewer.
        tell: Is told how far it is.

    Raises:
        UserError: The text has no token.
    """
    source, vocab_size = TextTokens(sections, model.tokenizer), model.tokenizer.vocab_size
    length = min(sequence_length, model.max_length)

    def rows(objective: Objective) -> TrainingRows:
        return text_rows(source, model.tokenizer, sequence_length=length, objective=objective)

    tasks = 2 if model.has_next_sentence else 1
    measured = _measure(model, rows("mlm"), lambda share: tell(share / tasks))
    counts = np.bincount(source.ids, minlength=vocab_size)
    masked = MaskedScore(
        loss=measured.mlm_loss,
        accuracy=measured.mlm_accuracy,
        tokens=measured.mlm_targets,
        sequence_length=length,
        unigram_loss=_entropy(counts),
        unigram_counts="the text itself",
        uniform_loss=math.log(vocab_size),
    )
    if tasks == 1:
        return TokenScores(masked, None)
    pairs: Objective = "mlm+sop" if model.run and model.run.config.training.objective == "mlm+sop" else "mlm+nsp"
    measured = _measure(model, rows(pairs), lambda share: tell((1 + share) / tasks))
    return TokenScores(masked, _next_sentences(measured))


def _entropy(counts: Int64Array) -> float:
    """Nats per token of a text whose own frequencies [V] are known: pieces that it does not have take no share."""
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def _next_sentences(measured: Measured) -> NextSentenceScore | None:
    if not measured.nsp_targets:
        return None
    accuracy, pairs = measured.nsp_accuracy, measured.nsp_targets
    return NextSentenceScore(accuracy, wilson_interval(accuracy, pairs), pairs)


def _measure(model: OpenModel, rows: TrainingRows, tell: Tell) -> Measured:
    """Mean losses over the rows of an epoch, or the first `MOST_ROWS` of them."""
    number = min(MOST_ROWS, rows.rows_per_epoch)

    def batches() -> Iterator[Batch]:
        for done, batch in enumerate(batches_of(rows, range(number), BATCH_ROWS), 1):
            yield batch.to(model.device)
            tell(min(1.0, done * BATCH_ROWS / number))

    return evaluate_loss(model.network, sum_losses, batches(), precision="float32")
