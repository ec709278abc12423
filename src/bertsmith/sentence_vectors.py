"""One vector for a sentence: an encoder and how its tokens become one (arXiv:1908.10084, section 3).

    "mean"     the mean over all tokens, [CLS] and [SEP] included
    "pooled"   the pooled output, where next sentences or labels have trained the pooler

The folder is that of a BERT or ModernBERT, or one of sentence-transformers whose
modules are such an encoder, mean or [CLS] pooling, and after [CLS] a layer with
tanh, which is BERT's pooler. Letters: T tokens, N sentences, D hidden.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from torch import Tensor

from bertsmith.errors import UserError
from bertsmith.finetuning.tasks.batches import CPU_PLACES, GPU_PLACES, by_length, collate
from bertsmith.finetuning.tasks.encoding import encode_texts
from bertsmith.model import AnyModel, BertModel, BertPooler, Packed, architecture_of
from bertsmith.model.classifier import SEQUENCE
from bertsmith.model.folder import ModelFolder, read_config
from bertsmith.model.packed import mean_tokens
from bertsmith.model_source import find_model
from bertsmith.step import autocast
from bertsmith.tokenizer import Tokenizer, load_fitting_tokenizer

Pooling = Literal["mean", "pooled"]
FloatArray = npt.NDArray[np.float32]

MODULES, SETTINGS = "modules.json", "sentence_bert_config.json"
"""The first marks a folder of sentence-transformers; the second stands beside the encoder."""


@dataclass(slots=True)
class SentenceEncoder:
    """An encoder in evaluation mode, its tokenizer, and how a vector is made."""

    model: AnyModel
    tokenizer: Tokenizer
    pooling: Pooling
    longest: int
    """Most tokens that are read of a sentence."""

    normalized: bool = False
    """Whether a vector is divided by its length."""

    cut: int = 0
    """Sentences so far that were longer."""

    @property
    def recipe(self) -> str:
        """How a vector is made, in words."""
        if self.pooling == "mean":
            return "the mean over the tokens"
        return "the pooled output, which next sentences or labels trained (--pooling mean is another way)"

    @torch.no_grad()
    def encode(self, texts: Sequence[str], *, precision: str = "float32") -> FloatArray:
        """Vectors of sentences.

        Args:
            texts: Text that spells a special token is ordinary text.
            precision: "float32" or "bfloat16".

        Returns:
            float32 [N, D], in the order of the texts.

        Raises:
            UserError: The model gives no numbers.
        """
        encoded = encode_texts(self.tokenizer, list(texts), [None] * len(texts), max_length=self.longest)
        self.cut += encoded.cut
        device = next(self.model.parameters()).device
        vectors = np.empty((len(texts), self.model.config.hidden_size), dtype=np.float32)
        places = CPU_PLACES if device.type == "cpu" else GPU_PLACES
        for numbers in by_length(encoded.sequences, np.arange(len(texts)), places):
            batch = collate([encoded.sequences[number] for number in numbers]).to(device)
            packed = Packed(batch.cu_seqlens, batch.longest)
            with autocast(device, precision):
                output = self.model(batch.input_ids, token_type_ids=batch.token_type_ids, packed=packed)
            vectors[numbers] = self._pool(output, batch.cu_seqlens).cpu().numpy()
        if not np.isfinite(vectors).all():
            raise UserError("the vectors of the model are no numbers, so its weights are damaged; get the model again")
        return vectors

    def _pool(self, output: Any, cu_seqlens: Tensor) -> Tensor:
        """float [N, D] of the output for packed tokens."""
        if self.pooling == "pooled":
            vectors: Tensor = output.pooled_output.float()
        else:
            vectors = mean_tokens(output.sequence_output.float(), cu_seqlens)
        return torch.nn.functional.normalize(vectors, dim=-1) if self.normalized else vectors


def load_sentence_encoder(source: Path, *, pooling: Literal["auto", "mean", "pooled"] = "auto") -> SentenceEncoder:
    """Read a model, on the CPU.

    Args:
        source: A run, or a folder of a BERT, a ModernBERT, or of sentence-transformers.
        pooling: "auto": as a folder of sentence-transformers says; else the pooled output if labels of texts trained
            the pooler, else the mean: a pooler that next sentences trained makes worse vectors (docs/log.md).

    Raises:
        UserError: There is no such model, it cannot be read, or it has no trained pooler and one was asked for.
    """
    folder = find_encoder(source)
    if (folder / MODULES).is_file():
        return _from_modules(folder, pooling)
    by_labels, trained = _pooler_training(folder)
    if pooling == "pooled" and not trained:
        raise UserError(f"--pooling is pooled, but nothing trained a pooler in {folder}; give --pooling mean")
    chosen: Pooling = ("pooled" if by_labels else "mean") if pooling == "auto" else pooling
    model = read_encoder(folder, pooler=chosen == "pooled")
    tokenizer = load_fitting_tokenizer(folder, model.config.vocab_size)
    return SentenceEncoder(model, tokenizer, chosen, model.config.max_position_embeddings)


def find_encoder(source: Path) -> Path:
    """The folder that a path means: of sentence-transformers, its own or its `model`, else as `find_model`.

    Raises:
        UserError: There is none.
    """
    return next((each for each in (source, source / "model") if (each / MODULES).is_file()), None) or find_model(source)


def read_encoder(folder: Path, *, pooler: bool) -> AnyModel:
    """The encoder of a folder, with its pooler or without."""
    kind = architecture_of(folder)
    return kind.model.from_pretrained(folder, **({"add_pooling_layer": pooler} if kind.adds_pooler else {}))


def _pooler_training(folder: Path) -> tuple[bool, bool]:
    """Whether labels of texts trained a folder's pooler, and whether anything did: next sentences do, too."""
    config, kind = read_config(folder), architecture_of(folder)
    source = ModelFolder(folder, kind.naming)
    if not kind.adds_pooler or not source.has("bert.pooler."):
        return False, False
    by_labels = any(str(name).endswith(SEQUENCE) for name in config.get("architectures") or [])
    return by_labels, by_labels or source.has("cls.seq_relationship.")


