"""Commands for looking: the page of runs, a page to play with a model. Each imports its program when it is called."""

from pathlib import Path

import click

from bertsmith.commands.flags import PATH


@click.command("report")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=PATH)
@click.option("-o", "--output", type=PATH, help="File to write [RUN/report.html].")
def report(runs: tuple[Path, ...], output: Path | None) -> None:
    """Write the page of RUN anew, or one page that lays several RUNs over each other.

    A run writes its own page while it trains. The page shows text of its maker; it needs no network.
    """
    from bertsmith.errors import UserError
    from bertsmith.report import PAGE, write_report

    if output is None and len(runs) > 1:
        raise UserError("a page over several runs belongs to none of them; give its file with -o, such as -o runs.html")
    if output is not None and not output.parent.is_dir():
        raise UserError(f"the folder {output.parent} does not exist; make it, or give another file with -o")
    output = output or runs[0] / PAGE
    write_report(runs, output, need_steps=True)
    click.echo(f"the page is {output}")


@click.command("playground")
@click.argument("model", type=PATH)
@click.option("--port", type=int, default=0, help="Port to listen on, on this machine alone [any that is free].")
@click.option("--threads", type=int, help="Threads of the processor [all].")
def playground(model: Path, port: int, threads: int | None) -> None:
    """Serve a local page to play with MODEL, a run of `pretrain` or `finetune`, a folder of such a model, or a hub id.

    It fills masks as one types, classifies, shows pieces and attention. What is typed goes nowhere and is not kept.
    """
    from bertsmith.commands.console import make_reporter
    from bertsmith.machine.device import set_threads
    from bertsmith.playground.server import HOST, listen, serve
    from bertsmith.playground.subject import Subject

    set_threads(threads)
    subject = Subject(model, make_reporter())
    with listen(port) as listener:
        click.echo(f"the playground is at http://{HOST}:{listener.getsockname()[1]}/ (Ctrl-C ends it)")
        serve(subject, listener)
