"""Commands that use a model: fill masks, fine-tune, predict, measure. Each imports its program when it is called."""

import json
from contextlib import closing
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, get_args

import click

from bertsmith.commands.exports import POOLINGS
from bertsmith.commands.flags import AS_JSON, PATH, default_folder, named, settings
from bertsmith.config import DataConfig, TrainingConfig
from bertsmith.errors import UserError
from bertsmith.finetuning.config import FinetuneConfig, Kind


@click.command()
@click.argument("model", type=PATH)
@click.argument("data", callback=named)
@click.option("-o", "--output", type=PATH, help="Folder of the run [runs/NAME OF DATA].")
@click.option("--fresh", is_flag=True, help="Start a new run beside an existing one: OUTPUT-2, OUTPUT-3, ...")
@click.option("--embeddings", is_flag=True, help="Learn sentence vectors from DATA, one sentence a row, unlabelled.")
@click.option("--pooling", type=click.Choice(POOLINGS), help="--embeddings: as for `embed` [auto].")
@settings(FinetuneConfig)
def finetune(
    model: Path, data: str, output: Path | None, fresh: bool, *, embeddings: bool, pooling: str | None, **flags: Any
) -> None:
    """Fine-tune MODEL, a run, a folder or a hub id, on labelled rows: CSV, TSV, JSON lines, Parquet, or words and tags.

    The same command again goes on with a run that was stopped; with --embeddings it begins anew. There --test names
    pairs of sentences with scores, to measure before and after.
    """
    from bertsmith.atomic import next_free
    from bertsmith.commands.console import make_reporter

    if pooling is not None and not embeddings:
        raise UserError("--pooling is given without --embeddings; leave it out")
    folder = output or default_folder((data,))
    folder = next_free(folder.resolve()) if fresh else folder
    with closing(make_reporter()) as reporter:
        reporter.say(f"run: {folder}")
        if embeddings:
            from bertsmith.contrastive import train_embeddings

            train_embeddings(folder, model, data, flags, pooling=pooling or "auto", reporter=reporter)
        else:
            from bertsmith.finetune import finetune as run_finetuning

            run_finetuning(folder, model, data, flags, reporter)


@click.command()
@click.argument("model", type=PATH)
@click.argument("data", callback=named)
@click.option("-o", "--output", type=PATH, required=True, help="CSV file to write.")
@click.option("--text", help="Column with the text [that of training].")
@click.option("--text-pair", help="Column with the second text [that of training].")
@click.option("--every-label", is_flag=True, help="Write the probability of every label; a number has none.")
@settings(FinetuneConfig, only=("device", "threads"))
@click.option("--half", is_flag=True, help="Compute the products in bfloat16: faster where the device has it.")
def predict(
    model: Path, data: str, output: Path, *, device: str | None, threads: int | None, half: bool, **flags: Any
) -> None:
    """Predict each row of DATA with MODEL, a run of `finetune` or a fine-tuned folder; order is kept."""
    from bertsmith.commands.console import make_reporter
    from bertsmith.finetuning.classify import load_classifier, predict_file
    from bertsmith.machine.device import set_threads

    set_threads(threads)
    classifier = load_classifier(model, device=device or "auto", precision="bfloat16" if half else "float32")
    with closing(make_reporter()) as reporter:
        predict_file(classifier, data, output, **flags, reporter=reporter)


@click.command()
@click.argument("model", type=PATH)
@click.argument("text", nargs=-1, required=True)
@click.option("--top-k", type=int, default=5, show_default=True, help="Candidates for each mask.")
@AS_JSON
def fill(model: Path, text: tuple[str, ...], top_k: int, as_json: bool) -> None:
    """Fill each [MASK] in TEXT with MODEL: a run, also one that is still training, or a BERT folder."""
    from bertsmith.commands.console import make_reporter
    from bertsmith.predict import fill as fill_masks
    from bertsmith.predict import load_for_prediction

    network, vocabulary = load_for_prediction(model, make_reporter())
    filled = fill_masks(network, vocabulary, " ".join(text), top_k=top_k)  # the quotes may have been forgotten
    if filled.note:
        click.echo(filled.note, err=True)
    if as_json:
        click.echo(json.dumps({"text": filled.text, "masks": [[c._asdict() for c in m] for m in filled.masks]}))
        return
    click.echo(filled.text)
    for number, candidates in enumerate(filled.masks, 1):
        ranked = "  ".join(f"{candidate.token} {candidate.probability:.1%}" for candidate in candidates)
        click.echo(f"mask {number}: {ranked}" if len(filled.masks) > 1 else ranked)


