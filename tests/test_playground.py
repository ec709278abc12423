"""The playground: true answers, to a page of this machine alone, that a browser shows."""

import base64
import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bertsmith.cli import run as command_line
from bertsmith.errors import UserError
from bertsmith.finetuning.classify import load_classifier
from bertsmith.playground.attention import attention_weights
from bertsmith.playground.subject import ATTENTION_TOKENS, TOP_K, Subject
from bertsmith.predict import fill, load_for_prediction
from bertsmith.tokenizer import load_tokenizer
from labelled import (
    LONGEST,
    other_model,
    pair_rows,
    tagged_rows,
    tiny_encoder,
    tiny_modern,
    topic_rows,
    tune,
    write_rows,
)

from browser import open_page

uvicorn = pytest.importorskip("uvicorn", reason="needs bertsmith[playground]")
from bertsmith.playground.server import MOST_BYTES, listen, make_app  # noqa: E402

TEXT = "the [MASK] of the <b>ball</b> & goal"
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("models") / "a <i>model")


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuned")
    tune(folder / "run", tiny_encoder(folder / "encoder"), write_rows(folder / "rows.csv", topic_rows(60)), epochs=1.0)
    return folder / "run"


@contextmanager
def served(subject: Subject) -> Iterator[int]:
    """The playground of a model, and its port."""
    with listen(0) as listener:
        server = uvicorn.Server(uvicorn.Config(make_app(subject), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def port(encoder: Path) -> Iterator[int]:
    with served(Subject(encoder)) as number:
        yield number


def send(port: int, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, str, Any]:
    """Status, body and headers of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        return response.status, response.read().decode("utf-8"), response.headers
    finally:
        connection.close()


@pytest.mark.parametrize("kind", ["bert", "modernbert"])
def test_attention_is_that_of_transformers(kind: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder = (tiny_encoder if kind == "bert" else tiny_modern)(tmp_path / "model")
    model, _ = load_for_prediction(folder)
    ids = torch.arange(5, 5 + 20)
    types = (torch.arange(20) > 9).long() if kind == "bert" else torch.zeros(20, dtype=torch.int64)
    theirs = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    given = {"token_type_ids": types[None]} if kind == "bert" else {}
    with torch.no_grad():
        expected = torch.stack(theirs(ids[None], output_attentions=True, **given).attentions)[:, 0]
    found = attention_weights(model.bert, ids, types)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    if kind == "modernbert":
        assert found[1, :, 0, 5:].abs().max() == 0  # beyond the window


def test_looking_leaves_no_hook_behind(encoder: Path) -> None:
    model, _ = load_for_prediction(encoder)
    attention_weights(model.bert, torch.arange(5, 9), torch.zeros(4, dtype=torch.int64))
    assert not any(part._forward_pre_hooks for part in model.modules())


def test_masks_are_filled_as_the_command_does(encoder: Path) -> None:
    subject = Subject(encoder)
    assert subject.facts()["can"] == ["pieces", "fill", "attention"]
    model, tokenizer = load_for_prediction(encoder)
    expected = fill(model, tokenizer, TEXT, top_k=TOP_K)
    reply = subject.ask("fill", TEXT, None)
    assert reply["text"] == expected.text
    assert reply["masks"] == [[[c.token, c.probability] for c in mask] for mask in expected.masks]


def test_the_length_shown_is_the_length_of_the_fine_tuning(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.csv", topic_rows(60))
    tune(tmp_path / "short", tiny_encoder(tmp_path / "encoder"), rows, epochs=0.1, max_length=16)
    subject = Subject(tmp_path / "short")
    assert subject.facts()["longest"] == 16
    assert subject.ask("classify", "ball " * 20, None)["note"] == "longer than the 16 tokens that the model reads"


def test_pieces_are_those_of_the_tokenizer(encoder: Path) -> None:
    tokenizer = load_tokenizer(encoder)
    reply = Subject(encoder).ask("pieces", "goalgoal \u4f60 ball", None)
    assert [each["id"] for each in reply["pieces"]] == tokenizer.encode("goalgoal \u4f60 ball").ids
    assert [each["text"] for each in reply["pieces"] if each["unknown"]] == ["\u4f60"]
    other = Subject(encoder).ask("pieces", "the", "the \u4f60 goal")
    assert [each["text"] for each in other["pieces"]][:4] == ["", "the", "", "the"]
    assert [each["text"] for each in other["pieces"] if each["unknown"]] == ["\u4f60"]
    assert reply["pieces"][1]["word"] == reply["pieces"][2]["word"] != reply["pieces"][-2]["word"]


def test_attention_arrives_whole(encoder: Path) -> None:
    reply = Subject(encoder).ask("attention", TEXT, None)
    weights = np.frombuffer(base64.b64decode(reply["weights"]), dtype=np.uint8).reshape(2, 2, *[reply["shape"][2]] * 2)
    assert reply["shape"] == [2, 2, len(reply["tokens"])]
    assert abs(weights.sum(-1, dtype=np.int64) - 255).max() <= reply["shape"][2] / 2
    long = Subject(encoder).ask("attention", "ball " * 200, None)
    assert len(long["tokens"]) == min(ATTENTION_TOKENS, LONGEST)
    assert long["note"] == f"the first {LONGEST} of {len(load_tokenizer(encoder).encode('ball ' * 200).ids)} tokens"


def test_labels_are_those_of_predict(tuned: Path) -> None:
    subject = Subject(tuned)
    assert subject.facts()["can"] == ["pieces", "classify", "attention"]
    (given,) = load_classifier(tuned, device="cpu").predict(["the ball"], [None])
    reply = subject.ask("classify", "the ball", None)
    assert sorted(share for _, share in reply["rows"][0]) == sorted(given[0].tolist())
    assert reply["rows"][0][0][1] == max(given[0])
    assert (
        subject.ask("classify", "ball " * 300, None)["note"] == f"longer than the {LONGEST} tokens that the model reads"
    )


@pytest.mark.slow
def test_pairs_and_tags_are_answered(tmp_path: Path) -> None:
    base = tiny_encoder(tmp_path / "encoder")
    tune(tmp_path / "pairs", base, write_rows(tmp_path / "pairs.csv", pair_rows(60)), epochs=1.0)
    pairs = Subject(tmp_path / "pairs")
    assert pairs.facts()["pair"]
    assert pairs.ask("classify", "the ball", "the goal") != pairs.ask("classify", "the ball", "the court")
    tune(tmp_path / "tags", base, write_rows(tmp_path / "tags.jsonl", tagged_rows(60)), epochs=1.0)
    reply = Subject(tmp_path / "tags").ask("classify", "the ball is here", None)
    assert list(reply["words"]) == ["the", "ball", "is", "here"]
    assert len(reply["rows"]) == 4


def test_the_page_is_served_with_a_policy_that_forbids_all_else(port: int) -> None:
    for path, kind in (("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "text/javascript")):
        status, body, headers = send(port, "GET", path)
        assert (status, headers["Content-Type"].split(";")[0]) == (200, kind)
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "http" not in body  # no address of anywhere
    assert json.loads(send(port, "GET", "/facts")[1])["mask"] == "[MASK]"


def test_only_this_machine_is_listened_to() -> None:
    with listen(0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "elsewhere.example"},
        {"Host": "127.0.0.1.elsewhere.example:80"},
        {"Origin": "https://elsewhere.example"},
    ],
)
def test_pages_from_elsewhere_are_refused(headers: dict[str, str], port: int) -> None:
    body = json.dumps({"text": TEXT})
    assert send(port, "POST", "/ask/fill", body, **{"Content_Type": "application/json", **headers})[0] == 403
    assert send(port, "GET", "/facts", **headers)[0] == 403


@pytest.mark.parametrize(
    ("question", "body", "complaint"),
    [
        ("fill", '{"text": 3}', "text and pair are strings"),
        ("fill", '["text"]', "a question is"),
        ("fill", "{torn", "a question is"),
        ("fill", "\xff", "a question is"),
        ("fill", "[" * 50_000, "a question is"),
        ("fill", json.dumps({"text": "x" * MOST_BYTES}), "more than 100,000 bytes"),
    ],
)
def test_questions_without_an_answer_get_one_line(question: str, body: str, complaint: str, port: int) -> None:
    status, reply, _ = send(port, "POST", f"/ask/{question}", body.encode("latin-1"), Content_Type="application/json")
    assert status == 400
    assert complaint in json.loads(reply)["error"]
    assert send(port, "POST", f"/ask/{question}", body.encode("latin-1"))[0] == 400  # as a form of another page could


@pytest.mark.parametrize(
    ("question", "text", "complaint"),
    [
        ("fill", "no mask", "no [MASK] in 'no mask'"),
        ("fill", "  ", "type a text"),
        ("classify", "a", "this model cannot be asked for classify"),
    ],
)
def test_a_text_without_an_answer_is_no_fault_of_the_page(question: str, text: str, complaint: str, port: int) -> None:
    body = json.dumps({"text": text})
    status, reply, _ = send(port, "POST", f"/ask/{question}", body, Content_Type="application/json")
    assert status == 200  # a browser notes all else as an error
    assert complaint in json.loads(reply)["error"]


def test_half_a_character_is_answered(port: int) -> None:
    body = r'{"text": "a \ud83d [MASK]", "pair": "\udc00"}'
    status, reply, _ = send(port, "POST", "/ask/fill", body, Content_Type="application/json")
    assert status == 200
    assert json.loads(reply)["text"].startswith("a \ufffd")


def test_a_model_without_a_head_shows_pieces_and_attention(encoder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"  # as `finetune --embeddings` leaves it
    other_model("bare", encoder, run / "model")
    for folder in (run, run / "model", tiny_modern(tmp_path / "modern")):
        subject = Subject(folder)
        has_head = folder.name == "modern"
        assert subject.facts()["can"] == ["pieces", *(["fill"] if has_head else []), "attention"]
        assert subject.ask("attention", "the ball", None)["tokens"][0] == "[CLS]"


def test_mistakes_of_the_command_get_one_line(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with listen(0) as listener:
        taken = listener.getsockname()[1]
        for arguments, complaint in (
            ([str(tmp_path / "nothing")], "does not exist"),
            ([str(tmp_path)], "is neither a run nor a model"),
            ([str(encoder), "--port", str(taken)], f"port {taken} cannot be had"),
            ([str(encoder), "--port", "70000"], "--port is 70000"),
        ):
            assert command_line(["playground", *arguments]) == 2
            error = capsys.readouterr().err
            assert complaint in error
            assert error.count("\n") == 1


def test_a_question_that_is_not_answered_is_refused(encoder: Path) -> None:
    with pytest.raises(UserError, match="cannot be asked for __class__"):
        Subject(encoder).ask("__class__", "a", None)


def shows(page: Any, selector: str, text: str) -> None:
    """Wait until an element shows a text."""
    pytest.importorskip("playwright.sync_api").expect(page.locator(selector)).to_contain_text(text)


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_fills_as_one_types(encoder: Path, port: int, dark: bool) -> None:
    with open_page(f"http://127.0.0.1:{port}/", dark=dark) as (page, seen):
        page.wait_for_selector("body[data-asked]")
        assert page.locator("h1").inner_text() == "a <i>model"
        assert page.locator("#fill .guess").count() == TOP_K
        page.fill("#text", "the ball")
        shows(page, "#fill .error", "no [MASK]")
        page.locator("#text").press("End")
        page.click("#insert")
        page.locator("#text").press_sequentially(" <b>goal</b>")
        shows(page, "#pieces", "go##a##l")
        model, tokenizer = load_for_prediction(encoder)
        best = fill(model, tokenizer, "the ball[MASK] <b>goal</b>", top_k=1)
        shows(page, ".filled", best.text)
        assert page.locator("#fill .guess").count() == TOP_K
        assert page.locator("#pieces b").count() == 0
        page.locator("#heads button").nth(3).click()
        page.locator("#tokens button").nth(2).click()
        assert page.locator("#chosen").inner_text().startswith("Layer 2, head 2:")
        assert seen.errors == []
        assert seen.outside == []


@pytest.mark.slow
def test_a_browser_classifies_on_a_phone(tuned: Path) -> None:
    with served(Subject(tuned)) as number, open_page(f"http://localhost:{number}/", width=360) as (page, seen):
        page.wait_for_selector("body[data-asked]")
        labels = len(Subject(tuned).classifier.head.labels)  # type: ignore[union-attr]
        assert page.locator("#classify .guess").count() == labels
        assert page.locator("#fill").is_hidden()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert seen.errors == []
        assert [url for url in seen.outside if not url.startswith("http://localhost")] == []
