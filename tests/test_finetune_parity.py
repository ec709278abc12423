"""What fine-tuning writes is read by transformers' pipelines, with label names and the same predictions."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bertsmith.errors import UserError
from bertsmith.finetuning.any_classifier import (
    ForeignClassifier,
    inspect_folder,
    read_classifier,
    refuse_unfit,
    start_classifier,
)
from bertsmith.finetuning.classify import load_classifier, predict_file
from bertsmith.interrupt import Interrupted
from bertsmith.model import Packed, load_model
from bertsmith.model.classifier import BertClassifier, Head, ModernBertClassifier
from bertsmith.playground.subject import Subject
from bertsmith.sentence_vectors import load_sentence_encoder
from bertsmith.tokenizer import Tokenizer, load_tokenizer
from labelled import (
    LONGEST,
    TOPICS,
    number_rows,
    pair_rows,
    set_rows,
    tagged_rows,
    tiny_encoder,
    tiny_modern,
    topic_rows,
    tune,
    write_rows,
)

from references import write_foreign
from runs import Listener

transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def tuned(folder: Path, rows: list[dict[str, Any]], **changes: Any) -> Path:
    encoder = changes.pop("encoder", None) or tiny_encoder(
        folder / "encoder", pooler=changes.pop("pooler", True), kind=changes.pop("kind", "wordpiece")
    )
    tune(folder / "run", encoder, write_rows(folder / "rows.jsonl", rows), epochs=2.0, **changes)
    return folder / "run"


def predicted(run: Path, rows: list[dict[str, Any]], folder: Path) -> list[dict[str, str]]:
    path = write_rows(folder / "new.jsonl", rows)
    predict_file(load_classifier(run), str(path), folder / "out.csv", every_label=True)
    with (folder / "out.csv").open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


@pytest.mark.parametrize("pooler", [True, False])
@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_topics_as_by_the_pipeline(kind: str, pooler: bool, tmp_path: Path) -> None:
    run = tuned(tmp_path, topic_rows(100), label="topic", pooler=pooler, kind=kind)
    rows = topic_rows(20, seed=9)
    pipe = transformers.pipeline("text-classification", str(run / "model"), top_k=None, device="cpu")
    for row, ours in zip(rows, predicted(run, rows, tmp_path), strict=True):
        theirs = {each["label"]: each["score"] for each in pipe([row["text"]])[0]}
        assert ours["prediction"] == max(theirs, key=lambda name: theirs[name])
        for label, score in theirs.items():
            assert float(ours[f"probability_{label}"]) == pytest.approx(score, abs=1e-5)


@pytest.mark.parametrize("rows", [topic_rows(60), tagged_rows(60)])
def test_the_code_on_the_card_runs_also_on_a_long_text(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    run = tuned(tmp_path, rows)
    (code,) = re.findall(r"```python\n(.*?)```", (run / "model" / "README.md").read_text(), re.DOTALL)
    found: dict[str, Any] = {}
    exec(code.replace("path/to/this/folder", str(run / "model")), found)
    found["model"]("the dog " * 2 * LONGEST)


def test_several_labels_as_by_the_pipeline(tmp_path: Path) -> None:
    run = tuned(tmp_path, set_rows(100))
    rows = set_rows(20, seed=9)
    pipe = transformers.pipeline("text-classification", str(run / "model"), top_k=None, device="cpu")
    for row, ours in zip(rows, predicted(run, rows, tmp_path), strict=True):
        theirs = {each["label"]: each["score"] for each in pipe([row["text"]])[0]}
        assert set(filter(None, ours["prediction"].split(";"))) == {n for n, score in theirs.items() if score > 0.5}
        for label, score in theirs.items():
            assert float(ours[f"probability_{label}"]) == pytest.approx(score, abs=1e-5)


def test_numbers_as_by_the_pipeline(tmp_path: Path) -> None:
    run = tuned(tmp_path, number_rows(100))
    rows = number_rows(20, seed=9)
    pipe = transformers.pipeline("text-classification", str(run / "model"), device="cpu")
    for row, ours in zip(rows, predicted(run, rows, tmp_path), strict=True):
        assert float(ours["prediction"]) == pytest.approx(pipe(row["text"])[0]["score"], rel=1e-4)


def test_pairs_as_by_the_pipeline(tmp_path: Path) -> None:
    """Too long ones too: the longer text is cut first."""
    run = tuned(tmp_path, pair_rows(100))
    rows = pair_rows(20, seed=9)
    for number, (one, other) in enumerate(((1, 9), (9, 1), (9, 9), (3, 9), (9, 3))):
        row = rows[number]
        row["text"], row["text_pair"] = " ".join([row["text"]] * one), " ".join([row["text_pair"]] * other)
    pipe = transformers.pipeline("text-classification", str(run / "model"), top_k=None, device="cpu")
    for row, ours in zip(rows, predicted(run, rows, tmp_path), strict=True):
        given = {"text": row["text"], "text_pair": row["text_pair"]}
        for each in pipe(given, truncation=True, max_length=32):
            assert float(ours[f"probability_{each['label']}"]) == pytest.approx(each["score"], abs=1e-5)


def test_a_bert_with_one_type_reads_both_texts_of_a_pair_as_it(tmp_path: Path) -> None:
    run = tuned(tmp_path, pair_rows(60), encoder=tiny_encoder(tmp_path / "encoder", types=1))
    rows = pair_rows(9, seed=9)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(run / "model").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(run / "model")
    for row, ours in zip(rows, predicted(run, rows, tmp_path), strict=True):
        given = tokenizer(row["text"], row["text_pair"], return_token_type_ids=False, return_tensors="pt")
        expected = theirs(**given).logits.softmax(-1)[0].tolist()
        found = [float(ours[f"probability_{name}"]) for _, name in sorted(theirs.config.id2label.items())]
        assert found == pytest.approx(expected, abs=1e-5)
    subject = Subject(run)
    assert {label for label, _ in subject.ask("classify", "the dog", "a sail")["rows"][0]} == set(TOPICS)
    assert subject.ask("attention", "the dog", "a sail")["tokens"].count("[SEP]") == 2


def test_tags_as_by_the_pipeline(tmp_path: Path) -> None:
    run = tuned(tmp_path, tagged_rows(100))
    rows = tagged_rows(20, seed=9)
    ours = predicted(run, rows, tmp_path)
    pipe = transformers.pipeline("token-classification", str(run / "model"), device="cpu", aggregation_strategy="first")
    none = transformers.pipeline(
        "token-classification", str(run / "model"), device="cpu", aggregation_strategy="none", ignore_labels=[]
    )
    for number, row in enumerate(rows, 1):
        tokens = row["tokens"]
        mine = [each for each in ours if each["row"] == str(number)]
        assert [each["word"] for each in mine] == tokens
        text = " ".join(tokens)
        starts = [len(" ".join(tokens[:place])) + (place > 0) for place in range(len(tokens))]
        by_start = {each["start"]: each for each in none(text)}  # pieces; the first of each word counts
        for each, start in zip(mine, starts, strict=True):
            assert by_start[start]["entity"] == each["prediction"]
            assert float(each["probability"]) == pytest.approx(float(by_start[start]["score"]), abs=1e-5)
        assert all(group["entity_group"] in {"animals", "ships", "food"} for group in pipe(text))


@pytest.mark.parametrize(
    ("architecture", "labels"), [("BertForSequenceClassification", 3), ("BertForTokenClassification", 5)]
)
def test_what_transformers_wrote_is_read(architecture: str, labels: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=16, num_labels=labels,
    )  # fmt: skip
    theirs = getattr(transformers, architecture)(config).eval()
    theirs.save_pretrained(tmp_path)
    ours = BertClassifier.from_pretrained(tmp_path)
    assert len(ours.head.labels) == labels
    ids = torch.randint(50, (7,))
    packed = Packed(torch.tensor([0, 7], dtype=torch.int32), 7)
    places = torch.arange(7)
    expected = theirs(ids[None]).logits.squeeze(0).reshape(-1, labels)
    torch.testing.assert_close(ours(ids, torch.zeros_like(ids), packed, places), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("given", "expected"), [(0.3, 0.3), (0.0, 0.0), (None, 0.1)])
def test_a_classifier_drops_what_its_folder_says(given: float | None, expected: float, tmp_path: Path) -> None:
    encoder, head = tiny_encoder(tmp_path / "encoder"), Head("classification", ("a", "b"))
    said = {"classifier_dropout": given, "hidden_dropout_prob": 0.1}
    settings = json.loads((encoder / "config.json").read_text()) | said
    (encoder / "config.json").write_text(json.dumps(settings))
    ours = BertClassifier.start(encoder, head)
    ours.save_pretrained(tmp_path / "tuned")
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "tuned")
    again = BertClassifier.from_pretrained(tmp_path / "tuned")
    assert (ours.dropout.chance, theirs.dropout.p, again.dropout.chance) == (expected, expected, expected)


@pytest.mark.parametrize("start", [BertClassifier.start, ModernBertClassifier.start])
def test_a_dropout_that_is_no_probability_is_refused(start: Any, tmp_path: Path) -> None:
    encoder = tiny_encoder(tmp_path) if start == BertClassifier.start else tiny_modern(tmp_path)
    settings = json.loads((encoder / "config.json").read_text()) | {"classifier_dropout": 1.5}
    (encoder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=r"classifier_dropout in .*config\.json is 1\.5; give a probability in"):
        start(encoder, Head("classification", ("a", "b")))


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_a_model_that_gives_several_numbers_is_refused(kind: str, tmp_path: Path) -> None:
    names = {"bert": "Bert", "distilbert": "DistilBert"}
    cls = getattr(transformers, f"{names[kind]}ForSequenceClassification")
    tokenizer = load_tokenizer(tiny_encoder(tmp_path / "words"))
    folder = write_foreign(tmp_path / kind, kind, tokenizer, cls=cls, num_labels=3, problem_type="regression")
    for read in (load_classifier, Subject):
        with pytest.raises(UserError, match="gives 3 numbers for a text, and only one is read here; use transformers"):
            read(folder)


def test_the_folder_of_a_new_classifier_is_that_of_transformers(tmp_path: Path) -> None:
    run = tuned(tmp_path, topic_rows(60), label="topic")
    config = json.loads((run / "model" / "config.json").read_text())
    assert config["id2label"] == {"0": "animals", "1": "food", "2": "ships"}
    assert config["label2id"] == {"animals": 0, "food": 1, "ships": 2}
    model, found = transformers.AutoModelForSequenceClassification.from_pretrained(
        run / "model", output_loading_info=True
    )
    assert not any(found[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.config.problem_type == "single_label_classification"


def test_a_tuned_model_can_be_tuned_again(tmp_path: Path) -> None:
    run = tuned(tmp_path, topic_rows(60), label="topic")
    found = tune(tmp_path / "again", run, write_rows(tmp_path / "tags.jsonl", tagged_rows(60)), epochs=1.0)
    assert found["task"] == "tagging"


def foreign(folder: Path, kind: str) -> Path:
    tokenizer = load_tokenizer(tiny_encoder(folder / "words", kind="bpe" if kind == "roberta" else "wordpiece"))
    if kind == "roberta":
        content = json.loads((folder / "words" / "tokenizer.json").read_text(encoding="utf-8"))
        content["normalizer"] = None
        content["pre_tokenizer"] = {
            "type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True,
        }  # fmt: skip
        names = {
            role: f"[{role[:-6].upper()}]"
            for role in ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
        }
        cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
        content["post_processor"] = {
            "type": "RobertaProcessing", "sep": ["[SEP]", sep], "cls": ["[CLS]", cls],
            "trim_offsets": True, "add_prefix_space": False,
        }  # fmt: skip
        tokenizer = Tokenizer(content, names)
    return write_foreign(folder / kind, kind, tokenizer)


ENCODERS = ("modern", "modern without head", "roberta", "distilbert", "deberta-v2")


def encoder_of(folder: Path, kind: str) -> Path:
    if kind.startswith("modern"):
        return tiny_modern(folder / "modern", heads=kind == "modern")
    return foreign(folder, kind)


@pytest.mark.parametrize("kind", ENCODERS)
def test_other_encoders_classify_pairs_as_by_the_pipeline(kind: str, tmp_path: Path) -> None:
    run = tuned(tmp_path, pair_rows(60), encoder=encoder_of(tmp_path, kind))
    rows = pair_rows(12, seed=9)
    rows[3]["text"] = " ".join([rows[3]["text"]] * 9)
    pipe = transformers.pipeline("text-classification", str(run / "model"), top_k=None, device="cpu")
    longest = inspect_folder(run / "model").longest
    for row, ours in zip(rows, predicted(run, rows, tmp_path), strict=True):
        given = {"text": row["text"], "text_pair": row["text_pair"]}
        for each in pipe(given, truncation=True, max_length=longest):
            assert float(ours[f"probability_{each['label']}"]) == pytest.approx(each["score"], abs=1e-5)


def switched(folder: Path, kind: str) -> Path:
    """A BERT or ModernBERT that transformers computes and our own code does not."""
    if kind == "silu":
        return write_foreign(folder / kind, "bert", load_tokenizer(tiny_encoder(folder / "words")), hidden_act="silu")
    tiny_modern(folder / kind)
    config = transformers.AutoConfig.from_pretrained(folder / kind, mlp_bias=True)
    transformers.ModernBertForMaskedLM(config).save_pretrained(folder / kind)
    return folder / kind


@pytest.mark.parametrize("kind", ["silu", "mlp_bias"])
def test_a_bert_with_another_switch_classifies_pairs_as_by_the_pipeline(kind: str, tmp_path: Path) -> None:
    run = tuned(tmp_path, pair_rows(60), encoder=switched(tmp_path, kind))
    assert isinstance(read_classifier(run / "model"), ForeignClassifier)
    rows = pair_rows(6, seed=9)
    pipe = transformers.pipeline("text-classification", str(run / "model"), top_k=None, device="cpu")
    for row, ours in zip(rows, predicted(run, rows, tmp_path), strict=True):
        for each in pipe({"text": row["text"], "text_pair": row["text_pair"]}):
            assert float(ours[f"probability_{each['label']}"]) == pytest.approx(each["score"], abs=1e-5)


@pytest.mark.parametrize("key", ["position_embedding_type", "hidden_act and position_embedding_type"])
def test_a_switch_that_transformers_passes_over_is_refused(key: str, tmp_path: Path) -> None:
    path = tiny_encoder(tmp_path) / "config.json"
    changes = {"hidden_act": "silu"} if key.startswith("hidden_act") else {}
    config = json.loads(path.read_text()) | changes | {"position_embedding_type": "relative_key"}
    path.write_text(json.dumps(config))
    for read in (inspect_folder, read_classifier):
        with pytest.raises(UserError, match=r"position_embedding_type in .* is 'relative_key'"):
            read(tmp_path)


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_an_untied_head_is_no_matter_where_none_is_read(family: str, tmp_path: Path) -> None:
    folder = (tiny_encoder if family == "bert" else tiny_modern)(tmp_path)
    head, text = Head("classification", ("a", "b")), ["the dog and a sail"]
    tied = load_sentence_encoder(folder).encode(text)
    config = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(config))
    assert (load_sentence_encoder(folder).encode(text) == tied).all()
    assert isinstance(start_classifier(folder, head), BertClassifier | ModernBertClassifier)
    with pytest.raises(UserError, match="tie_word_embeddings in"):
        load_model(folder)


@pytest.mark.parametrize("kind", ENCODERS)
def test_other_encoders_tag_as_by_the_pipeline(kind: str, tmp_path: Path) -> None:
    run = tuned(tmp_path, tagged_rows(60), encoder=encoder_of(tmp_path, kind))
    rows = tagged_rows(8, seed=9)
    ours = predicted(run, rows, tmp_path)
    pipe = transformers.pipeline(
        "token-classification", str(run / "model"), device="cpu", aggregation_strategy="none", ignore_labels=[]
    )
    for number, row in enumerate(rows, 1):
        mine = [each for each in ours if each["row"] == str(number)]
        text = " ".join(row["tokens"])
        by_start = {each["start"]: each for each in reversed(pipe(text))}
        starts = [len(" ".join(row["tokens"][:place])) + (place > 0) for place in range(len(row["tokens"]))]
        for each, start in zip(mine, starts, strict=True):
            assert float(each["probability"]) == pytest.approx(float(by_start[start]["score"]), abs=1e-5)


@pytest.mark.parametrize("kind", ["modern", "roberta"])
def test_other_encoders_give_numbers_as_by_the_pipeline(kind: str, tmp_path: Path) -> None:
    run = tuned(tmp_path, number_rows(80), encoder=encoder_of(tmp_path, kind))
    rows = number_rows(12, seed=9)
    pipe = transformers.pipeline("text-classification", str(run / "model"), device="cpu", function_to_apply="none")
    for row, ours in zip(rows, predicted(run, rows, tmp_path), strict=True):
        assert float(ours["prediction"]) == pytest.approx(pipe(row["text"])[0]["score"], rel=1e-4)


def test_another_encoder_that_was_tuned_gets_a_new_layer(tmp_path: Path) -> None:
    """A layer that gives numbers as they are in the data would be thousands of deviations off when it learns again."""
    rows = write_rows(tmp_path / "rows.jsonl", number_rows(40))
    other = foreign(tmp_path, "distilbert")
    for folder, before in ((tmp_path / "once", other), (tmp_path / "twice", tmp_path / "once")):
        tune(folder, before, rows, epochs=1.0)
        with (folder / "tries" / "1" / "metrics.jsonl").open() as lines:
            assert json.loads(next(lines))["loss"] < 10


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("name", ["ModernBertForSequenceClassification", "ModernBertForTokenClassification"])
def test_what_transformers_wrote_of_modernbert_is_read(name: str, pooling: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.ModernBertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=48,
        max_position_embeddings=16, num_labels=3, classifier_pooling=pooling, pad_token_id=0, cls_token_id=1,
        sep_token_id=2, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    theirs = getattr(transformers, name)(config).eval()
    theirs.save_pretrained(tmp_path)
    ours = read_classifier(tmp_path)
    ids = torch.randint(3, 50, (12,))
    packed = Packed(torch.tensor([0, 7, 12], dtype=torch.int32), 7)
    given = ours(ids, torch.zeros_like(ids), packed, torch.arange(12))
    expected = torch.cat([theirs(part[None]).logits.reshape(-1, 3) for part in (ids[:7], ids[7:])])
    torch.testing.assert_close(given, expected, atol=1e-5, rtol=1e-5)


def test_the_layer_that_masked_words_trained_goes_on(tmp_path: Path) -> None:
    folder = tiny_modern(tmp_path / "modern")
    head = Head("classification", ("a", "b"))
    torch.manual_seed(1)
    one, other = (start_classifier(folder, head).state_dict() for _ in range(2))
    trained = load_file(folder / "model.safetensors")["head.dense.weight"]
    assert torch.equal(one["prediction_head.dense.weight"], trained)
    assert torch.equal(other["prediction_head.dense.weight"], trained)
    assert not torch.equal(one["classifier.weight"], other["classifier.weight"])
    assert 0.5 * LONGEST**-0.5 < float(one["classifier.weight"].std()) < 1.5 * LONGEST**-0.5  # the hidden size is equal


def test_a_hub_id_is_downloaded_without_pickles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub itself is not asked here: what is downloaded is a folder on this machine."""
    asked: list[tuple[str, list[str]]] = []

    def download(source: str, *, allow_patterns: list[str]) -> str:
        asked.append((source, allow_patterns))
        return str(tmp_path / source)

    tiny_modern(tmp_path / "someone" / "model")
    (tmp_path / "someone" / "pickle").mkdir()
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    rows = write_rows(tmp_path / "rows.jsonl", topic_rows(40))
    assert tune(tmp_path / "run", Path("someone/model"), rows, label="topic", epochs=1.0)["test_accuracy"] >= 0
    assert asked[0][0] == "someone/model"
    assert not any(".bin" in pattern or ".py" in pattern for pattern in asked[0][1])
    with pytest.raises(UserError, match="someone/pickle has no weights as safetensors on the hub"):
        tune(tmp_path / "other", Path("someone/pickle"), rows, label="topic")


