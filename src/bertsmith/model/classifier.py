"""A fine-tuned BERT or ModernBERT: the encoder and one linear layer (arXiv:1810.04805, section 3.2).

The layer of BERT reads the pooled output of a text, or the output of chosen
tokens for tagging; that of ModernBERT reads the mean over a text, or tokens,
through the layer that stands before the vocabulary in pretraining. These are the
`...ForSequenceClassification` and `...ForTokenClassification` of transformers.
Letters: T tokens, N sequences, M chosen tokens, D hidden, C labels.
"""

from dataclasses import asdict, dataclass
from math import sqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bertsmith.errors import UserError, require
from bertsmith.model.bert import BertConfig, BertModel, BertPooler
from bertsmith.model.bert_folder import BERT
from bertsmith.model.dropout import Dropout
from bertsmith.model.first_weights import initialize
from bertsmith.model.folder import ModelFolder, read_config, write_folder
from bertsmith.model.heads import activation
from bertsmith.model.modernbert import ModernBertConfig, ModernBertModel, norm_of
from bertsmith.model.modernbert_folder import MODERNBERT
from bertsmith.model.packed import Packed, first_places, mean_tokens

PROBLEM_TYPES = {
    "classification": "single_label_classification",
    "multi-label": "multi_label_classification",
    "regression": "regression",
    "tagging": None,
}
"""Kinds of task, and their `problem_type` in config.json."""

SEQUENCE, TOKEN = "ForSequenceClassification", "ForTokenClassification"
"""Ends of the names of the classes in transformers, in the order of `Head.per_token`."""


@dataclass(frozen=True, slots=True)
class Head:
    """What is predicted."""

    kind: str
    """One of `PROBLEM_TYPES`."""

    labels: tuple[str, ...]
    """Names of the labels; a number has one name."""

    @property
    def per_token(self) -> bool:
        """Whether tokens are labelled, and not texts."""
        return self.kind == "tagging"

    def config_json(self) -> dict[str, Any]:
        """The keys of config.json that name the labels."""
        return {
            "id2label": {str(index): name for index, name in enumerate(self.labels)},
            "label2id": {name: index for index, name in enumerate(self.labels)},
            "problem_type": PROBLEM_TYPES[self.kind],
        }


def read_head(folder: Path) -> Head:
    """What a fine-tuned folder predicts, from its config.json.

    Raises:
        UserError: It was not fine-tuned.
    """
    config = read_config(folder)
    architecture = str((config.get("architectures") or [None])[0])
    known = architecture.endswith((SEQUENCE, TOKEN))
    require(known, f"{folder} holds {architecture}, which was not fine-tuned; give a run of `bertsmith finetune`")
    id2label = config.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
    try:
        labels = tuple(str(name) for _, name in sorted((int(index), name) for index, name in id2label.items()))
    except (AttributeError, TypeError, ValueError):
        raise UserError(f"id2label in {folder / 'config.json'} does not give a name to each number; mend it") from None
    guessed = "regression" if len(labels) == 1 else "single_label_classification"
    kinds = {name: kind for kind, name in PROBLEM_TYPES.items()}
    kind = kinds.get(config.get("problem_type") or guessed, "classification")
    return Head("tagging" if architecture.endswith(TOKEN) else kind, labels)


@torch.no_grad()
def rescale(layer: nn.Linear, mean: float, deviation: float) -> None:
    """Let a layer give numbers as they are in the data, after learning them with mean 0 and deviation 1."""
    layer.weight *= deviation
    if layer.bias is not None:  # without it nothing can be added; such a layer gives labels alone
        layer.bias.mul_(deviation).add_(mean)


def types_that_exist(token_type_ids: Tensor, config: Any) -> Tensor:
    """Types of the tokens of a text or a pair, of any shape, for an encoder that may have one type alone: then 0."""
    has_one = getattr(config, "type_vocab_size", 1) == 1
    return torch.zeros_like(token_type_ids) if has_one else token_type_ids


