"""The page of a run: written while it trains, whole, harmless, and never in the way of the run."""

import json
import re
import shlex
import shutil
from html.parser import HTMLParser
from pathlib import Path
from xml.etree.ElementTree import Element

import pytest
import torch

from bertsmith.cli import app
from bertsmith.cli import run as command_line
from bertsmith.commands.flags import gather
from bertsmith.data.shards import read_manifest, read_shard
from bertsmith.errors import UserError
from bertsmith.interrupt import Interrupted
from bertsmith.report import write_report
from bertsmith.report.charts import Series, add_chart, labels, ticks
from bertsmith.report.facts import read_facts
from bertsmith.report.settings import command
from bertsmith.report.steps import CURVE_POINTS, Steps
from bertsmith.tokenizer import load_tokenizer

from browser import open_page
from prose import write_prose
from runs import TINY, Listener, train, weights

VOID = {"meta", "br", "link", "img", "input", "hr"}
NASTY = 'The old dog sees <script>alert(1)</script> &amp; "the" <b>green</b> river \' again.'


class Page(HTMLParser):
    """Tags, attributes and text of a page; wrong nesting is an error."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with a name and a text that are full of markup."""
    folder = tmp_path_factory.mktemp("runs")
    text = write_prose(folder / "a <i>text<i>.txt")
    text.write_text(f"{NASTY}\n\n" * 40 + text.read_text(encoding="utf-8"), encoding="utf-8")
    return train(folder / "run <b> & 'co", text, steps=8, validation_every=2).parent


def test_the_page_of_a_finished_run_is_whole(finished: Path) -> None:
    page = Page(finished / "report.html")
    facts = read_facts(finished)
    assert "This page shows your own text" in page.text[: page.text.index("Training")]
    for part in ("Finished: all 8 steps", "Masks filled", "Held-out text", "Most frequent pieces", "How it was made"):
        assert part in page.text
    assert page.tags.count("figure") == page.tags.count("svg") == 7
    for each in (f"{facts.manifest['unigram_loss']:.3f}", facts.weights_hash, facts.environment["torch"]):
        assert each in page.text
    assert f"{facts.evaluation['mlm_loss']:.3f}" in page.text
    assert command(facts.run.config, facts.run.origin, finished) in page.text


def test_text_of_the_user_is_text_on_the_page(finished: Path) -> None:
    page = Page(finished / "report.html")
    assert "run <b> & 'co" in page.text
    assert not {"script", "b>", "i", "img", "link", "iframe"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]


def test_the_page_loads_nothing(finished: Path) -> None:
    page = Page(finished / "report.html")
    assert not {name for name, _ in page.attributes} & {"src", "href", "srcset", "data", "action"}
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in page.attributes
    assert "url(" not in (finished / "report.html").read_text(encoding="utf-8")


def test_a_run_without_pairs_has_no_card_for_them(finished: Path, text: Path, tmp_path: Path) -> None:
    train(tmp_path / "run", text, Listener(), steps=2, objective="mlm")
    assert "half by chance" not in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "half by chance" in (finished / "report.html").read_text(encoding="utf-8")


