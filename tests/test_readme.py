"""What the README shows must run."""

import re
import shlex
from pathlib import Path

import click
import pytest

from prose import write_prose
from runs import train

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_example_trains_and_saves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = next(block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "DataLoader" in block)
    assert len([line for line in code.splitlines() if line.strip()]) <= 30
    train(tmp_path / "runs" / "demo", write_prose(tmp_path / "prose.txt"))
    monkeypatch.chdir(tmp_path)
    small = {"sequence_length=128": "sequence_length=32", "hidden_size=256": "hidden_size=64", "=128,\n)": "=32,\n)"}
    for shown, quick in small.items():
        assert shown in code
        code = code.replace(shown, quick)
    exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "my-bert" / "model.safetensors").exists()


SHOWN = re.findall(r"^bertsmith (.+)$", README, re.MULTILINE)
RECIPES = sorted((ROOT / "recipes").glob("*.toml"))


@pytest.mark.parametrize("line", [*SHOWN, *(path.read_text().splitlines()[0].split(" ", 2)[2] for path in RECIPES)])
def test_every_command_shown_is_understood(line: str) -> None:
    from bertsmith.cli import app

    words, command = shlex.split(line, comments=True), app
    while isinstance(command, click.Group):
        name = words.pop(0)
        command = command.commands[name]
    command.make_context(name, words)  # raises where a flag or its value is not known


def test_the_journey_is_short_and_goes_from_text_to_report() -> None:
    journey = README[README.index("## The whole journey") :].split("```")[1]
    assert len(journey.strip().splitlines()) < 40
    found = [line.split()[1] for line in journey.splitlines() if line.startswith("bertsmith ")]
    steps = (
        "pretrain",
        "fill",
        "evaluate",
        "finetune",
        "compare",
        "predict",
        "export",
        "embed",
        "report",
        "playground",
    )
    assert [name for name in found if name in steps] == list(steps)


def test_every_file_named_exists() -> None:
    source = ROOT / "src" / "bertsmith"
    table = README[README.index("| file | what it is for |") : README.index("To add a text format")]
    named = set(re.findall(r"`([a-z_]+(?:\.py|/))`", table))
    there = {path.name + ("/" if path.is_dir() else "") for path in source.iterdir()}
    assert named >= {n for n in there if n.endswith((".py", "/")) and not n.startswith("__")} - {
        "atomic.py",
        "errors.py",
        "reporter.py",
    }
    assert named <= there


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda p: p.name)
def test_recipes_are_valid(recipe: Path) -> None:
    from bertsmith.config import read_toml, run_config

    assert recipe.read_text(encoding="utf-8").startswith("# bertsmith ")
    run_config(read_toml(recipe))
