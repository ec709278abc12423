"""Models of transformers behind our own face: the same numbers, and one line for what is none."""

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.numpy import load_file

from bertsmith.config import DataConfig
from bertsmith.corpus import open_corpus
from bertsmith.errors import UserError
from bertsmith.evaluation.any_model import open_model
from bertsmith.evaluation.foreign import ForeignModel, load_foreign, load_foreign_tokenizer
from bertsmith.evaluation.held_out import TextTokens, sample_sections
from bertsmith.evaluation.token_scores import score_text
from bertsmith.model import Packed
from bertsmith.predict import load_for_prediction
from bertsmith.prepare.chunks import tokenise
from bertsmith.prepare.inputs import read_inputs
from bertsmith.tokenizer import Tokenizer, train_tokenizer

from references import CLASSES, SHAPE, transformers, write_foreign

CPU = torch.device("cpu")
FOREIGN = sorted(CLASSES)


@pytest.fixture(scope="module")
def tokenizer(text: Path) -> Tokenizer:
    lines = text.read_text(encoding="utf-8").splitlines()
    return train_tokenizer(lines, kind="wordpiece", vocab_size=150, lowercase=True, strip_accents=None, at_most=False)


@pytest.fixture(scope="module")
def folders(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("foreign")
    return {kind: write_foreign(root / kind, kind, tokenizer) for kind in FOREIGN}


@pytest.mark.parametrize("kind", FOREIGN)
def test_packed_and_padded_and_asked_places_equal_transformers(folders: dict[str, Path], kind: str) -> None:
    network, _, longest = load_foreign(folders[kind])
    assert longest == 48
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(folders[kind]).eval()
    ids = torch.randint(5, 150, (20,), generator=torch.Generator().manual_seed(1))
    packed = Packed(torch.tensor([0, 7, 7, 19, 20], dtype=torch.int32), 20)
    places = torch.tensor([3, 7, 18, 0])
    with torch.no_grad():
        expected = torch.cat([theirs(part[None]).logits[0] for part in (ids[:7], ids[7:19], ids[19:])])
        close = {"rtol": 0, "atol": 2e-5}
        torch.testing.assert_close(network(ids, packed=packed).mlm_logits, expected, **close)
        torch.testing.assert_close(
            network(ids, packed=packed, masked_index=places).mlm_logits, expected[places], **close
        )
        of_rows = network(ids, packed=packed, masked_index=places.view(2, 2)).mlm_logits
        torch.testing.assert_close(of_rows, expected[places], **close)
        rows = ids[:14].view(2, 7)
        torch.testing.assert_close(network(rows).mlm_logits, theirs(rows).logits, **close)


@pytest.mark.parametrize("kind", [kind for kind in FOREIGN if kind != "deberta-v2"])
def test_the_vocabulary_is_scored_only_at_the_asked_places(folders: dict[str, Path], kind: str) -> None:
    network = load_foreign(folders[kind]).network
    seen: list[torch.Size] = []
    scorer = network.network.get_output_embeddings()
    scorer.register_forward_hook(lambda _module, _inputs, output: seen.append(output.shape))
    network(torch.ones(4, 6, dtype=torch.int64), masked_index=torch.tensor([0, 23]))
    assert seen == [(2, 150)]


def test_sequences_without_an_asked_place_are_not_computed(folders: dict[str, Path]) -> None:
    """Such as the padding of a row, of which models that look for a sequence's last token make nothing."""
    network = load_foreign(folders["roberta"]).network
    seen: list[torch.Tensor] = []
    network.network.register_forward_pre_hook(lambda *given: seen.append(given[2]["input_ids"]), with_kwargs=True)
    ids = torch.tensor([2, 7, 8, 3, 0, 0, 0, 0, 2, 9, 3, 0])
    packed = Packed(torch.tensor([0, 4, 8, 11, 12], dtype=torch.int32), 12)
    logits = network(ids, packed=packed, masked_index=torch.tensor([9, 1, 2])).mlm_logits
    assert [rows.tolist() for rows in seen] == [[[2, 7, 8, 3], [2, 9, 3, 0]]]
    torch.testing.assert_close(logits, network(ids, packed=packed).mlm_logits[[9, 1, 2]], rtol=0, atol=2e-5)


def test_a_model_that_fails_is_one_line(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    network = load_foreign(folders["distilbert"]).network

    def fail(**_: torch.Tensor) -> None:
        raise RuntimeError("no such kernel\nat line 7")

    monkeypatch.setattr(network.network, "forward", fail)
    with pytest.raises(UserError, match=r"DistilBertForMaskedLM of transformers cannot .* here: no such kernel$"):
        network(torch.ones(1, 4, dtype=torch.int64))


def test_a_model_whose_embeddings_are_no_table_is_read(folders: dict[str, Path]) -> None:
    """As Perceiver's, whose input embeddings are its latents."""
    config = SimpleNamespace(vocab_size=150, max_position_embeddings=40)
    latents = torch.nn.Parameter(torch.zeros(4, 8))
    network = SimpleNamespace(config=config, get_input_embeddings=lambda: latents, named_modules=list)
    assert load_foreign_tokenizer(folders["distilbert"], network)[1] == 40
    config.vocab_size = 149
    with pytest.raises(UserError, match="has 150 pieces and the model 149"):
        load_foreign_tokenizer(folders["distilbert"], network)


def test_a_bert_measures_the_same_through_transformers(folders: dict[str, Path], text: Path) -> None:
    sections = sample_sections(open_corpus([str(text)], document="blank-line").sections(), 300).sections
    ours = open_model(str(folders["bert"]), CPU)
    assert not isinstance(ours.network, ForeignModel)
    network, tokenizer, longest = load_foreign(folders["bert"])
    theirs = type(ours)("theirs", network, tokenizer, longest, None)
    mine, other = (score_text(model, sections, 32, float) for model in (ours, theirs))
    assert mine.masked.loss == pytest.approx(other.masked.loss, abs=1e-5)
    assert mine.masked.tokens == other.masked.tokens
    assert mine.masked.accuracy == other.masked.accuracy
    assert mine.next_sentences is not None
    assert other.next_sentences is None


def test_a_bert_of_the_days_before_model_types_is_read(folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(folders["bert"], tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "model_type"}))
    assert open_model(str(tmp_path), CPU).has_next_sentence


def test_the_tokenizer_is_the_one_in_the_folder(folders: dict[str, Path], tokenizer: Tokenizer) -> None:
    assert load_foreign(folders["roberta"]).tokenizer.fingerprint() == tokenizer.fingerprint()


def test_sentences_in_running_text_keep_the_space_before_them(tmp_path: Path) -> None:
    """A tokenizer as RoBERTa's tells " The" from "The", and only the first of a text has none before it."""
    tokenizers = pytest.importorskip("tokenizers")
    raw = tokenizers.ByteLevelBPETokenizer(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    text = "The dog sees. The cat sees."
    raw.train_from_iterator([text] * 9, vocab_size=300, min_frequency=1, special_tokens=special)
    names = dict(zip(("cls_token", "pad_token", "sep_token", "unk_token", "mask_token"), special, strict=True))
    backend = tokenizers.Tokenizer.from_str(raw.to_str())
    backend.post_processor = tokenizers.processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **names).save_pretrained(tmp_path)
    config = transformers.RobertaConfig(vocab_size=300, max_position_embeddings=50, **SHAPE)
    transformers.RobertaForMaskedLM(config).save_pretrained(tmp_path)
    _, tokenizer, longest = load_foreign(tmp_path)
    assert longest == 48
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    source = TextTokens(open_corpus([str(tmp_path / "text.txt")]).sections(), tokenizer)
    assert tokenizer.decode(source.ids) == f" {text}"
    assert source.sentence_starts.tolist() == [0, len(source.ids) // 2]
    assert (tokenizer.encode_texts([text])[0].ids[1:-1] == source.ids).sum() > 0
    (tmp_path / "shard").write_bytes(tokenise([0], [text], tokenizer))  # what is prepared for training is the same
    assert load_file(tmp_path / "shard")["ids"].tolist() == source.ids.tolist()
    given = {"text": (str(tmp_path / "text.txt"),)}
    rules = [read_inputs(DataConfig(**given, tokenizer=str(name))).fingerprint["rules"] for name in (tmp_path, "bpe")]
    assert rules[0] != rules[1]


def test_half_precision_weights_are_computed_in_single(folders: dict[str, Path], tmp_path: Path) -> None:
    transformers.AutoModelForMaskedLM.from_pretrained(folders["distilbert"]).half().save_pretrained(tmp_path)
    shutil.copy(folders["distilbert"] / "tokenizer.json", tmp_path)
    shutil.copy(folders["distilbert"] / "tokenizer_config.json", tmp_path)
    assert {parameter.dtype for parameter in load_foreign(tmp_path).network.parameters()} == {torch.float32}


def test_what_is_no_masked_language_model_is_refused(
    folders: dict[str, Path], tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_foreign(tmp_path / "bare", "roberta", tokenizer, cls=transformers.RobertaModel)
    with pytest.raises(UserError, match=r"bare has no head for masked words: it lacks lm_head"):
        open_model(str(tmp_path / "bare"), CPU)
    write_foreign(tmp_path / "bare-bert", "bert", tokenizer, cls=transformers.BertModel)
    with pytest.raises(UserError, match="has no head for masked words"):
        open_model(str(tmp_path / "bare-bert"), CPU)
    shutil.copytree(folders["roberta"], tmp_path / "gpt")
    (tmp_path / "gpt" / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(UserError, match="holds no masked-language model that transformers reads"):
        open_model(str(tmp_path / "gpt"), CPU)
    shutil.copytree(folders["roberta"], tmp_path / "no-tokenizer")
    (tmp_path / "no-tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="no-tokenizer"):
        open_model(str(tmp_path / "no-tokenizer"), CPU)
    with pytest.raises(UserError, match="does not exist"):
        open_model(str(tmp_path / "nowhere"), CPU)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"pip install bertsmith\[hf\]"):
        open_model(str(folders["roberta"]), CPU)


def test_a_hub_id_is_asked_for_only_where_no_path_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="nobody/nothing does not exist here and cannot be had from the hub"):
        open_model("nobody/nothing", CPU)
    with pytest.raises(UserError, match="nobody/nothing does not exist here and cannot be had from the hub"):
        load_for_prediction(Path("nobody/nothing"))
    Path("nobody").mkdir()
    with pytest.raises(UserError, match="nobody/nothing does not exist; give"):
        open_model("nobody/nothing", CPU)


def test_quiet_reading_leaves_the_settings_of_transformers(folders: dict[str, Path]) -> None:
    log = transformers.utils.logging
    before = (log.get_verbosity(), log.is_progress_bar_enabled())
    load_foreign(folders["distilbert"])
    assert (log.get_verbosity(), log.is_progress_bar_enabled()) == before
