"""Made-up labelled rows that a tiny model can learn, and tiny models to learn them."""

import csv
import json
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from bertsmith.finetune import finetune
from bertsmith.model import BertConfig, BertModel, BertPretrainingModel, ModernBertConfig, ModernBertPretrainingModel
from bertsmith.model.classifier import BertClassifier, Head
from bertsmith.reporter import Reporter
from bertsmith.tokenizer import load_tokenizer, train_tokenizer

TOPICS = {
    "animals": "dog cat horse sheep goat",
    "ships": "sail mast anchor harbour deck",
    "food": "bread soup butter apple cheese",
}
FILLERS = "the a old new very some under near with and then here".split()

LONGEST = 32

TINY: dict[str, Any] = {
    "threads": 1,
    "device": "cpu",
    "precision": "float32",
    "learning_rate": 5e-3,
    "epochs": 6.0,
    "batch_size": 16,
}


def sentence(draw: random.Random, *words: str, length: int = 6) -> list[str]:
    """Some words among fillers, in any order."""
    chosen = [*words, *(draw.choice(FILLERS) for _ in range(draw.randint(2, length)))]
    draw.shuffle(chosen)
    return chosen


def topic_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Texts with two words of one topic, the label."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        topic = draw.choice(sorted(TOPICS))
        words = (draw.choice(TOPICS[topic].split()) for _ in range(2))
        rows.append({"text": " ".join(sentence(draw, *words)), "topic": topic})
    return rows


def set_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Texts with a word of each of some topics, the labels."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        topics = [topic for topic in sorted(TOPICS) if draw.random() < 0.5]
        words = (draw.choice(TOPICS[topic].split()) for topic in topics)
        rows.append({"text": " ".join(sentence(draw, *words)), "labels": topics})
    return rows


def number_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Texts whose score is larger by far than 1 and grows with the animals in them."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        animals = draw.randint(0, 4)
        words = (draw.choice(TOPICS["animals"].split()) for _ in range(animals))
        rows.append({"text": " ".join(sentence(draw, *words, length=3)), "score": 1000.5 + 200 * animals})
    return rows


def pair_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Pairs of texts; the label is the topic of the second, the first is of any."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        one, other = (draw.choice(sorted(TOPICS)) for _ in range(2))
        texts = [" ".join(sentence(draw, draw.choice(TOPICS[topic].split()), length=3)) for topic in (one, other)]
        rows.append({"text": texts[0], "text_pair": texts[1], "label": other})
    return rows


def tagged_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Sentences in which two words of a topic stand together, tagged as an entity."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        topic = draw.choice(sorted(TOPICS))
        before, after = sentence(draw, length=4), sentence(draw, length=4)
        inside = [draw.choice(TOPICS[topic].split()) for _ in range(2)]
        tags = ["O"] * len(before) + [f"B-{topic}", f"I-{topic}"] + ["O"] * len(after)
        rows.append({"tokens": before + inside + after, "tags": tags})
    return rows


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write rows as the suffix says: JSON lines, CSV, TSV, Parquet, columns of words and tags, or plain texts."""
    rows = list(rows)
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix in (".csv", ".tsv"):
        with path.open("w", newline="", encoding="utf-8") as handle:
            writer = csv.DictWriter(handle, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".conll":
        blocks = ("".join(f"{w}\tX\t{t}\n" for w, t in zip(r["tokens"], r["tags"], strict=True)) for r in rows)
        path.write_text("\n".join(blocks), encoding="utf-8")
    elif path.suffix == ".txt":
        path.write_text("".join(f"{row['text']}\n" for row in rows), encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def tiny_encoder(
    folder: Path, *, pooler: bool = True, dropout: float = 0.0, kind: str = "wordpiece", types: int = 2
) -> Path:
    """A random BERT with a vocabulary of the words above."""
    words = [*FILLERS, *" ".join(TOPICS.values()).split()]
    tokenizer = train_tokenizer(words * 3, kind=kind, vocab_size=400, lowercase=True, strip_accents=None, at_most=True)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=LONGEST,
        type_vocab_size=types,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        initializer_range=0.1,
    )
    BertPretrainingModel(config, next_sentence=pooler).save_pretrained(folder)
    tokenizer.save(folder, model_max_length=LONGEST)
    return folder


def tiny_modern(folder: Path, *, heads: bool = True, dropout: float = 0.0) -> Path:
    """The same for ModernBERT; with the layer before the vocabulary, or without."""
    tokenizer = load_tokenizer(tiny_encoder(folder))
    torch.manual_seed(0)
    config = ModernBertConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=LONGEST,
        local_attention=8,
        embedding_dropout=dropout,
        mlp_dropout=dropout,
        attention_dropout=dropout,
        initializer_range=0.1,
        **{
            name: getattr(tokenizer, name) for name in ("pad_token_id", "cls_token_id", "sep_token_id", "mask_token_id")
        },
    )
    model = ModernBertPretrainingModel(config)
    (model if heads else model.bert).save_pretrained(folder)
    tokenizer.save(folder, model_max_length=LONGEST, model_input_names=("input_ids", "attention_mask"))
    return folder


def other_model(kind: str, bert: Path, folder: Path) -> Path:
    """The same vocabulary with another model: "without next sentences", "fine-tuned", "ModernBERT" or "bare"."""
    if kind == "without next sentences":
        return tiny_encoder(folder, pooler=False)
    if kind == "ModernBERT":
        return tiny_modern(folder)
    torch.manual_seed(0)
    if kind == "fine-tuned":
        BertClassifier.start(bert, Head("classification", ("a", "b"))).save_pretrained(folder)
    else:
        BertModel.from_pretrained(bert).save_pretrained(folder)
    load_tokenizer(bert).save(folder, model_max_length=LONGEST)
    return folder


def tune(folder: Path, encoder: Path, data: Path, reporter: Reporter | None = None, **changes: Any) -> dict[str, Any]:
    """Fine-tune and return metrics.json."""
    finetune(folder, encoder, str(data), {**TINY, **changes}, reporter)
    metrics: dict[str, Any] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return metrics
