"""What a run is expected to end with, before it begins."""

from pathlib import Path

import pytest

from bertsmith.cli import run as command_line
from bertsmith.planning.expectation import BELOW_UNIGRAM, UNIGRAM, expected_loss
from bertsmith.presets import PRESETS
from bertsmith.reporter import counted

from runs import FLAGS


def test_between_measured_runs_it_lies_between_them() -> None:
    assert set(BELOW_UNIGRAM) <= set(PRESETS)
    for preset, measured in BELOW_UNIGRAM.items():
        counts, gaps = zip(*measured, strict=True)
        assert list(counts) == sorted(counts)
        assert list(gaps) == sorted(gaps)  # more tokens, a lower loss
        for count, gap in measured:
            assert expected_loss(preset, count, UNIGRAM) == pytest.approx(("about", UNIGRAM - gap, count))
        middle = expected_loss(preset, (counts[0] * counts[-1]) ** 0.5, UNIGRAM)
        assert middle is not None
        assert middle.nats == pytest.approx(UNIGRAM - (gaps[0] + gaps[-1]) / 2, abs=(gaps[-1] - gaps[0]) / 2 + 1e-9)


def test_beyond_them_it_is_a_bound() -> None:
    preset = "modern-mini"
    (first, least), (last, most) = BELOW_UNIGRAM[preset][0], BELOW_UNIGRAM[preset][-1]
    assert expected_loss(preset, first / 3, UNIGRAM) == pytest.approx(("above", UNIGRAM - least, first))
    assert expected_loss(preset, last * 30, UNIGRAM) == pytest.approx(("below", UNIGRAM - most, last))
    assert expected_loss("bert-large", last, UNIGRAM) is None


def test_of_an_easier_text_it_is_the_same_share() -> None:
    preset, tokens = "modern-tiny", BELOW_UNIGRAM["modern-tiny"][0][0]
    wikipedia, easier = expected_loss(preset, tokens, UNIGRAM), expected_loss(preset, tokens, 0.4)
    assert wikipedia is not None
    assert easier is not None
    assert easier.nats / 0.4 == pytest.approx(wikipedia.nats / UNIGRAM)


@pytest.mark.parametrize(
    ("preset", "said"), [("modern-tiny", "held-out masked tokens above"), ("bert-medium", "not known, since no run of")]
)
def test_a_plan_says_it(preset: str, said: str, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [preset if flag == "bert-tiny" else flag for flag in FLAGS]
    assert command_line(["plan", str(text), "-o", str(tmp_path / "run"), "--steps", "3", *flags]) == 0
    assert f"expected: {said}" in capsys.readouterr().out


@pytest.mark.parametrize(("epochs", "said"), [("40", True), ("3", False)])
def test_a_text_that_is_read_too_often_is_said(
    epochs: str, said: bool, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command_line(["plan", str(text), "-o", str(tmp_path / "run"), "--epochs", epochs, *FLAGS]) == 0
    out = capsys.readouterr()
    assert ("this text is read 40 times" in out.out + out.err) == said


@pytest.mark.parametrize("said", [True, False])
def test_many_unknown_tokens_are_said(
    said: bool, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in languages that have no spaces between words."""
    written = text.read_text(encoding="utf-8")
    often, few = written.replace(" the ", f" {'ab' * 80} "), written.replace("again", "ab" * 80, 3)
    (tmp_path / "long.txt").write_text(often if said else few, encoding="utf-8")
    assert command_line(["plan", str(tmp_path / "long.txt"), "-o", str(tmp_path / "run"), "--steps", "3", *FLAGS]) == 0
    out = capsys.readouterr()
    assert ("of the tokens are unknown to the tokenizer" in out.out + out.err) == said


def test_a_model_of_another_shape_is_not_guessed_at(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["plan", str(text), "-o", str(tmp_path / "run"), "--steps", "3", *FLAGS, "--hidden-size", "64"]
    assert command_line(arguments) == 0
    assert "expected:" not in capsys.readouterr().out


def test_a_setting_without_effect_is_said(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    idle = ["--optimizer", "adamw", "--muon-scale", "2", "--schedule", "linear", "--decay-share", "0.5"]
    idle += ["--mask-units", "span", "--mask-covering", "--short-share", "0.5", "--replay-share", "0.2"]
    assert command_line(["plan", str(text), "-o", str(tmp_path / "a"), "--steps", "3", *FLAGS, *idle]) == 0
    said = capsys.readouterr()
    assert "muon_scale has no effect, since optimizer is 'adamw' and not 'muon'" in said.out + said.err
    assert "decay_share has no effect, since schedule is 'linear' and not 'trapezoid'" in said.out + said.err
    assert "mask_covering does hardly anything for spans" in said.out + said.err
    assert "short_share has no effect without short_length" in said.out + said.err
    assert "replay_share has no effect without replay" in said.out + said.err
    assert command_line(["plan", str(text), "-o", str(tmp_path / "b"), "--steps", "3", *FLAGS]) == 0
    assert "no effect" not in str(capsys.readouterr())


def test_one_thing_is_said_as_one() -> None:
    assert [counted(number, "step") for number in (0, 1, 1200)] == ["0 steps", "1 step", "1,200 steps"]
