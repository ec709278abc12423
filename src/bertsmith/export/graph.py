"""A model as an ONNX graph with free batch and length, held against our own outputs.

transformers traces the graph, since the folder is one that it loads; our own
code, which works on packed tokens, is what the graph has to agree with. Letters:
B rows of L places, D hidden, V vocabulary, C labels.
"""

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bertsmith.errors import UserError, first_line
from bertsmith.evaluation.foreign import quiet
from bertsmith.export.runtime import Session, require_onnx
from bertsmith.finetuning.any_classifier import ForeignClassifier, read_classifier
from bertsmith.model import AnyConfig, architecture, architecture_of, load_model, pad, unpad
from bertsmith.model.classifier import SEQUENCE, TOKEN, BertClassifier, ModernBertClassifier
from bertsmith.model.folder import ModelFolder, read_config
from bertsmith.sentence_vectors import read_encoder

TASKS = {
    "feature-extraction": "AutoModel",
    "fill-mask": "AutoModelForMaskedLM",
    "text-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
}
"""What a graph gives, by the names of the hub, and the class of transformers."""

TOLERANCE = 1e-4
"""Largest difference from our outputs, as a share of their largest value, or of 1."""

LONGEST_CHECKED = 1024
"""Tokens of the longest row of the check; a vocabulary of scores for more would fill the memory."""

ONE_FILE_BYTES = 1_800_000_000
"""Weights of more bytes stand in a file beside the graph: one of protobuf holds 2 GB."""

Inputs = Mapping[str, Tensor]
Outputs = dict[str, Tensor]


class Ours(NamedTuple):
    """What a graph has to agree with."""

    config: AnyConfig
    outputs: Callable[[Inputs], Outputs]
    """Takes int64 [B, L] by name; gives `logits` [B, L, V], [B, L, C] or [B, C], or `last_hidden_state` [B, L, D] and,
    where the folder has a pooler, `pooler_output` [B, D]."""


class Agreement(NamedTuple):
    """How far a graph is from our outputs."""

    shapes: int
    """Batches compared, each with another number of rows and places."""

    difference: float
    """Largest, at real tokens."""

    largest: float
    """Largest absolute value of our outputs."""


def task_of(folder: Path, wanted: str = "auto") -> str:
    """What a folder is for: `wanted`, or what its heads are.

    Args:
        folder: A Hugging Face folder.
        wanted: One of `TASKS`, or "auto".
    """
    if wanted != "auto":
        return wanted
    name = str((read_config(folder).get("architectures") or [""])[0])
    if name.endswith("ForSequenceClassification"):
        return "text-classification"
    if name.endswith("ForTokenClassification"):
        return "token-classification"
    return "fill-mask" if _has(folder, architecture_of(folder).naming.mlm_head) else "feature-extraction"


def _has(folder: Path, prefix: str) -> bool:
    return ModelFolder(folder, architecture_of(folder).naming).has(prefix)


def our_outputs(folder: Path, task: str) -> Ours:
    """Read a model with our own code.

    Raises:
        UserError: The folder has no such head, or cannot be read.
    """
    if task == "fill-mask":
        masked = load_model(folder, heads=True)
        return Ours(masked.config, lambda inputs: {"logits": masked(**inputs).mlm_logits})
    if task == "feature-extraction":
        model = read_encoder(folder, pooler=_has(folder, "bert.pooler."))
        return Ours(model.config, lambda inputs: _hidden(model(**inputs)))
    classifier = read_classifier(folder)
    if isinstance(classifier, ForeignClassifier):
        raise UserError(f"{folder} is neither BERT nor ModernBERT; export it with the tools of transformers")
    if classifier.head.per_token != (task == "token-classification"):
        held = TOKEN if classifier.head.per_token else SEQUENCE
        raise UserError(f"--task is {task}, but {folder} holds {held}; leave --task out")
    return Ours(classifier.config, lambda inputs: {"logits": _classify(classifier, inputs)})


def _hidden(output: Any) -> Outputs:
    named = {"last_hidden_state": output.sequence_output, "pooler_output": output.pooled_output}
    return {name: value for name, value in named.items() if value is not None}


def _classify(model: BertClassifier | ModernBertClassifier, inputs: Inputs) -> Tensor:
    """Logits of a padded batch, [B, C] or [B, L, C]."""
    rows, length = inputs["input_ids"].shape
    tokens, indices, packed = unpad(inputs["input_ids"], inputs["attention_mask"])
    types = inputs.get("token_type_ids", torch.zeros_like(inputs["input_ids"])).flatten()[indices]
    logits = model(tokens, types, packed, torch.arange(len(tokens)))
    return pad(logits, indices, (rows, length)) if model.head.per_token else logits


