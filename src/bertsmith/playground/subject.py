"""The model that is played with: what is asked of it, and its answers as plain JSON values."""

import base64
import threading
from pathlib import Path
from typing import Any

import torch

from bertsmith.errors import UserError
from bertsmith.finetuning.any_classifier import AnyClassifier
from bertsmith.finetuning.classify import Classifier, load_classifier
from bertsmith.model import AnyModel, AnyPretrainingModel, load_model, read_config
from bertsmith.model.classifier import SEQUENCE, TOKEN, types_that_exist
from bertsmith.model_source import find_model, local_folder
from bertsmith.output_folder import CONFIG, FINETUNE
from bertsmith.playground.attention import attention_weights
from bertsmith.predict import fill, load_for_prediction
from bertsmith.reporter import Reporter
from bertsmith.tokenizer import Tokenizer, load_fitting_tokenizer

TOP_K = 8
"""Guesses shown for a mask."""

MOST_LABELS = 20
"""Labels shown, most probable first."""

ATTENTION_TOKENS = 96
"""Longest sequence whose attention is shown; more could not be read."""


class Subject:
    """A model with its tokenizer. Asked by several threads, it answers one at a time."""

    def __init__(self, source: Path, reporter: Reporter | None = None) -> None:
        """Read a run of `pretrain` or `finetune`, or a folder of such a model.

        Raises:
            UserError: There is no model, or it cannot be read.
        """
        self._lock = threading.Lock()
        self.name = source.resolve().name
        self.classifier: Classifier | None = None
        self.filler: AnyPretrainingModel | None = None
        self.tokenizer: Tokenizer
        model: AnyClassifier | AnyPretrainingModel | AnyModel
        source = local_folder(source)
        if _is_classifier(source):
            self.classifier = load_classifier(source, device="cpu")
            model, self.tokenizer = self.classifier.model, self.classifier.tokenizer
        else:
            model, self.tokenizer = _read(source, reporter)
            self.filler = model if isinstance(model, AnyPretrainingModel) else None
        self._model = model
        self.encoder: AnyModel | None = model if isinstance(model, AnyModel) else getattr(model, "bert", None)
        self.longest: int = self.classifier.longest if self.classifier else model.config.max_position_embeddings

    def facts(self) -> dict[str, Any]:
        """What the page must know of the model: `can` names the questions it answers."""
        asked = (("fill", self.filler), ("classify", self.classifier), ("attention", self.encoder))
        can = ["pieces", *(question for question, answers in asked if answers is not None)]
        columns = self.classifier.columns if self.classifier else None
        return {
            "name": self.name,
            "can": can,
            "mask": self.tokenizer.names["mask_token"],
            "pair": columns is not None and columns.pair is not None,
            "parameters": sum(parameter.numel() for parameter in self._model.parameters()),
            "longest": self.longest,
            "vocabulary": self.tokenizer.vocab_size,
        }

    def ask(self, question: str, text: str, pair: str | None) -> dict[str, Any]:
        """Answer one of the questions of the page.

        Args:
            question: One that `facts()["can"]` names.
            text: As it was typed.
            pair: The second text, where there is one.

        Raises:
            UserError: The model does not answer such questions, or has no answer to this text.
        """
        if question not in self.facts()["can"]:
            raise UserError(f"this model cannot be asked for {question}")
        if not text.strip():
            raise UserError("type a text")
        answers = {"pieces": self._pieces, "fill": self._fill, "classify": self._classify, "attention": self._attention}
        with self._lock:
            return answers[question](text, pair)

    def _fill(self, text: str, _pair: str | None) -> dict[str, Any]:
        assert self.filler is not None
        filled = fill(self.filler, self.tokenizer, text, top_k=TOP_K)
        masks = [[[candidate.token, candidate.probability] for candidate in mask] for mask in filled.masks]
        return {"text": filled.text, "masks": masks, "note": filled.note}

    def _pieces(self, text: str, pair: str | None) -> dict[str, Any]:
        encoding = self.tokenizer.encode(text, pair)
        spelt = [
            (pair or "" if of_pair else text)[start:end]
            for of_pair, (start, end) in zip(encoding.sequence_ids, encoding.offsets, strict=True)
        ]
        pieces = [
            {"piece": piece, "id": index, "word": word, "text": of, "unknown": index == self.tokenizer.unk_token_id}
            for piece, index, word, of in zip(
                self.tokenizer.tokens(encoding.ids), encoding.ids, encoding.word_ids, spelt, strict=True
            )
        ]
        return {"pieces": pieces, "too_long": len(pieces) > self.longest}

    def _classify(self, text: str, pair: str | None) -> dict[str, Any]:
        assert self.classifier is not None
        head, before = self.classifier.head, self.classifier.cut
        words = tuple(text.split())
        (given,) = self.classifier.predict([words if head.per_token else text], [pair])
        note = f"longer than the {self.longest:,} tokens that the model reads" if self.classifier.cut > before else None
        if head.kind == "regression":
            return {"number": float(given[0][0]), "note": note}
        rows = [
            sorted(zip(head.labels, row.tolist(), strict=True), key=lambda each: -each[1])[:MOST_LABELS]
            for row in given
        ]
        return {"rows": rows, "words": words if head.per_token else None, "note": note}

    def _attention(self, text: str, pair: str | None) -> dict[str, Any]:
        assert self.encoder is not None
        encoding = self.tokenizer.encode(text, pair)
        most = min(ATTENTION_TOKENS, self.longest)
        ids, types = encoding.ids[:most], types_that_exist(torch.tensor(encoding.type_ids[:most]), self.encoder.config)
        weights = attention_weights(self.encoder, torch.tensor(ids), types)
        layers, heads, tokens, _ = weights.shape
        note = None if len(encoding.ids) <= most else f"the first {most} of {len(encoding.ids):,} tokens"
        return {
            "tokens": self.tokenizer.tokens(ids),
            "shape": [layers, heads, tokens],
            "weights": base64.b64encode((weights * 255).round().to(torch.uint8).numpy().tobytes()).decode("ascii"),
            "note": note,
        }


def _read(source: Path, reporter: Reporter | None) -> tuple[AnyPretrainingModel | AnyModel, Tokenizer]:
    """A model that fills masks; the encoder alone of a folder without that head, as for sentence vectors."""
    if (source / CONFIG).is_file():
        return load_for_prediction(source, reporter)
    folder = find_model(source)
    model = load_model(folder)
    return model, load_fitting_tokenizer(folder, model.config.vocab_size)


def _is_classifier(source: Path) -> bool:
    """Whether a folder is a run of `finetune`, or a model that was fine-tuned."""
    if (source / FINETUNE).is_file():
        return True
    if not (source / "config.json").is_file():
        return False
    kinds = read_config(source).get("architectures") or [""]
    return str(kinds[0]).endswith((SEQUENCE, TOKEN))