def test_what_is_no_encoder_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    words = load_tokenizer(tiny_encoder(tmp_path / "words"))
    config = transformers.T5Config(vocab_size=words.vocab_size, d_model=32, d_kv=16, d_ff=64, num_layers=1, num_heads=2)
    transformers.T5EncoderModel(config).save_pretrained(tmp_path / "t5")
    words.save(tmp_path / "t5", model_max_length=LONGEST)
    rows = write_rows(tmp_path / "rows.jsonl", topic_rows(40))
    with pytest.raises(UserError, match=r"t5 holds no encoder to classify with: .*decoder_start_token_id") as caught:
        tune(tmp_path / "run", tmp_path / "t5", rows, label="topic")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("pad", [None, 9])
def test_a_model_that_looks_for_the_padding_finds_it(pad: int | None, tmp_path: Path) -> None:
    """GPT-2 reads the last token before it."""
    words = load_tokenizer(tiny_encoder(tmp_path / "words"))
    config = transformers.GPT2Config(
        vocab_size=words.vocab_size, n_embd=32, n_layer=1, n_head=2, n_positions=LONGEST, initializer_range=0.5,
        pad_token_id=pad, bos_token_id=2, eos_token_id=3,
    )  # fmt: skip
    transformers.GPT2Model(config).save_pretrained(tmp_path / "gpt2")
    words.save(tmp_path / "gpt2", model_max_length=LONGEST)
    head = Head("classification", ("a", "b"))
    refuse_unfit(tmp_path / "gpt2", head)
    model = start_classifier(tmp_path / "gpt2", head).eval()
    ids = torch.tensor([2, 7, 8, 3, 2, 7, 3])
    both = model(ids, torch.zeros_like(ids), Packed(torch.tensor([0, 4, 7], dtype=torch.int32), 4))
    alone = model(ids[4:], torch.zeros(3).long(), Packed(torch.tensor([0, 3], dtype=torch.int32), 3))
    torch.testing.assert_close(both[1:], alone)
    with pytest.raises(UserError, match=r"gpt2 has a last layer without a bias"):
        refuse_unfit(tmp_path / "gpt2", Head("regression", ("score",)))
    rows = write_rows(tmp_path / "rows.jsonl", topic_rows(40))
    assert tune(tmp_path / "run", tmp_path / "gpt2", rows, label="topic", epochs=1.0)["test_accuracy"] >= 0


def test_other_encoders_are_written_in_silence_and_a_full_disk_is_said(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    resource = pytest.importorskip("resource")
    model = start_classifier(foreign(tmp_path, "distilbert"), Head("classification", ("a", "b")))
    capfd.readouterr()
    model.save_pretrained(tmp_path / "out")
    assert capfd.readouterr() == ("", "")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
        with pytest.raises(OSError, match=r"cannot write .*full: .*too large"):
            model.save_pretrained(tmp_path / "full")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("kind", ["modern", "distilbert"])
def test_an_interrupted_run_of_another_encoder_ends_with_the_same_weights(kind: str, tmp_path: Path) -> None:
    encoder = tiny_modern(tmp_path / "modern", dropout=0.1) if kind == "modern" else foreign(tmp_path, kind)
    rows = write_rows(tmp_path / "rows.jsonl", topic_rows(80))
    given: dict[str, Any] = {"label": "topic", "epochs": 2.0, "micro_batch_tokens": 64}
    tune(tmp_path / "straight", encoder, rows, **given)
    with pytest.raises(Interrupted):
        tune(tmp_path / "stopped", encoder, rows, Listener(3), **given)
    tune(tmp_path / "stopped", encoder, rows, **given)
    one, other = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("straight", "stopped"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
