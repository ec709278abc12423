"""A run with a budget: sizes, steps, revisions, and going on."""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from math import ceil, inf
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bertsmith.budget import GOAL, Budget, Clock, Revisions, parse_budget
from bertsmith.cli import run
from bertsmith.config import run_config
from bertsmith.errors import UserError
from bertsmith.interrupt import Interrupted
from bertsmith.machine.measure import Speed
from bertsmith.machine.work import step_operations
from bertsmith.model import BertConfig
from bertsmith.objective import sum_losses
from bertsmith.planning.decisions import decide_family, decide_length, decide_shape
from bertsmith.planning.duration import (
    FEWEST_QUICK_ROWS,
    FORWARD_SHARE,
    LAST_ROWS,
    QUICK_ROWS,
    Tried,
    fit_into_budget,
    last_rows,
    quick_rows,
    seconds_left,
)
from bertsmith.planning.making import make_plan
from bertsmith.planning.pace import Pace
from bertsmith.planning.plan import Plan
from bertsmith.planning.sizing import (
    TOKENS_PER_PARAMETER,
    block_weights,
    choose_size,
    decide_by_budget,
    row_speed,
)
from bertsmith.planning.stages import make_stages, work_of_step
from bertsmith.presets import PRESETS
from bertsmith.pretrain import pretrain
from bertsmith.reporter import Reporter
from bertsmith.run_folder import Run, read_run

from runs import TINY, Listener, flags_of
from runs import train as train_run


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("20m", Budget(1200.0, None)),
        ("1.5h", Budget(5400.0, None)),
        ("90 s", Budget(90.0, None)),
        ("2D", Budget(172800.0, None)),
        ("1h30m", Budget(5400.0, None)),
        ("1h 30 min", Budget(5400.0, None)),
        ("1e17flop", Budget(None, 1e17)),
    ],
)
def test_budgets_are_read(text: str, budget: Budget) -> None:
    assert parse_budget(text) == budget


@pytest.mark.parametrize(
    "text", ["", "20", "0m", "-5m", "20 minutes", "m", "1e17", "nan h", "1e999x", "1h 1e9flop", "x 1h"]
)
def test_what_is_no_budget_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="give a time such as 20m"):
        parse_budget(text)


def test_the_size_is_the_largest_that_sees_enough_tokens() -> None:
    speed = {"bert-tiny": 1e-3, "bert-mini": 5e-3, "bert-small": 2e-2, "bert-medium": 4e-2}  # seconds a row
    asked = []

    def measure(preset: str) -> float:
        asked.append(preset)
        return speed[preset]

    enough = TOKENS_PER_PARAMETER * block_weights("bert-mini") / 128 * speed["bert-mini"]
    assert choose_size(tuple(speed), enough * 1.01, 128, measure).preset == "bert-mini"
    assert "bert-medium" not in asked
    assert choose_size(tuple(speed), enough * 0.99, 128, measure).preset == "bert-tiny"
    assert choose_size(tuple(speed), 1e9, 128, measure).preset == "bert-medium"
    assert choose_size(tuple(speed), 0.0, 128, measure).preset == "bert-tiny"


def test_revisions_are_kept_and_read_by_step(tmp_path: Path) -> None:
    revisions = Revisions(tmp_path, 300)
    assert [step for step in range(21) if revisions.is_due(step)] == [5, 10, 15, 20]
    revisions.record(5, 120, seconds=7.0, write=True)
    revisions.record(10, 90, seconds=21.0, write=True)
    again = Revisions(tmp_path, 1)
    assert again.seconds == 21.0
    assert again.until(50) == [(0, 300), (5, 120), (10, 90)]
    assert again.until(9) == [(0, 300), (5, 120)]
    assert again.recorded(7) is None


def train(folder: Path, text: Path, listener: Listener | None = None, **changes: Any) -> Path:
    return train_run(folder, text, listener, **{"steps": None, "budget": "1h", **changes})


