"""What would lose a user's files or change a run unnoticed is refused in one line."""

import json
import shutil
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertsmith.checkpoint_folders import list_checkpoints
from bertsmith.cli import run as command
from bertsmith.config import DataConfig, TrainingConfig, run_config
from bertsmith.corpus import open_corpus
from bertsmith.data.shards import read_manifest
from bertsmith.errors import UserError
from bertsmith.finetuning.tasks.cells import number_of
from bertsmith.interrupt import Interrupted
from bertsmith.prepare.held_out import held_out_sections
from bertsmith.pretrain import pretrain
from bertsmith.run_folder import read_run
from bertsmith.strict import from_mapping

from prose import write_prose
from runs import FLAGS, TINY, Listener, refused, train


@pytest.fixture(scope="module")
def stopped(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.raises(Interrupted):
        train(folder, text, Listener(stop_after=2), steps=4)
    return folder


def test_a_tokenizer_is_never_written_into_a_model_or_a_run(
    text: Path, stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    shutil.copytree(stopped / "tokenizer", model)
    (model / "config.json").write_text("{}")
    before = (model / "tokenizer.json").read_bytes()
    for folder in (model, stopped / "tokenizer", stopped):
        line = refused(capsys, "tokenizer", "train", text, "-o", folder, "--vocab-size", 160)
        assert "give another folder with -o" in line
    assert (model / "tokenizer.json").read_bytes() == before


@pytest.mark.parametrize("manifest", ['{"mine": 1}', None])
def test_files_that_only_have_our_names_are_kept(
    manifest: str | None, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "out" / "data"
    data.mkdir(parents=True)
    (data / "train-00001.safetensors").write_text("precious")
    if manifest is not None:
        (data / "manifest.json").write_text(manifest)
    line = refused(capsys, "prepare", text, "-o", tmp_path / "out", "--vocab-size", 160, "--document", "blank-line")
    assert "holds files that no prepared text names" in line
    assert (data / "train-00001.safetensors").read_text() == "precious"


def test_text_can_be_prepared_into_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_prose(tmp_path / "prose.txt")
    monkeypatch.chdir(tmp_path)
    flags = ["--vocab-size", "160", "--document", "blank-line", "--validation-fraction", "0.15"]
    assert command(["prepare", ".", "-o", "out", "--sequence-length", "32", "--workers", "1", *flags]) == 0
    assert command(["tokenizer", "train", ".", "-o", "words", "--vocab-size", "160"]) == 0
    assert [file.name for file in open_corpus((".",)).files] == ["prose.txt"]


def test_a_setting_that_was_refused_can_be_left_out(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where the text was prepared by then, so that the folder stays, and where it held a plan before."""
    plan = ["plan", text, "-o", tmp_path / "run", *FLAGS]
    assert "or leave it out" in refused(capsys, *plan, "--steps", 3, "--warmup-steps", 99)
    assert (tmp_path / "run" / "data").is_dir()
    assert command([str(each) for each in (*plan, "--steps", 3)]) == 0
    planned = (tmp_path / "run" / "config.toml").read_text()
    assert "leave --family out" in refused(capsys, *plan, "--steps", 2, "--family", "modern")
    assert (tmp_path / "run" / "config.toml").read_text() == planned


@pytest.mark.parametrize(("flag", "value"), [("--preset", "modern-mini"), ("--family", "modern")])
def test_a_plan_is_not_run_under_the_name_of_another_size(
    flag: str, value: str, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = ["plan", text, "-o", tmp_path / "plan", *FLAGS, "--steps", 3]
    assert command([str(each) for each in plan]) == 0
    run = ["pretrain", text, "-o", tmp_path / "run", "--plan", tmp_path / "plan"]
    assert f"is of bert-tiny and {flag} is {value}; leave {flag} out" in refused(capsys, *run, flag, value)
    assert not (tmp_path / "run").exists()
    assert command([str(each) for each in (*run, "--preset", "bert-tiny", "--family", "bert")]) == 0


def test_a_run_that_fails_in_its_steps_keeps_its_settings(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise UserError("no good")

    monkeypatch.setattr("bertsmith.loop.train_step", fail)
    with pytest.raises(UserError, match="no good"):
        train(tmp_path / "run", text, steps=4)
    assert read_run(tmp_path / "run").config.training.steps == 4


def test_a_cut_off_configuration_is_damaged(stopped: Path, tmp_path: Path) -> None:
    shutil.copytree(stopped, tmp_path / "run")
    lines = (tmp_path / "run" / "config.toml").read_text().splitlines()
    (tmp_path / "run" / "config.toml").write_text("\n".join(lines[: lines.index("[training]") + 5]) + "\n")
    with pytest.raises(UserError, match=r"config\.toml is damaged"):
        train(tmp_path / "run", stopped, steps=4)


def test_a_configuration_edited_after_a_checkpoint_is_refused(text: Path, stopped: Path, tmp_path: Path) -> None:
    shutil.copytree(stopped, tmp_path / "run")
    config = tmp_path / "run" / "config.toml"
    config.write_text(config.read_text().replace("\nseed = 0\n", "\nseed = 77\n"))
    with pytest.raises(UserError, match="seed was 0 and is 77"):
        train(tmp_path / "run", text, steps=4)


def test_a_damaged_shard_is_made_again_before_it_is_trained_on(text: Path, stopped: Path, tmp_path: Path) -> None:
    shutil.copytree(stopped, tmp_path / "run")
    shard = tmp_path / "run" / "data" / "train-00000.safetensors"
    whole = shard.read_bytes()
    middle = len(whole) // 2
    shard.write_bytes(whole[:middle] + b"\xff" * 200 + whole[middle + 200 :])
    train(tmp_path / "run", text, steps=4)
    assert shard.read_bytes() == whole


def test_a_manifest_without_entries_is_damaged(text: Path, stopped: Path, tmp_path: Path) -> None:
    shutil.copytree(stopped, tmp_path / "run")
    (tmp_path / "run" / "data" / "manifest.json").write_text('{"splits": {}}')
    with pytest.raises(UserError, match=r"manifest\.json is damaged"):
        train(tmp_path / "run", text, steps=4)


def test_info_reads_a_damaged_log_and_says_damage_by_its_exit_code(stopped: Path, tmp_path: Path) -> None:
    shutil.copytree(stopped, tmp_path / "run")
    with (tmp_path / "run" / "metrics.jsonl").open("ab") as log:
        log.write(b'\xff\xfe\n{"step": 5}\n')
    assert command(["info", str(tmp_path / "run"), "--verify"]) == 0
    checkpoint = list_checkpoints(tmp_path / "run" / "checkpoints")[-1]
    (checkpoint / "manifest.json").write_text('{"files": {}}')
    assert command(["info", str(tmp_path / "run"), "--verify"]) == 1


def test_pairs_are_asked_of_text_that_has_none(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_text("".join(f"word{number % 50} and {number} go on\n" for number in range(4000)))
    with pytest.raises(UserError, match="no section of this text has two sentences"):
        train(tmp_path / "run", path, objective="mlm+nsp", document="line")


def test_a_damaged_parquet_file_is_left_out_of_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    write_prose(folder / "prose.txt")
    pq.write_table(pa.table({"text": [f"row {number} of many" for number in range(9000)]}), folder / "bad.parquet")
    content = bytearray((folder / "bad.parquet").read_bytes())
    content[200:3000] = bytes(255 - byte for byte in content[200:3000])
    (folder / "bad.parquet").write_bytes(content)
    assert sum(1 for _ in open_corpus((str(folder),)).sections()) > 0


def test_a_parquet_file_without_text_names_its_columns(tmp_path: Path) -> None:
    pq.write_table(pa.table({"number": [1, 2, 3]}), tmp_path / "n.parquet")
    with pytest.raises(UserError, match=r"no column of text: number \(int64\)"):
        open_corpus((str(tmp_path / "n.parquet"),))


def test_a_tar_archive_is_no_text(tmp_path: Path) -> None:
    write_prose(tmp_path / "prose.txt")
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "prose.txt", "prose.txt")
    with pytest.raises(UserError, match="a tar archive"):
        open_corpus((str(tmp_path / "x.tar.gz"),))


@pytest.mark.parametrize("name", ["punycode", "rot13", "idna"])
def test_encodings_of_no_text_are_refused(name: str, text: Path) -> None:
    with pytest.raises(UserError, match=f"encoding '{name}' is not known") as error:
        open_corpus((str(text),), encoding=name)
    assert f"'{name}'?" not in str(error.value)


def test_settings_that_cannot_be_are_refused_at_once(text: Path) -> None:
    with pytest.raises(UserError, match="must be a multiple of num_attention_heads"):
        run_config({"model": {"num_attention_heads": 7}})
    with pytest.raises(UserError, match="threads is 100000"):
        TrainingConfig(threads=100_000)
    with pytest.raises(UserError, match="loader_workers is 100000; give 0 to 1024"):
        TrainingConfig(loader_workers=100_000)
    with pytest.raises(UserError, match="vocab_size is 300, but the tokenizer"):
        DataConfig(tokenizer=str(text), vocab_size=300)


def test_the_settings_of_a_checkpoint_are_kept_beside_it(stopped: Path) -> None:
    state = json.loads((list_checkpoints(stopped / "checkpoints")[-1] / "state.json").read_text())
    assert state["settings"]["seed"] == 0
    assert state["settings"]["hidden_size"] == TINY["hidden_size"]
    assert "text" not in state["settings"]


@pytest.mark.parametrize("arguments", [("info", "~nobodyhere/run"), ("plan", "~nobodyhere/texts", "-o", "new")])
def test_the_home_of_nobody_is_a_path_that_does_not_exist(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "~nobodyhere" in refused(capsys, *arguments)


def test_a_run_that_names_itself_as_its_text_is_told_so(text: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    pretrain(folder, {"text": (str(text),), **TINY}, plan_only=True)
    pretrain(folder, {"text": (str(folder),), **TINY}, plan_only=True)
    config = read_run(folder).config.data
    with pytest.raises(UserError, match="names itself as its text"):
        list(held_out_sections(config, read_manifest(folder / "data")))


def test_numbers_beyond_all_bounds_are_refused() -> None:
    with pytest.raises(UserError, match="learning_rate has too many digits"):
        from_mapping(TrainingConfig, {"learning_rate": 10**400})
    with pytest.raises(UserError, match="vocab_size is 100000000000000000000"):
        DataConfig(vocab_size=10**20)
    assert number_of(10**400) is None
