"""Slow, plain scores to hold ours against, and small random models to score."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from bertsmith.tokenizer import Tokenizer

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its own imports
    transformers = pytest.importorskip("transformers")

SHAPE = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 64}
DISTIL = {"dim": 32, "n_heads": 2, "n_layers": 2, "hidden_dim": 64}
CLASSES = {
    "bert": (transformers.BertConfig, transformers.BertForPreTraining, SHAPE | {"max_position_embeddings": 48}),
    "roberta": (transformers.RobertaConfig, transformers.RobertaForMaskedLM, SHAPE | {"max_position_embeddings": 50}),
    "distilbert": (
        transformers.DistilBertConfig,
        transformers.DistilBertForMaskedLM,
        DISTIL | {"max_position_embeddings": 48},
    ),
    "deberta-v2": (
        transformers.DebertaV2Config,
        transformers.DebertaV2ForMaskedLM,
        SHAPE | {"max_position_embeddings": 48, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    ),
}


def write_foreign(folder: Path, kind: str, tokenizer: Tokenizer, *, cls: Any = None, **changes: Any) -> Path:
    """A folder as transformers writes it, with random weights large enough to make all tokens differ."""
    config_class, model_class, shape = CLASSES[kind]
    torch.manual_seed(0)
    pad = 1 if kind == "roberta" else tokenizer.pad_token_id  # rows of the position table below it are not used
    settings = {"vocab_size": tokenizer.vocab_size, "pad_token_id": pad, "initializer_range": 0.2, **shape, **changes}
    model = (cls or model_class)(config_class(**settings))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.2)
    model.save_pretrained(folder)
    tokenizer.save(folder, model_max_length=48)
    return folder


def slow_scores(folder: Path, texts: Sequence[str], *, within_word: bool) -> list[list[float]]:
    """One text and one hidden token at a time, in float64, all by transformers."""
    model = transformers.AutoModelForMaskedLM.from_pretrained(folder).double().eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    scores: list[list[float]] = []
    for text in texts:
        encoding = tokenizer(text)
        words, ids = encoding.word_ids(), encoding["input_ids"]
        scores.append([])
        for place, word in enumerate(words):
            if word is None:
                continue
            hidden = list(ids)
            for other in range(place, len(ids)):
                if other == place or (within_word and words[other] == word):
                    hidden[other] = tokenizer.mask_token_id
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([hidden])).logits
            scores[-1].append(float(logits[0, place].log_softmax(-1)[ids[place]]))
    return scores
