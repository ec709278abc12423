"""The command line. Commands only: each imports its program when it is called, so `--help` is instant."""

import errno
import io
import json
import os
import sys
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import click

from bertsmith.budget import STARTED
from bertsmith.commands.exports import embed, export
from bertsmith.commands.flags import AS_JSON, PATH, default_folder, gather, settings
from bertsmith.commands.group import Commands
from bertsmith.commands.looks import playground, report
from bertsmith.commands.models import compare, evaluate, fill, finetune, predict
from bertsmith.config import DataConfig, ModelConfig, TrainingConfig, by_table
from bertsmith.errors import UserError
from bertsmith.interrupt import Termination
from bertsmith.output_folder import CONFIG

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

RUN_FOLDER = click.option("-o", "--output", type=PATH, help="Folder of the run [runs/NAME OF THE INPUT].")
NEW_FOLDER = click.option("-o", "--output", type=PATH, required=True, help="Folder to write.")
CONFIG_FILE = click.option("--config", type=PATH, help="TOML file with settings; flags win over it [none].")


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="bertsmith")
@click.pass_context
def app(context: click.Context) -> None:
    """Your text in, your own BERT out."""
    by_torchrun = "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"
    if by_torchrun and context.invoked_subcommand not in {"pretrain", "plan"}:
        raise UserError(f"{context.invoked_subcommand} works in one process; start it without torchrun")


@app.command()
@click.argument("text", nargs=-1)
@RUN_FOLDER
@CONFIG_FILE
@click.option("--plan", type=PATH, help="RUN or RUN/config.toml: take what that run decided, too [none].")
@click.option("--fresh", is_flag=True, help="Start a new run beside an existing one: OUTPUT-2, OUTPUT-3, ...")
@settings(DataConfig, ModelConfig, TrainingConfig)
def pretrain(
    text: tuple[str, ...], output: Path | None, config: Path | None, plan: Path | None, fresh: bool, **flags: Any
) -> None:
    """Pretrain a BERT from TEXT: files, folders, or nothing for the built-in corpus.

    The same command again goes on with a run that was stopped.
    """
    from bertsmith.atomic import next_free
    from bertsmith.commands.console import make_reporter
    from bertsmith.pretrain import pretrain as run_pretraining

    if config is not None and plan is not None:
        raise UserError(f"--config is {config} and --plan is {plan}; give one of them")
    if plan is not None and (plan / CONFIG).exists():
        plan /= CONFIG
    given, origin = gather(text, flags, config or plan, decided=plan is not None)
    folder = output or default_folder(given.get("text", ()))
    folder = next_free(folder.resolve()) if fresh else folder
    with closing(make_reporter()) as reporter:
        reporter.say(f"run: {folder}")
        run_pretraining(folder, given, origin, reporter, started=STARTED)


@app.command("plan")
@click.argument("text", nargs=-1)
@RUN_FOLDER
@CONFIG_FILE
@settings(DataConfig, ModelConfig, TrainingConfig)
def plan_run(text: tuple[str, ...], output: Path | None, config: Path | None, **flags: Any) -> None:
    """Do what `pretrain` does before its first step, and say what it would do.

    The plan is OUTPUT/config.toml: `pretrain` with the same arguments begins it, --plan gives it to another run.
    """
    from bertsmith.commands.console import make_reporter
    from bertsmith.pretrain import pretrain as run_pretraining

    given, origin = gather(text, flags, config)
    folder = output or default_folder(given.get("text", ()))
    with closing(make_reporter()) as reporter:
        run_pretraining(folder, given, origin, reporter, plan_only=True, started=STARTED)
        reporter.say(f"the plan is {folder / 'config.toml'}; nothing was trained")


@app.command()
@click.argument("text", nargs=-1)
@NEW_FOLDER
@CONFIG_FILE
@click.option("--sequence-length", type=int, help="Rows to train later, in tokens [128].")
@settings(DataConfig)
def prepare(text: tuple[str, ...], output: Path, config: Path | None, **flags: Any) -> None:
    """Make tokenizer and token shards from TEXT; the folder is valid as TEXT for `pretrain`."""
    from bertsmith.commands.console import make_reporter
    from bertsmith.config import run_config
    from bertsmith.output_folder import locked, new_folder, refuse_run
    from bertsmith.prepare import prepare as run_preparation

    given, _ = gather(text, flags, config)
    chosen = run_config(by_table(given))
    refuse_run(output)
    with closing(make_reporter()) as reporter, new_folder(output, owned_by=("data", "tokenizer")), locked(output):
        run_preparation(
            chosen.data,
            output,
            report=reporter.say,
            progress=reporter.progress,
            sequence_length=chosen.training.sequence_length,
            explicit=frozenset(given),
        )


@app.group(cls=Commands)
def tokenizer() -> None:
    """Work with tokenizers."""


