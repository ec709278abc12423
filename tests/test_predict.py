"""Filling masks: the model's own probabilities, readable text, and one line for what cannot be filled."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bertsmith.checkpoint_folders import checkpoint_name
from bertsmith.cli import run as command
from bertsmith.errors import UserError
from bertsmith.interrupt import Interrupted
from bertsmith.model import BertConfig, BertModel, BertPretrainingModel
from bertsmith.predict import fill, guess, load_for_prediction
from bertsmith.tokenizer import Tokenizer, train_tokenizer

from runs import Listener, train

LONGEST = 16


@pytest.fixture(scope="module")
def stopped(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints of steps 1 and 2 of 3."""
    folder = tmp_path_factory.mktemp("runs") / "stopped"
    for step in (1, 2):
        with pytest.raises(Interrupted):
            train(folder, text, Listener(stop_after=step))
    return folder


@pytest.fixture(scope="module")
def wordpiece(text: Path) -> Tokenizer:
    return trained(text, "wordpiece", 150)


@pytest.fixture(scope="module")
def bpe(text: Path) -> Tokenizer:
    return trained(text, "bpe", 400)


def trained(text: Path, kind: str, vocab_size: int) -> Tokenizer:
    lines = text.read_text(encoding="utf-8").splitlines()
    return train_tokenizer(lines, kind=kind, vocab_size=vocab_size, lowercase=True, strip_accents=None)