def read_dropout(folder: Path) -> float | None:
    """`classifier_dropout` of config.json, in [0, 1). None, and where it is not there: as the architecture has it.

    Raises:
        UserError: It is something else.
    """
    chance = read_config(folder).get("classifier_dropout")
    fits = chance is None or (isinstance(chance, int | float) and 0 <= chance < 1)
    require(fits, f"classifier_dropout in {folder / 'config.json'} is {chance!r}; give a probability in [0, 1)")
    return chance


class BertClassifier(nn.Module):
    """The encoder, dropout, that of hidden states unless another is given, and a score for each label."""

    def __init__(self, bert: BertModel, head: Head, *, dropout: float | None = None) -> None:
        super().__init__()
        assert head.per_token or bert.pooler is not None
        self.head = head
        self.config: BertConfig = bert.config
        self.bert = bert
        self.classifier_dropout = dropout
        self.dropout = Dropout(bert.config.hidden_dropout_prob if dropout is None else dropout)
        self.classifier = nn.Linear(bert.config.hidden_size, len(head.labels))
        initialize(self.classifier, bert.config.initializer_range)

    def forward(
        self, input_ids: Tensor, token_type_ids: Tensor, packed: Packed, places: Tensor | None = None
    ) -> Tensor:
        """Score the labels of packed sequences.

        Args:
            input_ids: int64 [T].
            token_type_ids: int64 [T].
            packed: Where the N sequences lie.
            places: int64 [M]. Tokens to label; only for tagging.

        Returns:
            Logits, float [N, C], or [M, C] for tagging. A number is its own logit.
        """
        token_type_ids = types_that_exist(token_type_ids, self.config)
        if self.head.per_token:
            output = self.bert(input_ids, token_type_ids=token_type_ids, packed=packed)
            read = output.sequence_output.index_select(0, places)
        else:
            none = first_places(packed, len(input_ids))[:, :0]  # [R, 0]: the pooled output alone is asked for
            read = self.bert(input_ids, token_type_ids=token_type_ids, packed=packed, queries=none).pooled_output
        logits: Tensor = self.classifier(self.dropout(read))
        return logits

    @property
    def last_layer(self) -> nn.Linear:
        """What gives the logits."""
        return self.classifier

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a Hugging Face folder with the names of the labels."""
        shape = {**asdict(self.config), "classifier_dropout": self.classifier_dropout, **self.head.config_json()}
        architecture = "Bert" + (TOKEN if self.head.per_token else SEQUENCE)
        write_folder(Path(folder), self, shape, BERT, architecture=architecture)

    @classmethod
    def start(cls, folder: str | Path, head: Head) -> "BertClassifier":
        """Put a new layer on the encoder of any BERT folder, in training mode.

        Where the folder has no pooler a text gets a new one, which fine-tuning
        trains with the layer: `BertForSequenceClassification` has no other way to
        read a text. New weights come from PyTorch's generator.

        Raises:
            UserError: The folder cannot be read.
        """
        source = ModelFolder(Path(folder), BERT)
        has_pooler = not head.per_token and source.has("bert.pooler.")
        bert = source.load(lambda: BertModel(BertConfig(**source.shape), has_pooler), encoder_only=True)
        if not head.per_token and not has_pooler:
            bert.pooler = BertPooler(bert.config)
            initialize(bert.pooler, bert.config.initializer_range)
        return cls(bert, head, dropout=read_dropout(Path(folder))).train()

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "BertClassifier":
        """Read a fine-tuned folder, ours or of transformers, as float32 and in evaluation mode.

        Raises:
            UserError: The folder cannot be read, or holds no such model.
        """
        source, head, dropout = ModelFolder(Path(folder), BERT), read_head(Path(folder)), read_dropout(Path(folder))
        has_pooler = not head.per_token
        return source.load(lambda: cls(BertModel(BertConfig(**source.shape), has_pooler), head, dropout=dropout))


class PredictionHead(nn.Module):
    """What ModernBERT sends through before it scores: a matrix, the activation, LayerNorm; no bias."""

    def __init__(self, config: ModernBertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.activation = activation("gelu")
        self.norm = norm_of(config)

    def forward(self, hidden: Tensor) -> Tensor:
        """float [..., D], kept."""
        return self.norm(self.activation(self.dense(hidden)))  # type: ignore[no-any-return]


class ModernBertClassifier(nn.Module):
    """The encoder, the layer before the vocabulary, dropout, and a score for each label."""

    def __init__(self, bert: ModernBertModel, head: Head, *, pooling: str = "mean", dropout: float = 0.0) -> None:
        super().__init__()
        known = pooling in ("mean", "cls")
        require(known, f"classifier_pooling is {pooling!r}; only 'mean' and 'cls' can be read")
        self.head = head
        self.pooling = pooling
        self.config: ModernBertConfig = bert.config
        self.bert = bert
        self.prediction_head = PredictionHead(bert.config)
        self.dropout = Dropout(dropout)
        self.classifier = nn.Linear(bert.config.hidden_size, len(head.labels))

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor,  # noqa: ARG002
        packed: Packed,
        places: Tensor | None = None,
    ) -> Tensor:
        """Score the labels of packed sequences, as `BertClassifier.forward` does; there are no segments."""
        if self.pooling == "cls" and not self.head.per_token:
            queries = first_places(packed, len(input_ids))
            read = self.bert(input_ids, packed=packed, queries=queries).sequence_output  # [N, D]
        else:
            hidden = self.bert(input_ids, packed=packed).sequence_output
            read = hidden.index_select(0, places) if self.head.per_token else mean_tokens(hidden, packed.cu_seqlens)
        logits: Tensor = self.classifier(self.dropout(self.prediction_head(read)))
        return logits

    @property
    def last_layer(self) -> nn.Linear:
        """What gives the logits."""
        return self.classifier

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a Hugging Face folder with the names of the labels."""
        more = {"classifier_pooling": self.pooling, "classifier_dropout": self.dropout.chance}
        shape = {**asdict(self.config), **more, **self.head.config_json()}
        architecture = "ModernBert" + (TOKEN if self.head.per_token else SEQUENCE)
        write_folder(Path(folder), self, shape, MODERNBERT, architecture=architecture)

    @classmethod
    def start(cls, folder: str | Path, head: Head) -> "ModernBertClassifier":
        """Put a new layer on the encoder of any ModernBERT folder, in training mode.

        What masked words trained before the vocabulary goes on; where the folder lacks
        that it is new. A text is read as the mean of its tokens, since nothing trained
        the first one to stand for the rest. New weights come from PyTorch's generator.

        Raises:
            UserError: The folder cannot be read.
        """
        source = ModelFolder(Path(folder), MODERNBERT)
        new = ("classifier.",) if source.has("head.") else ("classifier.", "prediction_head.")
        dropout = read_dropout(Path(folder)) or 0.0
        model = source.load(
            lambda: cls(ModernBertModel(ModernBertConfig(**source.shape)), head, dropout=dropout),
            untrained=new,
            unused=("decoder.", "classifier."),
        )
        config = model.config
        for name in new:  # the numbers are those of transformers' ModernBERT
            final, inner = config.hidden_size**-0.5, config.initializer_range / sqrt(2 * config.num_hidden_layers)
            std = final if name == "classifier." else inner
            initialize(model.get_submodule(name[:-1]), std, cutoff=config.initializer_cutoff_factor)
        return model.train()

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "ModernBertClassifier":
        """Read a fine-tuned folder as `BertClassifier.from_pretrained` does."""
        source, head = ModelFolder(Path(folder), MODERNBERT), read_head(Path(folder))
        pooling = read_config(Path(folder)).get("classifier_pooling", "cls")
        dropout = read_dropout(Path(folder)) or 0.0
        return source.load(
            lambda: cls(ModernBertModel(ModernBertConfig(**source.shape)), head, pooling=pooling, dropout=dropout)
        )
