"""The folder for the hub: what is needed is asked for, and nothing leaves the machine unless told to."""

import os
from contextlib import chdir
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from bertsmith.cli import run as command
from bertsmith.errors import UserError
from bertsmith.export.folder import carried_card, staged
from bertsmith.export.sentences import export_sentences, sentence_transformers
from bertsmith.model import load_model
from bertsmith.tokenizer import load_tokenizer
from labelled import tiny_encoder

from runs import train

huggingface_hub = pytest.importorskip("huggingface_hub")

GIVEN = ["--licence", "Apache-2.0", "--data-description", "Made-up prose."]


class FakeHub:
    """Keeps what would be sent."""

    calls: ClassVar[list[tuple[str, Any]]] = []
    taken = False

    def create_repo(self, repo: str, **flags: Any) -> None:
        if self.taken:
            raise ValueError(f"409: {repo} exists\nand more")
        self.calls.append((repo, flags))

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> None:
        assert commit_message
        self.calls.append((repo_id, sorted(path.name for path in Path(folder_path).iterdir())))


@pytest.fixture(autouse=True)
def hub(monkeypatch: pytest.MonkeyPatch) -> type[FakeHub]:
    monkeypatch.setattr(huggingface_hub, "HfApi", FakeHub)
    monkeypatch.setattr(FakeHub, "calls", [])
    return FakeHub


@pytest.fixture(scope="module")
def run(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("hub") / "run", text).parent


def export(source: Path, output: Path, *more: str) -> int:
    return command(["export", str(source), "--to", "hub", "-o", str(output), *more])


def test_the_folder_has_the_model_and_a_card_with_numbers_licence_and_data(
    run: Path, tmp_path: Path, hub: type[FakeHub]
) -> None:
    (run / "model" / "private.json").write_text("{}")
    assert export(run, tmp_path / "out", *GIVEN) == 0
    names = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    card = huggingface_hub.ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.license == "apache-2.0"
    assert card.data.pipeline_tag == "fill-mask"
    assert "| masked-token loss, nats |" in card.text
    assert card.text.index("## Data\n\nMade-up prose.\n") < card.text.index("## Limits")
    assert hub.calls == []
    transformers = pytest.importorskip("transformers")
    given = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")("the old dog", return_tensors="pt")
    theirs = transformers.AutoModelForPreTraining.from_pretrained(tmp_path / "out")(**given)
    ours = load_model(run / "model", heads=True)(given["input_ids"])
    torch.testing.assert_close(ours.mlm_logits, theirs.prediction_logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.nsp_logits, theirs.seq_relationship_logits, atol=1e-5, rtol=1e-5)


def test_a_folder_of_sentence_transformers_keeps_its_modules(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    export_sentences(run, tmp_path / "st", pooling="pooled")
    with sentence_transformers() as library:
        modules = library.SentenceTransformer(str(tmp_path / "st"), device="cpu")
        modules.append(library.models.Normalize())
        modules.save_pretrained(str(tmp_path / "st"), create_model_card=False)
    assert export(tmp_path / "st", tmp_path / "out", *GIVEN) == 0
    mine, its = (
        sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
        for folder in (tmp_path / "st", tmp_path / "out")
    )
    assert mine == its
    assert "3_Normalize" in its
    card = huggingface_hub.ModelCard.load(tmp_path / "out" / "README.md")
    assert (card.data.library_name, card.data.pipeline_tag) == ("sentence-transformers", "sentence-similarity")
    assert card.text.count("```python") == 1
    assert "SentenceTransformer(" in card.text[card.text.index("```python") :]


def test_a_model_that_transformers_alone_reads_can_be_shared(tmp_path: Path) -> None:
    from references import transformers, write_foreign

    folder = write_foreign(tmp_path / "model", "distilbert", load_tokenizer(tiny_encoder(tmp_path / "words")))
    (folder / "README.md").write_text("# Mine\n")
    assert export(folder, tmp_path / "out", *GIVEN) == 0
    assert transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "out").config.dim == 32
    assert len(transformers.AutoTokenizer.from_pretrained(tmp_path / "out")) > 5


def test_the_card_of_another_form_has_the_numbers_and_not_the_code_of_the_first(run: Path, tmp_path: Path) -> None:
    card = carried_card(run / "model", library="onnx", task="fill-mask")
    assert card.startswith("---\nlibrary_name: onnx\npipeline_tag: fill-mask\n")
    assert "| masked-token loss, nats |" in card
    assert "\n## Limits\n" in card
    assert "path/to/this/folder" not in card
    assert "## Use" not in card
    (tmp_path / "README.md").write_text("# Mine\n\n## Use\n\nAs you like.\n\n```python\nprint(1)\n```\n\n## More\n")
    assert "As you like.\n\n```python\nprint(1)" in carried_card(tmp_path, library="onnx", task="fill-mask")


