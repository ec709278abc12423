"""Describing a run at any moment of its life, and naming what is damaged in it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from bertsmith.checkpoint_folders import checkpoint_name, read_state
from bertsmith.config import DataConfig
from bertsmith.errors import UserError
from bertsmith.info import describe_run, run_facts
from bertsmith.interrupt import Interrupted
from bertsmith.metrics import read_metrics
from bertsmith.output_folder import locked
from bertsmith.prepare import prepare

from runs import TINY, Listener, train


@pytest.fixture(scope="module")
def finished(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "finished"
    train(folder, text)
    return folder


@pytest.fixture(scope="module")
def stopped_once(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "stopped"
    for step in (1, 2):
        with pytest.raises(Interrupted):
            train(folder, text, Listener(stop_after=step), validation_every=1)
    return folder


@pytest.fixture
def stopped(stopped_once: Path, tmp_path: Path) -> Path:
    """A run of 3 steps with checkpoints of steps 1 and 2, to be damaged at will."""
    return shutil.copytree(stopped_once, tmp_path / "stopped")


def flip_last_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_a_finished_run(finished: Path) -> None:
    facts = run_facts(finished, verify=True)
    assert facts["state"] == "finished"
    assert facts["model"] == str(finished / "model")
    assert facts["damaged"] == []
    assert facts["checkpoints"]["newest"] == checkpoint_name(3)
    lines = describe_run(run_facts(finished, verify=True))
    assert lines[0] == f"{finished}: finished, step 3 of 3 (100%)"
    assert "verified: all shards and checkpoints match their hashes" in lines


def test_a_stopped_run(stopped: Path) -> None:
    facts = run_facts(stopped)
    state = read_state(stopped / "checkpoints" / checkpoint_name(2))
    assert facts["state"] == "stopped"
    assert (facts["progress"]["step"], facts["progress"]["steps"]) == (2, 3)
    assert facts["progress"]["tokens"] == state["tokens"]
    assert facts["checkpoints"] == {"all": [checkpoint_name(1), checkpoint_name(2)], "newest": checkpoint_name(2)}
    assert facts["model"] is None
    assert describe_run(run_facts(stopped))[0] == f"{stopped}: stopped, step 2 of 3 (67%)"


def test_a_running_run(stopped: Path) -> None:
    with locked(stopped):
        assert run_facts(stopped)["state"] == "running"
    assert run_facts(stopped)["state"] == "stopped"


def test_a_new_run_without_data(finished: Path, tmp_path: Path) -> None:
    shutil.copy(finished / "config.toml", tmp_path)
    assert run_facts(tmp_path)["state"] == "stopped"
    with locked(tmp_path):
        assert run_facts(tmp_path)["state"] == "preparing"
        assert "data: not prepared yet" in describe_run(run_facts(tmp_path))
        assert "checkpoints: none yet" in describe_run(run_facts(tmp_path))


def test_a_folder_of_prepared_text(finished: Path, text: Path, tmp_path: Path) -> None:
    names = ("document", "validation_fraction", "vocab_size", "workers")
    data = DataConfig(text=(str(text),), **{name: TINY[name] for name in names})
    prepare(data, tmp_path, report=lambda _line: None, sequence_length=32)
    facts = run_facts(tmp_path, verify=True)
    assert facts["state"] == "prepared"
    assert facts["progress"] is facts["settings"] is facts["checkpoints"] is None
    assert facts["data"] == run_facts(finished)["data"]
    (tmp_path / "data" / "manifest.json").rename(tmp_path / "data" / "state.json")
    assert describe_run(run_facts(tmp_path)) == [f"{tmp_path}: preparing", "data: not prepared yet"]


def test_losses_are_means_over_the_last_steps(stopped: Path) -> None:
    log, progress = read_metrics(stopped), run_facts(stopped)["progress"]
    assert len(log) == 2
    for name in ("mlm_loss", "nsp_loss", "mlm_accuracy", "nsp_accuracy"):
        assert progress[name] == pytest.approx(sum(line[name] for line in log) / 2)
        assert progress[f"validation_{name}"] == log[-1][f"validation_{name}"]
    seconds = sum(line["tokens"] / line["tokens_per_second"] for line in log)
    assert progress["tokens_per_second"] == pytest.approx(sum(line["tokens"] for line in log) / seconds)


def test_a_loss_that_was_not_finite_is_left_out_and_counted(stopped: Path) -> None:
    log = read_metrics(stopped)
    log[0] |= {"mlm_loss": None, "nsp_loss": None, "skipped": True}
    (stopped / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log), encoding="utf-8")
    assert run_facts(stopped)["progress"]["mlm_loss"] == log[1]["mlm_loss"]
    assert "skipped: 1 steps that were not finite" in describe_run(run_facts(stopped))


def test_settings_have_their_origin_and_plain_defaults_are_left_out(finished: Path) -> None:
    settings = run_facts(finished)["settings"]
    assert settings["steps"] == {"value": 3, "origin": "flag"}
    assert settings["learning_rate"]["origin"] == "preset"
    assert "weight_decay" not in settings
    assert "  hidden_size = 32  (flag)" in describe_run(run_facts(finished))


def test_facts_are_plain_json(stopped: Path) -> None:
    facts = run_facts(stopped)
    restored = json.loads(json.dumps(facts, allow_nan=False))
    assert restored["progress"] == facts["progress"]


def test_damage_is_named(stopped: Path) -> None:
    (stopped / "checkpoints" / checkpoint_name(2) / "state.json").unlink()
    facts = run_facts(stopped)
    assert facts["checkpoints"]["newest"] == checkpoint_name(1)
    assert facts["damaged"] == [
        f"checkpoint {checkpoint_name(2)} is damaged (state.json is missing) and is passed over"
    ]
    flip_last_byte(stopped / "checkpoints" / checkpoint_name(1) / "model.safetensors")
    assert run_facts(stopped)["checkpoints"]["newest"] is None


def test_verifying_reads_what_is_not_read_otherwise(stopped: Path) -> None:
    shard = stopped / "data" / "train-00000.safetensors"
    flip_last_byte(shard)
    flip_last_byte(stopped / "checkpoints" / checkpoint_name(1) / "optimizer.safetensors")
    assert run_facts(stopped)["damaged"] == []
    damaged = run_facts(stopped, verify=True)["damaged"]
    assert damaged == [
        f"{shard} is damaged or missing",
        f"checkpoint {checkpoint_name(1)} is damaged (optimizer.safetensors does not match its hash)",
    ]
    lines = describe_run(run_facts(stopped, verify=True))
    assert [line for line in lines if line.startswith("damaged: ")] == [f"damaged: {line}" for line in damaged]
    assert not any(line.startswith("verified") for line in lines)


@pytest.mark.parametrize("content", ["", "{}", '{"splits": {}}'])
def test_a_damaged_manifest_does_not_hide_the_rest(stopped: Path, content: str) -> None:
    (stopped / "data" / "manifest.json").write_text(content, encoding="utf-8")
    facts = run_facts(stopped)
    assert facts["data"] is None
    assert "manifest.json is damaged" in facts["damaged"][0]
    assert facts["checkpoints"]["newest"] == checkpoint_name(2)


def test_looking_changes_nothing(stopped: Path) -> None:
    def everything() -> dict[Path, Any]:
        return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in stopped.rglob("*")}

    before = everything()
    describe_run(run_facts(stopped, verify=True))
    assert everything() == before


def test_other_folders_are_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match="neither a run nor prepared text"):
            describe_run(run_facts(folder))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("finetune.json", "a fine-tuning run"),
        ("comparison.json", "a comparison"),
        ("config.json", "a model and no run"),
    ],
)
def test_folders_of_other_commands_are_called_what_they_are(name: str, kind: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match=f"is {kind}"):
        run_facts(tmp_path)


def test_a_folder_with_data_of_others_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.csv").touch()
    with pytest.raises(UserError, match="neither a run nor prepared text"):
        run_facts(tmp_path)