COMPARED = tuple(field.name for field in fields(FinetuneConfig) if field.name not in ("task", "text", "seed"))
"""Settings of fine-tuning that are called the same in `compare`."""


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option("--task", "data", required=True, callback=named, metavar="FILE", help="Labelled rows, as for `finetune`.")
@click.option("-o", "--output", type=PATH, help="Folder [runs/NAME OF THE TASK-compared].")
@click.option("--seeds", type=int, default=3, show_default=True, help="Runs of each model.")
@click.option("--kind", type=click.Choice(get_args(Kind)), help="What is predicted [by the labels].")
@click.option("--text", help="Column with the text [found].")
@click.option("--held-out", metavar="FILE", help="Also measure bits per byte on this text, a file or folder [no].")
@click.option("--blimp", type=PATH, metavar="FOLDER", help="Also measure minimal pairs [no].")
@click.option("--pairs", type=int, help="Pairs of each paradigm, chosen by hash [all].")
@click.option("--keep-models", is_flag=True, help="Keep the fine-tuned weights of every run.")
@AS_JSON
@settings(FinetuneConfig, only=COMPARED)
def compare(
    models: tuple[str, ...],
    data: str,
    output: Path | None,
    held_out: str | None,
    as_json: bool,
    *,
    seeds: int,
    kind: str | None,
    blimp: Path | None,
    pairs: int | None,
    keep_models: bool,
    **flags: Any,
) -> None:
    """Fine-tune MODELs alike on one task, several seeds each, and tell which are better than the first.

    The same command again does what is not done yet. Plain methods are always in the table.
    """
    from bertsmith.commands.console import make_reporter, print_json, print_table
    from bertsmith.compare import compare as run_comparison
    from bertsmith.comparison.table import comparison_table, verdicts
    from bertsmith.corpus import open_corpus
    from bertsmith.evaluate import Wanted, check
    from bertsmith.evaluate import evaluate as measure
    from bertsmith.evaluation.table import evaluation_table
    from bertsmith.evaluation.table import notes as evaluation_notes

    folder = output or default_folder((data,), "-compared")
    device, threads = flags["device"], flags["threads"]
    corpus = open_corpus([held_out]) if held_out is not None else None
    given = {"task": kind, **flags}
    with closing(make_reporter(aside=as_json)) as reporter:
        reporter.say(f"comparison: {folder}")
        wanted = Wanted(corpus, blimp, pairs) if corpus is not None or blimp is not None or pairs is not None else None
        if wanted:
            check(models, wanted)
        found = run_comparison(folder, models, data, given, seeds=seeds, keep_models=keep_models, reporter=reporter)
        if not as_json:  # what is found stays found, whatever the rest does
            print_table(*comparison_table(found))
        evaluated = (
            measure(models, wanted, device=device or "auto", threads=threads, reporter=reporter) if wanted else []
        )
    if as_json:
        facts = {**asdict(found), "notes": verdicts(found), "evaluations": [asdict(each) for each in evaluated]}
        print_json(facts)
        return
    for line in verdicts(found):
        click.echo(line)
    if evaluated:
        print_table(*evaluation_table(evaluated))
        for line in evaluation_notes(evaluated):
            click.echo(line)


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option("--text", metavar="FILE", help="Held-out text for all models, a file or folder [each run's own].")
@click.option("--blimp", type=PATH, metavar="FOLDER", help="Minimal pairs, a .jsonl a paradigm [none].")
@click.option("--pairs", type=int, help="Pairs of each paradigm, chosen by hash [all].")
@click.option("--words", type=int, default=20_000, show_default=True, help="Most words for bits per byte; 0: none.")
@click.option("--sequence-length", type=int, help="Rows of --text, in tokens [128].")
@AS_JSON
@settings(DataConfig, TrainingConfig, only=("text_field", "document", "encoding", "device", "threads"))
def evaluate(
    models: tuple[str, ...], text: str | None, as_json: bool, *, device: str | None, threads: int | None, **flags: Any
) -> None:
    """Measure MODELs side by side: runs, or folders of any masked-language model."""
    from bertsmith.commands.console import make_reporter, print_json, print_table
    from bertsmith.corpus import open_corpus
    from bertsmith.evaluate import Wanted
    from bertsmith.evaluate import evaluate as measure
    from bertsmith.evaluation.table import evaluation_table, keep_in_runs, notes

    reading = {name: flags.pop(name) for name in ("text_field", "document", "encoding", "sequence_length")}
    given = {name: value for name, value in reading.items() if value is not None}
    for name in given if text is None else ():
        raise UserError(
            f"{name} is {given[name]}, and there is no --text that it could be of; name one, or leave it out"
        )
    length = given.pop("sequence_length", Wanted().sequence_length)
    with closing(make_reporter(aside=as_json)) as reporter:
        corpus = open_corpus([text], **given) if text is not None else None
        wanted = Wanted(corpus, **flags, sequence_length=length)
        found = measure(models, wanted, device=device or "auto", threads=threads, reporter=reporter)
    not_kept = keep_in_runs(found)
    if as_json:
        print_json({"models": [asdict(each) for each in found], "notes": notes(found)})
    else:
        print_table(*evaluation_table(found))
        for line in notes(found):
            click.echo(line)
    for line in not_kept:
        click.echo(f"warning: {line}", err=True)
