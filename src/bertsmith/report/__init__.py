"""A page that shows runs: RUN/report.html, one file that opens from the disk with no network.

    run folder --facts.py--> RunFacts --page.py, overlay.py--> elements (html.py, charts.py) --> report.html

A training for sentence vectors has a page of its own, vectors.py.

A page has no script, and forbids its browser to load anything or to run one. All text goes through
`xml.etree.ElementTree`, which escapes it; none is ever put together by hand.
"""

from collections.abc import Sequence
from pathlib import Path

from bertsmith import atomic
from bertsmith.errors import UserError
from bertsmith.report.facts import read_facts
from bertsmith.report.html import GENERATOR, to_html
from bertsmith.report.overlay import overlay_page
from bertsmith.report.page import run_page

__all__ = ["PAGE", "write_report"]

PAGE = "report.html"
MOST_RUNS = 8
"""More lines in one chart could not be told apart."""


def write_report(folders: Sequence[Path], output: Path, *, need_steps: bool = False) -> None:
    """Write the page of a run, or one that lays several runs over each other.

    Args:
        folders: Runs, new, running, stopped or finished; they are only read.
        output: The file. One that is there is replaced if it is such a page.
        need_steps: Refuse a run that has done no step yet.

    Raises:
        UserError: A folder is no run, there are too many, or `output` is something else.
        OSError: It could not be written; the page that was there is whole.
    """
    if len(folders) > MOST_RUNS:
        raise UserError(f"{len(folders)} runs are too many for one page; give at most {MOST_RUNS}")
    if output.is_dir():
        raise UserError(f"{output} is a folder; give a file with -o")
    if output.exists() and GENERATOR.encode() not in output.read_bytes()[:500]:
        raise UserError(f"{output} is there and is no report; give another file with -o")
    runs = [read_facts(folder) for folder in folders]
    for run in runs:
        if need_steps and not run.steps:
            raise UserError(f"{run.folder} has no steps to show, its metrics.jsonl is empty or missing; train it first")
    atomic.write_bytes(output, to_html(run_page(runs[0]) if len(runs) == 1 else overlay_page(runs)))
