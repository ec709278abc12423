"""Pretraining that goes on from a model: its weights, its vocabulary or another, general text beside it."""

import json
import shutil
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bertsmith.cli import run as command
from bertsmith.config import DataConfig
from bertsmith.errors import UserError
from bertsmith.interrupt import Interrupted
from bertsmith.model import BertConfig, BertModel, load_model
from bertsmith.prepare import prepare
from bertsmith.replay import MixedRows
from bertsmith.starting import nearest_preset
from bertsmith.tokenizer import extend_tokenizer, load_tokenizer, same_pieces, train_tokenizer
from labelled import tiny_encoder, tiny_modern

from corpora import lognormal, make_corpus, make_rows
from prose import write_prose
from runs import Listener, train

EMBEDDINGS, BIAS = "bert.embeddings.word_embeddings.weight", "cls.predictions.bias"


@pytest.fixture(scope="module")
def source(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of which others go on."""
    folder = tmp_path_factory.mktemp("source") / "run"
    train(folder, text, steps=6)
    return folder


def further(folder: Path, text: Path | str, init: Path, reporter: Any = None, **changes: Any) -> Path:
    """Go on from a model for three steps."""
    open_ones = dict.fromkeys(("preset", "hidden_size", "num_attention_heads", "vocab_size"))
    return train(folder, text, reporter, **{**open_ones, "init": str(init), **changes})


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(one: Path, other: Path) -> bool:
    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def settings(run: Path) -> dict[str, Any]:
    return tomllib.loads((run / "config.toml").read_text(encoding="utf-8"))


def test_what_new_weights_begin_at_is_refused(source: Path, text: Path, tmp_path: Path) -> None:
    for name, value in {"output_bias": "unigram", "embedding_init": "ppmi", "attention_init": "neighbours"}.items():
        with pytest.raises(UserError, match=f"{name}: only new weights can begin so; leave that out with --init"):
            further(tmp_path / "run", text, source, **{name: value})
    plain = {
        "output_bias": "zero",
        "embedding_init": "normal",
        "attention_init": "normal",
    }  # as the configuration of such a run says
    further(tmp_path / "run", text, source, **plain)


def test_a_run_begins_with_the_weights_and_the_tokenizer_of_the_model(source: Path, text: Path, tmp_path: Path) -> None:
    lines = Listener()
    further(tmp_path / "run", text, source, lines)
    assert same(source / "model", tmp_path / "run" / "init")
    assert not same(source / "model", tmp_path / "run" / "model")
    ours, theirs = (load_tokenizer(each / "tokenizer").fingerprint() for each in (source, tmp_path / "run"))
    assert ours == theirs
    kept = settings(tmp_path / "run")
    assert len(kept["model"]["init_sha256"]) == 64
    assert kept["model"]["hidden_size"] == 32
    assert kept["origin"]["hidden_size"] == kept["origin"]["preset"] == "init"
    assert kept["training"]["learning_rate"] == settings(source)["training"]["learning_rate"] / 2
    assert kept["training"]["objective"] == "mlm+nsp"
    said = "\n".join(lines.lines)
    assert "start: the weights of" in said
    assert "0.5 of what a bert-tiny begins with from new weights" in said
    card = (tmp_path / "run" / "model" / "README.md").read_text(encoding="utf-8")
    assert "continued-pretraining" in card
    assert kept["model"]["init_sha256"] in card
    assert "from scratch" not in card


def test_an_interrupted_run_needs_its_model_no_more_and_ends_the_same(source: Path, text: Path, tmp_path: Path) -> None:
    further(tmp_path / "straight", text, source, steps=6)
    shutil.copytree(source / "model", tmp_path / "copy")
    with pytest.raises(Interrupted):
        further(tmp_path / "stopped", text, tmp_path / "copy", Listener(2), steps=6)
    shutil.rmtree(tmp_path / "copy")
    further(tmp_path / "stopped", text, tmp_path / "copy", steps=6)
    assert same(tmp_path / "straight" / "model", tmp_path / "stopped" / "model")


def test_the_command_takes_the_name_of_a_folder_as_it_is_typed(
    source: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And another objective before the first checkpoint makes another beginning."""
    shutil.copytree(source / "model", tmp_path / "words")
    monkeypatch.chdir(tmp_path)
    flags = "--init words --sequence-length 32 --document blank-line --validation-fraction 0.15 --workers 1".split()
    train_flags = "--steps 2 --global-batch-size 4 --micro-batch-size 4 --precision float32 --threads 1".split()
    arguments = [str(text), "-o", "run", *flags, *train_flags, "--device", "cpu"]
    assert command(["plan", *arguments, "--compile", "no"]) == 0
    assert settings(tmp_path / "run")["model"]["init"] == str(tmp_path / "words")
    assert "bert.pooler.dense.weight" in weights(tmp_path / "run" / "init")
    assert command(["pretrain", *arguments, "--compile", "no", "--objective", "mlm"]) == 0
    assert "bert.pooler.dense.weight" not in weights(tmp_path / "run" / "init")
    shutil.rmtree(tmp_path / "words")
    assert command(["pretrain", *arguments, "--compile", "no", "--objective", "mlm"]) == 0


def test_new_words_begin_as_the_mean_of_their_pieces(source: Path, text: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    lines = Listener()
    further(tmp_path / "run", text, source, lines, extend_vocab=8)
    old, new = load_tokenizer(source / "tokenizer"), load_tokenizer(tmp_path / "run" / "tokenizer")
    assert new.vocab_size == old.vocab_size + 8
    before, after = weights(source / "model"), weights(tmp_path / "run" / "init")
    assert torch.equal(before[EMBEDDINGS], after[EMBEDDINGS][: old.vocab_size])
    for index in range(old.vocab_size, new.vocab_size):
        (word,) = new.tokens([index])
        (pieces,) = old.encode_sentences([word])
        assert len(pieces) > 1
        assert new.encode_sentences([word]) == [[index]]
        for name in (EMBEDDINGS, BIAS):
            torch.testing.assert_close(after[name][index], before[name][pieces].mean(0))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "run" / "model")
    sentences = text.read_text(encoding="utf-8").split("\n\n")[:50]
    ids = [new.encode(each).ids for each in sentences]
    assert theirs(sentences)["input_ids"] == ids
    assert sum(map(len, ids)) < sum(len(old.encode(each).ids) for each in sentences)
    model = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "run" / "model")
    assert model.config.vocab_size == new.vocab_size
    assert any("keep their embeddings, the others begin as the mean of their pieces" in line for line in lines.lines)


