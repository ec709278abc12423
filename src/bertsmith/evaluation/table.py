"""What was measured, for a person: one column a model, and what must be known to read it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from bertsmith import atomic
from bertsmith.errors import UserError
from bertsmith.evaluation.minimal_pairs import MinimalPairScore, ParadigmScore
from bertsmith.evaluation.pll import PseudoLikelihoodScore
from bertsmith.evaluation.results import Evaluation
from bertsmith.evaluation.token_scores import NextSentenceScore
from bertsmith.metrics import MEASURED
from bertsmith.output_folder import CONFIG
from bertsmith.report import PAGE, write_report

NOTHING = "-"


class Table(NamedTuple):
    """Text by rows and columns."""

    header: list[str]
    rows: list[list[str]]


def evaluation_table(evaluations: Sequence[Evaluation]) -> Table:
    """One row a measure, one column a model. A measure that no model has is left out."""
    columns = [_cells(evaluation) for evaluation in evaluations]
    rows = [[label, *(cells[label] for cells in columns)] for label in columns[0]]
    return Table(["", *(e.model for e in evaluations)], [row for row in rows if set(row[1:]) != {NOTHING}])


def keep_in_runs(evaluations: Sequence[Evaluation]) -> list[str]:
    """Write what was measured of a run into its folder, and its page anew, which shows it.

    Single paradigms of minimal pairs are left out.

    Returns:
        What could not be written, as lines.
    """
    failed = []
    for evaluation in evaluations:
        folder = Path(evaluation.model)
        if not (folder / CONFIG).is_file():
            continue
        pairs = evaluation.minimal_pairs
        brief = replace(evaluation, minimal_pairs=replace(pairs, paradigms=()) if pairs else None)
        cells = {full: text for full, text in _with_full_labels(_cells(brief)) if text != NOTHING}
        try:
            said = [f"Of the weights after step {evaluation.step or 0:,}.", *notes([evaluation])]
            atomic.write_json(folder / MEASURED, {"values": cells, "notes": said})
            if (folder / PAGE).exists():
                write_report([folder], folder / PAGE)
        except (OSError, UserError) as error:
            failed.append(f"{folder} does not show this measurement: {error}")
    return failed


def _with_full_labels(cells: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Cells whose label says by itself what the table says by indenting it."""
    what = ""
    for label, text in cells.items():
        if not label.startswith(" "):
            what = label.partition(":")[0]
        yield (f"{what}: {label.strip()}" if label.startswith(" ") else label), text


def _cells(evaluation: Evaluation) -> dict[str, str]:
    """The column of one model; all models that were measured together have the same keys."""
    masked, likelihood, pairs = evaluation.masked, evaluation.pseudo_likelihood, evaluation.minimal_pairs
    return {
        "parameters, millions": f"{evaluation.parameters / 1e6:,.1f}",
        "vocabulary": f"{evaluation.vocab_size:,}",
        "held-out text": evaluation.text or NOTHING,
        "masked tokens: loss, nats": f"{masked.loss:.3f}" if masked else NOTHING,
        "  right": f"{masked.accuracy:.1%}" if masked else NOTHING,
        "  token frequencies alone, nats": f"{masked.unigram_loss:.3f}" if masked else NOTHING,
        "  uniform guess, nats": f"{masked.uniform_loss:.3f}" if masked else NOTHING,
        "  masked": f"{masked.tokens:,} in rows of {masked.sequence_length}" if masked else NOTHING,
        "sentence pairs: right": _share(evaluation.next_sentences),
        "bits per byte (score)": _bits(likelihood) if likelihood else NOTHING,
        "minimal pairs: right": _share(pairs),
        **{f"  {paradigm.name}": _share(paradigm) for paradigm in (pairs.paradigms if pairs else ())},
    }


def _share(score: NextSentenceScore | MinimalPairScore | ParadigmScore | None) -> str:
    if score is None:
        return NOTHING
    low, high = score.interval
    return f"{score.accuracy:.1%} ({100 * low:.1f}-{100 * high:.1f})"


def _bits(score: PseudoLikelihoodScore) -> str:
    return f"{score.bits_per_byte:.3f} ({score.interval[0]:.3f}-{score.interval[1]:.3f})"


def notes(evaluations: Sequence[Evaluation]) -> list[str]:
    """How to read the table, as lines; only about what is in it."""
    lines = ["In brackets: 95 % intervals."]
    masked = [e.masked for e in evaluations if e.masked]
    if masked:
        lines.append(
            "Masked tokens: 15 % of them, hidden as in training; losses compare between models with one vocabulary "
            f"and one text. Token frequencies: of {' or '.join(sorted({m.unigram_counts for m in masked}))}."
        )
    if any(e.next_sentences for e in evaluations):
        lines.append(
            "Sentence pairs: half by chance. A run tells what it was trained to, next sentences or their order; a "
            "folder, next sentences."
        )
    own = sum(e.masked is not None and e.masked.unigram_counts == "training text" for e in evaluations)
    if own > 1:
        lines.append("Each run is measured on its own held-out text; with --text all are measured on one.")
    scores = [e.pseudo_likelihood for e in evaluations if e.pseudo_likelihood]
    if scores:
        lines.append(
            "Bits per byte: pseudo-log-likelihood (PLL-word-l2r), a score and not a likelihood, of "
            f"{_range(s.sentences for s in scores)} sentences chosen by hash, {_range(s.words for s in scores)} words, "
            "each by itself."
        )
    unknown = [
        f"{e.model} {score.unknown_fraction:.2%}"
        for e in evaluations
        if (score := e.pseudo_likelihood) and score.unknown_fraction
    ]
    if unknown:
        lines.append(f"Unknown tokens, whose bytes cost little: {', '.join(unknown)}.")
    pairs = next((e.minimal_pairs for e in evaluations if e.minimal_pairs), None)
    if pairs:
        lines.append(
            f"Minimal pairs: mean of {len(pairs.paradigms)} paradigms of {_range(p.pairs for p in pairs.paradigms)} "
            "pairs; each token masked singly, level pairs count one half. Intervals: Wilson; of the mean, normal, "
            "paradigms as given."
        )
    return lines


def _range(counts: Iterable[int]) -> str:
    """A number, or the least and the largest of several."""
    found = sorted(counts)
    return f"{found[0]:,}" if found[0] == found[-1] else f"{found[0]:,} to {found[-1]:,}"
