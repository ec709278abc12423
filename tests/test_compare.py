"""Models side by side on one task: the same rows for all, plain methods among them, and nothing done twice."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertsmith.atomic import write_bytes
from bertsmith.cli import run as command
from bertsmith.compare import compare
from bertsmith.comparison.baselines import baselines
from bertsmith.comparison.contenders import Comparison, Contender, verdict_of
from bertsmith.comparison.differences import Interval
from bertsmith.comparison.table import comparison_table, verdicts
from bertsmith.errors import UserError
from bertsmith.finetune import finetune_and_judge
from bertsmith.finetuning.any_classifier import inspect_folder
from bertsmith.finetuning.config import FinetuneConfig
from bertsmith.finetuning.tasks.dataset import TaskData, load_task
from bertsmith.finetuning.tasks.scores import score_all
from bertsmith.interrupt import Interrupted
from bertsmith.model_source import model_hash
from bertsmith.tokenizer import load_tokenizer
from labelled import (
    LONGEST,
    TINY,
    number_rows,
    pair_rows,
    set_rows,
    tagged_rows,
    tiny_encoder,
    tiny_modern,
    topic_rows,
    write_rows,
)

from runs import Listener

QUICK: dict[str, Any] = {**TINY, "epochs": 2.0, "test_fraction": 0.3}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("models")
    return [str(tiny_encoder(folder / "bert", dropout=0.1)), str(tiny_modern(folder / "modern"))]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_rows(tmp_path_factory.mktemp("rows") / "topics.csv", topic_rows(150)))


@pytest.fixture(scope="module")
def straight(models: list[str], rows: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Comparison]:
    folder = tmp_path_factory.mktemp("straight") / "out"
    return folder, compare(folder, models, rows, {**QUICK, "label": "topic"}, seeds=2)


def facts(found: Comparison) -> list[Any]:
    """All but times."""
    return [(each.name, each.scores, each.score, each.difference, each.verdict) for each in found.contenders]


def test_a_model_that_reads_less_is_compared_at_what_it_reads(models: list[str], rows: str, tmp_path: Path) -> None:
    found = compare(tmp_path / "out", models[:1], rows, {**QUICK, "label": "topic", "max_length": 2 * LONGEST}, seeds=1)
    assert found.contenders[0].max_length == LONGEST


def test_models_and_plain_methods_stand_in_one_table(straight: tuple[Path, Comparison], models: list[str]) -> None:
    folder, found = straight
    assert [each.name for each in found.contenders] == [
        *models, "most frequent label", "TF-IDF, logistic regression",
    ]  # fmt: skip
    assert found.metric == "accuracy"
    assert sum(found.rows.values()) == 150
    first, second, plain, words = found.contenders
    assert len(first.scores["accuracy"]) == len(second.scores["macro_f1"]) == 2
    assert len(plain.scores["accuracy"]) == 1
    assert first.difference is None
    assert second.score.estimate == pytest.approx(np.mean(second.scores["accuracy"]))
    assert second.difference is not None
    assert second.difference.estimate == pytest.approx(second.score.estimate - first.score.estimate)
    assert first.parameters is not None
    assert first.seconds > 0 < words.rows_per_second
    table = comparison_table(found)
    assert len(table.rows) == 4
    assert all(len(row) == len(table.header) for row in table.rows)
    assert any("plain method most frequent label" in line for line in verdicts(found))
    written = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
    assert [each["name"] for each in written["contenders"]] == [each.name for each in found.contenders]
    assert not list(folder.rglob("model.safetensors"))  # weights are not kept unless asked for


def test_a_run_of_a_comparison_is_a_run_of_finetune(
    straight: tuple[Path, Comparison], models: list[str], rows: str, tmp_path: Path
) -> None:
    given = {**QUICK, "label": "topic", "seed": 1, "split_seed": 0}
    outcome = finetune_and_judge(tmp_path / "run", Path(models[0]), rows, given)
    assert outcome.judged["test"].scores.values["accuracy"] == straight[1].contenders[0].scores["accuracy"][1]


def test_it_goes_on_where_it_was_stopped(
    straight: tuple[Path, Comparison], models: list[str], rows: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {**QUICK, "label": "topic"}
    with pytest.raises(Interrupted):
        compare(tmp_path / "out", models, rows, given, seeds=2, reporter=Listener(stop_after=15))
    done: list[str] = []

    def noted(run: Path, *arguments: Any) -> Any:
        done.append(f"{run.parent.name.partition('-')[0]} {run.name}")
        return finetune_and_judge(run, *arguments)

    monkeypatch.setattr("bertsmith.compare.finetune_and_judge", noted)
    found = compare(tmp_path / "out", models, rows, given, seeds=2)
    assert done == ["modern seed-0", "bert seed-1", "modern seed-1"]
    assert facts(found) == facts(straight[1])
    done.clear()
    again = compare(tmp_path / "out", models, rows, given, seeds=3)
    assert done == ["bert seed-2", "modern seed-2"]
    assert again.contenders[0].scores["accuracy"][:2] == found.contenders[0].scores["accuracy"]


@pytest.mark.parametrize(
    ("kind", "rows", "plain"),
    [
        ("multi-label", set_rows(120), "TF-IDF, logistic regression"),
        ("regression", number_rows(120), "TF-IDF, ridge regression"),
        ("tagging", tagged_rows(90), "most frequent tag of the word"),
        ("classification", pair_rows(150), "TF-IDF, logistic regression"),
    ],
)
def test_every_kind_of_task_is_compared(
    kind: str, rows: list[dict[str, Any]], plain: str, models: list[str], tmp_path: Path
) -> None:
    path = write_rows(tmp_path / "rows.jsonl", rows)
    found = compare(tmp_path / "out", models[:1], str(path), {**QUICK, "epochs": 1.0, "max_rows": 60}, seeds=1)
    assert found.task == kind
    assert found.contenders[-1].name == plain
    assert found.contenders[-1].score.estimate > found.contenders[-2].score.estimate
    assert "One seed says nothing about others" in verdicts(found)[-1]
    assert 50 <= found.rows["train"] <= 60


def task_of(folder: Path, rows: list[dict[str, Any]], **given: Any) -> TaskData:
    tokenizer = load_tokenizer(tiny_encoder(folder / "words"))
    path = write_rows(folder / "rows.jsonl", rows)
    return load_task(str(path), FinetuneConfig(**given), tokenizer, longest=LONGEST)


@pytest.mark.parametrize(
    ("rows", "metric", "least"),
    [
        (topic_rows(300), "accuracy", 0.95),
        (set_rows(400), "micro_f1", 0.9),
        (number_rows(400), "pearson", 0.9),
        (tagged_rows(200), "entity_f1", 0.3),
    ],
)
def test_counted_words_learn_what_words_tell(
    rows: list[dict[str, Any]], metric: str, least: float, tmp_path: Path
) -> None:
    for row in rows:
        if "topic" in row:
            row["label"] = row.pop("topic")
    task = task_of(tmp_path, rows)
    assert task.test is not None
    plain, words = baselines(task, metric)
    targets = task.test.by_row(task.test.targets)
    values = [score_all(task.kind, task.head.labels, each.probabilities[0], targets).values for each in (plain, words)]
    assert values[1][metric] > least
    assert values[1][metric] > values[0][metric]
    assert plain.seconds >= 0 < words.rows_per_second


def test_a_word_gets_the_tag_it_had_most_often(tmp_path: Path) -> None:
    sentences = [{"tokens": ["the", "dog", f"w{n}"], "tags": ["O", "B-x" if n % 3 else "O", "O"]} for n in range(40)]
    task = task_of(tmp_path, sentences)
    assert task.test is not None
    frequent, words = baselines(task, "accuracy")
    labels = task.head.labels
    assert [[labels[n] for n in each.argmax(1)] for each in words.probabilities[0]] == [["O", "B-x", "O"]] * len(
        task.test.examples
    )
    assert all(labels[n] == "O" for each in frequent.probabilities[0] for n in each.argmax(1))


@pytest.mark.parametrize(
    ("metric", "difference", "verdict"),
    [
        ("accuracy", Interval(0.1, 0.02, 0.18), "better"),
        ("accuracy", Interval(-0.1, -0.18, -0.02), "worse"),
        ("accuracy", Interval(0.1, -0.02, 0.22), "no difference shown"),
        ("rmse", Interval(0.1, 0.02, 0.18), "worse"),
        ("accuracy", Interval(0.0, 0.0, 0.0), "no difference shown"),
    ],
)
def test_a_verdict_needs_an_interval_without_0(metric: str, difference: Interval, verdict: str) -> None:
    assert verdict_of(metric, difference) == verdict


def test_tiny_numbers_are_told_apart() -> None:
    numbers = {"task": "regression", "metric": "rmse", "rows": dict.fromkeys(("train", "validation", "test"), 9)}
    apart = Interval(1.25e-6, 0.0, 2.5e-6)
    each = Contender("a", False, {}, Interval(2e-5, 1e-5, 3e-5), apart, "worse", 1.0, 1.0, None, None)
    (row,) = comparison_table(Comparison(**numbers, seeds=1, contenders=[each])).rows
    assert row[1:3] == ["2e-05 (1e-05 to 3e-05)", "+1.25e-06 (0.0000 to 2.5e-06)"]


def test_other_rows_or_settings_are_refused(straight: tuple[Path, Comparison], models: list[str], rows: str) -> None:
    folder, given = straight[0], {**QUICK, "label": "topic"}
    compare(folder, models, rows, {**given, "checkpoint_every": 1.0}, seeds=2)  # changes no result
    with pytest.raises(UserError, match=r"compares otherwise: epochs was 2.0 and is 3.0"):
        compare(folder, models, rows, {**given, "epochs": 3.0}, seeds=2)
    before = Path(rows).read_bytes()
    write_rows(Path(rows), topic_rows(151))
    with pytest.raises(UserError, match=r"topics.csv changed since .* was begun; choose another folder"):
        compare(folder, models, rows, given, seeds=2)
    Path(rows).write_bytes(before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": "topik"}, "has no column 'topik'; did you mean 'topic'"),
        ({"seeds": 0}, "seeds is 0; give 1 or more"),
        ({"test_fraction": 0.0}, "test_fraction is 0, but models are compared on test rows"),
        ({"models": ["nowhere"]}, "nowhere does not exist"),
        ({"models": "twice"}, "a model is named twice"),
        ({"metric": "f1"}, "metric is 'f1'"),
        ({"rows": [{"text": "dog", "topic": "a"}] * 30}, "has only the label 'a'"),
        ({"rows": [{"text": " ", "topic": "a"}] * 30}, "no row with text and label"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    changes: dict[str, Any], message: str, models: list[str], rows: str, tmp_path: Path
) -> None:
    path = str(write_rows(tmp_path / "rows.jsonl", changes.pop("rows"))) if "rows" in changes else rows
    named = changes.pop("models", models)
    named = [models[0], models[0] + "/"] if named == "twice" else named
    given = {**QUICK, "label": "topic", **changes}
    seeds = given.pop("seeds", 1)
    with pytest.raises(UserError, match=message) as caught:
        compare(tmp_path / "out", named, path, given, seeds=seeds)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_model_that_does_not_fit_is_refused_before_any_is_trained(
    models: list[str], rows: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [inspect_folder(Path(model)).parameters for model in models]
    monkeypatch.setattr("bertsmith.machine.device.free_memory", lambda: 12 * min(sizes))
    larger = models[sizes.index(max(sizes))]
    with pytest.raises(UserError, match=f"GB are free; leave {larger} out"):
        compare(tmp_path / "out", models, rows, {**QUICK, "label": "topic"}, seeds=1)
    assert not (tmp_path / "out").exists()


def test_another_vocabulary_is_another_model(tmp_path: Path) -> None:
    hashes = set()
    for words in ("dog\ncat\n", "cat\ndog\n"):
        (tmp_path / "vocab.txt").write_text(words, encoding="utf-8")
        hashes.add(model_hash(tmp_path))
    assert len(hashes) == 2


def test_a_label_that_training_lacks_is_refused(models: list[str], rows: str, tmp_path: Path) -> None:
    test = write_rows(tmp_path / "test.csv", [*topic_rows(5), {"text": "the dog", "topic": "animal"}])
    with pytest.raises(UserError, match=r"test.csv:7 has the label 'animal'"):
        compare(tmp_path / "out", models, rows, {**QUICK, "label": "topic", "test": str(test)}, seeds=1)


def test_the_command_prints_a_table_and_json(
    straight: tuple[Path, Comparison], models: list[str], rows: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in {**QUICK, "label": "topic"}.items()]
    arguments = ["compare", *models, "--task", rows, "-o", str(straight[0]), "--seeds", "2", *flags]
    assert command(arguments) == 0
    out = capsys.readouterr().out
    assert "against the first" in out
    assert "TF-IDF, logistic regression" in out
    pairs = tmp_path / "pairs"
    pairs.mkdir()
    (pairs / "p.jsonl").write_text(json.dumps({"sentence_good": "the dog", "sentence_bad": "dog the"}) + "\n")
    held_out = write_rows(tmp_path / "text.txt", topic_rows(20))
    assert command([*arguments, "--json", "--blimp", str(pairs), "--held-out", str(held_out)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert all(each["pseudo_likelihood"]["bits_per_byte"] > 0 for each in found["evaluations"])
    assert facts(straight[1])[0][1] == found["contenders"][0]["scores"]
    assert found["evaluations"][1]["minimal_pairs"]["pairs"] == 1


@pytest.mark.parametrize(
    "more",
    [
        {"--blimp nowhere": "nowhere"},
        {"--pairs 3": "there is no --blimp"},
        {"--held-out nowhere.txt": "nowhere.txt"},
    ],
)
def test_what_else_is_to_be_measured_is_looked_at_first(
    more: dict[str, str], models: list[str], rows: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ((flags, says),) = more.items()
    arguments = ["compare", models[0], "--task", rows, "--label", "topic", "-o", str(tmp_path / "out")]
    assert command([*arguments, *flags.split()]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_full_disk_before_the_answers_are_written_loses_no_run(
    models: list[str], rows: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answers_fail(path: Path, data: bytes) -> None:
        if path.name == "test.safetensors":
            raise OSError(28, "No space left on device", str(path))
        write_bytes(path, data)

    given = {**QUICK, "label": "topic"}
    with monkeypatch.context() as patch:
        patch.setattr("bertsmith.atomic.write_bytes", answers_fail)
        with pytest.raises(OSError, match="No space left"):
            compare(tmp_path / "out", models[:1], rows, given, seeds=1)
    (model,) = (tmp_path / "out").glob("*/seed-0/model")
    assert model.is_dir()
    compare(tmp_path / "out", models[:1], rows, given, seeds=1)
    assert not list((tmp_path / "out").rglob("model.safetensors"))
