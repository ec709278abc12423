"""Fine-tuning end to end: every kind of task is learnt, measured, and continued exactly after an interruption."""

import csv
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bertsmith.cli import run as command
from bertsmith.errors import UserError
from bertsmith.finetune import decide, describe_task, finetune
from bertsmith.finetuning.classify import load_classifier
from bertsmith.finetuning.config import FinetuneConfig
from bertsmith.finetuning.tasks.dataset import Part, TaskData
from bertsmith.finetuning.tasks.encoding import Input
from bertsmith.finetuning.tasks.examples import Example
from bertsmith.finetuning.tasks.rows import Columns
from bertsmith.finetuning.tries import Work
from bertsmith.finetuning.tuning import batches_from, run_try
from bertsmith.interrupt import Interrupted
from bertsmith.model.classifier import Head
from labelled import (
    LONGEST,
    number_rows,
    pair_rows,
    set_rows,
    tagged_rows,
    tiny_encoder,
    topic_rows,
    tune,
    write_rows,
)

from runs import Listener, weights


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def noisy_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One with dropout."""
    return tiny_encoder(tmp_path_factory.mktemp("noisy"), dropout=0.1)


@pytest.fixture(scope="module")
def topics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "topics.csv", topic_rows(200))


@pytest.fixture(scope="module")
def one_epoch(encoder: Path, topics: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch on the CSV file."""
    folder = tmp_path_factory.mktemp("one") / "run"
    tune(folder, encoder, topics, label="topic", epochs=1.0)
    return folder


EXACT: dict[str, Any] = {"label": "topic", "epochs": 1.5, "micro_batch_tokens": 64, "validation_every": 4}


