"""The stages of a run: rows of a step in closed form."""

from math import ceil
from pathlib import Path
from types import SimpleNamespace

import pytest

from bertsmith.config import TrainingConfig, run_config
from bertsmith.errors import UserError
from bertsmith.loading import row_numbers
from bertsmith.planning.decisions import decide_length
from bertsmith.planning.measuring import _take_accumulation
from bertsmith.planning.stages import Stage, make_stages, turns_of
from bertsmith.run_folder import Run

ROWS = {128: 1000, 32: 3900}


def stages(**settings: object) -> tuple[Stage, ...]:
    training = TrainingConfig(**{"steps": 100, "global_batch_size": 16, **settings})  # type: ignore[arg-type]
    return make_stages(training, ROWS.__getitem__)


def test_a_plain_run_has_one_stage() -> None:
    (stage,) = stages()
    assert (stage.steps, stage.sequence_length, stage.rows, stage.first_row) == (range(100), 128, 16, 0)
    assert stage.row_of(7) == 112


def test_a_ramp_grows_to_all_rows_and_reads_each_row_once() -> None:
    parts = stages(batch_ramp=0.1)
    assert [(stage.steps, stage.rows) for stage in parts] == [
        (range(5), 4),
        (range(5, 10), 8),
        (range(10, 100), 16),
    ]
    numbers = [stage.row_of(step) + i for stage in parts for step in stage.steps for i in range(stage.rows)]
    assert numbers == list(range(len(numbers)))


@pytest.mark.parametrize("levers", [{}, {"batch_ramp": 0.5}, {"batch_ramp": 0.3, "short_length": 32}])
def test_epochs_are_passes_over_the_text_also_when_the_first_steps_are_smaller(levers: dict[str, object]) -> None:
    settings = {"epochs": 2.0, "global_batch_size": 16, **levers}
    run = Run(Path("unused"), run_config({"training": settings}), {})
    rows = SimpleNamespace(rows_per_epoch=1000, source=SimpleNamespace(num_tokens=128_000))
    decide_length(run, rows)  # type: ignore[arg-type]
    parts = make_stages(run.config.training, ROWS.__getitem__)
    read = sum(len(stage.steps) * stage.places for stage in parts) / 128
    assert read == pytest.approx(2000, abs=16)


def test_short_rows_come_first_with_as_many_places_and_the_text_goes_on() -> None:
    first, second = stages(short_length=32, short_share=0.8)
    assert (first.steps, first.sequence_length, first.rows, first.first_row) == (range(80), 32, 64, 0)
    assert (second.steps, second.sequence_length, second.rows) == (range(80, 100), 128, 16)
    assert first.places == second.places
    assert 80 * 64 / 3900 <= second.first_row / 1000 < 80 * 64 / 3900 + 0.001  # as far into the epochs


@pytest.mark.parametrize(
    ("at", "steps", "turns"),
    [
        (10, 200, (30, 60, 160)),  # none is passed: all keep their share
        (10, 20, (10, 10, 16)),  # the ramp would have ended: it does now
        (30, 40, (15, 30, 32)),
        (30, 60, (15, 30, 48)),  # what is passed stays where it was
        (85, 90, (15, 30, 80)),
    ],
)
def test_a_revision_keeps_what_is_done_and_the_shares_of_what_is_to_come(
    at: int, steps: int, turns: tuple[int, ...]
) -> None:
    settings = {"batch_ramp": 0.3, "short_length": 32, "short_share": 0.8, "global_batch_size": 16}
    before = TrainingConfig(steps=100, **settings)  # type: ignore[arg-type]
    after = TrainingConfig(steps=steps, **settings)  # type: ignore[arg-type]
    assert turns_of(before) == (15, 30, 80)
    revised = turns_of(before).revised(after, at=at)
    assert revised == turns
    one, other = make_stages(before, ROWS.__getitem__), make_stages(after, ROWS.__getitem__, revised)

    def shape(parts: tuple[Stage, ...], step: int) -> tuple[int, ...]:
        (stage,) = (part for part in parts if step in part.steps)
        return (stage.sequence_length, stage.rows, stage.row_of(step))

    assert [shape(one, step) for step in range(at)] == [shape(other, step) for step in range(at)]
    assert other[-1].sequence_length == 128
    assert [step for part in other for step in part.steps] == list(range(steps))


def test_each_step_knows_how_far_the_run_is() -> None:
    for stage in stages(batch_ramp=0.3, short_length=32, short_share=0.5):
        for step in (stage.steps.start, stage.steps.stop - 1):
            numbers = [stage.row_of(step), stage.row_of(step) + stage.rows - 1]
            assert [stage.course().at(number) for number in numbers] == [step / 100] * 2  # type: ignore[arg-type]


def test_micro_batches_have_as_many_places_in_every_stage() -> None:
    training = TrainingConfig(steps=10, global_batch_size=16, micro_batch_size=4, short_length=32)
    short, long = make_stages(training, ROWS.__getitem__)
    assert (short.divide(training).micro_batch_size, long.divide(training).micro_batch_size) == (16, 4)


@pytest.mark.parametrize("ranks", [1, 2, 3, 5, 16])
def test_ranks_share_the_rows_of_a_step_each_once(ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    training = TrainingConfig(steps=10, global_batch_size=16, micro_batch_size=4)
    (stage,) = make_stages(training, ROWS.__getitem__)
    monkeypatch.setattr("bertsmith.distributed.world_size", lambda: ranks)
    read: list[int] = []
    for rank in range(ranks):
        monkeypatch.setattr("bertsmith.distributed.rank", lambda rank=rank: rank)
        division = stage.divide(training)
        batches = list(row_numbers(stage, division, range(3, 4)))
        assert len(batches) == division.micro_batches
        read += [number for batch in batches for number in batch]
    assert read == list(range(48, 64))


@pytest.mark.parametrize(("ranks", "expected"), [(1, 8), (3, 3), (4, 2)])
def test_accumulation_is_the_same_on_every_rank(ranks: int, expected: int) -> None:
    run = Run(Path("unused"), run_config({"training": {"gradient_accumulation_steps": 2}}), {})
    _take_accumulation(run, 16, ceil(16 / ranks))
    assert run.config.training.micro_batch_size == expected


def test_more_ranks_than_rows_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    training = TrainingConfig(steps=10, global_batch_size=2)
    (stage,) = make_stages(training, ROWS.__getitem__)
    monkeypatch.setattr("bertsmith.distributed.world_size", lambda: 3)
    with pytest.raises(UserError, match="a step has 2 rows, which 3 processes cannot share; start at most 2"):
        stage.divide(training)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_ramp": 0.5, "global_batch_size": 6}, "global_batch_size is 6; give a multiple of 4"),
        ({"short_length": 48}, "short_length is 48"),
        ({"short_length": 128}, "short_length is 128"),
        ({"batch_ramp": 1.0}, "batch_ramp is 1.0"),
        ({"end_probability": 0.0}, "end_probability is 0.0"),
    ],
)
def test_stages_that_cannot_be(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        stages(**settings)
