"""General text beside a text: that nothing held out is in it, and whose mistake a mistake is."""

import json
import random
from pathlib import Path

import pytest

from bertsmith.config import DataConfig
from bertsmith.errors import UserError
from bertsmith.prepare import prepare
from bertsmith.replay import prepare_replay

from prose import sentence
from runs import Listener


def documents(seed: int, count: int = 200) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(sentence(draw) for _ in range(draw.randint(6, 14))) for _ in range(count)]


def write(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def told_of(folder: Path, replay: Path) -> list[str]:
    """What is said while a text is made the replay of one that is prepared."""
    listener = Listener()
    data = DataConfig(text=("unread",), workers=1)
    prepare_replay(folder, str(replay), data, listener, sequence_length=32, keep_existing=False)
    return listener.lines


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text with 200 held-out documents."""
    folder = tmp_path_factory.mktemp("prepared")
    text, held_out = (write(folder / f"{seed}.jsonl", documents(seed)) for seed in (0, 1))
    data = DataConfig(text=(str(text),), validation=str(held_out), vocab_size=160, workers=1)
    prepare(data, folder / "run", report=lambda _: None, sequence_length=32)
    return folder / "run"


def test_held_out_text_that_is_replayed_is_told(prepared: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other.jsonl", documents(2))
    assert not [line for line in told_of(prepared, other) if "warning" in line]
    mixed = write(tmp_path / "mixed.jsonl", documents(2) + documents(1)[:100])
    (warning,) = [line for line in told_of(prepared, mixed) if "warning" in line]
    assert "of the 200 held-out sections stand in the replay, too" in warning


def test_a_replay_that_is_too_small_is_named(prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"replay is .*small\.jsonl: the text is too small"):
        told_of(prepared, write(tmp_path / "small.jsonl", documents(2, 3)))
