"""A run that was interrupted ends like one that was not, bit for bit."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bertsmith.checkpoint_folders import list_checkpoints
from bertsmith.errors import UserError
from bertsmith.interrupt import Interrupted
from bertsmith.machine.measure import seconds_per_micro_batch
from bertsmith.model import ModernBertPretrainingModel
from bertsmith.objective import sum_losses
from bertsmith.predict import fill, load_for_prediction
from bertsmith.reporter import Reporter
from bertsmith.run_folder import read_run
from bertsmith.step import CompilerFailed, StepResult, StepTooLarge, train_step

from runs import Listener, train, weights

SETTINGS: dict[str, Any] = {
    "steps": 12,
    "vocab_size": 500,
    "global_batch_size": 6,
    "hidden_dropout_prob": 0.1,
    "validation_every": 5,
}
"""What differs from the tiny runs of other tests: uneven micro-batches, dropout, several measurements."""


def run(folder: Path, text: Path, reporter: Reporter | None = None, **changes: Any) -> Path:
    return train(folder, text, reporter, **{**SETTINGS, **changes})


@pytest.fixture(scope="module")
def straight(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("straight") / "run"
    run(folder, text)
    return folder


def log(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    times = {"tokens_per_second", "input_wait", "matrix_share"}
    return [{k: v for k, v in line.items() if k not in times} for line in lines]


def same(one: Path, other: Path) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert log(one) == log(other)


@pytest.mark.parametrize("stops", [(1,), (7,), (3, 4, 11)])
def test_an_interrupted_run_ends_with_the_same_weights(
    text: Path, straight: Path, tmp_path: Path, stops: tuple[int, ...]
) -> None:
    folder = tmp_path / "run"
    for stop in stops:
        with pytest.raises(Interrupted) as caught:
            run(folder, text, Listener(stop))
        assert caught.value.exit_code == 143
    run(folder, text)
    same(folder, straight)
    assert [line["step"] for line in log(folder)] == list(range(1, 13))


def test_a_run_with_every_schedule_goes_on_exactly(text: Path, tmp_path: Path) -> None:
    """Stops in each stage: 4 of 8 rows, all rows, long rows."""
    settings: dict[str, Any] = {
        "global_batch_size": 8,
        "batch_ramp": 0.4,
        "short_length": 16,
        "short_share": 0.7,
        "schedule": "trapezoid",
        "mlm_probability": 0.3,
        "end_probability": 0.15,
        "mask_units": "span",
        "mask_covering": True,
        "objective": "mlm+sop",
        "clip_updates": True,
        "muon_scale": 2.0,
        "output_bias": "unigram",
        "embedding_init": "ppmi",
        "attention_init": "neighbours",
        "average_decay": 0.9,
    }
    run(tmp_path / "straight", text, **settings)
    for stop in (1, 3, 6, 10):
        with pytest.raises(Interrupted):
            run(tmp_path / "stopped", text, Listener(stop), **settings)
    run(tmp_path / "stopped", text, **settings)
    same(tmp_path / "straight", tmp_path / "stopped")


def test_averaged_weights_are_what_is_looked_at_and_exported(text: Path, tmp_path: Path) -> None:
    """Of a stopped run and of a finished one."""
    for stop in (5, None):
        with suppress(Interrupted):
            run(tmp_path / "run", text, Listener(stop), average_decay=0.9)
        newest = list_checkpoints(tmp_path / "run" / "checkpoints")[-1]
        averaged, own = (load_file(newest / f"{name}.safetensors") for name in ("average", "model"))
        model, _ = load_for_prediction(tmp_path / "run")
        assert all(torch.equal(averaged[name], parameter) for name, parameter in model.named_parameters())
        assert not torch.equal(averaged["mlm_head.bias"], own["mlm_head.bias"])
    assert (tmp_path / "run" / "model").is_dir()


def test_adamw_goes_on_exactly_too(text: Path, tmp_path: Path) -> None:
    run(tmp_path / "straight", text, optimizer="adamw")
    with pytest.raises(Interrupted):
        run(tmp_path / "stopped", text, Listener(stop_after=5), optimizer="adamw")
    run(tmp_path / "stopped", text, optimizer="adamw")
    same(tmp_path / "straight", tmp_path / "stopped")


def test_modernbert_goes_on_exactly_too_and_fills_masks_on_the_way(text: Path, tmp_path: Path) -> None:
    settings = {"preset": "modern-tiny", "attention_probs_dropout_prob": 0.1}
    run(tmp_path / "straight", text, **settings)
    with pytest.raises(Interrupted):
        run(tmp_path / "stopped", text, Listener(stop_after=5), **settings)
    model, tokenizer = load_for_prediction(tmp_path / "stopped")
    assert isinstance(model, ModernBertPretrainingModel)
    assert len(fill(model, tokenizer, "The [MASK] sees the dog.").masks[0]) == 5
    run(tmp_path / "stopped", text, **settings)
    same(tmp_path / "straight", tmp_path / "stopped")


def test_steps_after_the_last_checkpoint_are_done_again(text: Path, straight: Path, tmp_path: Path) -> None:
    """As after kill -9: the log is ahead of the checkpoint, and its last line is torn."""
    folder = tmp_path / "run"
    with pytest.raises(Interrupted):
        run(folder, text, Listener(4))
    with (folder / "metrics.jsonl").open("a") as handle:
        handle.write('{"step": 5, "loss": 1.0}\n{"step": 6, "lo')
    run(folder, text)
    same(folder, straight)


def test_a_damaged_checkpoint_is_named_and_the_run_ends_the_same(text: Path, straight: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for stop in (3, 8):
        with pytest.raises(Interrupted):
            run(folder, text, Listener(stop))
    newest = list_checkpoints(folder / "checkpoints")[-1]
    (newest / "optimizer.safetensors").write_bytes(b"torn")
    listener = Listener()
    run(folder, text, listener)
    assert any(newest.name in line and "damaged" in line for line in listener.lines)
    assert not any("no whole checkpoint is left" in line for line in listener.lines)
    same(folder, straight)


def test_a_run_without_a_whole_checkpoint_says_that_it_begins_again(text: Path, straight: Path, tmp_path: Path) -> None:
    folder, listener = tmp_path / "run", Listener()
    with pytest.raises(Interrupted):
        run(folder, text, Listener(3))
    (only,) = list_checkpoints(folder / "checkpoints")
    (only / "model.safetensors").write_bytes(b"torn")
    run(folder, text, listener)
    assert any("no whole checkpoint is left: the run begins again" in line for line in listener.lines)
    same(folder, straight)


def test_a_run_with_checkpoints_goes_on_when_the_text_is_gone(text: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.txt"
    copy.write_bytes(text.read_bytes())
    with pytest.raises(Interrupted):
        run(tmp_path / "run", copy, Listener(4))
    copy.unlink()
    run(tmp_path / "run", copy)
    assert [line["step"] for line in log(tmp_path / "run")] == list(range(1, 13))


def test_a_changed_text_is_said_and_the_run_keeps_its_shards(text: Path, straight: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.txt"
    copy.write_bytes(text.read_bytes())
    with pytest.raises(Interrupted):
        run(tmp_path / "run", copy, Listener(4))
    copy.write_text("Something else entirely. It is short.\n")
    listener = Listener()
    run(tmp_path / "run", copy, listener)
    assert any("--fresh" in line for line in listener.lines)
    same(tmp_path / "run", straight)


@pytest.mark.parametrize(
    ("name", "value"), [("learning_rate", 1e-4), ("steps", 13), ("seed", 1), ("micro_batch_size", 2)]
)
def test_a_setting_that_would_change_the_result_is_refused(text: Path, straight: Path, name: str, value: float) -> None:
    before = (straight / "config.toml").read_bytes()
    with pytest.raises(UserError, match=name):
        run(straight, text, **{name: value})
    assert (straight / "config.toml").read_bytes() == before


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"warmup_steps": 13}, "warmup_steps is 13 and the run has 12 steps"),
        ({"micro_batch_size": None, "gradient_accumulation_steps": 4}, "does not divide the 6 rows"),
        ({"hidden_size": 99_968, "num_attention_heads": 1}, "GB are free"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_the_first_step(
    text: Path, tmp_path: Path, settings: dict[str, Any], says: str
) -> None:
    with pytest.raises(UserError, match=says):
        run(tmp_path / "run", text, **settings)


def test_a_mistake_in_the_text_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        run(tmp_path / "run", tmp_path / "missing.txt")
    assert not (tmp_path / "run").exists()


def test_a_finished_run_is_left_as_it_is(text: Path, straight: Path) -> None:
    before = {path: path.read_bytes() for path in (straight / "model").iterdir()}
    run(straight, text)
    assert {path: path.read_bytes() for path in (straight / "model").iterdir()} == before


def test_micro_batches_change_rounding_only(text: Path, tmp_path: Path) -> None:
    run(tmp_path / "one", text, micro_batch_size=6)
    run(tmp_path / "other", text, micro_batch_size=1)
    first, second = weights(tmp_path / "one"), weights(tmp_path / "other")
    assert all(torch.allclose(first[name], second[name], atol=2e-3) for name in first)
    assert abs(log(tmp_path / "one")[0]["loss"] - log(tmp_path / "other")[0]["loss"]) < 1e-5


def test_a_full_gpu_halves_the_micro_batch_and_repeats_the_step(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def full_above_two(*arguments: Any, **options: Any) -> StepResult:
        tried.append([len(batch) for batch in arguments[2]])
        if len(arguments[2][0]) > 2:
            raise StepTooLarge
        return train_step(*arguments, **options)

    monkeypatch.setattr("bertsmith.loop.train_step", full_above_two)
    listener = Listener()
    run(tmp_path / "full", text, listener, steps=2, micro_batch_size=4, global_batch_size=8, hidden_dropout_prob=0.0)
    assert tried == [[4, 4], [2, 2, 2, 2], [2, 2, 2, 2]]
    assert "warning: the memory of the GPU is too small for 4 rows at once; going on with 2" in listener.lines
    assert read_run(tmp_path / "full").config.training.micro_batch_size == 2
    monkeypatch.undo()
    run(tmp_path / "full", text, steps=2, micro_batch_size=4, global_batch_size=8, hidden_dropout_prob=0.0)
    run(tmp_path / "small", text, steps=2, micro_batch_size=2, global_batch_size=8, hidden_dropout_prob=0.0)
    same(tmp_path / "full", tmp_path / "small")


def test_a_compiler_that_fails_later_costs_a_run_its_speed_and_not_its_life(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that are left over and stages of another shape are compiled when they come."""

    def fails_at_the_second(*arguments: Any, **options: Any) -> StepResult:
        if arguments[1] is not sum_losses and len(steps) == 1:
            raise CompilerFailed("g++: no space left on the device")
        steps.append(arguments[1] is sum_losses)
        return train_step(*arguments[:1], sum_losses, *arguments[2:], **options)

    steps: list[bool] = []
    pretend_compiler(monkeypatch, is_there=True)
    listener, settings = Listener(), {"steps": 3, "hidden_dropout_prob": 0.0}
    monkeypatch.setattr("bertsmith.planning.plan.compiled_losses", lambda: lambda *each: sum_losses(*each))
    monkeypatch.setattr("bertsmith.loop.train_step", fails_at_the_second)
    run(tmp_path / "late", text, listener, compile="yes", **settings)
    assert steps == [False, True, True]
    (warning,) = [line for line in listener.lines if "compiling failed" in line]
    assert "before step 2, so the steps are slower" in warning
    assert warning.endswith("g++: no space left on the device")
    monkeypatch.undo()
    run(tmp_path / "eager", text, **settings)
    same(tmp_path / "late", tmp_path / "eager")