def test_a_new_tokenizer_keeps_what_both_know(source: Path, tmp_path: Path) -> None:
    other = write_prose(tmp_path / "other.txt", seed=5)
    other.write_text(other.read_text().replace("dog", "zebra").replace("river", "lagoon"))
    further(tmp_path / "run", other, source, tokenizer="wordpiece", vocab_size=200)
    old, new = load_tokenizer(source / "tokenizer"), load_tokenizer(tmp_path / "run" / "tokenizer")
    before, after = weights(source / "model"), weights(tmp_path / "run" / "init")
    assert len(after[EMBEDDINGS]) == 200
    kept = 0
    for index, piece in enumerate(new.tokens(range(200))):
        known = old.token_to_id(piece)
        if known is None:
            assert float(after[EMBEDDINGS][index].abs().max()) <= 2 * 0.02
            assert float(after[BIAS][index]) == pytest.approx(float(before[BIAS].mean()))  # 0 is that of all words
        else:
            kept += 1
            assert torch.equal(after[EMBEDDINGS][index], before[EMBEDDINGS][known])
            assert after[BIAS][index] == before[BIAS][known]
    assert 50 < kept < 200
    name = "bert.encoder.layer.0.intermediate.dense.weight"
    assert torch.equal(before[name], after[name])


@pytest.mark.parametrize("kinds", [("wordpiece", "bpe"), ("bpe", "wordpiece")])
def test_pieces_are_known_by_what_they_stand_for(kinds: tuple[str, str]) -> None:
    """The word "the" is "the" of WordPiece and "\u0120the" of bytes, whose "the" is in "bathe"."""
    texts = ["the bathe, the thé caf\u00e9s (the)"] * 9
    new, old = (train_tokenizer(texts, kind=kind, vocab_size=400, strip_accents=False, at_most=True) for kind in kinds)
    names = {"wordpiece": ("the", "##the", "th\u00e9"), "bpe": ("\u0120the", "the", "\u0120th\u00c3\u00a9")}
    found = same_pieces(new, old)
    pairs = [
        (new.token_to_id(one), old.token_to_id(other)) for one, other in zip(*(names[k] for k in kinds), strict=True)
    ]
    known = [(one, other) for one, other in pairs if one is not None and other is not None]
    assert len(known) >= 2
    assert all(found[one] == [other] for one, other in known)
    assert found[new.mask_token_id] == [old.mask_token_id]
    comma = new.token_to_id(",")
    assert comma is not None
    assert old.token_to_id(",") in found[comma]