OPEN_SHAPE = {"preset": None, "hidden_size": None, "num_attention_heads": None}
"""A size that a budget finds."""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that are left, which a test sets."""
    left = [0.0]
    monkeypatch.setattr(Clock, "left", lambda _self: left[0])
    return left


def test_a_budget_gives_size_schedule_and_steps(
    text: Path, tmp_path: Path, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock[0] = 1.0
    monkeypatch.setattr("bertsmith.planning.pace.Pace._estimate", lambda pace, _: pace._plan.steps)
    train(tmp_path / "run", text)
    training = read_run(tmp_path / "run").config.training
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert training.schedule == "trapezoid"
    assert training.steps == len(lines)
    falling = ceil(training.decay_share * training.steps)
    assert json.loads(lines[-1])["learning_rate"] == pytest.approx((training.learning_rate or 0) / falling)


def fit(plan: Plan, _seconds: float) -> None:
    """What `Plan.fit_into` does, with 60 steps."""
    plan.take_revisions([(0, 60)])
    plan.first_stages = plan.stages


@pytest.mark.parametrize("stopped_after", [8, 25])
@pytest.mark.parametrize("levers", [{}, {"batch_ramp": 0.3, "short_length": 16, "short_share": 0.3}])
def test_a_run_that_goes_on_repeats_its_revisions(
    text: Path,
    tmp_path: Path,
    clock: list[float],
    monkeypatch: pytest.MonkeyPatch,
    *,
    levers: dict[str, Any],
    stopped_after: int,
) -> None:
    """What the first command has decided stays, and is not asked for again; it also moves the turns of the stages."""
    asked: list[int] = []

    def estimate(_pace: object, step: int) -> int:
        asked.append(step)
        return max(step + 1, 60 + 7 * step % 20)

    monkeypatch.setattr("bertsmith.planning.plan.Plan.fit_into", fit)
    monkeypatch.setattr("bertsmith.planning.pace.Pace._estimate", estimate)
    clock[0] = 1.0
    settings = {"warmup_steps": 2, "validation_every": 50, "mlm_probability": 0.3, "end_probability": 0.15, **levers}
    train(tmp_path / "straight", text, **settings)
    history = json.loads((tmp_path / "straight" / "revisions.json").read_text())["steps"]
    assert history[:4] == [[0, 60], [1, 67], [2, 74], [3, 61]]
    assert asked[-1] > 30

    asked.clear()
    with pytest.raises(Interrupted):
        train(tmp_path / "stopped", text, Listener(stop_after=stopped_after), **settings)
    for checkpoint in (tmp_path / "stopped" / "checkpoints").iterdir():
        checkpoint.rename(tmp_path / "lost")  # as if killed before it was written
    train(tmp_path / "stopped", text, **settings)
    assert asked == sorted(set(asked))
    assert json.loads((tmp_path / "stopped" / "revisions.json").read_text())["steps"] == history
    one, other = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("straight", "stopped"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_budget_of_work_is_counted(text: Path, tmp_path: Path) -> None:
    train(tmp_path / "run", text, budget="3e8flop")
    assert (read_run(tmp_path / "run").config.training.steps or 0) > 1
    assert not (tmp_path / "run" / "revisions.json").exists()


def test_a_budget_of_work_finds_the_size_on_any_machine(text: Path, tmp_path: Path) -> None:
    folder = train(tmp_path / "run", text, **OPEN_SHAPE, budget="4e14flop", plan_only=True)
    config, length = read_run(folder).config, TINY["sequence_length"]
    shape = BertConfig(
        vocab_size=160, hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024
    )
    row = step_operations(shape, tokens=length, row_length=length, predictions=0.15 * length)
    assert config.model.preset == "bert-mini"
    assert config.training.steps == int(4e14 / row / TINY["global_batch_size"])


def test_a_budget_finds_the_size_of_the_family_that_is_asked_for(text: Path, tmp_path: Path) -> None:
    for _ in range(2):  # again, and nothing is left to decide
        train(tmp_path / "run", text, **OPEN_SHAPE, budget="2e8flop", family="modern")
    assert read_run(tmp_path / "run").config.model.preset == "modern-tiny"
    with pytest.raises(UserError, match="family is 'modern', but preset bert-tiny is of 'bert'"):
        train(tmp_path / "other", text, family="modern")


SPEED = {"bert-tiny": 1e-3, "bert-mini": 5e-3, "bert-small": 2e-2}
"""Seconds of a row."""


def decided(
    monkeypatch: pytest.MonkeyPatch,
    budget: Budget,
    device: str = "cpu",
    free: int = 0,
    model: dict[str, str] | None = None,
    **training: Any,
) -> Run:
    """A run whose size and steps a budget has decided; `free`: rows that cost no more time than one."""

    def speed(run: Run, *_: object) -> Speed:
        seconds = SPEED.get(run.config.model.preset, inf)
        rows = run.config.training.global_batch_size or 1
        return Speed("float32", seconds * max(free, rows) / rows)

    monkeypatch.setattr("bertsmith.planning.sizing.row_speed", speed)
    origin = {"preset": "flag" if model else "default"}
    run = Run(Path("unused"), run_config({"model": model or {}, "training": training}), origin)
    ids = dict.fromkeys(("pad_token_id", "cls_token_id", "sep_token_id", "mask_token_id"), 0)
    words: Any = SimpleNamespace(vocab_size=8192, **ids)
    decide_by_budget(run, Clock(budget), None, words, torch.device(device))  # type: ignore[arg-type]
    return run


@pytest.mark.parametrize(
    ("device", "free", "given", "expected"),
    [
        ("cuda", 1000, {}, 64),  # as many as were tried
        ("cuda", 40, {}, 32),  # of 64, 1.25 times as many are computed in the same time
        ("cuda", 20, {}, 16),
        ("cuda", 1000, {"global_batch_size": 8}, 8),
        ("cuda", 1000, {"sequence_length": 512}, 16),
        ("cpu", 1000, {}, 16),
    ],
)
def test_a_gpu_gets_the_rows_that_cost_it_nothing(
    device: str, free: int, given: dict[str, Any], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = decided(monkeypatch, Budget(60.0, None), device, free, **given)
    assert run.config.training.global_batch_size == expected
    is_more = expected > 16
    assert (run.origin.get("global_batch_size") == "measured") == is_more


@pytest.mark.parametrize(
    ("preset", "tokens", "given", "expected"),
    [
        ("modern-tiny", 1.9e6, {}, 16),
        ("modern-tiny", 2.1e6, {}, 32),
        ("modern-tiny", 2.1e6, {"global_batch_size": 16}, 16),
        ("bert-tiny", 2.1e6, {}, 16),  # was not tried
        ("modern-medium", 2.1e6, {}, 32),
    ],
)
def test_a_long_run_has_more_rows_a_step_and_fewer_steps(
    preset: str, tokens: float, given: dict[str, Any], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a budget or by epochs; the tokens are the same."""
    monkeypatch.setitem(SPEED, preset, 1e-3)
    seconds = tokens / 128 * 1e-3
    run = decided(monkeypatch, Budget(seconds / GOAL + 0.2, None), model={"preset": preset}, **given)
    training = run.config.training
    assert training.global_batch_size == expected
    assert (training.steps or 0) * expected * 128 == pytest.approx(tokens, rel=0.02)
    is_more = expected > PRESETS[preset].global_batch_size
    assert run.origin.get("global_batch_size") == (None if given else "default" if is_more else "preset")

    run = Run(Path("unused"), run_config({"model": {"preset": preset}, "training": {"epochs": 2.0, **given}}), {})
    decide_shape(run)
    rows: Any = SimpleNamespace(rows_per_epoch=tokens / 256, source=SimpleNamespace(num_tokens=tokens / 2))
    decide_length(run, rows)
    assert run.config.training.global_batch_size == expected
    assert (run.config.training.steps or 0) * expected * 128 == pytest.approx(tokens, rel=0.02)


