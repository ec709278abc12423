"""A graph with 8-bit weights, and what that costs, measured on held-out rows with both graphs.

fill-mask            loss and accuracy at masked tokens
text-, token-classification   the scores of `bertsmith finetune`
feature-extraction   cosine between the mean vectors of a text
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bertsmith.corpus import Section, open_corpus
from bertsmith.data.batch import batches_of
from bertsmith.data.examples import TrainingRows
from bertsmith.data.shards import read_manifest
from bertsmith.errors import UserError
from bertsmith.evaluation.held_out import TextTokens, sample_sections, sample_sentences, text_rows
from bertsmith.export.runtime import MaskedGraph, Session, padded
from bertsmith.finetuning.config import FinetuneConfig
from bertsmith.finetuning.folder import read_settings
from bertsmith.finetuning.tasks.batches import CPU_PLACES, by_length, collate
from bertsmith.finetuning.tasks.dataset import Part, encode_part, load_task
from bertsmith.finetuning.tasks.encoding import Input, encode_texts
from bertsmith.finetuning.tasks.examples import read_labelled, refuse_unseen
from bertsmith.finetuning.tasks.rows import Columns
from bertsmith.finetuning.tasks.scoring import judge
from bertsmith.model.classifier import Head, read_head
from bertsmith.objective import sum_losses
from bertsmith.output_folder import CONFIG, FINETUNE
from bertsmith.planning.from_settings import rows_of
from bertsmith.prepare import held_out_sections
from bertsmith.run_folder import read_run
from bertsmith.step import evaluate_loss
from bertsmith.strict import from_mapping
from bertsmith.tokenizer import Tokenizer

MOST_ROWS = 512
"""Rows of masked words that are measured."""

MOST_WORDS = 50_000
"""Of a text that is measured on."""

BATCH_ROWS = 16

ROW_LENGTH = 128
"""Tokens in a row of a text; fewer where the model reads fewer."""


class Measure(NamedTuple):
    """One figure, of the same rows."""

    name: str
    float32: float
    int8: float


class Cost(NamedTuple):
    """What 8-bit weights change."""

    measures: list[Measure]
    rows: str
    """What was measured on, in words."""


Scores = dict[str, float]


class Judge(NamedTuple):
    """Held-out rows, ready to measure graphs on."""

    rows: str
    """In words."""

    compare: Callable[[Session, Session], list[Measure]]
    """Takes the graph in float32 and the one in 8 bits."""


def quantize(graph: Path, path: Path) -> None:
    """Write a graph with weights as 8-bit integers, a scale for each channel; activations are scaled as they come."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it proposes a pre-processing that graphs of torch do not need
    try:
        large = graph.with_name(f"{graph.name}.data").exists()
        quantize_dynamic(graph, path, per_channel=True, weight_type=QuantType.QInt8, use_external_data_format=large)
    finally:
        root.setLevel(level)


def make_judge(source: Path, folder: Path, task: str, *, tokenizer: Tokenizer, longest: int, data: str | None) -> Judge:
    """Find the rows to measure on: those that the run held out, or those of a file.

    Args:
        source: As the user named it; a run knows its held-out rows.
        folder: Its Hugging Face folder.
        task: One of `graph.TASKS`.
        tokenizer: Of the model.
        longest: Most tokens that the model reads.
        data: Text, or labelled rows for a classifier; None: the run's own.

    Raises:
        UserError: There are none, or they cannot be read.
    """
    is_run, is_tuned = (source / CONFIG).is_file(), (source / FINETUNE).is_file()
    classifies = task.endswith("classification")
    if data is None and not (is_tuned if classifies else is_run):
        what = "labelled rows" if classifies else "text"
        raise UserError(
            f"--int8 is made only where its cost can be measured, and {source} has no held-out {what} of its own; "
            "name some with --data"
        )
    if classifies:
        head = read_head(folder)
        saved = read_settings(source) if is_tuned else {}
        if data is None:
            part = _rows_of_run(source, saved, tokenizer, longest)
        else:
            part = _rows_of_file(data, head, saved, tokenizer, longest)
        rows = f"{len(part.examples):,} held-out rows"
        return Judge(rows, lambda *graphs: _both(graphs, lambda graph: _classification(graph, part, head)))
    if task == "fill-mask":
        masked = _masked_rows(source, tokenizer, longest, data)
        number = min(MOST_ROWS, masked.rows_per_epoch)
        rows = f"{number:,} rows of {masked.sequence_length} held-out tokens"
        return Judge(rows, lambda *graphs: _both(graphs, lambda graph: _masked(graph, masked, number)))
    sentences = sample_sentences(_sections(source, data), MOST_WORDS)
    inputs = encode_texts(tokenizer, sentences, [None] * len(sentences), max_length=longest).sequences
    return Judge(f"{len(sentences):,} held-out sentences", lambda exact, small: _vectors(exact, small, inputs))