@pytest.mark.parametrize("heads", [True, False])
def test_a_modernbert_goes_on(heads: bool, text: Path, tmp_path: Path) -> None:
    folder = tiny_modern(tmp_path / "modern", heads=heads)
    words = load_tokenizer(folder)
    lines = Listener()
    further(tmp_path / "run", text, folder, lines, tokenizer="wordpiece", vocab_size=160)
    before, after = weights(folder), weights(tmp_path / "run" / "init")
    prefix = "" if heads else "model."
    name = "model.layers.1.attn.Wqkv.weight"
    assert torch.equal(before[name.removeprefix(prefix)], after[name])
    assert any("new, since it has none: the head for masked words" in line for line in lines.lines) != heads
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    tokenizer = load_tokenizer(tmp_path / "run" / "model")
    assert config["vocab_size"] == 160 != words.vocab_size
    assert config["local_attention"] == 8
    assert (config["pad_token_id"], config["mask_token_id"]) == (tokenizer.pad_token_id, tokenizer.mask_token_id)
    assert settings(tmp_path / "run")["model"]["preset"] == "modern-tiny"
    training = settings(tmp_path / "run")["training"]
    plain = {"output_bias": "zero", "embedding_init": "normal", "attention_init": "normal"}  # not those of new weights
    assert plain.items() <= training.items()


def test_what_transformers_wrote_gives_the_same_logits(text: Path, tmp_path: Path) -> None:
    """Of a model with its own activation, position table and more rows than the tokenizer has pieces."""
    transformers = pytest.importorskip("transformers")
    tokenizer = load_tokenizer(tiny_encoder(tmp_path / "words"))
    shape = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 3, "intermediate_size": 40}
    config = transformers.BertConfig(
        vocab_size=tokenizer.vocab_size + 7, max_position_embeddings=64, hidden_act="relu", layer_norm_eps=1e-6, **shape
    )
    torch.manual_seed(0)
    theirs = transformers.BertForMaskedLM(config).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    tokenizer.save(tmp_path / "theirs", model_max_length=64)
    further(tmp_path / "run", text, tmp_path / "theirs")
    ours = transformers.BertForMaskedLM.from_pretrained(tmp_path / "run" / "init").eval()
    ids = torch.randint(5, 50, (2, 40))
    torch.testing.assert_close(ours(ids).logits, theirs(ids).logits)
    model = load_model(tmp_path / "run" / "model", heads=True)
    assert (model.config.max_position_embeddings, model.config.vocab_size) == (64, tokenizer.vocab_size + 7)
    assert settings(tmp_path / "run")["training"]["objective"] == "mlm"


def test_a_bare_encoder_gets_new_heads(source: Path, text: Path, tmp_path: Path) -> None:
    BertModel.from_pretrained(source / "model", add_pooling_layer=False).save_pretrained(tmp_path / "bare")
    load_tokenizer(source / "model").save(tmp_path / "bare", model_max_length=32)
    lines = Listener()
    further(tmp_path / "run", text, tmp_path / "bare", lines, objective="mlm+nsp")
    said = "\n".join(lines.lines)
    assert "new, since it has none: the head for masked words, the head for pairs of sentences, the pooler" in said
    before, after = weights(source / "model"), weights(tmp_path / "run" / "init")
    assert torch.equal(before[EMBEDDINGS], after[EMBEDDINGS])
    assert not torch.equal(before["bert.pooler.dense.weight"], after["bert.pooler.dense.weight"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preset": "bert-base"}, r"preset is 'bert-base', but .* is a BERT of 2 layers x 32; leave --preset out"),
        ({"preset": "modern-tiny"}, "preset is 'modern-tiny', but .* is a BERT"),
        ({"hidden_size": 64}, "hidden_size is 64, but .* has 32; leave it out"),
        ({"sequence_length": 64}, "sequence_length is 64, but .* reads 32 tokens; give --sequence-length 32 or less"),
        ({"init_sha256": "0"}, "init_sha256 is 0, but .*; give that model"),
        ({"vocab_size": 500}, "vocab_size is 500, but the tokenizer .* exists already"),
        ({"extend_vocab": 100_000}, r"only [\d,]+ words that are cut into pieces are seen 5 times or more"),
        ({"extend_vocab": 10, "tokenizer": "wordpiece"}, "the tokenizer is trained on the text anyway"),
        ({"init": "nowhere"}, "nowhere does not exist"),
        ({"replay_share": 1.0}, "replay_share is 1.0; give a share between"),
        ({"replay_share": 1 - 1e-9}, "replay_share is 0.999999999; give a share between"),
    ],
)
def test_a_contradiction_is_one_line(
    changes: dict[str, Any], message: str, source: Path, text: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        further(tmp_path / "run", text, **{"init": source, **changes})
    assert "\n" not in str(caught.value)


def test_a_replay_that_is_not_there_is_refused_before_the_text_is_prepared(text: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="replay is nowhere: nowhere does not exist"):
        train(tmp_path / "run", text, replay="nowhere")
    assert not (tmp_path / "run").exists()


def test_other_models_are_refused(text: Path, tmp_path: Path) -> None:
    folder = tiny_modern(tmp_path / "modern")
    with pytest.raises(UserError, match="is a ModernBERT, which has no head for pairs of sentences"):
        further(tmp_path / "run", text, folder, objective="mlm+nsp")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "roberta"}))
    with pytest.raises(UserError, match="a 'roberta'; only BERT and ModernBERT can be trained further"):
        further(tmp_path / "run", text, folder)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="a pickle, which could run any code"):
        further(tmp_path / "run", text, folder)