def test_several_processes_see_the_tokens_of_a_larger_size(monkeypatch: pytest.MonkeyPatch) -> None:
    enough = TOKENS_PER_PARAMETER * block_weights("bert-mini") / 128 * SPEED["bert-mini"]
    budget = Budget(enough / 3 / GOAL, None)
    assert decided(monkeypatch, budget).config.model.preset == "bert-tiny"
    monkeypatch.setattr("bertsmith.distributed.world_size", lambda: 8)
    assert decided(monkeypatch, budget).config.model.preset == "bert-mini"


def test_a_budget_of_work_is_spent_also_when_the_first_steps_are_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    levers = {"batch_ramp": 0.5, "short_length": 32, "mlm_probability": 0.3, "end_probability": 0.15}
    training = decided(monkeypatch, Budget(None, 3e14), **levers).config.training
    config = BertConfig(
        vocab_size=8192, hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024
    )
    stages = make_stages(training, lambda _length: 1000)
    spent = sum(work_of_step(config, training, stage, step) for stage in stages for step in stage.steps)
    assert spent == pytest.approx(3e14, rel=0.01)


def test_without_a_budget_the_family_is_a_mini() -> None:
    run = Run(Path("unused"), run_config({"model": {"family": "modern"}}), {"family": "flag"})
    decide_family(run)
    assert run.config.model.preset == "modern-mini"