def test_the_page_is_there_while_the_run_trains(text: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        train(tmp_path / "run", text, Listener(stop_after=2))
    assert "Step 2 of 3." in Page(tmp_path / "run" / "report.html").text


@pytest.mark.slow
def test_fillings_of_a_stopped_run_are_those_of_one_that_was_not(text: Path, tmp_path: Path) -> None:
    train(tmp_path / "straight", text, steps=5, validation_every=2)
    straight = (tmp_path / "straight" / "fillings.jsonl").read_bytes()
    assert [json.loads(line)["step"] for line in straight.splitlines()] == [0, 2, 4, 5]
    for stop in (1, 2, 3):
        with pytest.raises(Interrupted):
            train(tmp_path / "run", text, Listener(stop_after=stop), steps=5, validation_every=2)
    train(tmp_path / "run", text, steps=5, validation_every=2)
    assert (tmp_path / "run" / "fillings.jsonl").read_bytes() == straight


@pytest.mark.slow
def test_a_run_that_cannot_write_its_page_gives_the_same_weights(text: Path, tmp_path: Path) -> None:
    train(tmp_path / "with", text, steps=4, validation_every=1, hidden_dropout_prob=0.1)
    with pytest.raises(Interrupted):
        train(tmp_path / "without", text, Listener(stop_after=1), steps=4, validation_every=1, hidden_dropout_prob=0.1)
    shutil.rmtree(tmp_path / "without" / "checkpoints")  # from the beginning, in a folder where nothing can be kept
    for name in ("report.html", "fillings.jsonl"):
        (tmp_path / "without" / name).unlink()
        (tmp_path / "without" / name).mkdir()
    listener = Listener()
    train(tmp_path / "without", text, listener, steps=4, validation_every=1, hidden_dropout_prob=0.1)
    warnings = [line for line in listener.lines if line.startswith("warning:")]
    assert len([line for line in warnings if "report.html was not written" in line]) == 1
    assert len([line for line in warnings if "masked sentences were not kept" in line]) == 1
    one, other = weights(tmp_path / "with"), weights(tmp_path / "without")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_file_of_the_user_is_not_overwritten(finished: Path, tmp_path: Path) -> None:
    mine = tmp_path / "report.html"
    mine.write_text("<p>mine</p>")
    with pytest.raises(UserError, match="is no report; give another file with -o"):
        write_report([finished], mine)
    assert mine.read_text() == "<p>mine</p>"
    mine.unlink()
    write_report([finished], mine)
    write_report([finished], mine)


def test_the_command_on_the_page_gives_the_settings(finished: Path) -> None:
    facts = read_facts(finished)
    words = shlex.split(command(facts.run.config, facts.run.origin, finished))
    assert words[:2] == ["bertsmith", "pretrain"]
    flags = app.commands["pretrain"].make_context("pretrain", words[2:]).params
    assert flags.pop("output") == finished
    typed = gather(flags.pop("text"), {k: v for k, v in flags.items() if k in TINY or v}, None)[0]
    given = {**TINY, "steps": 8, "validation_every": 2, "text": facts.run.config.data.text}
    assert typed == given


def test_curves_are_means_over_steps() -> None:
    count = CURVE_POINTS * 3 - 1
    lines = [
        {"step": n + 1, "tokens": 10 + n, "tokens_per_second": 5.0 + n % 7, "mlm_loss": None if n % 5 == 0 else 1.0 * n}
        for n in range(count)
    ]
    steps = Steps(lines)
    parts = [lines[start : start + 3] for start in range(0, count, 3)]
    losses = [[line["mlm_loss"] for line in part if line["mlm_loss"] is not None] for part in parts]
    assert [x for x, _ in steps.curve("mlm_loss")] == [part[-1]["step"] for part in parts]
    assert [y for _, y in steps.curve("mlm_loss")] == pytest.approx([sum(each) / len(each) for each in losses])
    speeds = [
        sum(line["tokens"] for line in part) / sum(line["tokens"] / line["tokens_per_second"] for line in part)
        for part in parts
    ]
    assert [y for _, y in steps.curve("tokens_per_second")] == pytest.approx(speeds)
    assert steps.curve("mlm_loss", by_tokens=True)[-1][0] == steps.tokens == sum(line["tokens"] for line in lines)
    assert steps.curve("nsp_loss") == Steps([]).curve("mlm_loss") == []


RANGES = [(0, 1), (6.2, 6.3), (0.0, 1e-4), (3.0, 3.0), (0, 123_456), (-2, 5), (0, 0.12), (0.495, 0.505)]
RANGES += [(6.25, 6.262), (9990, 10_010), (0.00973805710183835, 0.009738057101838352)]  # the last by rounding alone


@pytest.mark.parametrize(("low", "high"), RANGES)
def test_ticks_enclose_the_values_and_say_what_they_are(low: float, high: float) -> None:
    found = ticks(low, high)
    assert found[0] <= low + 1e-9
    assert found[-1] >= high - 1e-9
    assert 2 <= len(found) <= 8
    for percent in (False, high <= 1):
        shown = [float(each.replace("k", "e3").replace("%", "e-2")) for each in labels(found, percent=percent)]
        assert shown == pytest.approx(found, rel=1e-9, abs=1e-12)
    add_chart(Element("main"), "t", [Series("", [(1.0, low), (2.0, high)])], x_label="step")


def test_a_line_of_one_point_is_a_dot() -> None:
    page = Element("main")
    add_chart(page, "t", [Series("a", [(1.0, 3.0)]), Series("b", [(1.0, 3.0), (2.0, 4.0)])], x_label="step")
    assert len(list(page.iter("circle"))) == 1


def test_the_manifest_counts_lengths_and_pieces(finished: Path) -> None:
    manifest = read_manifest(finished / "data")
    shards = [read_shard(finished / "data" / each["file"]) for each in manifest["splits"]["train"]["shards"]]
    counts: dict[int, int] = {}
    lengths: dict[int, int] = {}
    for shard in shards:
        for index in shard.ids.tolist():
            counts[index] = counts.get(index, 0) + 1
        bounds = shard.section_starts.tolist()
        for number, start, end in zip(shard.section_document.tolist(), bounds[:-1], bounds[1:], strict=True):
            lengths[number] = lengths.get(number, 0) + end - start
    assert [count for _, count in manifest["frequent_ids"]] == sorted(counts.values(), reverse=True)[:40]
    assert all(counts[index] == count for index, count in manifest["frequent_ids"])
    classes = [int(length).bit_length() - 1 for length in lengths.values()]
    histogram = [classes.count(each) for each in range(max(classes) + 1)]
    assert manifest["splits"]["train"]["document_lengths"] == histogram
    spelt = load_tokenizer(finished / "tokenizer").tokens([manifest["frequent_ids"][0][0]])[0]
    assert read_facts(finished).pieces[0] == (spelt, manifest["frequent_ids"][0][1])


def test_runs_laid_over_each_other(finished: Path, text: Path, tmp_path: Path) -> None:
    other = train(tmp_path / "other", text).parent
    assert command_line(["report", str(finished), str(other), "-o", str(tmp_path / "both.html")]) == 0
    page = Page(tmp_path / "both.html")
    assert "run <b> & 'co / other" in page.text
    assert "Measured on different texts" in page.text
    assert "validation_every" in page.text
    same = shutil.copytree(other, tmp_path / "sub" / "other")
    write_report([other, same], tmp_path / "both.html")
    assert f"{other} / {same}" in Page(tmp_path / "both.html").text
    assert "All on the same held-out text." in Page(tmp_path / "both.html").text


def test_of_runs_laid_over_each_other_all_are_named_and_nothing_unknown_is_claimed(
    finished: Path, tmp_path: Path
) -> None:
    young = shutil.copytree(finished, tmp_path / "young")
    lines = [json.loads(line) for line in (young / "metrics.jsonl").read_text().splitlines()]
    first = {name: value for name, value in lines[0].items() if not name.startswith("validation")}
    (young / "metrics.jsonl").write_text(json.dumps(first) + "\n")  # nothing was measured yet
    for folder in (young, finished):
        assert "data" in json.loads((folder / "environment.json").read_text())
    (young / "environment.json").unlink()
    write_report([young, finished], tmp_path / "both.html")
    html = (tmp_path / "both.html").read_text(encoding="utf-8")
    legends = re.findall(r'<ul class="legend">(.*?)</ul>', html)
    assert len(legends) > 3
    assert all("<span>young</span>" in each and "<span>run &lt;b&gt;" in each for each in legends)
    assert "All on the same held-out text" not in html


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["{run}", "{run}"], "give its file with -o"),
        (["{there}/nothing"], "is no run"),
        (["{run}"] * 9 + ["-o", "{there}/page.html"], "9 runs are too many for one page; give at most 8"),
        (["{run}", "-o", "{there}"], "is a folder; give a file with -o"),
        (["{run}", "-o", "{there}/missing/page.html"], "missing does not exist; make it, or give another file with -o"),
        ([], "Missing argument 'RUN...'"),
    ],
)
def test_mistakes_get_one_line(
    arguments: list[str], complaint: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [argument.format(run=finished, there=tmp_path) for argument in arguments]
    assert command_line(["report", *given]) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1


def test_runs_without_steps_and_runs_of_finetune_are_refused(finished: Path, tmp_path: Path) -> None:
    fresh = shutil.copytree(finished, tmp_path / "fresh")
    (fresh / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match="has no steps to show"):
        write_report([fresh], tmp_path / "page.html", need_steps=True)
    (tmp_path / "topic").mkdir()
    (tmp_path / "topic" / "finetune.json").write_text("{}")
    with pytest.raises(UserError, match="give a pretraining run"):
        write_report([tmp_path / "topic"], tmp_path / "page.html")


def test_damaged_records_leave_a_page(finished: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    (run / "evaluation.json").write_text("{torn")
    (run / "environment.json").unlink()
    with (run / "metrics.jsonl").open("a") as handle:
        handle.write('{"step": 9, "mlm_loss": Infinity, "tokens": "x"}\n{"step": 10, "ml')
    with (run / "fillings.jsonl").open("a") as handle:
        handle.write('{"step": 9, "sentences": 3}\n{"step": 9, "sentences": [{}]}\n')
    shutil.rmtree(run / "tokenizer")
    write_report([run], run / "report.html")
    assert "Masks filled" in Page(run / "report.html").text
    (run / "data" / "manifest.json").write_text('{"splits": {}}')
    write_report([run], run / "report.html")
    assert "Masks filled" in Page(run / "report.html").text


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_shows_the_page(finished: Path, dark: bool) -> None:
    with open_page((finished / "report.html").as_uri(), dark=dark) as (page, seen):
        assert page.locator("figure svg polyline").count() >= 10
        assert page.locator("h1").inner_text() == "run <b> & 'co"
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background == ("rgb(20, 23, 27)" if dark else "rgb(255, 255, 255)")
        assert seen.errors == []
        assert seen.outside == []


@pytest.mark.slow
def test_the_page_fits_a_phone(finished: Path) -> None:
    with open_page((finished / "report.html").as_uri(), width=360) as (page, _):
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
