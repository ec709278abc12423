"""The end of a run: a folder that others can load, a card with its numbers, and nothing of the user's text."""

import dataclasses
import getpass
import json
import platform
import re
import shutil
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bertsmith.card import model_card
from bertsmith.checkpoint_folders import checkpoint_name
from bertsmith.config import TrainingConfig
from bertsmith.data.shards import open_shards
from bertsmith.errors import UserError
from bertsmith.fillings import SENTENCE_TOKENS, hide_words, one_line
from bertsmith.finish import publish_model
from bertsmith.intervals import wilson_interval
from bertsmith.metrics import read_metrics
from bertsmith.model import BertConfig, BertPretrainingModel, load_model
from bertsmith.predict import fill, load_for_prediction
from bertsmith.run_folder import note_environment
from bertsmith.step import Measured
from bertsmith.tokenizer import Tokenizer, load_tokenizer

from prose import NOUNS, write_prose
from runs import TINY, Listener, train


class Finished(NamedTuple):
    folder: Path
    text: Path
    lines: list[str]


def finish(root: Path, **changes: Any) -> Finished:
    text, listener = write_prose(root / "secret-name.txt"), Listener()
    train(root / "run", text, listener, **changes)
    return Finished(root / "run", text, listener.lines)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return finish(tmp_path_factory.mktemp("pairs"), objective="mlm+nsp")


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return finish(tmp_path_factory.mktemp("words"), objective="mlm", tokenizer="bpe", vocab_size=400)


@pytest.fixture(scope="module")
def modern(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return finish(tmp_path_factory.mktemp("modern"), preset="modern-tiny", hidden_dropout_prob=0.1)


def card_of(run: Finished) -> str:
    return (run.folder / "model" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_the_interval_is_that_of_the_literature(hits: int, count: int, low: float, high: float) -> None:
    """R. G. Newcombe, Statistics in Medicine 17 (1998), table I, method 3."""
    assert wilson_interval(hits / count, count) == pytest.approx((low, high), abs=5e-5)
    mirrored = wilson_interval(1 - hits / count, count)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_the_model_holds_the_last_weights(pairs: Finished) -> None:
    stored = load_file(pairs.folder / "checkpoints" / checkpoint_name(TINY["steps"]) / "model.safetensors")
    model = load_model(pairs.folder / "model", heads=True)
    assert stored.keys() == dict(model.named_parameters()).keys()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in stored.items())


def test_the_export_has_the_dropout_of_fine_tuning(pairs: Finished) -> None:
    config = json.loads((pairs.folder / "model" / "config.json").read_text(encoding="utf-8"))
    assert (config["hidden_dropout_prob"], config["attention_probs_dropout_prob"]) == (0.1, 0.1)
    assert "hidden_dropout_prob = 0.0" in (pairs.folder / "config.toml").read_text(encoding="utf-8")


def test_modernbert_is_exported_without_dropout_and_without_segments(modern: Finished) -> None:
    folder = modern.folder / "model"
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert {config[f"{name}_dropout"] for name in ("embedding", "attention", "mlp")} == {0.0}
    tokenizer, vocabulary = load_tokenizer(folder), json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    ids = {token["content"]: token["id"] for token in vocabulary["added_tokens"]}
    assert (config["cls_token_id"], config["bos_token_id"]) == (ids["[CLS]"],) * 2
    assert (config["sep_token_id"], config["eos_token_id"]) == (ids["[SEP]"],) * 2
    assert (config["pad_token_id"], config["mask_token_id"]) == (tokenizer.pad_token_id, tokenizer.mask_token_id)
    names = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))["model_input_names"]
    assert names == ["input_ids", "attention_mask"]
    assert 'objective = "mlm"' in (modern.folder / "config.toml").read_text(encoding="utf-8")


def test_the_architecture_says_what_was_trained(pairs: Finished, words: Finished, modern: Finished) -> None:
    named = ((pairs, "BertForPreTraining"), (words, "BertForMaskedLM"), (modern, "ModernBertForMaskedLM"))
    for run, architecture in named:
        config = json.loads((run.folder / "model" / "config.json").read_text(encoding="utf-8"))
        assert config["architectures"] == [architecture]
        assert config["max_position_embeddings"] == TINY["sequence_length"]
        tokenizer = json.loads((run.folder / "model" / "tokenizer_config.json").read_text(encoding="utf-8"))
        assert tokenizer["model_max_length"] == TINY["sequence_length"]