def test_a_plan_of_either_family_is_run(text: Path, tmp_path: Path) -> None:
    flags = flags_of({**TINY, "preset": "modern-tiny"})
    assert run(["plan", str(text), "-o", str(tmp_path / "a"), *flags]) == 0
    assert read_run(tmp_path / "a").config.model.family == "modern"
    for name, plan in (("b", tmp_path / "a" / "config.toml"), ("c", tmp_path / "a")):
        assert run(["pretrain", str(text), "-o", str(tmp_path / name), "--plan", str(plan)]) == 0
        assert read_run(tmp_path / name).config.model.preset == "modern-tiny"


def test_a_plan_of_before_a_setting_existed_is_run_as_it_was(text: Path, tmp_path: Path) -> None:
    flags = flags_of({**TINY, "preset": "modern-tiny"})
    assert run(["plan", str(text), "-o", str(tmp_path / "a"), *flags]) == 0
    lines = (tmp_path / "a" / "config.toml").read_text(encoding="utf-8").splitlines()
    old = [line for line in lines if not line.startswith(("embedding_init", "attention_init"))]
    assert len(lines) - len(old) == 4  # the settings, and where they came from
    (tmp_path / "old.toml").write_text("\n".join(old), encoding="utf-8")
    assert run(["pretrain", str(text), "-o", str(tmp_path / "b"), "--plan", str(tmp_path / "old.toml")]) == 0
    training = read_run(tmp_path / "b").config.training
    assert (training.embedding_init, training.attention_init) == ("normal", "normal")
    assert training.output_bias == "unigram"


def test_budget_and_steps_exclude_each_other(text: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="steps is 3 and budget is 1h; give one of them"):
        train(tmp_path / "run", text, steps=3)


def test_other_settings_forget_the_revisions_of_a_run_that_has_no_checkpoint(
    text: Path, tmp_path: Path, clock: list[float]
) -> None:
    clock[0] = 1.0
    with pytest.raises(Interrupted):
        train(tmp_path / "run", text, Listener(stop_after=1))
    for checkpoint in (tmp_path / "run" / "checkpoints").iterdir():
        checkpoint.rename(tmp_path / "lost")
    (tmp_path / "run" / "revisions.json").write_text('{"seconds": 9, "steps": [[0, 1000000]]}\n')
    train(tmp_path / "run", text, budget="2h")
    assert (read_run(tmp_path / "run").config.training.steps or 0) < 1_000_000


