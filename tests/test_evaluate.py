"""Measuring models side by side: a run's own numbers, one text for all, tables and JSON, mistakes in one line."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bertsmith.cli import run
from bertsmith.commands.console import print_table
from bertsmith.corpus import Section, open_corpus
from bertsmith.data.examples import Objective
from bertsmith.data.shards import read_manifest
from bertsmith.errors import UserError
from bertsmith.evaluate import Wanted, evaluate
from bertsmith.evaluation import token_scores
from bertsmith.evaluation.held_out import count_words, sample_sections, sample_sentences, text_rows
from bertsmith.evaluation.pll import PseudoLikelihoodScore
from bertsmith.evaluation.results import Evaluation
from bertsmith.evaluation.table import evaluation_table, keep_in_runs, notes
from bertsmith.interrupt import Interrupted
from bertsmith.report import write_report
from bertsmith.tokenizer import load_tokenizer

from prose import write_prose
from references import write_foreign
from runs import Listener, train


@pytest.fixture(scope="module")
def both(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with next sentences."""
    return train(tmp_path_factory.mktemp("runs") / "both", text, objective="mlm+nsp", mlm_probability=0.4).parent


@pytest.fixture(scope="module")
def mlm(both: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the same prepared text, without them."""
    return train(tmp_path_factory.mktemp("runs") / "mlm", both, objective="mlm").parent


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another text."""
    return write_prose(tmp_path_factory.mktemp("other") / "other.txt", documents=40, seed=9)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    for name in ("agreement", "order"):
        lines = [{"sentence_good": f"The {n} old dog sees.", "sentence_bad": f"The {n} dog old see."} for n in range(4)]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return folder


def test_a_run_is_measured_as_it_measures_itself(both: Path) -> None:
    """At 15 % though it trained at 40 %, and its levels are those of its text."""
    (found,) = evaluate([str(both)], Wanted(words=300), device="cpu", threads=1)
    last = json.loads((both / "evaluation.json").read_text(encoding="utf-8"))
    manifest = read_manifest(both / "data")
    assert found.masked is not None
    assert found.next_sentences is not None
    assert found.masked.loss == pytest.approx(last["mlm_loss"], abs=1e-5)
    assert found.masked.accuracy == pytest.approx(last["mlm_accuracy"])
    assert found.next_sentences.accuracy == pytest.approx(last["nsp_accuracy"])
    low, high = found.next_sentences.interval
    assert low < found.next_sentences.accuracy < high
    assert (found.masked.unigram_loss, found.masked.uniform_loss) == (
        manifest["unigram_loss"],
        manifest["uniform_loss"],
    )
    assert found.masked.unigram_counts == "training text"
    assert found.pseudo_likelihood is not None
    assert 200 < found.pseudo_likelihood.words <= 300


def test_the_held_out_text_of_a_run_on_prepared_text_is_found(both: Path, mlm: Path) -> None:
    first, second = evaluate([str(both), str(mlm)], Wanted(words=200), device="cpu", threads=1)
    assert first.pseudo_likelihood is not None
    assert second.pseudo_likelihood is not None
    assert first.pseudo_likelihood.bytes == second.pseudo_likelihood.bytes
    assert second.next_sentences is None


def test_a_run_tells_the_kind_of_pairs_that_it_learnt_on_any_text(
    both: Path, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = train(tmp_path / "order", both, objective="mlm+sop").parent
    seen: list[str] = []

    def spied(*arguments: Any, objective: Objective, **more: Any) -> Any:
        seen.append(objective)
        return text_rows(*arguments, objective=objective, **more)

    monkeypatch.setattr(token_scores, "text_rows", spied)
    wanted = Wanted(text=open_corpus([str(other)], document="blank-line"), words=0, sequence_length=24)
    found = evaluate([str(both), str(order), str(order / "model")], wanted, device="cpu", threads=1)
    assert seen == ["mlm", "mlm+nsp", "mlm", "mlm+sop", "mlm", "mlm+nsp"]
    assert all(each.next_sentences is not None for each in found)
    assert "their order; a folder, next sentences" in " ".join(notes(found))


def test_a_text_that_changed_is_not_measured_on(text: Path, tmp_path: Path) -> None:
    shutil.copy(text, tmp_path / "text.txt")
    folder = train(tmp_path / "run", tmp_path / "text.txt").parent
    (tmp_path / "text.txt").write_text("Something else.", encoding="utf-8")
    listener = Listener()
    (found,) = evaluate([str(folder)], Wanted(), device="cpu", threads=1, reporter=listener)
    assert found.masked is not None
    assert found.pseudo_likelihood is None
    (warning,) = [line for line in listener.lines if line.startswith("warning")]
    assert "text.txt has another size or time" in warning
    assert "--text" in warning


def test_models_with_one_tokenizer_are_measured_on_the_same_rows(
    both: Path, mlm: Path, other: Path, pairs: Path
) -> None:
    wanted = Wanted(
        text=open_corpus([str(other)], document="blank-line"), blimp=pairs, pairs=3, words=100, sequence_length=24
    )
    again = [evaluate([str(both), str(mlm / "model")], wanted, device="cpu", threads=1) for _ in range(2)]
    assert again[0] == again[1]
    first, second = again[0]
    assert first.masked is not None
    assert second.masked is not None
    for name in ("tokens", "sequence_length", "unigram_loss", "uniform_loss", "unigram_counts"):
        assert getattr(first.masked, name) == getattr(second.masked, name)
    assert first.masked.sequence_length == 24
    assert first.masked.unigram_counts == "the text itself"
    assert first.masked.unigram_loss < first.masked.uniform_loss
    assert first.masked.loss != second.masked.loss
    assert first.next_sentences is not None
    assert second.next_sentences is None
    assert first.minimal_pairs is not None
    assert [paradigm.pairs for paradigm in first.minimal_pairs.paradigms] == [3, 3]


def test_any_masked_language_model_stands_beside_a_run(both: Path, other: Path, tmp_path: Path) -> None:
    folder = write_foreign(tmp_path / "roberta", "roberta", load_tokenizer(both / "tokenizer"))
    wanted = Wanted(text=open_corpus([str(other)]), words=100)
    found = evaluate([str(both), str(folder)], wanted, device="cpu", threads=1)
    sizes = [each.pseudo_likelihood.bytes for each in found if each.pseudo_likelihood]
    assert len(sizes) == 2
    assert len(set(sizes)) == 1
    assert [each.masked.sequence_length for each in found if each.masked] == [32, 48]


def test_the_table_has_a_column_for_each_model_and_says_how_to_read_it(both: Path, mlm: Path, pairs: Path) -> None:
    found = evaluate([str(both), str(mlm)], Wanted(blimp=pairs, words=50), device="cpu", threads=1)
    table = evaluation_table(found)
    assert table.header == ["", str(both), str(mlm)]
    cells = {row[0]: row[1:] for row in table.rows}
    assert cells["sentence pairs: right"][1] == "-"
    assert list(cells)[-2:] == ["  agreement", "  order"]
    assert cells["masked tokens: loss, nats"][0] == f"{found[0].masked.loss:.3f}"
    text = "\n".join(notes(found))
    for said in ("a score and not a likelihood", "training text", "own held-out text", "one half", "of 4 pairs"):
        assert said in text


def test_runs_on_texts_of_their_own_have_samples_of_their_own() -> None:
    scores = [PseudoLikelihoodScore(1.0, (0.9, 1.1), sentences, 1000, 6000, 1400, 0.0) for sentences in (80, 1200)]
    found = [Evaluation(str(n), 1, 1, 1, None, None, None, None, score, None) for n, score in enumerate(scores)]
    assert "of 80 to 1,200 sentences chosen by hash, 1,000 words" in "\n".join(notes(found))


def test_a_table_leaves_out_what_no_model_has(mlm: Path, pairs: Path) -> None:
    table = evaluation_table(evaluate([str(mlm / "model")], Wanted(blimp=pairs), device="cpu", threads=1))
    assert [row[0] for row in table.rows] == [
        "parameters, millions",
        "vocabulary",
        "minimal pairs: right",
        "  agreement",
        "  order",
    ]


def test_the_page_of_a_run_shows_what_was_measured_of_it(
    both: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(both, folder)
    assert run(["evaluate", str(folder), "--blimp", str(pairs), "--words", "200"]) == 0
    table = capsys.readouterr().out
    page = (folder / "report.html").read_text(encoding="utf-8")
    for label, text in json.loads((folder / "measured.json").read_text())["values"].items():
        assert label in page
        assert text in page
        assert text in table
    assert "minimal pairs: right" in page
    assert "Measured by bertsmith evaluate" not in (both / "report.html").read_text(encoding="utf-8")
    (folder / "measured.json").write_text('{"values": [1]}')
    write_report([folder], folder / "report.html")


def test_a_run_that_trains_on_is_shown_with_the_step_that_was_measured(text: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(Interrupted):
        train(folder, text, Listener(stop_after=1))
    (found,) = evaluate([str(folder)], Wanted(words=0), device="cpu", threads=1)
    with pytest.raises(Interrupted):
        train(folder, text, Listener(stop_after=2))
    assert found.step == 1
    assert keep_in_runs([found]) == []
    assert "Of the weights after step 1." in json.loads((folder / "measured.json").read_text())["notes"]


def test_json_is_alone_on_the_output(both: Path, pairs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["evaluate", str(both), "--blimp", str(pairs), "--words", "50", "--threads", "1", "--device", "cpu"]
    assert run([*arguments, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["models"][0]["minimal_pairs"]["paradigms"][0]["name"] == "agreement"
    assert printed["notes"]
    assert run(arguments) == 0
    assert "minimal pairs: right" in capsys.readouterr().out


def test_a_terminal_gets_a_table_and_names_are_no_markup(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "60")
    print_table(["", "[red]runs[/red]/mine"], [["loss, nats", "3.305"], ["  right", "-"]])
    shown = capsys.readouterr().out
    assert "[red]runs[/red]/mine" in shown
    assert "\N{BOX DRAWINGS LIGHT HORIZONTAL}" in shown


def test_mistakes_are_one_line(both: Path, other: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, binary = both / "model", tmp_path / "noise.txt"
    binary.write_bytes(bytes(range(256)) * 9)
    (tmp_path / "empty").mkdir()
    for arguments, said in (
        ([model], "give --text or --blimp"),
        ([model, "--text", tmp_path / "nowhere.txt"], "nowhere.txt"),
        ([model, "--text", binary], "noise.txt"),
        ([model, "--blimp", tmp_path / "empty"], "holds no .jsonl file"),
        ([model, "--text", other, "--words", "-1"], "words is -1"),
        ([model, "--text", other, "--sequence-length", "15"], "sequence_length is 15; give 16 or more"),
        ([model, "--blimp", tmp_path / "empty", "--pairs", "0"], "pairs is 0"),
        ([model, "--text", other, "--pairs", "3"], "there is no --blimp to take them from"),
        ([both, "--sequence-length", "16"], "sequence_length is 16, and there is no --text"),
        ([both, "--document", "line"], "document is line, and there is no --text"),
        ([tmp_path / "nowhere"], "nowhere does not exist"),
        ([], "MODEL"),
    ):
        assert run(["evaluate", *map(str, arguments)]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        assert said in lines[0]


def test_a_gpu_without_room_is_one_line(both: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("bertsmith.evaluate.score_own_rows", fail)
    with pytest.raises(UserError, match=r"the memory of the GPU is too small to measure .*; give --device cpu"):
        evaluate([str(both)], Wanted(words=0), device="cpu", threads=1)


def test_a_text_of_one_sentence_is_enough(both: Path, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("The dog sees the cat.", encoding="utf-8")
    wanted = Wanted(text=open_corpus([str(tmp_path / "short.txt")]))
    (found,) = evaluate([str(both)], wanted, device="cpu", threads=1)
    assert found.masked is not None
    assert found.masked.tokens >= 1
    assert found.pseudo_likelihood is not None
    assert found.pseudo_likelihood.sentences == 1
    shares = np.unique(
        load_tokenizer(both / "tokenizer").encode_sentences(["The dog sees the cat."])[0], return_counts=True
    )[1]
    shares = shares / shares.sum()
    assert found.masked.unigram_loss == pytest.approx(-(shares * np.log(shares)).sum())


def sections(count: int) -> list[Section]:
    return [Section(f"Sentence {n} is here. It has a second part.", n, n.to_bytes(16, "big")) for n in range(count)]


def test_a_sample_is_the_same_whatever_stands_around_it() -> None:
    many = sections(200)
    sample, mirrored = sample_sections(many, 90), sample_sections(many[::-1], 90)
    assert sample == mirrored
    assert 90 <= sample.words < 90 + 9
    assert sample.words == sum(count_words(section.text) for section in sample.sections)
    assert sample.all_words == 200 * 9
    old = [section for section in sample.sections if section.document < 100]
    assert old
    assert sample_sections(many[:100], 90).sections[: len(old)] == old  # text that is added moves none


def test_sentences_are_chosen_by_hash_within_the_words() -> None:
    chosen = sample_sentences(sections(50), 40)
    assert chosen == sample_sentences(sections(50)[::-1], 40)
    assert len(set(chosen)) == len(chosen)
    assert 35 <= sum(map(count_words, chosen)) <= 40
    assert len(sample_sentences(sections(50), 1)) == 1


def test_text_without_spaces_counts_by_characters() -> None:
    assert count_words("一二三四五六七八" * 10) == 10
    assert count_words("Three short words.") == 3


def test_a_run_that_never_reached_a_checkpoint_is_refused(both: Path, tmp_path: Path) -> None:
    shutil.copytree(both, tmp_path / "new", ignore=shutil.ignore_patterns("model", "step-*"))
    with pytest.raises(UserError, match="has no checkpoint yet"):
        evaluate([str(tmp_path / "new")], Wanted(), device="cpu", threads=1)