def new_model(tokenizer: Tokenizer, *favourites: str, dropout: float = 0.0) -> BertPretrainingModel:
    """A random model; where pieces are named it gives them nearly all probability, the first most."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=LONGEST,
        hidden_dropout_prob=dropout,
    )
    model = BertPretrainingModel(config).eval()
    for number, piece in enumerate(favourites):
        token_id = tokenizer.token_to_id(piece)
        assert token_id is not None, piece
        model.mlm_head.bias.data[token_id] = 50.0 - number
    return model


def test_candidates_have_the_probabilities_of_the_model(wordpiece: Tokenizer) -> None:
    model, text = new_model(wordpiece), "the [MASK] dog sees [MASK]."
    filled = fill(model, wordpiece, text, top_k=7)
    encoding = wordpiece.encode(text)
    probabilities = model(torch.tensor([encoding.ids])).mlm_logits[0].softmax(-1).detach()
    places = [place for place, token in enumerate(encoding.tokens) if token == "[MASK]"]
    assert len(filled.masks) == len(places) == 2
    for place, candidates in zip(places, filled.masks, strict=True):
        assert len(candidates) == 7
        values = [candidate.probability for candidate in candidates]
        assert values == sorted(values, reverse=True)
        expected = [float(probabilities[place, candidate.token_id]) for candidate in candidates]
        assert values == pytest.approx(expected, rel=1e-5)
        assert values[0] == pytest.approx(float(probabilities[place, wordpiece.ordinary_ids()].max()), rel=1e-5)


def test_the_text_stays_as_it_was_typed_but_for_its_masks(wordpiece: Tokenizer) -> None:
    filled = fill(new_model(wordpiece, "dog"), wordpiece, "The  OLD ([MASK]) sees\tthe [MASK]!")
    assert filled.text == "The  OLD (dog) sees\tthe dog!"
    assert filled.note is None


def test_a_piece_inside_a_word_joins_the_word_before(wordpiece: Tokenizer) -> None:
    filled = fill(new_model(wordpiece, "##s"), wordpiece, "The dog [MASK] again.")
    assert filled.text == "The dogs again."
    assert filled.masks[0][0].token == "s"


def test_byte_level_pieces_read_as_text(bpe: Tokenizer) -> None:
    filled = fill(new_model(bpe, "\u0120dog", "s"), bpe, "The old [MASK] sees.")
    assert filled.text == "The old dog sees."
    assert [candidate.token for candidate in filled.masks[0][:2]] == ["dog", "s"]
    assert fill(new_model(bpe, "s"), bpe, "The dog [MASK] again.").text == "The dogs again."
    assert fill(new_model(bpe, "\u0120dog"), bpe, "[MASK] again.").text == "dog again."


def test_no_candidate_can_steer_a_terminal(bpe: Tokenizer) -> None:
    filled = fill(new_model(bpe), bpe, "The [MASK].", top_k=10_000)
    assert len(filled.masks[0]) == len(bpe.ordinary_ids())
    assert all(candidate.token and candidate.token.isprintable() for candidate in filled.masks[0])


def test_special_tokens_are_no_candidates(wordpiece: Tokenizer) -> None:
    filled = fill(new_model(wordpiece, "[SEP]", "[MASK]", "dog"), wordpiece, "The [MASK].", top_k=3)
    assert filled.masks[0][0].token == "dog"
    assert not {"[SEP]", "[MASK]"} & {candidate.token for candidate in filled.masks[0]}


def test_dropout_is_off_while_guessing_and_back_afterwards(wordpiece: Tokenizer) -> None:
    model = new_model(wordpiece, dropout=0.5).train()
    ids = wordpiece.encode("the [MASK] sees.").ids
    assert guess(model, wordpiece, ids, top_k=3) == guess(model, wordpiece, ids, top_k=3)
    assert model.training


@pytest.mark.parametrize(
    ("given", "top_k", "says"),
    [
        ("The dog sees.", 5, r"no \[MASK\] in 'The dog sees.'; write \[MASK\]"),
        ("The [mask] sees.", 5, r"write \[MASK\]"),
        (" \n", 5, "the text is empty"),
        ("The [MASK].", 0, "top_k is 0"),
        ("[MASK] " + "dog " * 20 + "[MASK]", 5, "its masks spread over 22; the model was trained on at most 16"),
    ],
)
def test_what_cannot_be_filled_is_refused_in_one_line(wordpiece: Tokenizer, given: str, top_k: int, says: str) -> None:
    with pytest.raises(UserError, match=says):
        fill(new_model(wordpiece), wordpiece, given, top_k=top_k)


def test_a_model_whose_scores_are_no_numbers_is_refused(wordpiece: Tokenizer) -> None:
    model = new_model(wordpiece)
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(UserError, match="no numbers, so its weights are damaged; get the model again"):
        fill(model, wordpiece, "The [MASK].")


@pytest.mark.parametrize(("before", "after", "read"), [(3, 30, "1 to 14"), (30, 3, "22 to 35"), (30, 30, "24 to 37")])
def test_of_a_long_text_the_part_around_the_masks_is_read(
    wordpiece: Tokenizer, before: int, after: int, read: str
) -> None:
    model = new_model(wordpiece, "cat")
    text = " ".join([*["dog"] * before, "[MASK]", *["cat"] * after, "."])
    filled = fill(model, wordpiece, text)
    first, last = (int(number) for number in read.split(" to "))
    ids = wordpiece.encode(text).ids
    assert filled.masks == guess(model, wordpiece, [ids[0], *ids[first : last + 1], ids[-1]], top_k=5)
    assert filled.note is not None
    assert f"{len(ids)} tokens and the model was trained on at most 16 at once: tokens {read}" in filled.note
    assert filled.text.startswith("dog " * before)
    assert filled.text.endswith("cat " * (after - 1) + "cat .")


def test_a_text_that_just_fits_is_read_whole(wordpiece: Tokenizer) -> None:
    text = "[MASK] " + "dog " * (LONGEST - 3)
    assert len(wordpiece.encode(text).ids) == LONGEST
    assert fill(new_model(wordpiece), wordpiece, text).note is None


def test_a_hugging_face_folder_is_read(
    wordpiece: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = new_model(wordpiece)
    saved.save_pretrained(tmp_path)
    wordpiece.save(tmp_path, model_max_length=LONGEST)
    model, tokenizer = load_for_prediction(tmp_path)
    expected = fill(saved, wordpiece, "The [MASK].")
    assert fill(model, tokenizer, "The [MASK].") == expected
    for words in (["The [MASK]."], ["The", "[MASK]."]):
        assert command(["fill", str(tmp_path), *words]) == 0
        assert capsys.readouterr().out.startswith(f"{expected.text}\n")


def test_a_tokenizer_of_another_model_is_refused(wordpiece: Tokenizer, bpe: Tokenizer, tmp_path: Path) -> None:
    new_model(wordpiece).save_pretrained(tmp_path)
    bpe.save(tmp_path, model_max_length=LONGEST)
    with pytest.raises(UserError, match=r"has 400 pieces and the model 150"):
        load_for_prediction(tmp_path)


def test_a_model_without_a_head_for_masks_is_refused(wordpiece: Tokenizer, tmp_path: Path) -> None:
    folder = tmp_path / "model"  # also in a run, as `finetune` leaves it
    BertModel(new_model(wordpiece).config).save_pretrained(folder)
    wordpiece.save(folder, model_max_length=LONGEST)
    for source in (folder, tmp_path):
        with pytest.raises(UserError, match="no head for masked words; give a model that learnt them"):
            load_for_prediction(source)


def test_a_stopped_run_fills_masks_with_its_newest_checkpoint(stopped: Path) -> None:
    model, tokenizer = load_for_prediction(stopped)
    assert not model.training
    stored = stopped / "checkpoints" / checkpoint_name(2) / "model.safetensors"
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in load_file(stored).items())
    assert len(fill(model, tokenizer, "The [MASK] dog.").masks[0]) == 5


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(stopped: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(stopped, tmp_path / "run")
    newest = folder / "checkpoints" / checkpoint_name(2) / "model.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    listener = Listener()
    load_for_prediction(folder, listener)
    assert any(checkpoint_name(2) in line and "damaged" in line for line in listener.lines)
    (folder / "checkpoints" / checkpoint_name(1) / "model.safetensors").unlink()
    with pytest.raises(UserError, match="no whole checkpoint yet"):
        load_for_prediction(folder, listener)


def test_a_run_without_a_checkpoint_says_when_there_is_one(stopped: Path, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_bytes((stopped / "config.toml").read_bytes())
    with pytest.raises(UserError, match=r"no checkpoint yet; begin its training with `bertsmith pretrain`, or wait"):
        load_for_prediction(tmp_path)


def test_folders_without_a_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load_for_prediction(tmp_path / "nowhere")
    with pytest.raises(UserError, match="neither a run nor a model"):
        load_for_prediction(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "manifest.json").touch()
    with pytest.raises(UserError, match="prepared text but no model"):
        load_for_prediction(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}), encoding="utf-8")
    with pytest.raises(UserError, match="only 'bert'"):
        load_for_prediction(tmp_path)