def _both(graphs: Sequence[Session], score: Callable[[Session], Scores]) -> list[Measure]:
    exact, small = (score(graph) for graph in graphs)
    return [Measure(name, value, small[name]) for name, value in exact.items()]


def _sections(source: Path, data: str | None) -> list[Section]:
    """Held-out text: a sample of a file, or of what the run held out."""
    if data is not None:
        return sample_sections(open_corpus([data]).sections(), MOST_WORDS).sections
    run = read_run(source)
    try:
        return sample_sections(held_out_sections(run.config.data, read_manifest(source / "data")), MOST_WORDS).sections
    except UserError as error:
        raise UserError(f"what {source} held out cannot be read again ({error}); name some text with --data") from None


def _masked_rows(source: Path, tokenizer: Tokenizer, longest: int, data: str | None) -> TrainingRows:
    """Rows with masked tokens: the run's own, or of a text."""
    if data is None:
        run = read_run(source)
        return rows_of(run, "validation", run.config.training.sequence_length)
    return text_rows(
        TextTokens(_sections(source, data), tokenizer),
        tokenizer,
        sequence_length=min(ROW_LENGTH, longest),
        objective="mlm",
    )


def _masked(graph: Session, rows: TrainingRows, number: int) -> Scores:
    """Loss and accuracy at masked tokens."""
    batches = batches_of(rows, range(number), BATCH_ROWS)
    with torch.no_grad():
        measured = evaluate_loss(MaskedGraph(graph), sum_losses, batches, precision="float32")
    return {"masked-token loss, nats": measured.mlm_loss, "masked tokens guessed right": measured.mlm_accuracy}


def _rows_of_run(source: Path, saved: Mapping[str, Any], tokenizer: Tokenizer, longest: int) -> Part:
    """The test rows of a fine-tuning run, the validation rows where it has none.

    Raises:
        UserError: The rows are gone, or others than those that were divided then.
    """
    config = from_mapping(FinetuneConfig, saved["settings"])
    try:
        task = load_task(saved["data"], config, tokenizer, longest=longest)
    except UserError as error:
        raise UserError(f"the rows of {source} cannot be read again ({error}); name others with --data") from None
    if task.fingerprint != saved["hashes"]["rows"]:  # what it learnt from may be among them now
        raise UserError(
            f"{saved['data']} changed since {source} was made of it, so its held-out rows are not known; name some "
            "with --data"
        )
    return task.test or task.validation


def _rows_of_file(data: str, head: Head, saved: Mapping[str, Any], tokenizer: Tokenizer, longest: int) -> Part:
    """The rows of a file; where the model is a run, its columns are those of the run."""
    config, columns = FinetuneConfig(task=head.kind), None  # type: ignore[arg-type]
    if saved:
        config, columns = from_mapping(FinetuneConfig, saved["settings"]), Columns(**saved["columns"])
    file = read_labelled(data, config, columns, head.kind)  # type: ignore[arg-type]
    if head.kind != "regression":
        refuse_unseen(file, head.labels, "the training")
    return encode_part(file.examples, head, tokenizer, longest)


def _classification(graph: Session, part: Part, head: Head) -> Scores:
    """What `bertsmith finetune` measures."""
    logits: list[Tensor] = [torch.empty(0)] * len(part.inputs)
    for numbers, outputs in _run(graph, part.inputs):
        for row, number in enumerate(numbers):
            places = torch.from_numpy(part.inputs[number].places)
            logits[number] = outputs["logits"][row][places] if head.per_token else outputs["logits"][row : row + 1]
    judged = judge(logits, part, head)
    return {name.replace("_", " "): value for name, value in judged.scores.values.items()} | {"loss": judged.loss}


def _vectors(exact: Session, small: Session, inputs: Sequence[Input]) -> list[Measure]:
    """Cosine between mean vectors; that of the float32 graph with itself is 1."""
    cosines: list[float] = []
    for (numbers, one), (_, other) in zip(_run(exact, inputs), _run(small, inputs), strict=True):
        for row, number in enumerate(numbers):
            mine, its = (out["last_hidden_state"][row, : len(inputs[number].ids)].mean(0) for out in (one, other))
            cosines.append(float(F.cosine_similarity(mine, its, dim=0)))
    return [Measure("cosine to float32, mean", 1.0, float(np.mean(cosines))),
            Measure("cosine to float32, lowest", 1.0, min(cosines))]  # fmt: skip


def _run(graph: Session, inputs: Sequence[Input]) -> Iterator[tuple[np.ndarray, dict[str, Tensor]]]:
    """Numbers of some inputs of like length, and the outputs for them as padded rows."""
    for numbers in by_length(inputs, np.arange(len(inputs)), CPU_PLACES):
        batch = collate([inputs[number] for number in numbers])
        yield numbers, graph.run(padded(batch.input_ids, batch.token_type_ids, batch.cu_seqlens)[0])