def _from_modules(folder: Path, wanted: str) -> SentenceEncoder:
    """A folder of sentence-transformers."""
    paths = {}
    for module in _read(folder / MODULES, list):
        if not isinstance(module, dict) or not {"type", "path"} <= module.keys():
            raise UserError(f"{folder / MODULES} names a module without its type and path; get the folder again")
        kind = str(module["type"]).rpartition(".")[2]
        if kind not in ("Transformer", "Pooling", "Dense", "Normalize") or kind in paths:
            raise UserError(f"{folder} has a module {kind} that is not read here; use it in sentence-transformers")
        paths[kind] = folder / module["path"]
    if "Transformer" not in paths or "Pooling" not in paths:
        raise UserError(f"{folder} has no Transformer and Pooling in its {MODULES}; use it in sentence-transformers")
    pooling = _pooling_mode(_read(paths["Pooling"] / "config.json", dict))
    if pooling not in ("mean", "cls") or (pooling == "cls") != ("Dense" in paths):
        raise UserError(
            f"{folder} makes vectors by {pooling} pooling {'with' if 'Dense' in paths else 'without'} a layer after "
            "it; only the mean, and [CLS] with a layer, are read here: use it in sentence-transformers"
        )
    chosen: Pooling = "pooled" if pooling == "cls" else "mean"
    if wanted not in ("auto", chosen):
        raise UserError(f"--pooling is {wanted}, but {folder} was made for {chosen}; leave --pooling out")
    place = paths["Transformer"]
    model = read_encoder(place, pooler=False)
    if chosen == "pooled":
        if not isinstance(model, BertModel):
            raise UserError(f"{folder} has a layer after [CLS], which only a BERT has here; use sentence-transformers")
        model.pooler = _read_pooler(paths["Dense"], model)
    tokenizer = load_fitting_tokenizer(place, model.config.vocab_size)
    _refuse_changed_text(folder, place, tokenizer)
    limits = [model.config.max_position_embeddings]
    for name, key in ((SETTINGS, "max_seq_length"), ("tokenizer_config.json", "model_max_length")):
        found = _read_if_there(place / name).get(key)
        limits += [found] if isinstance(found, int) and found > 2 else []  # earlier versions have the first
    longest = min(limits)
    return SentenceEncoder(model.eval(), tokenizer, chosen, longest, "Normalize" in paths)


def _refuse_changed_text(folder: Path, place: Path, tokenizer: Tokenizer) -> None:
    """Refuse a model that reads another text than the one it is given, as it would give other vectors here.

    Raises:
        UserError: A prompt goes before each text, or it is lower-cased before its tokenizer, which tells cases apart.
    """
    named = _read_if_there(folder / "config_sentence_transformers.json")
    prompt = (named.get("prompts") or {}).get(named.get("default_prompt_name"))
    lower, upper = tokenizer.encode_sentences(["a", "A"])
    lowers = _read_if_there(place / SETTINGS).get("do_lower_case") and lower != upper
    if prompt or lowers:
        how = f"puts {prompt!r} before each text" if prompt else "lower-cases each text"
        raise UserError(f"{folder} {how}, which is not done here; use it in sentence-transformers")


def _read_if_there(path: Path) -> dict[str, Any]:
    return dict(_read(path, dict)) if path.exists() else {}


def _read(path: Path, kind: type) -> Any:
    """A JSON file that holds such a value."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}; get the folder again") from error
    if not isinstance(value, kind):
        raise UserError(f"{path} holds no {kind.__name__}; get the folder again")
    return value


def _pooling_mode(config: dict[str, Any]) -> str:
    """The one mode of a Pooling module; version 6 names it, earlier ones have a flag for each."""
    if "pooling_mode" in config:
        return str(config["pooling_mode"])
    short = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean"}
    return "+".join(short.get(name, name) for name, on in config.items() if name.startswith("pooling_mode_") and on)


def _read_pooler(folder: Path, model: BertModel) -> BertPooler:
    """The Dense module after [CLS] as the pooler."""
    config = _read(folder / "config.json", dict)
    pooler, width = BertPooler(model.config), model.config.hidden_size
    try:
        tensors = safetensors.torch.load_file(folder / "model.safetensors")
        weight, bias = tensors["linear.weight"], tensors["linear.bias"]
    except (OSError, KeyError, safetensors.SafetensorError) as error:
        raise UserError(f"cannot read the layer in {folder}: {error}; get the folder again") from error
    is_tanh = str(config.get("activation_function")).endswith("Tanh")
    if not is_tanh or weight.shape != (width, width) or bias.shape != (width,):
        raise UserError(f"the layer in {folder} is no pooler of a BERT; use it in sentence-transformers")
    with torch.no_grad():
        pooler.dense.weight.copy_(weight)
        pooler.dense.bias.copy_(bias)
    return pooler