def test_what_is_left_is_counted_in_places(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps with a quarter of the rows say how long a whole one takes."""
    found: list[tuple[int, int]] = []
    now = [0.0]

    def estimate(pace: Pace, step: int) -> int:
        plan = pace._plan
        now[0] = 1e-3 * plan.places(range(1, step))  # a millisecond a place, from the end of the first step on
        steps = true_estimate(pace, step)
        found.append((step, steps))
        return steps

    true_estimate = Pace._estimate
    monkeypatch.setattr("bertsmith.planning.plan.Plan.fit_into", fit)
    monkeypatch.setattr("bertsmith.planning.pace.Pace._estimate", estimate)
    monkeypatch.setattr("bertsmith.planning.pace.time", SimpleNamespace(monotonic=lambda: now[0]))
    whole = 60 * 4 * 32 * 1e-3  # seconds of 60 steps of all rows
    monkeypatch.setattr(Clock, "left", lambda _self: whole - now[0])
    monkeypatch.setattr("bertsmith.planning.pace.seconds_of_last_rows", lambda *_: 0.0)
    train(tmp_path / "run", text, warmup_steps=2, validation_every=100, batch_ramp=0.3)
    expected = 60 / (1 - 0.3 * (0.75 + 0.5) / 2)  # the ramp, a share of the run, leaves out places
    assert len(found) > 5
    assert all(abs(steps - expected) <= 2 for step, steps in found if step > 1)  # the first may compile


def pretend_time(monkeypatch: pytest.MonkeyPatch, move: Callable[[float, int], float]) -> list[float]:
    """The time of a run of 60 steps, which is moved, from what it was and the step, at each look at the clock."""
    now, true_look = [0.0], Pace.look

    def look(pace: Pace, step: int) -> bool:
        now[0] = move(now[0], step)
        return true_look(pace, step)

    monkeypatch.setattr("bertsmith.planning.plan.Plan.fit_into", fit)
    monkeypatch.setattr("bertsmith.planning.pace.Pace.look", look)
    monkeypatch.setattr("bertsmith.planning.pace.time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr("bertsmith.planning.pace.seconds_of_last_rows", lambda *_: 0.0)
    return now


@pytest.mark.parametrize("schedule", ["trapezoid", "linear", "cosine"])
def test_a_machine_that_slows_down_ends_in_time(
    schedule: str, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half as fast after 24 of 60 seconds: what is left is planned at the speed of now, not at the mean."""
    now = pretend_time(monkeypatch, lambda _now, step: step + max(0.0, step - 24))
    monkeypatch.setattr(Clock, "left", lambda _self: 60 - now[0])
    train(tmp_path / "run", text, warmup_steps=2, validation_every=100, schedule=schedule)
    steps = read_run(tmp_path / "run").config.training.steps or 0
    assert 0.85 * 60 <= GOAL * (steps + max(0, steps - 24)) <= 1.05 * 60


@pytest.mark.parametrize("begin", [18, 24, 30, 36])
def test_a_machine_that_is_busy_for_a_while_does_not_end_a_run_early(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begin: int
) -> None:
    """Four times as slow for 9 of 60 seconds. One look at the clock that settles the run would take most of it away."""

    def move(now: float, step: int) -> float:
        return now + (0 if step == 0 else 4 if begin <= now < begin + 9 else 1)

    now = pretend_time(monkeypatch, move)
    monkeypatch.setattr(Clock, "used", lambda _self: now[0])
    train(tmp_path / "run", text, warmup_steps=2, validation_every=100, budget="60s")
    assert 0.85 * 60 <= now[0] + 1 <= 1.05 * 60


def test_a_run_that_became_shorter_than_its_warm_up_goes_on(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bertsmith.planning.plan.Plan.fit_into", fit)
    monkeypatch.setattr("bertsmith.planning.pace.Pace._estimate", lambda *_: 20)
    settings: dict[str, Any] = {"budget": "3h", "warmup_steps": 25, "schedule": "linear", "validation_every": 100}
    with pytest.raises(Interrupted):
        train(tmp_path / "run", text, Listener(stop_after=10), **settings)
    train(tmp_path / "run", text, **settings)
    train(tmp_path / "straight", text, **settings)
    assert read_run(tmp_path / "run").config.training.steps == 20
    stopped, straight = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("run", "straight"))
    assert all(torch.equal(stopped[name], straight[name]) for name in straight)


def test_the_time_of_a_killed_command_counts(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed before its first checkpoint, a run begins anew, with what is left of its budget."""
    used: list[float] = []

    def look(pace: Pace, step: int) -> bool:
        used.append(pace._plan.clock.used())
        if step == 30 and not (tmp_path / "killed").exists():
            (tmp_path / "killed").touch()
            raise KeyboardInterrupt
        return true_look(pace, step)

    true_look = Pace.look
    began = iter((1000.0, 5000.0))  # each command takes 1,000 s until it looks
    monkeypatch.setattr("bertsmith.planning.plan.Plan.fit_into", fit)
    monkeypatch.setattr("bertsmith.planning.pace.Pace.look", look)
    monkeypatch.setattr("bertsmith.planning.pace.Pace._estimate", lambda *_: 60)
    for _ in range(2):
        started = time.monotonic() - next(began)
        with suppress(KeyboardInterrupt):
            train(tmp_path / "run", text, started=started, budget="3h", warmup_steps=2, validation_every=100)
    assert used[0] == pytest.approx(1000, abs=60)
    assert used[-1] == pytest.approx(6000, abs=60)


@pytest.mark.parametrize("ranks", [1, 3])
def test_updates_and_measurements_have_their_part_of_the_time(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ranks: int
) -> None:
    """Ranks share the rows, learnt and measured; what an update takes of each is in `Tried`."""
    train_run(tmp_path / "run", text, validation_every=None, plan_only=True)
    plan = make_plan(
        read_run(tmp_path / "run"), torch.device("cpu"), Reporter(), started=0.0, seconds_before=0.0, is_begun=False
    )
    tried = Tried(sum_losses, seconds_per_row=2.0, seconds_per_update=3.0)
    monkeypatch.setattr("bertsmith.distributed.world_size", lambda: ranks)
    for steps, quick, last in ((5_003, 400, 1600), (10**6, QUICK_ROWS, LAST_ROWS), (100, FEWEST_QUICK_ROWS, 256)):
        plan.first_stages = plan.stages = plan.stages_with(steps)  # of 4 rows
        plan.run.decide("default", steps=steps, validation_every=steps // 10)
        plan.held_out = SimpleNamespace(rows_per_epoch=10**6)  # type: ignore[assignment]
        assert (quick_rows(plan), last_rows(plan)) == (quick, last)
        for done, looks in ((0, 10 + (steps % 10 > 0)), (steps // 2, 5 + (steps % 10 > 0))):
            rows = 4 * (steps - done) + FORWARD_SHARE * (looks * quick + last)
            assert seconds_left(plan, tried, first_step=done) == pytest.approx(2 * rows / ranks + 3 * (steps - done))
    plan.held_out = SimpleNamespace(rows_per_epoch=5)  # type: ignore[assignment]
    assert (quick_rows(plan), last_rows(plan)) == (5, 5)


def test_as_many_steps_as_fit(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(tmp_path / "run", text, validation_every=None, plan_only=True)
    plan = make_plan(
        read_run(tmp_path / "run"), torch.device("cpu"), Reporter(), started=0.0, seconds_before=0.0, is_begun=False
    )
    monkeypatch.setattr(Clock, "left", lambda _self: 3000.0)
    tried = Tried(sum_losses, seconds_per_row=0.5, seconds_per_update=1.0)
    fit_into_budget(plan, tried, Reporter())
    assert seconds_left(plan, tried, first_step=0) == pytest.approx(3000, rel=0.02)
    assert 100 < plan.steps < 1000
    monkeypatch.setattr(Clock, "left", lambda _self: 0.0)
    listener = Listener()
    fit_into_budget(plan, tried, listener)
    assert plan.steps == 1
    assert any("the budget is 1h, and getting ready took" in line for line in listener.lines)


def test_a_function_that_is_called_late_has_all_of_its_budget(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command's time begins with its process, that of a call, as in a notebook, with the call."""
    monkeypatch.setattr("bertsmith.budget.STARTED", time.monotonic() - 1e6)
    listener = Listener()
    train(tmp_path / "run", text, listener, plan_only=True)
    assert any("about 58 min on this machine" in line for line in listener.lines)


def test_a_budget_of_more_steps_than_can_be_is_one_line(text: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"budget is '1e29flop', which bert-tiny would spend in .* steps; give less"):
        train(tmp_path / "run", text, budget="1e29flop")


@pytest.mark.parametrize("budget", ["1e400h", "1e9d", "1e99flop"])
def test_a_budget_beyond_reason_is_one_line(budget: str) -> None:
    with pytest.raises(UserError, match="more than any machine has"):
        parse_budget(budget)


def test_a_plan_of_prepared_text_is_run(text: Path, tmp_path: Path) -> None:
    """The plan names the prepared folder, which has settings of its own."""
    reading = ["--document", "blank-line", "--no-lowercase", "--vocab-size", "160", "--validation-fraction", "0.15"]
    assert run(["prepare", str(text), "-o", str(tmp_path / "text"), *reading, "--sequence-length", "32"]) == 0
    flags = ["--preset", "bert-tiny", "--steps", "2", "--sequence-length", "32", "--threads", "1"]
    assert run(["plan", str(tmp_path / "text"), "-o", str(tmp_path / "a"), *flags]) == 0
    assert run(["pretrain", "-o", str(tmp_path / "b"), "--plan", str(tmp_path / "a" / "config.toml")]) == 0


def test_what_is_finished_is_not_planned(text: Path, tmp_path: Path) -> None:
    train_run(tmp_path / "run", text)
    with pytest.raises(UserError, match="there is nothing to plan"):
        pretrain(tmp_path / "run", {}, {}, plan_only=True)


@pytest.mark.parametrize(
    ("given", "most"),
    [({}, 16), ({"global_batch_size": 8}, 8), ({"micro_batch_size": 4}, 4), ({"precision": "float32"}, 16)],
)
def test_a_row_is_timed_with_no_more_rows_than_are_computed_at_once(
    given: dict[str, Any], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def compare(_model: object, _rows: object, most: int) -> tuple[Speed, int]:
        asked.append(most)
        return Speed("float32", 1.0), most

    def halving(most: int, _attempt: object) -> tuple[float, int]:
        asked.append(most)
        return 1.0, most

    monkeypatch.setattr("bertsmith.planning.sizing.compare_precisions", compare)
    monkeypatch.setattr("bertsmith.planning.sizing.halving", halving)
    monkeypatch.setattr("bertsmith.planning.sizing.rows_that_fit", lambda *_, **_options: 1 << 30)
    run = Run(Path("unused"), run_config({"model": {"preset": "bert-tiny"}, "training": given}), {})
    decide_shape(run)
    ids = dict.fromkeys(("pad_token_id", "cls_token_id", "sep_token_id", "mask_token_id"), 0)
    words: Any = SimpleNamespace(vocab_size=200, **ids)
    speed = row_speed(run, words, None, torch.device("cpu"))  # type: ignore[arg-type]
    assert asked == [most]
    assert speed.seconds == 1 / most