@tokenizer.command("train")
@click.argument("text", nargs=-1)
@NEW_FOLDER
@click.option(
    "--sequence-length", type=int, help="Rows to train later: a small text holds out more for long ones [128]."
)
@settings(DataConfig)
def train_tokenizer(text: tuple[str, ...], output: Path, **flags: Any) -> None:
    """Train a tokenizer on TEXT, and save it as transformers loads it."""
    from bertsmith.commands.console import make_reporter
    from bertsmith.config import run_config
    from bertsmith.output_folder import new_folder, refuse_run
    from bertsmith.prepare import make_tokenizer

    given, _ = gather(text, flags, None)
    chosen = run_config(by_table(given))
    refuse_run(output)
    with closing(make_reporter()) as reporter, new_folder(output, owned_by=("tokenizer.json",)):
        make_tokenizer(
            chosen.data,
            output,
            report=reporter.say,
            progress=reporter.progress,
            sequence_length=chosen.training.sequence_length,
        )


@app.command()
@click.argument("run", type=PATH)
@click.option("--verify", is_flag=True, help="Check the hashes of all shards and checkpoints.")
@AS_JSON
def info(run: Path, verify: bool, as_json: bool) -> None:
    """Describe RUN: settings, data, progress, checkpoints."""
    from bertsmith.info import describe_run, run_facts

    facts = run_facts(run, verify=verify)
    for line in [json.dumps(facts, indent=2)] if as_json else describe_run(facts):
        click.echo(line)
    if verify and facts["damaged"]:
        click.get_current_context().exit(1)


@app.command()
@click.argument("prepared", required=False, type=PATH)
@AS_JSON
@settings(ModelConfig, TrainingConfig, only=BENCH_SETTINGS)
def bench(prepared: Path | None, as_json: bool, **flags: Any) -> None:
    """Measure this machine and a training step on it; with PREPARED, prepared text or a run, the time of that."""
    from bertsmith.bench import describe_bench, run_bench
    from bertsmith.config import run_config

    given = {name: value for name, value in flags.items() if value is not None}
    run_config(by_table(given))  # refuses what makes no sense
    facts = run_bench(given, prepared)
    for line in [json.dumps(facts, indent=2)] if as_json else describe_bench(facts):
        click.echo(line)


for command in (fill, finetune, predict, evaluate, compare, export, embed, report, playground):
    app.add_command(command)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and leave with its exit code: 0 done, 2 a mistake, 130 and 143 stopped."""
    sys.exit(run(arguments))


def spin_briefly() -> None:
    """Let PyTorch's threads spin only for a moment before they sleep, unless the environment says otherwise.

    Those that spin on make a step up to 15 times as slow when another program needs a core; those that sleep at
    once cost a third of the speed when none does (docs/log.md, "How threads wait").
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def write_any_text() -> None:
    """Let the output show what its encoding lacks as an escape: words of the user's text must not end a run."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def run(arguments: list[str] | None = None) -> int:
    """Run the command line. Mistakes become one line on the error stream."""
    spin_briefly()
    write_any_text()
    with Termination() as termination:
        return _run(arguments, termination)


def _run(arguments: list[str] | None, termination: Termination) -> int:
    try:
        try:
            code = app.main(arguments, prog_name="bertsmith", standalone_mode=False)
        finally:
            termination.be_over()
    except click.ClickException as error:
        return _complain(error.format_message().replace("\n", " "))
    except UserError as error:
        return _complain(str(error))
    except (click.Abort, KeyboardInterrupt) as error:
        if mistake := _mistake_before(error):
            return _complain(str(mistake))
        return _complain(_stopped(sys.argv[1:] if arguments is None else arguments), termination.exit_code)
    except SystemExit:  # of the library, whose output is read no more; its code would be that of damage found
        return 141
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        full = "; free some room, and give the same command again" if error.errno == errno.ENOSPC else ""
        return _complain(f"{where}{error.strerror or error}{full}")
    except Exception as error:
        if line := _last_words(error):
            return _complain(line, getattr(error, "exit_code", 2))
        if termination.was_asked:  # while a library was loaded, which went on without one of its parts
            return _complain(_stopped(sys.argv[1:] if arguments is None else arguments), termination.exit_code)
        raise
    return int(code or 0)


def _mistake_before(error: BaseException | None) -> UserError | None:
    """The mistake that a command was ending with when it was asked to stop."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__ or error.__context__
    return error


def _last_words(error: Exception) -> str | None:
    """What is said of an error that is no fault of the program, compared by name: its module need not be loaded."""
    kind = type(error).__name__
    if kind == "Interrupted":
        return f"{error}; the same command goes on from here"
    if kind == "OutOfMemoryError":
        return "the memory of the GPU is full; end what else uses it, or take a smaller model or batch"
    if kind == "MemoryError" or "can't allocate memory" in str(error):  # the latter is PyTorch's
        return "the memory of this machine is full; end what else uses it, or take a smaller model or batch"
    return None


def _stopped(arguments: list[str]) -> str:
    """What a command says that was stopped."""
    if "--embeddings" in arguments:
        return "stopped; this training keeps no checkpoints, and the same command begins anew"
    goes_on = arguments[:1] and arguments[0] in ("pretrain", "prepare", "finetune", "compare")
    return "stopped; the same command goes on from here" if goes_on else "stopped"


def _complain(line: str, code: int = 2) -> int:
    with suppress(OSError):  # the terminal may be gone
        click.echo(f"bertsmith: {line}", err=True)
    return code
