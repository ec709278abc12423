"""Measuring models so that they can be set side by side.

    MODEL ... --open_model--> OpenModel
    held-out text   --> evaluation/token_scores.py: masked tokens, next sentences; pll.py: bits per byte
    minimal pairs   --> evaluation/minimal_pairs.py

All functions give plain dataclasses. Masks, samples and subsets are functions
of the text alone, so that the same numbers come out each time.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from bertsmith.corpus import Corpus, Section
from bertsmith.data.examples import SHORTEST
from bertsmith.data.shards import read_manifest
from bertsmith.errors import UserError
from bertsmith.evaluation.any_model import OpenModel, open_model
from bertsmith.evaluation.held_out import Sample, sample_sections, sample_sentences
from bertsmith.evaluation.minimal_pairs import read_paradigms, score_pairs
from bertsmith.evaluation.pll import PseudoLikelihoodScore, Tell, pseudo_likelihood
from bertsmith.evaluation.results import Evaluation
from bertsmith.evaluation.token_scores import TokenScores, score_own_rows, score_text
from bertsmith.machine.device import find_device, set_threads
from bertsmith.prepare import held_out_sections
from bertsmith.reporter import Reporter
from bertsmith.run_folder import Run


class Wanted(NamedTuple):
    """What to measure."""

    text: Corpus | None = None
    """The same for all models; None: the held-out text of each run."""

    blimp: Path | None = None
    """Folder of minimal pairs; None: they are not measured."""

    pairs: int | None = None
    """Pairs of each paradigm; None: all."""

    words: int = 20_000
    """Most words of the sentences that are scored in bits per byte; 0: they are not."""

    sequence_length: int = 128
    """Places in a row of the given text, fewer where a model reads fewer. A run's own rows are as in its training."""


def evaluate(
    sources: Sequence[str],
    wanted: Wanted,
    *,
    device: str = "auto",
    threads: int | None = None,
    reporter: Reporter | None = None,
) -> list[Evaluation]:
    """Measure models, each in its turn, in float32.

    Args:
        sources: Runs, folders, hub ids; see `any_model.open_model`.
        wanted: What to measure.
        device: "auto", "cpu", "cuda" or "mps".
        threads: Of a CPU; None: all cores.
        reporter: Is told how far it is, and what cannot be measured.

    Raises:
        UserError: A model, the text or the minimal pairs cannot be read, or there is nothing to measure on.
    """
    reporter = reporter or Reporter()
    _check(wanted)
    place = find_device(device)
    set_threads(threads)
    paradigms = read_paradigms(wanted.blimp, wanted.pairs) if wanted.blimp else None
    models = [open_model(source, place, reporter) for source in sources]
    for model in models:
        if model.run is None and wanted.text is None and paradigms is None:
            raise UserError(f"{model.source} is no run and has no held-out text of its own; give --text or --blimp")
    sample = None
    if wanted.text is not None:
        reporter.progress("reading the text", 0.0)
        sample = sample_sections(wanted.text.sections())
        reporter.progress("reading the text", 1.0)
    evaluations = []
    for model in models:
        pairs = None
        try:
            tokens, likelihood = _score_text(model, sample, wanted, reporter)
            if paradigms is not None:
                pairs = score_pairs(model.scorer, paradigms, _teller(reporter, model, "minimal pairs"))
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"the memory of the GPU is too small to measure {model.source}; give --device cpu, a shorter "
                "--sequence-length, or one model at a time"
            ) from error
        evaluations.append(
            Evaluation(
                model=model.source,
                parameters=model.parameters,
                vocab_size=model.tokenizer.vocab_size,
                max_length=model.max_length,
                step=model.step,
                text=_name(sample) if sample else "its own held-out text" if tokens else None,
                masked=tokens.masked if tokens else None,
                next_sentences=tokens.next_sentences if tokens else None,
                pseudo_likelihood=likelihood,
                minimal_pairs=pairs,
            )
        )
    return evaluations


def check(sources: Sequence[str], wanted: Wanted) -> None:
    """Refuse what `evaluate` would refuse, before hours of other work.

    Raises:
        UserError: As `evaluate`.
    """
    _check(wanted)
    if wanted.blimp:
        read_paradigms(wanted.blimp, wanted.pairs)
    for source in sources:
        open_model(source, find_device("cpu"), Reporter())


def _check(wanted: Wanted) -> None:
    """Refuse numbers that make no sense."""
    if wanted.pairs is not None and wanted.pairs < 1:
        raise UserError(f"pairs is {wanted.pairs}; give 1 or more, or leave it out for all")
    if wanted.pairs is not None and wanted.blimp is None:
        raise UserError(f"pairs is {wanted.pairs}, and there is no --blimp to take them from; name its folder")
    if wanted.words < 0:
        raise UserError(f"words is {wanted.words}; give 1 or more, or 0 to leave out the bits per byte")
    if wanted.sequence_length < SHORTEST:
        raise UserError(f"sequence_length is {wanted.sequence_length}; give {SHORTEST} or more")


def _name(sample: Sample) -> str:
    name = f"{sample.words:,} words"
    if sample.words < sample.all_words:
        name += f" of {sample.all_words:,}, in sections chosen by hash"
    return name


def _teller(reporter: Reporter, model: OpenModel, task: str) -> Tell:
    return lambda share: reporter.progress(f"{model.source}: {task}", share)


def _score_text(
    model: OpenModel, sample: Sample | None, wanted: Wanted, reporter: Reporter
) -> tuple[TokenScores | None, PseudoLikelihoodScore | None]:
    """Measure on the given text, or on the model's own; on nothing where there is neither."""
    tell = _teller(reporter, model, "masked tokens")
    sections: list[Section] = []
    if sample is not None:
        scores = score_text(model, sample.sections, wanted.sequence_length, tell)
        sections = sample.sections
    elif model.run is not None:
        scores = score_own_rows(model, model.run, tell)
        sections = _own_sections(model.run, reporter) if wanted.words else []
    else:
        return None, None
    if not (sections and wanted.words):
        return scores, None
    sentences = sample_sentences(sections, wanted.words)
    return scores, pseudo_likelihood(model.scorer, sentences, _teller(reporter, model, "bits per byte"))


def _own_sections(run: Run, reporter: Reporter) -> list[Section]:
    """The held-out sections of a run, read from its text again; none when that is gone or changed."""
    reporter.progress("reading the run's text", 0.0)
    try:
        return sample_sections(held_out_sections(run.config.data, read_manifest(run.folder / "data"))).sections
    except UserError as error:
        reporter.warn(f"no bits per byte of {run.folder}, its text cannot be read again ({error}); give --text")
        return []
    finally:
        reporter.progress("reading the run's text", 1.0)