@pytest.mark.parametrize("kind", ["pairs", "words", "modern"])
def test_transformers_loads_the_folder_and_fills_alike(
    kind: str, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    transformers = pytest.importorskip("transformers")
    folder = request.getfixturevalue(kind).folder
    model_class = transformers.AutoModelForPreTraining if kind == "pairs" else transformers.AutoModelForMaskedLM
    theirs, loading = model_class.from_pretrained(folder / "model", output_loading_info=True)
    assert not any(loading.values())
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "model")
    model, own = load_for_prediction(folder)
    text = "The old [MASK] sees the dog."
    inputs = tokenizer(text, return_tensors="pt")
    assert inputs["input_ids"][0].tolist() == own.encode(text).ids
    with torch.no_grad():
        output = theirs.eval()(**inputs)
    logits = output.prediction_logits if kind == "pairs" else output.logits
    place = (inputs["input_ids"][0] == tokenizer.mask_token_id).nonzero().item()
    probabilities = logits[0, place].softmax(-1)
    for candidate in fill(model, own, text).masks[0]:
        assert candidate.probability == pytest.approx(float(probabilities[candidate.token_id]), rel=1e-4)
    assert not caplog.records


def test_the_summary_tells_the_measured_numbers(pairs: Finished, words: Finished) -> None:
    last = json.loads((pairs.folder / "evaluation.json").read_text(encoding="utf-8"))
    told = "\n".join(pairs.lines)
    assert f"held-out masked tokens: loss {last['mlm_loss']:.3f} nats" in told
    assert re.search(r"of [\d,]+ pairs right, 95 % interval [\d.]+% to [\d.]+%", told)
    assert f"trained 3 steps on {sum(line['tokens'] for line in read_metrics(pairs.folder)):,} tokens" in told
    assert "next sentences" not in "\n".join(words.lines)


@pytest.mark.parametrize("kind", ["pairs", "words", "modern"])
def test_the_summary_fills_masks_in_held_out_sentences(kind: str, request: pytest.FixtureRequest) -> None:
    run: Finished = request.getfixturevalue(kind)
    shown = [line for line in run.lines if "[MASK]" in line]
    known = run.text.read_text(encoding="utf-8").lower()
    assert len(shown) == 5
    for line in shown:
        found = re.fullmatch(r"  (.+)  \(true: (\w{4,}); guessed: (\S+ \d+%(?:, )?){3}\)", line)
        assert found, line
        assert found[1].replace("[MASK]", found[2]) in known


def test_card_and_environment_hold_nothing_of_the_user(pairs: Finished, words: Finished) -> None:
    for run in (pairs, words):
        written = card_of(run) + (run.folder / "environment.json").read_text(encoding="utf-8")
        names = {"secret", str(run.folder.parent), run.folder.parent.name, platform.node()}
        assert not [name for name in names if name and name in written]
        assert not {*NOUNS, getpass.getuser()} & set(re.findall(r"\w+", written.lower()))


def test_a_run_from_sources_alone_notes_its_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def version_of(package: str) -> str:
        if package == "bertsmith":
            raise PackageNotFoundError(package)
        return "1.0"

    monkeypatch.setattr("bertsmith.run_folder.version", version_of)
    note_environment(tmp_path, Listener(), device="cpu", threads=1, ranks=1)
    noted = json.loads((tmp_path / "environment.json").read_text(encoding="utf-8"))
    assert (noted["bertsmith"], noted["numpy"]) == ("not installed", "1.0")


def test_the_card_has_a_header_that_the_hub_reads(pairs: Finished) -> None:
    hub = pytest.importorskip("huggingface_hub")
    data = hub.ModelCard(card_of(pairs)).data.to_dict()
    assert data["library_name"] == "transformers"
    assert data["pipeline_tag"] == "fill-mask"
    assert "language" not in data