def test_rows_that_no_longer_fit_are_halved_unless_they_were_given(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {
        "steps": 4,
        "micro_batch_size": None,
        "global_batch_size": 8,
        "hidden_dropout_prob": 0.0,
    }
    with pytest.raises(Interrupted):
        run(tmp_path / "own", text, Listener(stop_after=2), **settings)
    run(tmp_path / "small", text, **settings | {"micro_batch_size": 1})
    monkeypatch.setattr("bertsmith.planning.measuring.rows_that_fit", lambda *_, **__: 1)
    listener = Listener()
    run(tmp_path / "own", text, listener, **settings)
    halved = read_run(tmp_path / "own").config.training.micro_batch_size
    assert halved == 1
    same_losses = [(a["loss"], b["loss"]) for a, b in zip(log(tmp_path / "own"), log(tmp_path / "small"), strict=True)]
    assert all(first == pytest.approx(second, abs=1e-3) for first, second in same_losses)
    with pytest.raises(UserError, match=r"micro_batch_size is 4.*give --micro-batch-size 1"):
        run(tmp_path / "given", text, micro_batch_size=4)
    monkeypatch.undo()
    with pytest.raises(Interrupted):
        run(tmp_path / "begun", text, Listener(stop_after=2), steps=4, micro_batch_size=4)
    monkeypatch.setattr("bertsmith.planning.measuring.rows_that_fit", lambda *_, **__: 1)
    run(tmp_path / "begun", text, steps=4, micro_batch_size=4)  # it cannot be asked for anything else
    assert read_run(tmp_path / "begun").config.training.micro_batch_size == 1


def test_a_micro_batch_above_the_rows_of_a_step_is_all_of_them(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bertsmith.planning.measuring.rows_that_fit", lambda *_, **__: 6)
    run(tmp_path / "run", text, micro_batch_size=1024, steps=1)
    assert read_run(tmp_path / "run").config.training.micro_batch_size == 1024


def pretend_compiler(monkeypatch: pytest.MonkeyPatch, *, is_there: bool) -> None:
    for module in ("measuring", "plan"):
        monkeypatch.setattr(f"bertsmith.planning.{module}.has_compiler", lambda _device: is_there)


def test_a_run_that_compiles_goes_on_where_there_is_no_compiler(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compiler is pretended to be there first; the weights are those of the same sums, not compiled."""
    monkeypatch.setattr("bertsmith.planning.plan.compiled_losses", lambda: sum_losses)
    pretend_compiler(monkeypatch, is_there=True)
    with pytest.raises(Interrupted):
        run(tmp_path / "run", text, Listener(stop_after=5), compile="yes")
    pretend_compiler(monkeypatch, is_there=False)
    listener = Listener()
    run(tmp_path / "run", text, listener, compile="yes")
    assert any("no C++ compiler was found" in line for line in listener.lines)
    assert read_run(tmp_path / "run").config.training.compile == "yes"
    with pytest.raises(UserError, match="no C\\+\\+ compiler was found; install g\\+\\+ or give --compile no"):
        run(tmp_path / "new", text, compile="yes")


def test_a_compiler_that_fails_costs_speed_alone(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("fatal error: Python.h: No such file or directory\ncompilation terminated.")

    pretend_compiler(monkeypatch, is_there=True)
    monkeypatch.setattr("bertsmith.planning.plan.compiled_losses", lambda: fail)
    listener = Listener()
    run(tmp_path / "run", text, listener, compile="yes", steps=1)
    (warning,) = [line for line in listener.lines if "compiles" in line]
    assert warning.endswith("that failed here, so they are slower: fatal error: Python.h: No such file or directory")
    assert read_run(tmp_path / "run").config.training.compile == "no"

    with pytest.raises(Interrupted):
        run(tmp_path / "stopped", text, Listener(stop_after=1), compile="yes", steps=3)
    monkeypatch.undo()
    run(tmp_path / "stopped", text, compile="yes", steps=3)  # the same command, with a compiler that was put right
    run(tmp_path / "eager", text, steps=3)
    same(tmp_path / "stopped", tmp_path / "eager")


def test_a_given_micro_batch_that_a_gpu_has_no_room_for_is_halved_from_the_first_step_on(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is measured before the first step finds the GPU full, too."""

    def seconds(*arguments: Any, **options: Any) -> float:
        if len(arguments[2]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return seconds_per_micro_batch(*arguments, **options)

    def step(*arguments: Any, **options: Any) -> StepResult:
        if len(arguments[2][0]) > 2:
            raise StepTooLarge
        return train_step(*arguments, **options)

    monkeypatch.setattr("bertsmith.machine.measure.seconds_per_micro_batch", seconds)
    monkeypatch.setattr("bertsmith.planning.duration.seconds_per_micro_batch", seconds)
    monkeypatch.setattr("bertsmith.loop.train_step", step)
    listener = Listener()
    run(tmp_path / "run", text, listener, steps=2, global_batch_size=8, micro_batch_size=8, compile="auto")
    assert read_run(tmp_path / "run").config.training.micro_batch_size == 2
    assert [line["step"] for line in log(tmp_path / "run")] == [1, 2]


def test_loader_workers_change_nothing(text: Path, straight: Path, tmp_path: Path) -> None:
    run(tmp_path / "run", text, loader_workers=2)
    same(tmp_path / "run", straight)


def test_the_log_has_the_wait_for_rows_and_the_share_of_the_peak(straight: Path) -> None:
    lines = [json.loads(line) for line in (straight / "metrics.jsonl").read_text().splitlines()]
    assert all(0 < line["input_wait"] < 0.5 for line in lines)  # its rows are made within the step on a CPU
    assert all(0 < line["matrix_share"] < 1 for line in lines)


def test_the_saved_settings_say_where_they_came_from(straight: Path) -> None:
    import tomllib

    saved = tomllib.loads((straight / "config.toml").read_text())
    assert saved["origin"]["steps"] == "flag"
    assert saved["origin"]["objective"] == "measured"
    assert saved["origin"]["learning_rate"] == "preset"
    assert saved["training"]["warmup_steps"] == 3