@pytest.fixture(scope="module")
def straight(noisy_encoder: Path, topics: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with dropout and micro-batches that nobody interrupted."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    tune(folder, noisy_encoder, topics, **EXACT)
    return folder


def scores(folder: Path) -> dict[str, Any]:
    """metrics.json without times."""
    found: dict[str, Any] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    for attempt in found["tries"]:
        del attempt["seconds"]
    return found


def same_weights(one: Path, other: Path) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_topics_are_learnt(encoder: Path, topics: Path, tmp_path: Path) -> None:
    found = tune(tmp_path / "run", encoder, topics, label="topic")
    assert sum(found["rows"].values()) == 200
    assert 17 <= found["rows"]["test"] <= 20
    assert found["test_accuracy"] > 0.9 > found["test_majority_accuracy"]
    assert found["test_macro_f1"] > 0.9
    assert found["test_matthews"] > 0.8
    assert 0 <= found["test_expected_calibration_error"] < 0.3
    confusion = found["details"]["test"]["confusion"]
    right = sum(confusion[n][n] for n in range(3))
    assert right / found["rows"]["test"] == pytest.approx(found["test_accuracy"])
    assert found["task"] == "classification"


@pytest.mark.parametrize("suffix", [".tsv", ".jsonl", ".parquet"])
def test_the_format_of_the_file_changes_nothing(suffix: str, encoder: Path, one_epoch: Path, tmp_path: Path) -> None:
    tune(
        tmp_path / "run", encoder, write_rows(tmp_path / f"topics{suffix}", topic_rows(200)), label="topic", epochs=1.0
    )
    same_weights(tmp_path / "run", one_epoch)


@pytest.mark.skipif(sys.platform == "darwin", reason="the file system refuses such names")
def test_a_file_may_have_a_name_that_is_no_utf8(encoder: Path, topics: Path, one_epoch: Path, tmp_path: Path) -> None:
    data = tmp_path / os.fsdecode(b"topics-\xff.csv")
    shutil.copyfile(topics, data)
    for _ in range(2):  # the second time it is found done
        tune(tmp_path / "run", encoder, data, label="topic", epochs=1.0)
    assert scores(tmp_path / "run") == scores(one_epoch)
    assert json.loads((tmp_path / "run/finetune.json").read_text(encoding="utf-8"))["data"] == str(data)
    with pytest.raises(UserError, match="is no valid UTF-8; choose another with -o"):
        tune(tmp_path / os.fsdecode(b"run-\xff"), encoder, topics, label="topic", epochs=1.0)


def test_a_new_pooler_is_trained_where_there_is_none(topics: Path, tmp_path: Path) -> None:
    encoder = tiny_encoder(tmp_path / "encoder", pooler=False)
    found = tune(tmp_path / "run", encoder, topics, label="topic", epochs=10.0)
    assert found["test_accuracy"] > 0.9
    assert "a pooler that is new" in found["sentence_vector"]
    assert "a pooler that is new" in (tmp_path / "run" / "model" / "README.md").read_text(encoding="utf-8")


def test_several_labels_at_once_are_learnt(encoder: Path, tmp_path: Path) -> None:
    found = tune(tmp_path / "run", encoder, write_rows(tmp_path / "sets.jsonl", set_rows(300)), epochs=14.0)
    assert found["task"] == "multi-label"
    assert found["test_micro_f1"] > 0.8
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"


def test_labels_in_one_cell_are_divided(encoder: Path, tmp_path: Path) -> None:
    rows = [{"text": row["text"], "labels": ";".join(row["labels"]) or ";"} for row in set_rows(120)]
    path = write_rows(tmp_path / "sets.csv", rows)
    found = tune(tmp_path / "run", encoder, path, label_separator=";", epochs=1.0, class_weights="balanced")
    assert found["details"]["test"]["labels"] == ["animals", "food", "ships"]


def test_numbers_are_learnt_in_their_own_scale(encoder: Path, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "numbers.jsonl", number_rows(300))
    found = tune(tmp_path / "run", encoder, path, epochs=10.0)
    assert found["task"] == "regression"
    assert found["test_pearson"] > 0.9
    assert found["test_rmse"] < 150  # the standard deviation of the scores is about 280
    assert "test_accuracy" not in found


@pytest.mark.parametrize(("size", "spread"), [(20_200_000, 5), (3e33, 1e30)])
def test_numbers_that_are_large_against_their_spread_are_judged_as_they_are(
    size: float, spread: float, encoder: Path, tmp_path: Path
) -> None:
    rows = [row | {"score": size + spread * row["score"]} for row in number_rows(150)]
    path = write_rows(tmp_path / "numbers.jsonl", rows)
    found = tune(tmp_path / "run", encoder, path, epochs=5.0, task="regression")
    model = load_classifier(tmp_path / "run")
    with (tmp_path / "run" / "mistakes.csv").open(newline="", encoding="utf-8") as handle:
        mistakes = list(csv.DictReader(handle))
    given = model.predict([row["text"] for row in mistakes], [None] * len(mistakes))
    truth = np.array([rows[int(row["row"]) - 1]["score"] for row in mistakes])
    assert [float(row["truth"]) for row in mistakes] == truth.tolist()
    assert [np.float32(row["prediction"]) for row in mistakes] == [np.float32(each[0, 0]) for each in given]
    errors = np.array([float(each[0, 0]) for each in given]) - truth
    assert found["test_rmse"] == pytest.approx(float(np.sqrt(np.mean(errors**2))), rel=1e-6)
    assert found["test_loss"] == pytest.approx(float(np.mean(errors**2)) / 2, rel=1e-6)


def test_tiny_numbers_have_errors_that_can_be_read(encoder: Path, tmp_path: Path) -> None:
    rows = [row | {"score": 1e-9 * row["score"]} for row in number_rows(60)]
    reporter = Listener()
    found = tune(tmp_path / "run", encoder, write_rows(tmp_path / "rows.jsonl", rows), reporter, epochs=1.0)
    error = f"{found['test_rmse']:.4g}"
    assert any(f"rmse {error}" in line for line in reporter.lines)
    assert f"| test rmse | {error} |" in (tmp_path / "run" / "model" / "README.md").read_text()
    with (tmp_path / "run" / "mistakes.csv").open(newline="", encoding="utf-8") as handle:
        assert all(float(row["loss"]) > 0 for row in csv.DictReader(handle))


def test_pairs_are_learnt(encoder: Path, tmp_path: Path) -> None:
    found = tune(tmp_path / "run", encoder, write_rows(tmp_path / "pairs.jsonl", pair_rows(400)), epochs=10.0)
    assert found["test_accuracy"] > 0.8 > found["test_majority_accuracy"]


def test_the_commands_take_columns_by_their_names(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"n": n, "a": r["text"], "b": r["text_pair"], "topic": r["label"]} for n, r in enumerate(pair_rows(60))]
    path, run, out = write_rows(tmp_path / "rows.tsv", rows), tmp_path / "run", tmp_path / "out.csv"
    columns = ["--text", "a", "--text-pair", "b"]
    flags = ["--label", "topic", "-o", str(run), "--epochs", "1", "--threads", "1", "--device", "cpu"]
    assert command(["finetune", str(encoder), str(path), *columns, *flags, "--precision", "float32"]) == 0
    assert "classification of text 'a' and 'b', label 'topic': 3 labels" in capsys.readouterr().out
    assert json.loads((run / "metrics.json").read_text())["test_accuracy"] >= 0
    new = write_rows(tmp_path / "new.jsonl", [{"b": row["b"], "a": row["a"]} for row in rows[:9]])
    assert command(["predict", str(run), str(new), "-o", str(out), "--threads", "1"]) == 0
    assert len(out.read_text(encoding="utf-8").splitlines()) == 10


