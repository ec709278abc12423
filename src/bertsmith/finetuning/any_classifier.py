"""Any model that can be fine-tuned: BERT and ModernBERT by our own code, all others through transformers.

`ForeignClassifier` is called as our own classifiers are, so that one code trains, measures and predicts with all.
Letters as in `model/classifier.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from bertsmith.errors import UserError, first_line
from bertsmith.evaluation.foreign import load_foreign_tokenizer, load_network, quiet_transformers, to_rows
from bertsmith.model import Packed, architecture_of, is_foreign, model_type_of
from bertsmith.model.classifier import BertClassifier, Head, ModernBertClassifier, read_head
from bertsmith.model.first_weights import initialize
from bertsmith.model.folder import ModelFolder, encoder_shape, read_config
from bertsmith.tokenizer import Tokenizer, load_fitting_tokenizer

SWITCHES = (
    "attention_bias", "classifier_activation", "classifier_bias", "decoder_bias", "hidden_act", "hidden_activation",
    "mlp_bias", "norm_bias",
)  # fmt: skip
"""Keys of config.json whose other values transformers computes and our own BERT and ModernBERT do not. There are more
that we refuse, such as `position_embedding_type`: transformers reads them as if they were not there."""


@dataclass(frozen=True, slots=True)
class ForeignShape:
    """What the rest of the program asks of the config of a model that transformers reads."""

    model_type: str
    hidden_size: int
    vocab_size: int
    max_position_embeddings: int
    """Longest input, in tokens."""


class ForeignClassifier(nn.Module):
    """A classifier of transformers with the face of `BertClassifier`."""

    def __init__(self, network: Any, head: Head, longest: int) -> None:
        super().__init__()
        self.network = network
        self.head = head
        config = network.config
        self.config = ForeignShape(config.model_type, config.hidden_size, config.vocab_size, longest)
        self.has_segments = (getattr(config, "type_vocab_size", 0) or 0) > 1

    @property
    def input_names(self) -> tuple[str, ...]:
        """What its class in transformers takes."""
        return ("input_ids", *(("token_type_ids",) if self.has_segments else ()), "attention_mask")

    @property
    def last_layer(self) -> nn.Linear:
        """What gives the logits."""
        layers = [each for each in self.network.modules() if isinstance(each, nn.Linear)]
        return next(each for each in reversed(layers) if each.out_features == len(self.head.labels))

    def forward(
        self, input_ids: Tensor, token_type_ids: Tensor, packed: Packed, places: Tensor | None = None
    ) -> Tensor:
        """Score the labels of packed sequences, as `BertClassifier.forward` does."""
        rows = to_rows(input_ids, packed.cu_seqlens)
        ids = rows.input_ids.masked_fill(rows.attention_mask == 0, self.network.config.pad_token_id)  # some look for it
        given = {"input_ids": ids, "attention_mask": rows.attention_mask}
        if self.has_segments:
            types = torch.zeros_like(rows.input_ids).flatten()
            types[rows.places] = token_type_ids
            given["token_type_ids"] = types.view_as(rows.input_ids)
        logits: Tensor = self.network(**given).logits
        return logits.flatten(0, 1)[rows.places[places]] if self.head.per_token else logits

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a Hugging Face folder with the names of the labels.

        Raises:
            OSError: The disk is full or not writable.
        """
        with quiet_transformers(Path(folder)):
            try:
                self.network.save_pretrained(folder)
            except SafetensorError as error:  # its way to report what the disk said
                raise OSError(f"cannot write {folder}: {error}") from error

    @classmethod
    def load(cls, folder: Path, head: Head, **settings: Any) -> tuple["ForeignClassifier", list[str]]:
        """Read a folder, and name the weights that it does not have, which are new.

        Raises:
            UserError: transformers is not installed, or reads no such model there.
        """
        with quiet_transformers(folder) as transformers:
            kind = "TokenClassification" if head.per_token else "SequenceClassification"
            loader = getattr(transformers, f"AutoModelFor{kind}")
            network, missing = load_network(folder, loader, "encoder to classify with", **settings)
            tokenizer, longest = load_foreign_tokenizer(folder, network)
            if getattr(network.config, "pad_token_id", None) is None:
                network.config.pad_token_id = tokenizer.pad_token_id
        return cls(network, head, longest), missing


AnyClassifier = BertClassifier | ModernBertClassifier | ForeignClassifier


class Start(NamedTuple):
    """What fine-tuning must know of a model before its layer is made."""

    hidden_size: int
    tokenizer: Tokenizer
    longest: int
    """Longest input, in tokens."""

    parameters: int
    reads: str
    """What the layer of a text reads, in words."""


def needs_transformers(folder: Path) -> bool:
    """Whether our own code does not read a folder: another architecture, or one of ours with another switch.

    Raises:
        UserError: It is one of ours that cannot be read, or transformers is not installed.
    """
    if is_foreign(folder):
        return True
    kind, config = architecture_of(folder), read_config(folder)

    def read(values: Mapping[str, Any]) -> None:
        kind.config(**encoder_shape(values, folder / "config.json", kind.naming))

    try:
        read(config)
    except UserError:
        read({key: value for key, value in config.items() if key not in SWITCHES})
        if find_spec("transformers") is None:
            raise
        return True
    return False