def test_the_card_of_masked_words_alone_advises_mean_pooling(pairs: Finished, words: Finished) -> None:
    assert "no trained pooler; use mean pooling" in card_of(words)
    assert "AutoModelForMaskedLM.from_pretrained" in card_of(words)
    assert "next sentence" not in card_of(words)
    assert "no trained pooler" not in card_of(pairs)
    assert "AutoModelForPreTraining.from_pretrained" in card_of(pairs)


def test_the_card_names_the_architecture(words: Finished, modern: Finished) -> None:
    for run, tag, title in ((words, "bert", "BERT"), (modern, "modernbert", "ModernBERT")):
        assert f"tags:\n- {tag}\n" in card_of(run)
        assert f"# {title}, 2 layers x 32, pretrained from scratch" in card_of(run)
    assert "the one that `AutoModel` adds is random" in card_of(words)
    assert "random." not in card_of(modern)


def made_up_card(**training: Any) -> str:
    given = {"objective": "mlm+nsp", **training}
    return model_card(
        config=BertConfig(max_position_embeddings=48, hidden_size=64, num_attention_heads=1, num_hidden_layers=3),
        training=dataclasses.replace(
            TrainingConfig(),
            global_batch_size=24,
            learning_rate=7e-4,
            steps=77,
            warmup_steps=11,
            precision="bfloat16",
            **given,
        ),
        manifest={
            "corpus": {"text": {"documents": 12_345, "words": 234_567, "text_bytes": 3_400_000, "duplicates": 89}},
            "splits": {"train": {"tokens": 400_000}, "validation": {"tokens": 5_432}},
            "vocab_size": 4321,
            "unknown_fraction": 0.00017,
            "unigram_loss": 6.543,
            "uniform_loss": 8.371,
        },
        measured=Measured(4.5, 3.987, 0.513, 0.321, 0.789, 65_432, 2_109),
        nsp_interval=(0.771, 0.806),
        state={"step": 77, "tokens": 1_000_000, "seconds": 150.0},
        parameters=9_876_543,
    )


@pytest.mark.parametrize(
    ("objective", "task"), [("mlm+nsp", "next-sentence pairs"), ("mlm+sop", "sentence-order pairs")]
)
def test_the_card_states_its_arguments(objective: str, task: str) -> None:
    card = made_up_card(objective=objective)
    numbers = [
        "12,345",
        "234,567",
        "3.4",
        "89",
        "400,000",
        "5,432",
        "4,321",
        "0.017%",
        "6.543",
        "8.371",
        "3.987",
        "0.513",
    ]
    numbers += ["32.1% of 65,432", "78.9% of 2,109 (77.1% to 80.6%)", "1,000,000, about 2.5 times", "2.5 min", "0.0007"]
    numbers += ["9,876,543", "at most 48 tokens", "11 warm-up", "bfloat16", "3 layers x 64", "| 77 |", "| 24 |"]
    assert [number for number in [*numbers, task] if number not in card] == []
    assert ("next" in card) == (objective == "mlm+nsp")


def test_the_card_states_what_was_done_beyond_the_plain_recipe() -> None:
    levers = {"replay": "general.txt", "replay_share": 0.25, "average_decay": 0.99, "batch_ramp": 0.2}
    card = made_up_card(**levers, short_length=64, clip_updates=True, muon_scale=2.5, output_bias="unigram")
    stated = [
        "general text beside this one | 25% |",
        "moving average, decay 0.99",
        "for 20% of the steps",
        "| 64, for 90%",
        "2.5 times that of the rest",
        "their frequencies in the text",
    ]
    assert [each for each in [*stated, "root mean square of 1", "about 1.9 times"] if each not in card] == []
    assert "general.txt" not in card
    assert "moving average" not in made_up_card()


def test_examples_are_ordinary_words_and_always_the_same(pairs: Finished) -> None:
    held_out = open_shards(pairs.folder / "data", "validation")
    tokenizer = load_tokenizer(pairs.folder / "tokenizer")
    first = list(hide_words(held_out, tokenizer, longest=32))
    assert first == list(hide_words(held_out, tokenizer, longest=32))
    for example in first:
        assert SENTENCE_TOKENS[0] + 2 <= len(example.ids) <= 32
        assert example.ids.count(tokenizer.mask_token_id) == 1
        assert len(tokenizer.decode([example.truth])) >= 4


