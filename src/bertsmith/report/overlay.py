"""The page that lays several runs over each other."""

from collections.abc import Sequence
from xml.etree.ElementTree import Element

from bertsmith.config import flat
from bertsmith.report.charts import Series, add_chart
from bertsmith.report.facts import RunFacts
from bertsmith.report.html import add, add_table, new_page, section
from bertsmith.report.page import RATES, add_heading, evaluation_rows, level_series, state
from bertsmith.report.settings import command, hashes, shown
from bertsmith.reporter import duration

NOTICE = "This page shows names of your files and your settings. Share it only with those who may see them."


def overlay_page(runs: Sequence[RunFacts]) -> Element:
    """The page of several runs: curves over the tokens read, results, and in what they differ."""
    names = _names(runs)
    root, main = new_page(f"{', '.join(names)} - Bertsmith")
    lines = " ".join(f"{name}: {state(facts)}" for name, facts in zip(names, runs, strict=True))
    add_heading(main, " / ".join(names), NOTICE, lines)
    _add_curves(main, runs, names)
    _add_results(main, runs, names)
    _add_differences(main, runs, names)
    part = section(main, "How they were made")
    for name, facts in zip(names, runs, strict=True):
        add(part, "h3", name)
        add(part, "pre", command(facts.run.config, facts.run.origin, facts.folder))
        add_table(part, (), hashes(facts), class_="hashes")
    return root


def _names(runs: Sequence[RunFacts]) -> list[str]:
    """The folders' names, or whole paths where two have the same name."""
    names = [facts.name for facts in runs]
    return names if len(set(names)) == len(names) else [str(facts.folder) for facts in runs]


def _add_curves(main: Element, runs: Sequence[RunFacts], names: Sequence[str]) -> None:
    part = section(
        main,
        "Training",
        "Dots: held-out text; faint lines: training text. Steps of any size compare by the tokens read.",
    )
    charts = add(part, "div", class_="charts")
    levels = {facts.manifest.get("unigram_loss") for facts in runs}
    for title, name, percent in (
        ("masked words: loss, nats", "mlm_loss", False),
        ("pairs of sentences: loss, nats", "nsp_loss", False),
        ("masked words: guessed right", "mlm_accuracy", True),
    ):
        series: list[Series] = []
        for colour, (run, facts) in enumerate(zip(names, runs, strict=True)):
            held_out = facts.steps.held_out_curve(name, by_tokens=True)
            series.append(Series("" if held_out else run, facts.steps.curve(name, by_tokens=True), "faint", colour))
            series.append(Series(run, held_out, "measured", colour))
        if name == "mlm_loss" and len(levels) == 1:
            series += level_series("token frequencies alone", levels.pop())
        add_chart(charts, title, series, x_label="tokens read", percent=percent)
    for title, name, percent in RATES:
        lines = [
            Series(run, facts.steps.curve(name, by_tokens=True), "line", colour)
            for colour, (run, facts) in enumerate(zip(names, runs, strict=True))
        ]
        add_chart(charts, title, lines, x_label="tokens read", from_zero=True, percent=percent)


def _add_results(main: Element, runs: Sequence[RunFacts], names: Sequence[str]) -> None:
    texts = {facts.environment.get("data") for facts in runs}
    note = "Measured on different texts or with different tokenizers, so these losses do not compare."
    if None in texts:
        note = "Some runs do not say what text they were measured on, so these losses may not compare."
    elif len(texts) == 1:
        note = "All on the same held-out text."
    part = section(main, "Held-out text", note)
    columns = [
        dict(evaluation_rows(facts))
        | {
            "steps": f"{facts.steps.last:,}",
            "tokens read": f"{facts.steps.tokens:,}",
            "training time": duration(facts.steps.seconds),
            "tokens per second": f"{facts.steps.tokens / facts.steps.seconds:,.0f}" if facts.steps.seconds else "-",
        }
        for facts in runs
    ]
    labels = list(dict.fromkeys(label for column in columns for label in column))
    rows = [(label, *(column.get(label, "-") for column in columns)) for label in labels]
    add_table(part, ("", *names), rows, class_="numbers")


def _add_differences(main: Element, runs: Sequence[RunFacts], names: Sequence[str]) -> None:
    settings = [flat(facts.run.config) for facts in runs]
    rows = [
        (name, *(shown(values[name]) for values in settings))
        for name in settings[0]
        if len({shown(values[name]) for values in settings}) > 1
    ]
    part = section(main, "In what their settings differ", "" if rows else "In none.")
    if rows:
        add_table(part, ("setting", *names), rows)
