"""The page of a run: complete, readable without a network, and never in the way of the run."""

import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bertsmith.cli import run as command
from bertsmith.interrupt import Interrupted
from bertsmith.metrics import read_metrics
from bertsmith.report import write_report

from prose import write_prose
from runs import Listener, train

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """What a browser would find in a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [str(value) for name, value in attrs if name in ("src", "href", "action", "data", "srcset")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def finished(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "run"
    train(folder, text, objective="mlm+nsp", validation_every=1)
    return folder


def test_a_page_shows_the_run_and_loads_nothing(finished: Path) -> None:
    page = Page(finished / "report.html")
    assert page.links == []
    assert "script" not in page.tags
    assert "url(" not in page.text
    assert page.tags.count("svg") == 7
    for wanted in (
        "Share it only with those who may see that text",
        "Finished: all 3 steps.",
        "token frequencies alone",
        "next sentences",
        "learning rate",
        "share of the machine's peak",
        "documents",
        "bertsmith pretrain",
    ):
        assert wanted in page.text, wanted
    last = read_metrics(finished)[-1]
    assert f"{last['validation_mlm_loss']:.3f}" in page.text


def test_the_same_sentences_are_filled_as_training_goes_on(finished: Path) -> None:
    lines = read_metrics(finished, "fillings.jsonl")
    assert [line["step"] for line in lines] == [0, 1, 2, 3]
    sentences = [[(each["before"], each["truth"], each["after"]) for each in line["sentences"]] for line in lines]
    assert sentences[0]
    assert all(each == sentences[0] for each in sentences)
    page = Page(finished / "report.html")
    assert all(truth in page.text for _, truth, _ in sentences[0])


def test_the_text_of_the_user_is_escaped_and_masked_words_alone_have_no_pairs(tmp_path: Path) -> None:
    path = write_prose(tmp_path / "prose.txt")
    spiked = path.read_text().replace(" the ", ' the <script>alert("x")</script> & ')
    path.write_text(spiked)
    train(tmp_path / "run", path, validation_every=1, objective="mlm")
    content = (tmp_path / "run" / "report.html").read_text()
    assert "next sentences" not in content
    assert "<script" not in content
    assert "&lt;" in content


def test_a_page_changes_no_weight_and_a_resume_keeps_each_filling_once(
    text: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Interrupted):
        train(tmp_path / "run", text, Listener(stop_after=2), objective="mlm+nsp", validation_every=1)
    assert "Step 2 of 3." in Page(tmp_path / "run" / "report.html").text
    train(tmp_path / "run", text, objective="mlm+nsp", validation_every=1)
    assert [line["step"] for line in read_metrics(tmp_path / "run", "fillings.jsonl")] == [0, 1, 2, 3]
    monkeypatch.setattr("bertsmith.diary.Diary._guard", lambda *_: None)
    train(tmp_path / "without", text, objective="mlm+nsp", validation_every=1)
    assert not (tmp_path / "without" / "report.html").exists()
    one, two, three = (
        load_file(folder / "model" / "model.safetensors")
        for folder in (finished, tmp_path / "run", tmp_path / "without")
    )
    assert all(torch.equal(one[name], two[name]) and torch.equal(one[name], three[name]) for name in one)


def test_a_page_that_cannot_be_written_is_a_warning(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bertsmith.diary.write_report", fail)
    listener = Listener()
    train(tmp_path / "run", text, listener)
    assert (tmp_path / "run" / "model").is_dir()
    assert [line for line in listener.lines if "report.html was not written" in line]


def test_runs_are_laid_over_each_other(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = shutil.copytree(finished, tmp_path / "other")
    assert command(["report", str(finished), str(other), "-o", str(tmp_path / "both.html")]) == 0
    page = Page(tmp_path / "both.html")
    assert "In none." in page.text
    assert page.text.count("other") > 3
    assert command(["report", str(finished), str(other)]) == 2
    assert "say where with -o" in capsys.readouterr().err


def test_what_is_no_run_is_one_line(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.html").write_text("<html>mine</html>")
    (tmp_path / "empty").mkdir()
    unstarted = shutil.copytree(finished, tmp_path / "unstarted")
    (unstarted / "metrics.jsonl").unlink()
    for arguments, says in (
        (["report", str(tmp_path / "nowhere")], "nowhere"),
        (["report", str(tmp_path / "empty")], "empty"),
        (["report", str(unstarted)], "has no steps to show"),
        (["report", str(finished), "-o", str(tmp_path / "mine.html")], "is there and is no report"),
        (["report", str(finished), "-o", str(tmp_path)], "is a folder"),
    ):
        assert command(arguments) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert says in line
    assert (tmp_path / "mine.html").read_text() == "<html>mine</html>"


@pytest.mark.slow
def test_a_browser_shows_it_without_a_word_to_anybody(finished: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    browser_path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser_path is None:
        pytest.skip("no Chromium is installed")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 800})
        said: list[str] = []
        asked: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto((finished / "report.html").as_uri())
        assert page.locator("svg").count() == 7
        assert page.locator("svg").first.bounding_box()["width"] <= 390
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert said == []
        assert asked == [(finished / "report.html").as_uri()]
        browser.close()


def test_a_damaged_record_does_not_hide_the_rest(finished: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    (run / "evaluation.json").write_text("{")
    with (run / "fillings.jsonl").open("a") as handle:
        handle.write('{"step": 9')
    write_report([run], run / "report.html")
    assert "learning rate" in Page(run / "report.html").text