class Sentences:
    """Held-out text in memory."""

    section_starts = section_document = np.zeros(1, dtype=np.int64)

    def __init__(self, tokenizer: Tokenizer, *sentences: str) -> None:
        ids = [np.array(sentence) for sentence in tokenizer.encode_sentences(sentences)]
        self.ids = np.concatenate(ids)
        self.num_tokens = len(self.ids)
        self.sentence_starts = np.cumsum([0, *map(len, ids)])[:-1]

    def take(self, places: np.ndarray) -> np.ndarray:
        return self.ids[places]


def test_text_without_ordinary_words_gives_no_example(pairs: Finished) -> None:
    tokenizer = load_tokenizer(pairs.folder / "tokenizer")
    assert list(hide_words(Sentences(tokenizer, "a b c, d. e? f!" * 3, "the dog."), tokenizer, longest=32)) == []
    (example,) = hide_words(Sentences(tokenizer, "a b c, d. e? river f!"), tokenizer, longest=32)
    assert tokenizer.decode([example.truth]) == "river"


def test_what_is_shown_cannot_steer_the_terminal() -> None:
    assert one_line("a\x1b[31m b\n\u202ec") == "a [31m b c"


def test_finishing_again_leaves_the_folder_as_it_is(pairs: Finished, tmp_path: Path) -> None:
    folder = shutil.copytree(pairs.folder, tmp_path / "run")
    card = folder / "model" / "README.md"
    card.write_text("my own words", encoding="utf-8")
    (folder / "model" / "notes.txt").touch()
    train(folder, pairs.text, objective="mlm+nsp")
    assert card.read_text(encoding="utf-8") == "my own words"
    assert {path.name for path in folder.iterdir() if path.name.startswith("model")} == {"model"}


def test_a_model_folder_that_is_missing_is_made_again(pairs: Finished, tmp_path: Path) -> None:
    folder = shutil.copytree(pairs.folder, tmp_path / "run")
    shutil.rmtree(folder / "model")
    train(folder, pairs.text, objective="mlm+nsp")
    for name in ("model.safetensors", "config.json", "tokenizer.json", "README.md"):
        assert (folder / "model" / name).read_bytes() == (pairs.folder / "model" / name).read_bytes()


def tiny_model(seed: int) -> BertPretrainingModel:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    return BertPretrainingModel(BertConfig(vocab_size=160, max_position_embeddings=32, **sizes))


def test_another_model_is_kept_beside(pairs: Finished, tmp_path: Path) -> None:
    tokenizer, folder, listener = load_tokenizer(pairs.folder / "tokenizer"), tmp_path / "model", Listener()
    for seed in (1, 2, 3):
        publish_model(folder, tiny_model(seed), tokenizer, f"card {seed}", listener)
    cards = {path.name: (path / "README.md").read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    assert cards == {"model": "card 3", "model-before": "card 1", "model-before-2": "card 2"}
    assert "held another model, which is now" in listener.lines[0]


def test_what_a_killed_process_left_is_no_part_of_the_model(pairs: Finished, tmp_path: Path) -> None:
    tokenizer, folder = load_tokenizer(pairs.folder / "tokenizer"), tmp_path / "model"
    (tmp_path / "model.tmp").mkdir()
    (tmp_path / "model.tmp" / "model.safetensors.tmp").write_bytes(b"half")
    publish_model(folder, tiny_model(1), tokenizer, "card", Listener())
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    expected = {"README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in folder.iterdir()} == expected


def test_a_full_disk_leaves_the_model_that_was_there(pairs: Finished, tmp_path: Path) -> None:
    folder = shutil.copytree(pairs.folder, tmp_path / "run")
    (folder / "model" / "model.safetensors").write_bytes(b"another model")
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (pairs.folder / "model" / "model.safetensors").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1, limits[1]))
    try:
        with pytest.raises(
            UserError, match=r"the model could not be written to .*model: File too large; the checkpoints"
        ):
            train(folder, pairs.text, objective="mlm+nsp")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (folder / "model" / "model.safetensors").read_bytes() == b"another model"
    assert not list(folder.glob("*.tmp"))