def test_a_prepared_text_needs_the_same_tokenizer(source: Path, text: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"document": "blank-line", "validation_fraction": 0.15, "workers": 1}
    for name, tokenizer in (("same", str(source / "tokenizer")), ("other", "wordpiece")):
        size = None if name == "same" else 180
        data = DataConfig(text=(str(text),), tokenizer=tokenizer, vocab_size=size, **options)
        prepare(data, tmp_path / name, report=lambda _: None, sequence_length=32)
    left = {"document": None, "validation_fraction": None}
    further(tmp_path / "run", tmp_path / "same", source, **left)
    assert same(source / "model", tmp_path / "run" / "init")
    with pytest.raises(UserError, match="the prepared text has another tokenizer than"):
        further(tmp_path / "refused", tmp_path / "other", source, **left)


def test_words_are_chosen_by_what_they_save_and_only_wordpiece_takes_them() -> None:
    texts = [f"{'zebra ' * 9} lagoon 12345 dog"] * 10 + ["once"] * 2
    letters = " ".join("abcdefghijklmnopqrstuvwxyz12345")
    known = [f"{letters} dog zebr lagon abcdefghijklmnopqrstuvwxyz12345"] * 3
    small = train_tokenizer(known, kind="wordpiece", vocab_size=400, at_most=True)
    new = extend_tokenizer(small, texts, 2)
    assert new.tokens([small.vocab_size, small.vocab_size + 1]) == ["zebra", "lagoon"]
    assert new.encode_corpus(["Zebra lagoon"]).ids.tolist() == [small.vocab_size, small.vocab_size + 1]
    assert small.token_to_id("zebra") is None
    with pytest.raises(UserError, match="only 2 words"):
        extend_tokenizer(small, texts, 3)
    bpe = train_tokenizer(texts, kind="bpe", vocab_size=300, at_most=True)
    with pytest.raises(UserError, match="extend_vocab is 2, but the tokenizer is BPE"):
        extend_tokenizer(bpe, texts, 2)


def test_the_nearest_preset_is_that_of_a_like_size() -> None:
    assert nearest_preset(BertConfig()) == "bert-base"
    assert nearest_preset(BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=6)) == "bert-small"


def test_each_row_of_a_mixture_is_a_function_of_its_number() -> None:
    one, other = (make_rows(make_corpus(lognormal(seed, 60))) for seed in (1, 2))
    rows = MixedRows(one, other, 0.2)
    numbers = list(range(rows.rows_per_epoch))
    taken = rows.__getitems__(numbers)
    assert rows.rows_per_epoch == round(one.rows_per_epoch / 0.8)
    is_replay = [(n + 1) // 5 > n // 5 for n in numbers]
    mine, theirs = iter(range(10**6)), iter(range(10**6))
    for number, row, replayed in zip(numbers, taken, is_replay, strict=True):
        expected = other[next(theirs)] if replayed else one[next(mine)]
        assert np.array_equal(row.input_ids, expected.input_ids)
        assert row.lengths.sum() == rows.main.sequence_length
        assert row.lengths[-1] == expected.lengths[-1]
        assert list(row.lengths[row.lengths > 0]) == list(expected.lengths[expected.lengths > 0])
        assert len(row.lengths) == len(row.next_sentence_label) == len(taken[0].lengths)
        assert np.array_equal(row.input_ids, rows[number].input_ids)


@pytest.mark.slow
def test_general_text_is_replayed_and_a_resume_is_exact(source: Path, text: Path, tmp_path: Path) -> None:
    general = write_prose(tmp_path / "general.txt", documents=500, seed=9)
    given: dict[str, Any] = {"replay": str(general), "replay_share": 0.3, "steps": 6}
    further(tmp_path / "straight", text, source, **given)
    with pytest.raises(Interrupted):
        further(tmp_path / "stopped", text, source, Listener(2), **given)
    further(tmp_path / "stopped", text, source, **given)
    assert same(tmp_path / "straight" / "model", tmp_path / "stopped" / "model")
    further(tmp_path / "without", text, source, steps=6)
    assert not same(tmp_path / "straight" / "model", tmp_path / "without" / "model")
    assert settings(tmp_path / "straight")["training"]["replay_share"] == 0.3
    data = DataConfig(text=(str(general),), workers=1, vocab_size=170, validation_fraction=0.15)
    prepare(data, tmp_path / "ready", report=lambda _: None, sequence_length=32)
    with pytest.raises(UserError, match="which was prepared with another tokenizer"):
        further(tmp_path / "other", text, source, **{**given, "replay": str(tmp_path / "ready")})
