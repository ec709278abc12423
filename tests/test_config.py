"""Settings: strict on input, whole on disk."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertsmith.commands.flags import gather
from bertsmith.config import FREE_SETTINGS, changed, flat, read_toml, run_config
from bertsmith.errors import UserError
from bertsmith.output_folder import make_folder, new_folder
from bertsmith.run_folder import open_run, read_run, to_toml


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"training": {"stesp": 3}}, "unknown setting 'training.stesp'; did you mean 'steps'"),
        ({"training": {"steps": "3"}}, "training.steps is '3'; give a value of type int"),
        ({"training": {"steps": True}}, "training.steps is True"),
        ({"training": {"learning_rate": "1e-3"}}, "training.learning_rate is '1e-3'; give a value of type float"),
        ({"data": {"document": "lin"}}, "did you mean 'line'"),
        ({"data": {"text": "a.txt"}}, "give a list of strings"),
        ({"model": {"preset": "bert-min"}}, "did you mean 'bert-mini'"),
        ({"model": {"hidden_dropout_prob": 1.0}}, "give a probability in"),
        (
            {"model": {"preset": "modern-tiny"}, "training": {"objective": "mlm+nsp"}},
            "objective is 'mlm+nsp', but ModernBERT has no head for pairs of sentences; give --objective mlm",
        ),
        ({"model": {"family": "modern"}, "training": {"objective": "mlm+sop"}}, "ModernBERT has no head for pairs"),
        ({"training": {"mlm_probability": 0}}, "mlm_probability is 0.0"),
        ({"training": {"sequence_length": 8}}, "sequence_length is 8"),
    ],
)
def test_a_wrong_setting_is_named_with_the_fix(tables: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        run_config(tables)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_whole_number_is_a_float_where_one_is_asked_for() -> None:
    value = run_config({"training": {"learning_rate": 1}}).training.learning_rate
    assert isinstance(value, float)


@pytest.mark.parametrize("text", ["not toml", "[trainng]\nsteps = 3\n", "training = 3\n"])
def test_a_broken_file_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(UserError, match=r"c\.toml"):
        read_toml(tmp_path / "c.toml")


def test_every_value_survives_the_file(tmp_path: Path) -> None:
    strange = ('a "quoted" \\ name.txt', "\u4e2d\u6587 \U0001f600\x7f\t.txt")
    config = changed(run_config({}), text=strange, learning_rate=1e-05, steps=7, lowercase=False, epochs=0.1)
    path = tmp_path / "config.toml"
    path.write_text(to_toml(config, {"steps": "flag"}), encoding="utf-8")
    tables = read_toml(path)
    assert tables.pop("origin") == {"steps": "flag"}
    assert run_config(tables) == config


def test_setting_names_are_unique_over_the_tables() -> None:
    config = run_config({})
    assert len(flat(config)) == sum(
        len(type(table).__dataclass_fields__) for table in (config.data, config.model, config.training)
    )
    assert set(flat(config)) >= FREE_SETTINGS


def test_two_ways_to_say_one_thing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give one of them"):
        open_run(tmp_path, {"epochs": 1.0, "steps": 5}, {})


def test_a_run_goes_on_with_its_own_settings_and_refuses_others(tmp_path: Path) -> None:
    run = open_run(tmp_path, {"steps": 5, "keep": 3}, {"steps": "flag", "keep": "flag"})
    run.decide("measured", precision="float32")
    run.save()
    (run.checkpoints / "step-00000001").mkdir(parents=True)
    again = open_run(tmp_path, {"steps": 5, "keep": 4}, {"steps": "flag", "keep": "flag"})
    assert (again.config.training.precision, again.config.training.keep) == ("float32", 4)
    assert again.origin["precision"] == "measured"
    with pytest.raises(UserError, match="steps is 5 in the run and 6 now") as caught:
        open_run(tmp_path, {"steps": 6}, {"steps": "flag"})
    assert "--fresh" in str(caught.value)
    assert read_run(tmp_path).config.training.steps == 5


def test_a_run_goes_on_with_a_list_of_texts(tmp_path: Path) -> None:
    given: dict[str, Any] = {"text": ["one.txt", "two.txt"], "steps": 5}
    open_run(tmp_path, given, dict.fromkeys(given, "flag")).save()
    (tmp_path / "checkpoints" / "step-00000001").mkdir(parents=True)
    assert len(open_run(tmp_path, given, dict.fromkeys(given, "flag")).config.data.text) == 2
    with pytest.raises(UserError, match="keep is '3'; give a value of type int"):
        open_run(tmp_path, {"keep": "3"}, {"keep": "flag"})


def test_a_number_of_numpy_is_read_back(tmp_path: Path) -> None:
    open_run(tmp_path, {"learning_rate": np.float64(1e-3)}, {"learning_rate": "flag"}).save()
    assert read_run(tmp_path).config.training.learning_rate == 1e-3


def test_none_is_nothing_that_was_given(tmp_path: Path) -> None:
    run = open_run(tmp_path, {"steps": 5, "schedule": None}, {"steps": "flag", "schedule": "flag"})
    assert run.origin == {"steps": "flag"}  # a preset may decide the schedule


def test_a_mistake_before_the_first_checkpoint_can_be_put_right(tmp_path: Path) -> None:
    run = open_run(tmp_path, {"text": ("missing.txt",)}, {"text": "flag"})
    run.decide("measured", precision="float32")
    run.save()
    again = open_run(tmp_path, {"text": ("there.txt",)}, {"text": "flag"})
    assert again.config.data.text == ("there.txt",)
    assert again.config.training.precision == "auto"


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ({"budget": "20m"}, {"steps": 90}),
        ({"steps": 90}, {"budget": "20m"}),
        ({"steps": 90}, {"epochs": 2.0}),
        ({"micro_batch_size": 2}, {"gradient_accumulation_steps": 4}),
    ],
)
def test_what_is_said_another_way_now_is_said_once(first: dict[str, Any], then: dict[str, Any], tmp_path: Path) -> None:
    open_run(tmp_path, first, dict.fromkeys(first, "flag")).save()
    training = open_run(tmp_path, then, dict.fromkeys(then, "flag")).config.training
    assert {name: getattr(training, name) for name in {**first, **then}} == dict.fromkeys(first) | then


def test_a_plan_is_run_in_its_own_folder_without_its_budget(tmp_path: Path) -> None:
    """Else the clock would revise the steps that the plan has fixed."""
    planned = open_run(tmp_path, {"budget": "20m"}, {"budget": "flag"})
    planned.decide("measured", steps=90)
    planned.save()
    run = open_run(tmp_path, *gather((), {}, tmp_path / "config.toml", decided=True))
    assert (run.config.training.steps, run.config.training.budget) == (90, None)
    run.save()
    assert read_run(tmp_path).config.training.budget is None


def test_the_file_of_a_run_says_that_found_values_are_found_anew(tmp_path: Path) -> None:
    """Of an edited copy of it, too."""
    run = open_run(tmp_path, {"steps": 90}, {"steps": "flag"})
    run.decide("preset", learning_rate=1e-3)
    run.save()
    text = (tmp_path / "config.toml").read_text()
    assert "--config takes those of a flag or file\n# alone and finds out the others anew" in text
    (tmp_path / "mine.toml").write_text(text.replace("learning_rate = 0.001", "learning_rate = 0.5"))
    assert gather((), {}, tmp_path / "mine.toml")[0] == {"steps": 90}
    assert gather((), {}, tmp_path / "mine.toml", decided=True)[0]["learning_rate"] == 0.5


def test_settings_that_go_together_are_changed_together() -> None:
    """From one allowed pair to another, of which neither half fits the other's."""
    config = run_config({"model": {"preset": "bert-tiny"}, "training": {"objective": "mlm+nsp"}})
    assert changed(config, preset="modern-tiny", objective="mlm").model.preset == "modern-tiny"
    back = changed(changed(config, preset="modern-tiny", objective="mlm"), objective="mlm+nsp", preset="bert-tiny")
    assert back == config


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="holds something else"):
        make_folder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_mistaken_command_leaves_no_folder_behind(tmp_path: Path) -> None:
    def mistake(folder: Path, *others: str) -> None:
        with new_folder(folder, owned_by=()):
            for name in ("config.toml", *others):
                (folder / name).touch()
            raise UserError("a mistake")

    (tmp_path / "mine").mkdir()
    for name, others in (("new", ()), ("runs/of/mine", ()), ("mine", ()), ("used", ("data",)), ("mine/new", ())):
        with pytest.raises(UserError, match="a mistake"):
            mistake(tmp_path / name, *others)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "used"]
