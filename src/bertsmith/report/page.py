"""The page of one run."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any
from xml.etree.ElementTree import Element

from bertsmith.report.charts import Series, add_chart, short
from bertsmith.report.data import add_data
from bertsmith.report.facts import RunFacts
from bertsmith.report.html import add, add_table, bar, new_page, readable, section
from bertsmith.report.settings import add_settings
from bertsmith.reporter import duration

NOTICE = (
    "This page shows your own text: held-out sentences, the most frequent pieces, and names of files. "
    "Share it only with those who may see that text."
)
MOST_ROWS = 8
"""Of a table that follows the training; the first and the last are among them."""

RATES = (
    ("learning rate", "learning_rate", False),
    ("tokens per second", "tokens_per_second", False),
    ("share of the machine's peak matrix rate", "matrix_share", True),
)
"""Charts of one curve a run: title, name of the value, whether it is a share."""


def run_page(facts: RunFacts) -> Element:
    """The page of a run, whatever there is of it."""
    root, main = new_page(f"{facts.name} - Bertsmith")
    add_heading(main, facts.name, NOTICE, state(facts))
    _add_cards(main, facts)
    _add_curves(main, facts)
    _add_fillings(main, facts.fillings)
    _add_evaluation(main, facts)
    _add_measured(main, facts.measured)
    add_data(main, facts)
    add_settings(main, facts)
    return root


def add_heading(main: Element, title: str, notice: str, line: str) -> None:
    """The head of a page."""
    add(main, "h1", title)
    add(main, "p", notice, class_="notice")
    add(main, "p", f"{line} Written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC by Bertsmith.", class_="note")


def state(facts: RunFacts) -> str:
    """How far a run is, as a sentence."""
    steps = facts.run.config.training.steps
    if facts.finished:
        return f"Finished: all {steps:,} steps."
    return f"Step {facts.steps.last:,} of {steps:,}." if steps else "Not begun yet."


def _add_cards(main: Element, facts: RunFacts) -> None:
    """The numbers that are looked for first."""
    cards = add(main, "div", class_="cards")
    final, unigram_loss = held_out(facts), facts.manifest.get("unigram_loss")
    shown = []
    if final.get("mlm_loss") is not None:
        level = "nats" if unigram_loss is None else f"nats; token frequencies alone {unigram_loss:.2f}"
        shown.append(("held-out masked words", f"{final['mlm_loss']:.3f}", level))
        shown.append(("masked words right", _value("accuracy", final.get("mlm_accuracy")), "of the held-out ones"))
    if final.get("nsp_accuracy") is not None:
        shown.append(("pairs of sentences right", f"{final['nsp_accuracy']:.1%}", "held out; half by chance"))
    if facts.steps:
        shown.append(("tokens read", short(facts.steps.tokens), f"in {duration(facts.steps.seconds)} of training"))
        speed = facts.steps.tokens / facts.steps.seconds if facts.steps.seconds else 0.0
        shown.append(("tokens per second", f"{speed:,.0f}", _share_of_peak(facts)))
    for name, value, note in shown:
        card = add(cards, "div", class_="card")
        add(card, "span", name)
        add(card, "b", value)
        add(card, "span", note)


def held_out(facts: RunFacts) -> Mapping[str, Any]:
    """Means over the held-out text, at the end or when it was measured last."""
    if facts.evaluation.get("step") == facts.steps.last:
        return facts.evaluation
    last = facts.steps.validations[-1] if facts.steps.validations else {}
    return {name.removeprefix("validation_"): value for name, value in last.items() if name.startswith("validation_")}


def _share_of_peak(facts: RunFacts) -> str:
    share = facts.steps.recent("matrix_share")
    return "" if share is None else f"{share:.0%} of the machine's matrix rate"


def _add_curves(main: Element, facts: RunFacts) -> None:
    part = section(main, "Training", "" if facts.steps else "No step is done yet.")
    charts = add(part, "div", class_="charts")
    add_step_chart = partial(add_chart, charts, x_label="step")
    level = level_series("token frequencies alone", facts.manifest.get("unigram_loss"))
    add_step_chart("masked words: loss, nats", value_series(facts, "mlm_loss") + level)
    add_step_chart("pairs of sentences: loss, nats", value_series(facts, "nsp_loss"))
    right = value_series(facts, "mlm_accuracy")
    add_step_chart("masked words: guessed right", right, from_zero=True, percent=True)
    right = value_series(facts, "nsp_accuracy")
    add_step_chart("pairs of sentences: told right", right + level_series("chance", 0.5), percent=True)
    for title, name, percent in RATES:
        add_step_chart(title, [Series("", facts.steps.curve(name))], from_zero=True, percent=percent)


def value_series(facts: RunFacts, name: str) -> list[Series]:
    """A value in training, and held out."""
    return [
        Series("training text", facts.steps.curve(name), "faint"),
        Series("held-out text", facts.steps.held_out_curve(name), "measured", 1),
    ]


def level_series(name: str, value: float | None) -> list[Series]:
    """A level to compare with."""
    return [] if value is None else [Series(f"{name}, {value:.3g}", [(0.0, value)], "level", 7)]


def spread(items: Sequence[Any], most: int = MOST_ROWS) -> list[Any]:
    """Some of many items, evenly, with the first and the last."""
    if len(items) <= most:
        return list(items)
    return [items[round(number * (len(items) - 1) / (most - 1))] for number in range(most)]


def _add_fillings(main: Element, fillings: Sequence[Mapping[str, Any]]) -> None:
    """How the same sentences were filled as training went on."""
    if not fillings:
        return
    part = section(
        main, "Masks filled", "The same held-out sentences, filled as training went on; the true word in green."
    )
    columns = add(part, "div", class_="columns")
    for sentence in fillings[-1]["sentences"]:
        block = add(columns, "div")
        line = add(block, "p", sentence["before"], class_="sentence", dir="auto")
        mark = add(line, "mark", sentence["truth"])
        mark.tail = readable(sentence["after"])
        rows = [(entry["step"], same) for entry in fillings for same in entry["sentences"] if _same(same, sentence)]
        add_table(
            block,
            ("step", "best guess", "second", "third"),
            [
                (f"{step:,}", *(_guess(guess, sentence["truth"]) for guess in same["guesses"]))
                for step, same in spread(rows)
            ],
            class_="guesses",
        )


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(one[name] == other[name] for name in ("before", "after", "truth"))


def _guess(guess: Sequence[Any], truth: str) -> Element:
    """A guess on a bar of its probability; a word too long for its place is cut by the browser, its share never."""
    word, probability = guess
    element = Element("div", {"class": "guess right" if word == truth else "guess"})
    element.append(bar(probability))
    add(element, "span", word, class_="word", dir="auto", title=word)
    add(element, "span", f"{probability:.0%}")
    return element


def _add_evaluation(main: Element, facts: RunFacts) -> None:
    """What was measured on held-out text."""
    if not facts.steps.validations and not facts.evaluation:
        return
    part = section(main, "Held-out text")
    if facts.evaluation.get("step") == facts.steps.last:
        add(part, "p", "At the end, on up to 4,096 rows:", class_="note")
        add_table(part, ("", "value"), evaluation_rows(facts), class_="numbers")
    if facts.steps.validations:
        add(part, "p", "While it trained, on up to 512 rows:", class_="note")
        pairs = any("validation_nsp_loss" in line for line in facts.steps.validations)
        kinds = ("mlm_loss", "mlm_accuracy", *(("nsp_loss", "nsp_accuracy") if pairs else ()))
        header = ("step", "masked: loss", "right", *(("pairs: loss", "right") if pairs else ()))
        rows = [
            (f"{line['step']:,}", *(_value(kind, line.get(f"validation_{kind}")) for kind in kinds))
            for line in spread(facts.steps.validations, 20)
        ]
        add_table(part, header, rows, class_="numbers")


def _add_measured(main: Element, measured: Mapping[str, Any]) -> None:
    """What `bertsmith evaluate` found."""
    values, notes = measured.get("values"), measured.get("notes")
    if isinstance(values, dict) and isinstance(notes, list):
        part = section(main, "Measured by bertsmith evaluate", " ".join(map(str, notes)))
        rows = [(str(label), str(text)) for label, text in values.items()]
        add_table(part, ("", "value"), rows, class_="numbers")


def _value(kind: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1%}" if kind.endswith("accuracy") else f"{value:.3f}"


def evaluation_rows(facts: RunFacts) -> list[tuple[str, str]]:
    """The last measurement, by name; what cannot be said yet is "-"."""
    final, levels = held_out(facts), facts.manifest
    rows = [
        ("masked words: loss, nats", _value("loss", final.get("mlm_loss"))),
        ("the same when only token frequencies are known", _value("loss", levels.get("unigram_loss"))),
        ("the same for a uniform guess", _value("loss", levels.get("uniform_loss"))),
        ("masked words guessed right", _value("accuracy", final.get("mlm_accuracy"))),
    ]
    if final.get("nsp_accuracy") is not None:
        rows += [
            ("pairs of sentences: loss, nats", _value("loss", final.get("nsp_loss"))),
            ("pairs of sentences told right", _value("accuracy", final["nsp_accuracy"])),
        ]
    interval = final.get("nsp_interval")
    if interval:
        rows.append(("its 95 % interval", f"{interval[0]:.1%} to {interval[1]:.1%}"))
    return rows
