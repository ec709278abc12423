"""The command line. Commands only: each imports its program when it is called, so `--help` is instant."""

import json
import sys
from pathlib import Path
from typing import Any

import click

from bertsmith.config import DataConfig, ModelConfig, TrainingConfig, by_table
from bertsmith.errors import UserError, suggestion
from bertsmith.finetune_config import FinetuneConfig
from bertsmith.flags import gather, settings

BENCH_SETTINGS = (
    "preset",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "sequence_length",
    "global_batch_size",
    "optimizer",
    "device",
    "precision",
    "compile",
    "threads",
)


class Commands(click.Group):
    """A group that says which command was probably meant."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or say what there is."""
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            raise UserError(f"no command '{args[0]}'{suggestion(args[0], self.commands)}")
        return super().resolve_command(ctx, args)


def default_folder(text: tuple[str, ...]) -> Path:
    """runs/NAME, with the name of the first input; runs/demo for the built-in text."""
    name = Path(text[0]).resolve().name.split(".")[0] if text else "demo"
    return Path("runs") / (name or "run")


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="bertsmith")
def app() -> None:
    """Your text in, your own BERT out."""


@app.command()
@click.argument("text", nargs=-1)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder of the run [runs/NAME OF THE INPUT].")
@click.option("--config", type=click.Path(path_type=Path), help="TOML file with settings; flags win over it.")
@click.option("--fresh", is_flag=True, help="Start a new run beside an existing one: OUTPUT-2, OUTPUT-3, ...")
@settings(DataConfig, ModelConfig, TrainingConfig)
def pretrain(text: tuple[str, ...], output: Path | None, config: Path | None, fresh: bool, **flags: Any) -> None:
    """Pretrain a BERT from TEXT: files, folders, or nothing for the built-in corpus.

    The same command again goes on with a run that was stopped.
    """
    from bertsmith.atomic import next_free
    from bertsmith.console import make_reporter
    from bertsmith.pretrain import pretrain as run_pretraining

    given, origin = gather(text, flags, config)
    folder = output or default_folder(given.get("text", ()))
    folder = next_free(folder.resolve()) if fresh else folder
    reporter = make_reporter()
    reporter.say(f"run: {folder}")
    try:
        run_pretraining(folder, given, origin, reporter)
    finally:
        reporter.close()


@app.command()
@click.argument("text", nargs=-1)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder to write.")
@click.option("--config", type=click.Path(path_type=Path), help="TOML file with settings; flags win over it.")
@click.option("--sequence-length", type=int, help="Rows to train later, in tokens [128].")
@settings(DataConfig)
def prepare(text: tuple[str, ...], output: Path, config: Path | None, **flags: Any) -> None:
    """Make tokenizer and token shards from TEXT; the folder is valid as TEXT for `pretrain`."""
    from bertsmith.config import run_config
    from bertsmith.console import make_reporter
    from bertsmith.prepare import prepare as run_preparation
    from bertsmith.run_folder import locked, new_folder, refuse_run

    given, _ = gather(text, flags, config)
    settings = run_config(by_table(given))
    refuse_run(output)
    reporter = make_reporter()
    try:
        with new_folder(output, owned_by=("data", "tokenizer")), locked(output):
            run_preparation(
                settings.data,
                output,
                report=reporter.say,
                progress=reporter.progress,
                sequence_length=settings.training.sequence_length,
                explicit=frozenset(given),
            )
    finally:
        reporter.close()


@app.group(cls=Commands)
def tokenizer() -> None:
    """Work with tokenizers."""


@tokenizer.command("train")
@click.argument("text", nargs=-1)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder to write.")
@settings(DataConfig)
def train_tokenizer(text: tuple[str, ...], output: Path, **flags: Any) -> None:
    """Train a tokenizer on TEXT, and save it as transformers loads it."""
    from bertsmith.config import from_mapping
    from bertsmith.console import make_reporter
    from bertsmith.prepare import make_tokenizer
    from bertsmith.run_folder import new_folder, refuse_run

    given, _ = gather(text, flags, None)
    data = from_mapping(DataConfig, given)
    refuse_run(output)
    reporter = make_reporter()
    try:
        with new_folder(output, owned_by=("tokenizer.json",)):
            make_tokenizer(data, output, report=reporter.say, progress=reporter.progress)
    finally:
        reporter.close()