def inspect_folder(folder: Path) -> Start:
    """Look at a model folder: its size, its tokenizer, and how it reads a text.

    Raises:
        UserError: The folder is none, or its tokenizer belongs to another model.
    """
    if needs_transformers(folder):
        with quiet_transformers(folder) as transformers:
            network, _ = load_network(folder, transformers.AutoModel, "encoder")
        tokenizer, longest = load_foreign_tokenizer(folder, network)
        size = sum(parameter.numel() for parameter in network.parameters())
        reads = f"what the classifiers of transformers read of a {type(network).__name__}"
        return Start(network.config.hidden_size, tokenizer, longest, size, reads)
    kind = architecture_of(folder)
    source = ModelFolder(folder, kind.naming)
    config = kind.config(**source.shape)
    tokenizer = load_fitting_tokenizer(folder, config.vocab_size)
    return Start(config.hidden_size, tokenizer, config.max_position_embeddings, _size(source), _reads(source))


def _reads(source: ModelFolder) -> str:
    if source.naming.model_type == "modernbert":
        layer = "the layer that masked words had trained" if source.has("head.") else "a layer that is new"
        return f"the mean over the tokens, through {layer}"
    if source.has("bert.pooler."):
        trained = "next sentences had trained" if source.has("cls.seq_relationship.") else "the model brought"
        return f"the pooled output, whose pooler {trained}"
    return "the pooled output of [CLS], with a pooler that is new: the pretrained model had none"


def _size(source: ModelFolder) -> int:
    """Numbers in a folder, heads included."""
    count = 0
    for path in {place.path for place in source.places.values()}:
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118  # it is no mapping
                count += torch.Size(file.get_slice(key).get_shape()).numel()
    return count


def start_classifier(folder: Path, head: Head) -> AnyClassifier:
    """Put a new layer on an encoder, in training mode; new weights come from PyTorch's generator.

    Raises:
        UserError: The folder cannot be read.
    """
    if needs_transformers(folder):
        settings = head.config_json() | {"num_labels": len(head.labels), "ignore_mismatched_sizes": True}
        settings["id2label"] = dict(enumerate(head.labels))
        model, missing = ForeignClassifier.load(folder, head, **settings)
        layer = model.last_layer
        names = {name for name, parameter in model.network.named_parameters() if parameter is layer.weight}
        if names.isdisjoint(missing):  # that of another task, whose answers would be where this one begins
            initialize(layer, getattr(model.network.config, "initializer_range", None) or 0.02)
        return model.train()
    if model_type_of(folder) == "bert":
        return BertClassifier.start(folder, head)
    return ModernBertClassifier.start(folder, head)


def refuse_unfit(folder: Path, head: Head) -> None:
    """See that a model reads rows of different lengths, before anything is written; of our architectures that is known.

    Raises:
        UserError: It does not, or has no bias to give numbers with.
    """
    if not needs_transformers(folder):
        return
    model, tokenizer = start_classifier(folder, head).eval(), inspect_folder(folder).tokenizer
    if head.kind == "regression" and model.last_layer.bias is None:
        raise UserError(
            f"{folder} has a last layer without a bias, which gives labels and no numbers; give another model"
        )
    lengths = (6, 10)
    inside = [[tokenizer.unk_token_id] * (length - 2) for length in lengths]
    ids = torch.tensor([i for part in inside for i in (tokenizer.cls_token_id, *part, tokenizer.sep_token_id)])
    packed = Packed(torch.tensor([0, lengths[0], sum(lengths)], dtype=torch.int32), max(lengths))
    try:
        with torch.no_grad():
            model(ids, torch.zeros_like(ids), packed, torch.arange(len(ids)))
    except Exception as error:  # whatever it raises means that it does not read as an encoder does
        line = first_line(error)
        raise UserError(f"{folder} holds no encoder to classify with: {line}") from error


def read_classifier(folder: Path) -> AnyClassifier:
    """Read a fine-tuned folder, ours or of transformers, as float32 and in evaluation mode.

    Raises:
        UserError: The folder cannot be read, or holds no such model.
    """
    if needs_transformers(folder):
        model, missing = ForeignClassifier.load(folder, read_head(folder))
        if missing:
            raise UserError(f"{folder} lacks {missing[0]}; the weights do not belong to its config.json")
        return model.eval()
    if model_type_of(folder) == "bert":
        return BertClassifier.from_pretrained(folder)
    return ModernBertClassifier.from_pretrained(folder)


def tokenizer_of(folder: Path, model: AnyClassifier) -> Tokenizer:
    """The tokenizer of a fine-tuned folder.

    Raises:
        UserError: It is not there, or has more pieces than the model.
    """
    if isinstance(model, ForeignClassifier):
        return load_foreign_tokenizer(folder, model.network)[0]
    return inspect_folder(folder).tokenizer
