"""Sentence vectors: equal to those of sentence-transformers, in the order of the rows, or nothing is written."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from bertsmith.cli import run as command
from bertsmith.embed import embed_file
from bertsmith.errors import UserError
from bertsmith.export.sentences import compare, export_sentences, made_up, sentence_transformers
from bertsmith.model import BertModel
from bertsmith.sentence_vectors import SentenceEncoder, load_sentence_encoder
from bertsmith.tokenizer import load_tokenizer, train_tokenizer
from labelled import LONGEST, other_model, tiny_encoder, topic_rows, write_rows

from runs import Listener, refused

pytest.importorskip("sentence_transformers")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("bert") / "model")


KINDS = {"without next sentences": "mean", "fine-tuned": "pooled", "ModernBERT": "mean", "bare": "mean"}


@pytest.mark.parametrize("kind", ["next sentences", *KINDS])
def test_an_exported_folder_gives_our_vectors_in_sentence_transformers(kind: str, bert: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    source = other_model(kind, bert, tmp_path / "model") if kind in KINDS else bert
    exported = export_sentences(source, tmp_path / "out")
    assert exported.pooling == KINDS.get(kind, "mean")
    texts = ["", "the dog", *(row["text"] for row in topic_rows(9)), "here " * 2 * LONGEST]
    ours = load_sentence_encoder(source).encode(texts)
    theirs = SentenceTransformer(str(tmp_path / "out"), device="cpu").encode(texts, show_progress_bar=False)
    assert ours.std(0).min() > 1e-3
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
    np.testing.assert_allclose(load_sentence_encoder(tmp_path / "out").encode(texts), ours, rtol=0, atol=1e-6)
    assert not list(tmp_path.glob(".*"))


def test_vectors_that_are_no_numbers_are_not_written(bert: Path, tmp_path: Path) -> None:
    encoder = load_sentence_encoder(bert)
    with torch.no_grad():
        next(encoder.model.parameters()).fill_(float("nan"))
    rows = write_rows(tmp_path / "rows.csv", topic_rows(3))
    with pytest.raises(UserError, match="no numbers, so its weights are damaged; get the model again"):
        embed_file(encoder, str(rows), tmp_path / "out.npy")
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]


def test_vectors_are_means_over_the_tokens_or_the_pooled_output(bert: Path) -> None:
    model, tokenizer = BertModel.from_pretrained(bert), load_tokenizer(bert)
    text = "the old dog and the new anchor"
    with torch.no_grad():
        output = model(torch.tensor([tokenizer.encode(text).ids]))
    mean, pooled = (load_sentence_encoder(bert, pooling=each).encode(["here", text])[1] for each in ("mean", "pooled"))
    np.testing.assert_allclose(mean, output.sequence_output[0].mean(0), atol=1e-6)
    assert output.pooled_output is not None
    np.testing.assert_allclose(pooled, output.pooled_output[0], atol=1e-6)


def test_the_card_says_how_vectors_are_made_and_runs(bert: Path, tmp_path: Path) -> None:
    export_sentences(bert, tmp_path / "out", pooling="mean")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "The vector of a sentence is the mean over its tokens: 32 numbers." in card
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    found: dict[str, np.ndarray] = {}
    exec(code.replace("path/to/this/folder", str(tmp_path / "out")), found)
    assert found["vectors"].shape == (2, 32)


def test_other_vectors_leave_no_folder(bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encode = SentenceEncoder.encode
    monkeypatch.setattr(SentenceEncoder, "encode", lambda self, texts: encode(self, texts) + 1e-3)
    with pytest.raises(UserError, match="gives other vectors, off by 0"):
        export_sentences(bert, tmp_path / "out")
    assert not any(tmp_path.iterdir())
    monkeypatch.setattr(SentenceEncoder, "encode", lambda self, texts: encode(self, texts) * np.nan)
    with pytest.raises(UserError, match="gives other vectors, off by nan"):
        export_sentences(bert, tmp_path / "out")


def test_folders_of_sentence_transformers_are_read_as_they_say(bert: Path, tmp_path: Path) -> None:
    """Also with lengths of one, a limit of tokens, and the flags of earlier versions; what is not known is refused."""
    from sentence_transformers import SentenceTransformer

    export_sentences(bert, tmp_path / "out", pooling="mean")
    st = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    with sentence_transformers() as library:
        st.append(library.models.Normalize())
    st.max_seq_length = 9
    st.save_pretrained(str(tmp_path / "normal"), create_model_card=False)
    encoder = load_sentence_encoder(tmp_path / "normal")
    assert encoder.normalized
    assert encoder.longest == 9
    compare(encoder, tmp_path / "normal")
    assert np.linalg.norm(encoder.encode(made_up(encoder)), axis=1) == pytest.approx(1, abs=1e-5)
    config = tmp_path / "normal" / "1_Pooling" / "config.json"
    flags = {"word_embedding_dimension": 32, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    config.write_text(json.dumps(flags))
    assert load_sentence_encoder(tmp_path / "normal").pooling == "mean"
    for wrong in ({"pooling_mode": "max"}, flags | {"pooling_mode_max_tokens": True}, {"pooling_mode": "cls"}):
        config.write_text(json.dumps(wrong))
        with pytest.raises(UserError, match="are read here: use it in sentence-transformers"):
            load_sentence_encoder(tmp_path / "normal")
    with pytest.raises(UserError, match="was made for mean; leave --pooling out"):
        load_sentence_encoder(tmp_path / "out", pooling="pooled")
    prompted = {"prompts": {"query": "query: ", "": ""}, "default_prompt_name": "query"}
    (tmp_path / "out" / "config_sentence_transformers.json").write_text(json.dumps(prompted))
    with pytest.raises(UserError, match="puts 'query: ' before each text, which is not done here"):
        load_sentence_encoder(tmp_path / "out")
    (tmp_path / "out" / "modules.json").write_text("[{}]")
    with pytest.raises(UserError, match="names a module without its type and path"):
        load_sentence_encoder(tmp_path / "out")


def test_a_text_that_would_be_lower_cased_is_refused_where_cases_differ(bert: Path, tmp_path: Path) -> None:
    export_sentences(bert, tmp_path / "out", pooling="mean")
    (tmp_path / "out" / "sentence_bert_config.json").write_text('{"do_lower_case": true}')
    load_sentence_encoder(tmp_path / "out")  # its tokenizer does so, too
    cased = train_tokenizer(["a A the The"] * 3, kind="wordpiece", vocab_size=30, lowercase=False, strip_accents=None,
                            at_most=True)  # fmt: skip
    cased.save(tmp_path / "out", model_max_length=LONGEST)
    with pytest.raises(UserError, match="lower-cases each text, which is not done here"):
        load_sentence_encoder(tmp_path / "out")


@pytest.mark.parametrize("name", ["new.csv", "new.jsonl", "new.parquet", "new.txt"])
def test_each_row_gets_its_vector_in_order(
    name: str, bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = topic_rows(50, seed=5)
    path = write_rows(tmp_path / name, rows)
    encoder = load_sentence_encoder(bert)
    expected = np.concatenate([encoder.encode([row["text"]]) for row in rows])
    monkeypatch.setattr("bertsmith.finetuning.classify.CHUNK_ROWS", 7)
    assert command(["embed", str(bert), str(path), "-o", str(tmp_path / "out.npy"), "--threads", "1"]) == 0
    found = np.load(tmp_path / "out.npy", allow_pickle=False, mmap_mode="r")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted([name, "out.npy"])


def test_rows_without_text_and_long_rows_are_told(bert: Path, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "new.jsonl", [{"text": "dog"}, {"text": ""}, {"text": None}, {"text": "the " * 99}])
    lines = Listener()
    assert embed_file(load_sentence_encoder(bert), str(path), tmp_path / "out.npy", reporter=lines) == (4, 32)
    assert np.isfinite(np.load(tmp_path / "out.npy")).all()
    assert "warning: 2 of 4 rows have no text; their vectors mean nothing" in lines.lines
    assert any("1 of 4 rows are longer than the model reads" in line for line in lines.lines)


def test_what_cannot_be_embedded_is_said_in_one_line(
    bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, out = write_rows(tmp_path / "rows.csv", topic_rows(5)), tmp_path / "out.npy"
    assert "nowhere does not exist" in refused(capsys, "embed", tmp_path / "nowhere", rows, "-o", out)
    assert "did you mean 'text'" in refused(capsys, "embed", bert, rows, "-o", out, "--text-field", "texts")
    assert "did you mean 'text'" in refused(capsys, "embed", bert, rows, "-o", out, "--text", "texts")
    blank = write_rows(tmp_path / "blank.jsonl", [{"text": " "}, {"text": ""}])
    assert "no row of" in refused(capsys, "embed", bert, blank, "-o", out)
    labels = write_rows(tmp_path / "labels.csv", [{"text": "", "label": "cats"}, {"text": "", "label": "dogs"}])
    assert "labels.csv has no text" in refused(capsys, "embed", bert, labels, "-o", out)  # and embeds no label
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"text": "dog"}\n{"text": "do\n{"text": "cat"}\n', encoding="utf-8")
    assert "broken.jsonl:2: not valid JSON; repair it" in refused(capsys, "embed", bert, broken, "-o", out)
    there = shutil.copy(rows, tmp_path / "there.npy")
    assert "nothing is overwritten" in refused(capsys, "embed", bert, rows, "-o", there)
    line = refused(capsys, "embed", bert, rows, "-o", tmp_path / "vectors.csv")
    assert "vectors.csv is named .csv, and a .npy file is written; choose another name with -o" in line
    assert "does not exist; make it" in refused(capsys, "embed", bert, rows, "-o", tmp_path / "no" / "out.npy")
    mean = other_model("without next sentences", bert, tmp_path / "mean")
    assert "nothing trained a pooler" in refused(capsys, "embed", mean, rows, "-o", out, "--pooling", "pooled")
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    shutil.copy(bert / "config.json", pickled)
    (pickled / "pytorch_model.bin").write_bytes(b"\x80\x04")
    assert "a pickle, which could run any code" in refused(capsys, "embed", pickled, rows, "-o", out)
    line = refused(capsys, "export", bert, "--to", "sentence-transformers", "--int8", "-o", out)
    assert "--int8 is for --to onnx" in line
    assert not list(tmp_path.glob("out*"))
    assert not list(tmp_path.glob("*.tmp"))