def test_it_is_uploaded_only_where_both_are_given(
    run: Path, tmp_path: Path, hub: type[FakeHub], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert export(run, tmp_path / "a", *GIVEN, "--upload") == 2
    assert export(run, tmp_path / "b", *GIVEN, "--repo", "me/mine") == 2
    assert capsys.readouterr().err.count("nothing is uploaded without both") == 2
    assert not any(tmp_path.iterdir())
    assert hub.calls == []
    assert export(run, tmp_path / "c", *GIVEN, "--upload", "--repo", "me/mine") == 0
    (made, flags), (repo, files) = hub.calls
    assert made == repo == "me/mine"
    assert flags == {"private": True, "exist_ok": False}
    assert "model.safetensors" in files
    monkeypatch.setattr(FakeHub, "taken", True)
    assert export(run, tmp_path / "d", *GIVEN, "--upload", "--repo", "me/mine") == 2
    line = capsys.readouterr().err
    assert "is ready, but the upload to me/mine failed: 409: me/mine exists; when that is mended" in line
    assert line.endswith(f"`hf upload --private OWNER/NAME {tmp_path / 'd'}` sends it\n")
    assert (tmp_path / "d" / "README.md").exists()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (GIVEN[2:], "--to hub needs --licence"),
        (GIVEN[:2], "--to hub needs --data-description"),
        ([*GIVEN[:2], "--data-description", " "], "--to hub needs --data-description"),
        (["--licence", "My own licence!", *GIVEN[2:]], "--licence is 'My own licence!'; give an identifier"),
        ([*GIVEN, "--upload", "--repo", "mine"], "--repo is 'mine'; give OWNER/NAME"),
        ([*GIVEN, "--int8"], "--int8 is for --to onnx, and this is --to hub"),
    ],
)
def test_what_is_missing_is_asked_for(
    arguments: list[str], line: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(run, tmp_path / "out", *arguments) == 2
    assert line in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_a_folder_that_none_can_take_the_place_of_is_refused_first(tmp_path: Path) -> None:
    with chdir(tmp_path), pytest.raises(UserError, match="which no other can take the place of; name a folder in it"):
        staged(Path(".")).__enter__()
    assert not list(tmp_path.parent.glob(f".{tmp_path.name}*"))
    with pytest.raises(UserError, match="where a disk is mounted"):
        staged(Path("/proc/self/..")).__enter__()


@pytest.mark.parametrize("is_there", [True, False])
def test_a_link_to_the_output_folder_stays_a_link(is_there: bool, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("far")
    if is_there:
        (tmp_path / "far").mkdir()
    with staged(tmp_path / "link") as staging:
        (staging / "model").touch()
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "far" / "model").exists()


def test_what_a_killed_export_left_goes_with_the_next_one(tmp_path: Path) -> None:
    ended = tmp_path / ".out.9999999.tmp"
    others = [tmp_path / name for name in (f".mine{ended.name}", ".out.old.tmp", "elsewhere")]
    for place in (ended, *others):
        (place / "model").mkdir(parents=True)
    (tmp_path / ".out.8.tmp").symlink_to("elsewhere")
    with staged(tmp_path / "out"):
        assert not ended.exists()
    assert all((place / "model").exists() for place in (*others, tmp_path / ".out.8.tmp"))


def test_what_a_process_of_another_machine_fills_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 9_999_999)  # no process here has this number
    with staged(tmp_path / "out") as filled:
        monkeypatch.undo()
        with staged(tmp_path / "out"):
            assert filled.exists()
        (tmp_path / "out").rmdir()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_failed_export_leaves_no_folder_above_it(tmp_path: Path) -> None:
    with pytest.raises(UserError), staged(tmp_path / "new" / "deep" / "out"):
        raise UserError("not the model")
    assert not list(tmp_path.iterdir())


def test_a_folder_without_a_readable_card_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export(tiny_encoder(tmp_path / "model"), tmp_path / "out", *GIVEN) == 2
    assert "has no model card (README.md) with measured numbers" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    for card in ("---\ntags: [\n---\n", "---\n- a\n---\n", "---\nmodel-index: 3\n---\n", "\xff"):
        (tmp_path / "model" / "README.md").write_bytes(card.encode("latin-1"))
        assert export(tmp_path / "model", tmp_path / "out", *GIVEN) == 2
        error = capsys.readouterr().err
        assert "README.md is not what the hub reads" in error
        assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