@app.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("data")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder of the run [runs/NAME OF DATA].")
@click.option("--fresh", is_flag=True, help="Start a new run beside an existing one: OUTPUT-2, OUTPUT-3, ...")
@settings(FinetuneConfig)
def finetune(model: Path, data: str, output: Path | None, fresh: bool, **flags: Any) -> None:
    """Fine-tune MODEL, a run or a BERT folder, on labelled rows: CSV, TSV, JSON lines, Parquet, or words and tags.

    The same command again goes on with a run that was stopped.
    """
    from bertsmith.atomic import next_free
    from bertsmith.console import make_reporter
    from bertsmith.finetune import finetune as run_finetuning

    folder = output or default_folder((data,))
    folder = next_free(folder.resolve()) if fresh else folder
    reporter = make_reporter()
    reporter.say(f"run: {folder}")
    try:
        run_finetuning(folder, model, data, flags, reporter)
    finally:
        reporter.close()


@app.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("data")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="CSV file to write.")
@click.option("--text", help="Column with the text [that of training].")
@click.option("--text-pair", help="Column with the second text [that of training].")
@click.option("--every-label", is_flag=True, help="Write the probability of every label.")
@settings(FinetuneConfig, only=("device", "threads"))
@click.option("--half", is_flag=True, help="Compute the products in bfloat16: faster where the device has it.")
def predict(model: Path, data: str, output: Path, **flags: Any) -> None:
    """Predict each row of DATA with MODEL, a run of `finetune` or a fine-tuned folder; order is kept."""
    from bertsmith.classify import load_classifier, predict_file
    from bertsmith.console import make_reporter
    from bertsmith.measure import set_threads

    set_threads(flags.pop("threads"))
    precision = "bfloat16" if flags.pop("half") else "float32"
    classifier = load_classifier(model, device=flags.pop("device") or "auto", precision=precision)
    predict_file(classifier, data, output, **flags, reporter=make_reporter())


@app.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("text")
@click.option("--top-k", type=int, default=5, show_default=True, help="Candidates for each mask.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def fill(model: Path, text: str, top_k: int, as_json: bool) -> None:
    """Fill each [MASK] in TEXT with MODEL: a run, also one that is still training, or a BERT folder."""
    from bertsmith.console import make_reporter
    from bertsmith.predict import fill as fill_masks
    from bertsmith.predict import load_for_prediction

    network, vocabulary = load_for_prediction(model, make_reporter())
    filled = fill_masks(network, vocabulary, text, top_k=top_k)
    if filled.note:
        click.echo(filled.note, err=True)
    if as_json:
        click.echo(json.dumps({"text": filled.text, "masks": [[c._asdict() for c in m] for m in filled.masks]}))
        return
    click.echo(filled.text)
    for number, candidates in enumerate(filled.masks, 1):
        ranked = "  ".join(f"{candidate.token} {candidate.probability:.1%}" for candidate in candidates)
        click.echo(f"mask {number}: {ranked}" if len(filled.masks) > 1 else ranked)


@app.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--verify", is_flag=True, help="Check the hashes of all shards and checkpoints.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info(run: Path, verify: bool, as_json: bool) -> None:
    """Describe RUN: settings, data, progress, checkpoints."""
    from bertsmith.info import describe_run, run_facts

    if as_json:
        click.echo(json.dumps(run_facts(run, verify=verify), indent=2))
        return
    for line in describe_run(run, verify=verify):
        click.echo(line)


@app.command()
@click.argument("prepared", required=False, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@settings(ModelConfig, TrainingConfig, only=BENCH_SETTINGS)
def bench(prepared: Path | None, as_json: bool, **flags: Any) -> None:
    """Measure this machine and a training step on it; with PREPARED, a run or prepared text, the time of its text."""
    from bertsmith.bench import describe_bench, run_bench
    from bertsmith.config import run_config

    given = {name: value for name, value in flags.items() if value is not None}
    run_config(by_table(given))  # refuses what makes no sense
    facts = run_bench(given, prepared)
    for line in [json.dumps(facts, indent=2)] if as_json else describe_bench(facts):
        click.echo(line)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and leave with its exit code: 0 done, 2 a mistake, 130 and 143 stopped."""
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """Run the command line. Mistakes become one line on the error stream."""
    try:
        app.main(arguments, prog_name="bertsmith", standalone_mode=False)
    except click.ClickException as error:
        return _complain(error.format_message().replace("\n", " "))
    except UserError as error:
        return _complain(str(error))
    except (click.Abort, KeyboardInterrupt):
        return _complain("stopped; the same command goes on from here", 130)
    except BrokenPipeError:
        return 141
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _complain(f"{where}{error.strerror or error}")
    except Exception as error:
        if type(error).__name__ != "Interrupted":  # compared by name: its module need not be loaded
            raise
        return _complain(f"{error}; the same command goes on from here", getattr(error, "exit_code", 130))
    return 0


def _complain(line: str, code: int = 2) -> int:
    click.echo(f"bertsmith: {line}", err=True)
    return code