class _Named(torch.nn.Module):
    """A model of transformers that takes and gives named tensors alone, in a fixed order."""

    def __init__(self, network: Any, inputs: list[str], outputs: list[str]) -> None:
        super().__init__()
        self.network = network
        self.inputs, self.outputs = inputs, outputs

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        found = self.network(**dict(zip(self.inputs, inputs, strict=True)))
        return tuple(getattr(found, name) for name in self.outputs)


def write_graph(folder: Path, task: str, ours: Ours, path: Path) -> None:
    """Trace the model of a folder and write it as ONNX.

    Args:
        folder: The Hugging Face folder.
        task: One of `TASKS`.
        ours: The same model; names the outputs.
        path: File to write.

    Raises:
        UserError: A library is missing, or the folder cannot be traced.
    """
    transformers = require_onnx()
    inputs = example(ours.config, 2, min(7, ours.config.max_position_embeddings), seed=0)
    names = list(ours.outputs(inputs))
    bare = {"add_pooling_layer": "pooler_output" in names} if task == "feature-extraction" else {}
    bare = bare if architecture(ours.config.model_type).adds_pooler else {}
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}
    with _silent(transformers):
        try:
            network = getattr(transformers, TASKS[task]).from_pretrained(
                folder, use_safetensors=True, local_files_only=True, trust_remote_code=False, **bare
            )
        except (OSError, ValueError) as error:
            raise UserError(
                f"transformers {transformers.__version__} does not read {folder}: {first_line(error)}"
            ) from error
        try:
            program = torch.onnx.export(
                _Named(network.float().eval(), list(inputs), names),
                tuple(inputs.values()),
                dynamic_shapes=(tuple(axes for _ in inputs),),
                input_names=list(inputs),
                output_names=names,
                dynamo=True,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            why = first_line(error.__cause__ or error)
            raise UserError(
                f"{folder} cannot be traced with torch {torch.__version__} and transformers "
                f"{transformers.__version__} ({why}); try other versions of them"
            ) from error
        size = sum(tensor.nbytes for tensor in network.state_dict().values())
        assert program is not None
        program.save(path, external_data=size > ONE_FILE_BYTES)


@contextmanager
def _silent(transformers: Any) -> Iterator[None]:
    """Without what the libraries say of their own code and of heads that are left out."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), quiet(transformers):
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(level)


def example(config: AnyConfig, rows: int, length: int, *, seed: int) -> dict[str, Tensor]:
    """Made-up inputs of a model, int64 [rows, length] by name: rows of different lengths, the first without padding."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, config.vocab_size, (rows, length), generator=draw)
    lengths = torch.randint(1, length + 1, (rows, 1), generator=draw)
    lengths[0] = length
    types = getattr(config, "type_vocab_size", 1)
    inputs = {
        "input_ids": ids,
        "attention_mask": (torch.arange(length) < lengths).long(),
        "token_type_ids": torch.randint(0, types, (rows, length), generator=draw),
    }
    names = architecture(config.model_type).input_names
    return {name: tensor for name, tensor in inputs.items() if name in names}


def compare(ours: Ours, session: Session) -> Agreement:
    """Run a graph and our model on batches of several shapes, padding among them.

    Raises:
        UserError: They do not agree within `TOLERANCE`.
    """
    longest = min(ours.config.max_position_embeddings, LONGEST_CHECKED)
    shapes = [(1, 1), (1, longest), (2, max(2, longest // 2)), (3, min(9, longest)), (8, max(2, longest // 8))]
    difference = largest = 0.0
    for seed, (rows, length) in enumerate(shapes, 1):
        inputs = example(ours.config, rows, length, seed=seed)
        with torch.no_grad():
            expected = ours.outputs(inputs)
        found = session.run(inputs)
        real = inputs["attention_mask"].bool()
        for name, values in expected.items():
            chosen = real if values.dim() == 3 else slice(None)
            largest = max(largest, float(values[chosen].abs().max()))
            apart = float((found[name][chosen] - values[chosen]).abs().max())
            difference = max(difference, apart)
            if not apart <= TOLERANCE * max(1.0, largest):  # also where it is no number
                raise UserError(
                    f"the ONNX graph is not the model: {name} of {rows} rows of {length} tokens is off by {apart:.2g}, "
                    f"more than {TOLERANCE * max(1.0, largest):.2g}, so nothing was written; "
                    "try other versions of torch and onnxruntime"
                )
    return Agreement(len(shapes), difference, largest)