@pytest.mark.parametrize("suffix", [".jsonl", ".conll"])
def test_tags_are_learnt(suffix: str, encoder: Path, tmp_path: Path) -> None:
    found = tune(tmp_path / "run", encoder, write_rows(tmp_path / f"tags{suffix}", tagged_rows(200)), epochs=8.0)
    assert found["task"] == "tagging"
    assert found["test_entity_f1"] > 0.8
    assert found["test_accuracy"] > 0.9
    assert set(found["details"]["test"]["by_entity"]) == {"animals", "ships", "food"}


@pytest.mark.parametrize("stops", [(1,), (3, 9), (10,)])
def test_an_interrupted_run_ends_with_the_same_weights(
    stops: tuple[int, ...], noisy_encoder: Path, topics: Path, straight: Path, tmp_path: Path
) -> None:
    for stop in stops:
        with pytest.raises(Interrupted):
            tune(tmp_path / "stopped", noisy_encoder, topics, Listener(stop), **EXACT)
    tune(tmp_path / "stopped", noisy_encoder, topics, **EXACT)
    same_weights(straight, tmp_path / "stopped")
    assert scores(straight) == scores(tmp_path / "stopped")
    lines = [json.loads(line) for line in (tmp_path / "stopped/tries/1/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))


def test_a_signal_in_the_last_step_stops_the_command(
    noisy_encoder: Path, topics: Path, straight: Path, tmp_path: Path
) -> None:
    last = len((straight / "tries/1/metrics.jsonl").read_text().splitlines())
    with pytest.raises(Interrupted):
        tune(tmp_path / "stopped", noisy_encoder, topics, Listener(last), **EXACT)
    tune(tmp_path / "stopped", noisy_encoder, topics, **EXACT)
    same_weights(straight, tmp_path / "stopped")


def test_weights_of_steps_that_are_done_again_do_not_count(
    noisy_encoder: Path, topics: Path, straight: Path, tmp_path: Path
) -> None:
    """As after a kill between the best weights and the checkpoint that follows them."""
    with pytest.raises(Interrupted):
        tune(tmp_path / "killed", noisy_encoder, topics, Listener(5), **EXACT)
    best = tmp_path / "killed" / "tries" / "1" / "best"
    (kept,) = best.iterdir()
    shutil.copytree(kept, best / "step-00000099")
    tune(tmp_path / "killed", noisy_encoder, topics, **EXACT)
    same_weights(straight, tmp_path / "killed")
    assert scores(straight) == scores(tmp_path / "killed")


def test_the_precision_is_measured_once(
    encoder: Path, topics: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {"label": "topic", "epochs": 1.0, "precision": None}
    with pytest.raises(Interrupted):
        tune(tmp_path / "run", encoder, topics, Listener(2), **given)
    decided = json.loads((tmp_path / "run" / "finetune.json").read_text())["settings"]["precision"]
    assert decided in ("bfloat16", "float32")
    monkeypatch.setattr("bertsmith.finetune.measured_precision", lambda _: pytest.fail("measured again"))
    tune(tmp_path / "run", encoder, topics, **given)
    assert json.loads((tmp_path / "run" / "finetune.json").read_text())["settings"]["precision"] == decided


def test_dropout_is_on_while_training(noisy_encoder: Path, one_epoch: Path, topics: Path, tmp_path: Path) -> None:
    tune(tmp_path / "noisy", noisy_encoder, topics, label="topic", epochs=1.0)
    one, other = weights(tmp_path / "noisy"), weights(one_epoch)
    assert not torch.equal(one["classifier.weight"], other["classifier.weight"])


def test_all_tries_are_reported_and_the_best_is_kept(encoder: Path, topics: Path, tmp_path: Path) -> None:
    found = tune(tmp_path / "run", encoder, topics, label="topic", tries=4, epochs=1.0, learning_rate=2e-3)
    tries = found["tries"]
    assert [(each["learning_rate"], each["seed"]) for each in tries] == [(2e-3, 0), (1e-3, 0), (4e-3, 0), (2e-3, 1)]
    chosen = tries[found["chosen_try"] - 1]
    assert chosen["score"] == max(each["score"] for each in tries) == found["validation_accuracy"]


def test_tries_that_are_done_are_not_done_again(
    encoder: Path, topics: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {"label": "topic", "tries": 3, "epochs": 1.0}
    with pytest.raises(Interrupted):
        tune(tmp_path / "run", encoder, topics, Listener(stop_after=14), **given)
    done: list[int] = []

    def noted(*arguments: Any) -> None:
        done.append(arguments[1].number)
        run_try(*arguments)

    monkeypatch.setattr("bertsmith.finetune.run_try", noted)
    tune(tmp_path / "run", encoder, topics, **given)
    assert done == [2, 3]


@pytest.mark.parametrize(
    ("rows", "steps", "interval"),
    [(20, 200, 10), (50, 200, 10), (400, 250, 13), (1500, 610, 47), (9000, 844, 282), (10**6, 93750, 9375)],
)
def test_few_rows_are_read_often_enough_to_learn_them(rows: int, steps: int, interval: int, encoder: Path) -> None:
    """With 20 epochs and a score after each, 60 rows end after 8 steps with nothing learnt.

    And a million to validate on are read ten times, not 188.
    """
    part = Part([Example(1, "dog", None, "a")], [Input(np.zeros(3), 3, 0, np.zeros(0))] * rows, [], 0)
    task = TaskData(Head("classification", ("a", "b")), Columns("text", None, "label"), part, part, None, [], "")
    config = decide(FinetuneConfig(), task, 256, torch.device("cpu"), 1)
    work = Work(config, encoder, task, torch.device("cpu"))
    assert (work.steps, work.validation_every) == (steps, interval)


def test_a_step_holds_no_more_rows_than_there_are(encoder: Path) -> None:
    inputs = [Input(np.zeros(3, dtype=np.int64), 3, n, np.zeros(0, dtype=np.int64)) for n in range(5)]
    part = Part([], inputs, [np.zeros(1, dtype=np.int64)] * 5, 0)
    task = TaskData(Head("classification", ("a", "b")), Columns("text", None, "label"), part, part, None, [], "")
    work = Work(FinetuneConfig(batch_size=100_000, epochs=2.0), encoder, task, torch.device("cpu"))
    assert [sum(batch.num_tokens for batch in step) for step in batches_from(work, 0, 0)] == [15, 15]


def test_names_of_labels_cannot_steer_a_terminal() -> None:
    part = Part([], [], [], 0)
    head = Head("classification", ("a\x1b[31m\nb", "c"))
    task = TaskData(head, Columns("text", None, "label"), part, part, None, [], "")
    lines = describe_task(task, FinetuneConfig(epochs=1.0, learning_rate=1e-3), "x")
    assert all(line.isprintable() for line in lines)
    assert "2 labels (a [31m b, c)" in lines[0]


def test_a_try_ends_early_when_nothing_improves(encoder: Path, topics: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {"epochs": 50.0, "patience": 2, "validation_every": 5, "learning_rate": 1e-9}
    found = tune(tmp_path / "run", encoder, topics, label="topic", metric="accuracy", **given)
    assert found["tries"][0]["steps"] < 100


def test_labels_that_too_few_rows_leave_out_are_named(encoder: Path, topics: Path, tmp_path: Path) -> None:
    lines = Listener()
    tune(tmp_path / "run", encoder, topics, lines, label="topic", epochs=0.1, max_rows=2)
    assert any("no training row has the label" in line and "raise --max-rows" in line for line in lines.lines)


def test_balanced_weights_change_the_weights(encoder: Path, tmp_path: Path) -> None:
    rows = [row for number, row in enumerate(topic_rows(300)) if row["topic"] != "food" or number % 10 == 0]
    path = write_rows(tmp_path / "rows.csv", rows)
    lines = Listener()
    tune(tmp_path / "plain", encoder, path, lines, label="topic", epochs=1.0)
    assert any("'food' is rare" in line for line in lines.lines)
    tune(tmp_path / "balanced", encoder, path, label="topic", epochs=1.0, class_weights="balanced", metric="macro_f1")
    one, other = weights(tmp_path / "plain"), weights(tmp_path / "balanced")
    assert not torch.equal(one["classifier.weight"], other["classifier.weight"])


def test_the_worst_mistakes_are_listed(encoder: Path, tmp_path: Path) -> None:
    rows = topic_rows(200)
    rows[7]["topic"] = "ships" if rows[7]["topic"] != "ships" else "food"
    test = write_rows(tmp_path / "test.jsonl", rows[:60])
    tune(tmp_path / "run", encoder, write_rows(tmp_path / "train.jsonl", rows[60:]), label="topic", test=str(test))
    with (tmp_path / "run" / "mistakes.csv").open(newline="", encoding="utf-8") as handle:
        mistakes = list(csv.DictReader(handle))
    (mine,) = (mistake for mistake in mistakes if mistake["row"] == "8")
    assert mine["text"] == rows[7]["text"]
    assert mine["truth"] == rows[7]["topic"]
    assert all(mistake["truth"] != mistake["prediction"] for mistake in mistakes)
    losses = [float(row["loss"]) for row in mistakes]
    assert losses == sorted(losses, reverse=True)


def test_validation_and_test_files_are_used(encoder: Path, topics: Path, tmp_path: Path) -> None:
    files = {name: str(write_rows(tmp_path / f"{name}.tsv", topic_rows(n, seed=n))) for name, n in
             (("validation", 31), ("test", 17))}  # fmt: skip
    found = tune(tmp_path / "run", encoder, topics, label="topic", epochs=1.0, **files)
    assert found["rows"] == {"train": 200, "validation": 31, "test": 17}


def test_test_rows_that_also_choose_the_weights_are_said(encoder: Path, topics: Path, tmp_path: Path) -> None:
    same = str(write_rows(tmp_path / "same.tsv", topic_rows(9, seed=5)))
    reporter = Listener()
    tune(tmp_path / "run", encoder, topics, reporter, label="topic", epochs=1.0, validation=same, test=same)
    assert "9 of 9 test rows have a text that the weights are also chosen on" in reporter.lines


def test_no_test_rows_when_none_are_wanted(encoder: Path, topics: Path, tmp_path: Path) -> None:
    found = tune(tmp_path / "run", encoder, topics, label="topic", epochs=1.0, test_fraction=0.0)
    assert "test_accuracy" not in found
    assert found["validation_accuracy"] > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 1e-3}, "learning_rate is 0.005 in the run and 0.001 now"),
        ({"label": "text"}, "label is topic in the run and text now"),
    ],
)
def test_a_run_goes_on_with_its_own_settings(
    change: dict[str, Any], message: str, encoder: Path, topics: Path, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"label": "topic", "epochs": 1.0}
    with pytest.raises(Interrupted):
        tune(tmp_path / "run", encoder, topics, Listener(stop_after=2), **given)
    with pytest.raises(UserError, match=message):
        tune(tmp_path / "run", encoder, topics, **{**given, **change})


def test_a_run_does_not_go_on_with_other_rows(encoder: Path, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.csv", topic_rows(100))
    with pytest.raises(Interrupted):
        tune(tmp_path / "run", encoder, path, Listener(stop_after=2), label="topic")
    write_rows(path, topic_rows(101))
    with pytest.raises(UserError, match="the rows changed since"):
        tune(tmp_path / "run", encoder, path, label="topic")


@pytest.mark.parametrize(
    ("rows", "given", "message"),
    [
        (topic_rows(30), {"label": "topik"}, "has no column 'topik'; did you mean 'topic'"),
        (topic_rows(30), {"label": "topic", "text": "txt"}, "has no column 'txt'; did you mean 'text'"),
        ([{"text": "dog", "x": "1"}] * 30, {}, "no column named 'label'; name it with --label: text, x"),
        ([{"text": "dog", "label": "a"}] * 30, {}, "has only the label 'a'"),
        ([{"text": " ", "label": "a"}] * 30, {}, "no row with text and label .*rows.jsonl:1: empty text"),
        ([{"text": f"dog {n}", "label": f"l{n}"} for n in range(99)], {}, "99 different labels in 99 rows"),
        ([{"text": "dog", "label": 1.5}] * 30, {}, "has the value 1.5 in every row"),
        ([{"text": "dog", "label": "x"}] * 30, {"task": "regression"}, "rows.jsonl:1: 'x' is no number"),
        (
            [{"text": f"dog {n}", "label": 1.7e9 + 50.5 * (-1) ** n} for n in range(30)],
            {},
            "'label' of .* around 1700000000 that differ by some 50.5, .* 128 apart there; subtract a constant",
        ),
        (
            [{"text": f"dog {n}", "label": 1e39 * n + 0.5} for n in range(30)],
            {},
            r"rows.jsonl:2: .* no numbers like 1e\+39, only up to 1e36; divide",
        ),
        ([{"text": "dog", "label": "x"}] * 30, {"task": "multi-label"}, "'x' is no list; .*--label-separator"),
        ([{"tokens": ["a", "b"], "tags": ["O"]}] * 30, {}, "rows.jsonl:1 has 2 words and 1 tags"),
        (topic_rows(30), {"label": "topic", "metric": "f1"}, "metric is 'f1'; .*accuracy"),
        (topic_rows(4), {"label": "topic"}, "has 4 rows, too few to hold out"),
        ([{"text": t, "label": t} for t in "ab"] * 30, {}, "has 60 rows of 2 texts, too few to hold out"),
        (number_rows(30), {"class_weights": "balanced"}, "a number has no classes"),
    ],
)
def test_a_mistake_is_one_line_with_the_fix(
    rows: list[dict[str, Any]], given: dict[str, Any], message: str, encoder: Path, tmp_path: Path
) -> None:
    path = write_rows(tmp_path / "rows.jsonl", rows)
    with pytest.raises(UserError, match=message) as caught:
        finetune(tmp_path / "run", encoder, str(path), {"threads": 1, **given})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_label_that_training_lacks_is_refused(encoder: Path, topics: Path, tmp_path: Path) -> None:
    test = write_rows(tmp_path / "test.csv", [*topic_rows(5), {"text": "the dog", "topic": "animal"}])
    with pytest.raises(UserError, match=r"test.csv:7 has the label 'animal', .* \(did you mean 'animals'\?\)"):
        tune(tmp_path / "run", encoder, topics, label="topic", test=str(test))


def test_a_line_without_its_tag_is_refused(encoder: Path, tmp_path: Path) -> None:
    path = tmp_path / "tags.conll"
    path.write_text("the O\ndog B-animals\n\nold\n")
    with pytest.raises(UserError, match=r"tags.conll:4 has 1 columns and the lines before 2"):
        tune(tmp_path / "run", encoder, path)


def test_rows_without_text_or_label_are_left_out_and_counted(encoder: Path, tmp_path: Path) -> None:
    rows = [*topic_rows(100), {"text": "", "topic": "food"}, {"text": "soup", "topic": None}]
    lines = Listener()
    found = tune(tmp_path / "run", encoder, write_rows(tmp_path / "r.jsonl", rows), lines, label="topic", epochs=1.0)
    assert sum(found["rows"].values()) == 100
    assert any("r.jsonl:101: empty text (1 row left out)" in line for line in lines.lines)
    assert any("r.jsonl:102: no label (1 row left out)" in line for line in lines.lines)


def test_a_folder_that_is_no_model_is_refused(topics: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is neither a run nor a model"):
        finetune(tmp_path / "run", tmp_path, str(topics), {})
    with pytest.raises(UserError, match="does not exist"):
        finetune(tmp_path / "run", tmp_path / "nothing", str(topics), {})


def test_a_pickle_is_refused(encoder: Path, topics: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pickle"
    folder.mkdir()
    (folder / "config.json").write_bytes((encoder / "config.json").read_bytes())
    (folder / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match="a pickle, which could run any code"):
        finetune(tmp_path / "run", folder, str(topics), {"label": "topic"})


def test_a_missing_library_is_named(
    encoder: Path, topics: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bertsmith.finetuning.tasks.scores.find_spec", lambda name: None if name == "sklearn" else name)
    with pytest.raises(UserError, match=r"scikit-learn; install it with: pip install bertsmith\[finetune\]"):
        tune(tmp_path / "run", encoder, topics, label="topic")


def test_more_than_the_model_reads_is_refused(encoder: Path, topics: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"max_length is 4096, but .* reads {LONGEST} tokens; give at most these"):
        tune(tmp_path / "run", encoder, topics, label="topic", max_length=4096)
