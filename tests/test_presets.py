"""How a preset is trained when nothing else is said."""

from pathlib import Path
from typing import Any

import pytest

from bertsmith.cli import run as command_line
from bertsmith.interrupt import Interrupted
from bertsmith.planning.decisions import default_warmup
from bertsmith.presets import FIRST_WEIGHTS, MODERN_RECIPE, PRESETS, RECIPE_SETTINGS
from bertsmith.run_folder import read_run

from runs import Listener, train


def trained(folder: Path, text: Path, **changes: Any) -> dict[str, Any]:
    """The settings of the recipe that a run was trained with, its heads as wide as those of all presets."""
    train(folder, text, **{"hidden_size": 64, "num_attention_heads": 1} | changes)
    training = read_run(folder).config.training
    return {name: getattr(training, name) for name, _ in MODERN_RECIPE}


def test_a_modern_preset_brings_its_recipe(text: Path, tmp_path: Path) -> None:
    assert trained(tmp_path / "run", text, preset="modern-tiny") == dict(MODERN_RECIPE)


def test_what_is_given_wins_over_the_recipe(text: Path, tmp_path: Path) -> None:
    found = trained(tmp_path / "run", text, preset="modern-tiny", mlm_probability=0.2, schedule="linear")
    assert found == dict(MODERN_RECIPE) | {"schedule": "linear", "mlm_probability": 0.2, "end_probability": None}


def test_a_replay_has_no_falling_share(text: Path, tmp_path: Path) -> None:
    found = trained(tmp_path / "run", text, preset="modern-tiny", replay=str(text))
    assert found == dict(MODERN_RECIPE) | {"mlm_probability": 0.15, "end_probability": None}


def test_bert_keeps_the_masks_of_the_paper(text: Path, tmp_path: Path) -> None:
    assert trained(tmp_path / "run", text) == {
        "schedule": "linear",
        "mlm_probability": 0.15,
        "end_probability": None,
        "muon_scale": 1.0,
    } | dict(FIRST_WEIGHTS)


def test_a_run_that_has_begun_keeps_its_recipe(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when another version of this program would begin it otherwise."""
    changes: dict[str, Any] = {"preset": "modern-tiny", "steps": 4, "hidden_size": 64, "num_attention_heads": 1}
    with monkeypatch.context() as patch:
        patch.setattr("bertsmith.planning.making.decide_recipe", lambda _run: None)
        with pytest.raises(Interrupted):
            train(tmp_path / "run", text, Listener(stop_after=2), **changes)
    found = trained(tmp_path / "run", text, **changes)
    assert (found["schedule"], found["embedding_init"]) == ("linear", "normal")


def test_every_modern_preset_has_the_recipe() -> None:
    assert all((preset.recipe == MODERN_RECIPE) == name.startswith("modern") for name, preset in PRESETS.items())


def test_all_new_models_begin_with_what_is_counted() -> None:
    assert all(dict(FIRST_WEIGHTS).items() <= dict(preset.recipe).items() for preset in PRESETS.values())


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (40, 10), (573, 143), (1000, 150), (2500, 150), (10_000, 600)])
def test_short_runs_warm_up_for_longer(steps: int, warmup: int) -> None:
    assert default_warmup(steps) == warmup


def test_help_names_no_default_where_the_preset_decides(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line(["pretrain", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for name in RECIPE_SETTINGS:
        assert "[preset]" in shown.split(f"--{name.replace('_', '-')} ")[1].split(" --")[0]
