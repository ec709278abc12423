"""A comparison for a person: one row a model, and what must be known to read it."""

from bertsmith.comparison.contenders import NO_DIFFERENCE, Comparison, Contender
from bertsmith.comparison.differences import Interval
from bertsmith.evaluation.table import NOTHING, Table
from bertsmith.finetuning.outcome import shown

HEADER = ("against the first", "verdict", "parameters, M", "tokens read", "learning, s", "rows/s")


def comparison_table(found: Comparison) -> Table:
    """One row a model or plain method; the first model is what the others are held against."""
    name = f"{found.task}, {found.rows['test']:,} test rows"
    header = [name, found.metric.replace("_", " "), *HEADER]
    return Table(header, [_row(each) for each in found.contenders])


def _row(each: Contender) -> list[str]:
    return [
        each.name,
        f"{shown(each.score.estimate)} ({_ends(each.score)})",
        NOTHING if each.difference is None else f"{shown(each.difference.estimate, '+')} ({_ends(each.difference)})",
        each.verdict or NOTHING,
        NOTHING if each.parameters is None else f"{each.parameters / 1e6:,.1f}",
        NOTHING if each.max_length is None else f"{each.max_length:,}",
        f"{each.seconds:,.1f}",
        f"{each.rows_per_second:,.0f}",
    ]


def _ends(interval: Interval) -> str:
    return f"{shown(interval.low)} to {shown(interval.high)}"


def verdicts(found: Comparison) -> list[str]:
    """What the table says, as sentences, and how it was found."""
    first, *others = found.contenders
    lines = []
    for each in others:
        what = "the plain method" if each.is_baseline else "the model"
        if each.verdict != NO_DIFFERENCE:
            lines.append(f"{what} {each.name} is {each.verdict} than {first.name} on this task")
        elif each.is_baseline:
            lines.append(f"no difference shown between {first.name} and the plain method {each.name}")
        else:
            lines.append(f"no difference shown between {first.name} and {each.name}")
    return [*lines, *notes(found)]


def notes(found: Comparison) -> list[str]:
    """How to read the table."""
    seeds = "1 seed" if found.seeds == 1 else f"{found.seeds} seeds"
    rows = found.rows
    lines = [
        f"Each model: {seeds}, the same {rows['train']:,} training, {rows['validation']:,} validation and "
        f"{rows['test']:,} test rows, the same settings. Scores: mean over the seeds, 95 % interval.",
        "Differences: a paired bootstrap over the test rows gives their variance over rows, the seeds theirs over "
        "seeds; Welch's t. A verdict other than 'no difference shown' needs an interval without 0; all "
        f"{len(found.contenders) - 1} hold together with 95 % (Bonferroni).",
    ]
    if found.seeds == 1:
        lines.append("One seed says nothing about others: the intervals hold for these very weights. Give --seeds 3.")
    return lines
