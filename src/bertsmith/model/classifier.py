"""A fine-tuned BERT: the encoder and one linear layer (arXiv:1810.04805, section 3.2).

The layer reads the pooled output of a text, or the output of chosen tokens for
tagging; these are transformers' `BertForSequenceClassification` and
`BertForTokenClassification`. Letters: T tokens, N sequences, M chosen tokens, D
hidden, C labels.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bertsmith.model.bert import BertConfig, BertModel, BertPooler
from bertsmith.model.bert_folder import BERT, write_bert
from bertsmith.model.check import require
from bertsmith.model.dropout import Dropout
from bertsmith.model.folder import ModelFolder, read_config
from bertsmith.model.heads import initialize
from bertsmith.model.packed import Packed

PROBLEM_TYPES = {
    "classification": "single_label_classification",
    "multi-label": "multi_label_classification",
    "regression": "regression",
    "tagging": None,
}
"""Kinds of task, and their `problem_type` in config.json."""

SEQUENCE, TOKEN = "BertForSequenceClassification", "BertForTokenClassification"


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


class BertClassifier(nn.Module):
    """The encoder, dropout, and a score for each label."""

    def __init__(self, bert: BertModel, head: Head) -> None:
        super().__init__()
        assert head.per_token or bert.pooler is not None
        self.head = head
        self.config: BertConfig = bert.config
        self.bert = bert
        self.dropout = Dropout(bert.config.hidden_dropout_prob)
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
        output = self.bert(input_ids, token_type_ids=token_type_ids, packed=packed)
        read = output.sequence_output.index_select(0, places) if self.head.per_token else output.pooled_output
        logits: Tensor = self.classifier(self.dropout(read))
        return logits

    @torch.no_grad()
    def rescale(self, mean: float, deviation: float) -> None:
        """Let the layer give numbers as they are in the data, after learning them with mean 0 and deviation 1."""
        self.classifier.weight *= deviation
        self.classifier.bias.mul_(deviation).add_(mean)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a Hugging Face folder with the names of the labels."""
        labels = self.head.labels
        named: dict[str, Any] = {
            "id2label": {str(index): name for index, name in enumerate(labels)},
            "label2id": {name: index for index, name in enumerate(labels)},
            "problem_type": PROBLEM_TYPES[self.head.kind],
        }
        architecture = TOKEN if self.head.per_token else SEQUENCE
        write_bert(Path(folder), self, {**asdict(self.config), **named}, architecture=architecture)

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
        return cls(bert, head).train()

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "BertClassifier":
        """Read a fine-tuned folder, ours or of transformers, as float32 and in evaluation mode.

        Raises:
            UserError: The folder cannot be read, or holds no such model.
        """
        folder = Path(folder)
        config, source = read_config(folder), ModelFolder(folder, BERT)
        architecture = (config.get("architectures") or [None])[0]
        known = architecture in (SEQUENCE, TOKEN)
        require(known, f"{folder} holds {architecture}, which was not fine-tuned; give a run of `bertsmith finetune`")
        id2label = config.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
        labels = tuple(str(name) for _, name in sorted((int(index), name) for index, name in id2label.items()))
        guessed = "regression" if len(labels) == 1 else "single_label_classification"
        problem = config.get("problem_type") or guessed
        kinds = {name: kind for kind, name in PROBLEM_TYPES.items()}
        head = Head("tagging" if architecture == TOKEN else kinds.get(problem, "classification"), labels)
        return source.load(lambda: cls(BertModel(BertConfig(**source.shape), not head.per_token), head))


class Start(NamedTuple):
    """What fine-tuning must know of a model folder before it reads the weights."""

    config: BertConfig
    has_pooler: bool
    """Whether the folder holds a pooler; next sentences alone train one."""

    parameters: int


def inspect_folder(folder: Path) -> Start:
    """Look at a BERT folder without reading its weights.

    Raises:
        UserError: The folder is none, or of something else.
    """
    source = ModelFolder(folder, BERT)
    config, has_pooler = BertConfig(**source.shape), source.has("bert.pooler.")
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in BertModel(config, has_pooler).parameters())
    return Start(config, has_pooler, parameters)
