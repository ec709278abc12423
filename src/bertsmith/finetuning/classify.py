"""Predicting a whole file with a fine-tuned model: rows in, one row out for each, in their order, in bounded memory."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch

from bertsmith import atomic
from bertsmith.corpus.report import CorpusReport
from bertsmith.errors import UserError
from bertsmith.finetuning.any_classifier import AnyClassifier, read_classifier, tokenizer_of
from bertsmith.finetuning.folder import read_settings
from bertsmith.finetuning.outcome import answer, csv_line
from bertsmith.finetuning.tasks.batches import CPU_PLACES, GPU_PLACES
from bertsmith.finetuning.tasks.cells import is_missing, words_of
from bertsmith.finetuning.tasks.encoding import encode_texts
from bertsmith.finetuning.tasks.examples import Text, as_text
from bertsmith.finetuning.tasks.objective import probabilities
from bertsmith.finetuning.tasks.rows import Columns, Fields, NumberedRow, choose_columns, open_rows, peek
from bertsmith.finetuning.tasks.scores import FloatArray
from bertsmith.finetuning.tasks.scoring import all_logits
from bertsmith.machine.device import find_device
from bertsmith.model.classifier import Head
from bertsmith.model_source import find_model
from bertsmith.output_folder import FINETUNE
from bertsmith.reporter import Reporter
from bertsmith.tokenizer import Tokenizer, longest_input, replace_surrogates

CHUNK_ROWS = 8192
"""Rows held at once; sorted by length among themselves, so that little is computed in vain."""

CHUNK_CHARACTERS = 16_000_000
"""Fewer rows are held at once where they have more characters: whole books as rows would fill the memory."""

FORMATS = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".xlsx", ".npy", ".npz", ".pt", ".safetensors")
"""Ends of names that promise a format."""


@dataclass(slots=True)
class Classifier:
    """A fine-tuned model with its tokenizer, ready to predict."""

    model: AnyClassifier
    tokenizer: Tokenizer
    columns: Columns | None
    """What the training rows had, where that is known."""

    longest: int
    """Tokens of a text that are read: as many as in training."""

    precision: str
    """Number format of the products: "float32" or "bfloat16"."""

    cut: int = 0
    """Texts so far that were longer."""

    @property
    def head(self) -> Head:
        """What is predicted."""
        return self.model.head

    def predict(self, texts: list[Text], pairs: list[str | None]) -> list[FloatArray]:
        """Probabilities of each text.

        Args:
            texts: Texts, or sentences as words for tagging.
            pairs: Second texts, None where there is none.

        Returns:
            float64 [1, C] for each text, or [words, C]; the number itself, [1, 1], for a regression.
        """
        encoded = encode_texts(self.tokenizer, texts, pairs, max_length=self.longest)
        self.cut += encoded.cut
        places = CPU_PLACES if next(self.model.parameters()).device.type == "cpu" else GPU_PLACES
        logits = all_logits(self.model, encoded.sequences, places=places, precision=self.precision)
        by_text: list[list[torch.Tensor]] = [[] for _ in texts]
        for each, part in zip(encoded.sequences, logits, strict=True):
            by_text[each.row].append(part)
        return [probabilities(self.head, torch.cat(parts)).numpy() for parts in by_text]


def load_classifier(source: Path, *, device: str = "auto", precision: str = "float32") -> Classifier:
    """Read a fine-tuned model.

    Args:
        source: A run of `bertsmith finetune`, a folder that transformers loads as a classifier, or its id on the hub.
        device: As the setting.
        precision: "float32" gives what transformers gives; "bfloat16" is faster where the device has it.

    Raises:
        UserError: There is none, or it cannot be read, or it gives several numbers.
    """
    folder = find_model(source)
    model = read_classifier(folder).to(find_device(device))
    numbers = len(model.head.labels) if model.head.kind == "regression" else 1
    if numbers > 1:
        raise UserError(f"{folder} gives {numbers} numbers for a text, and only one is read here; use transformers")
    tokenizer = tokenizer_of(folder, model)
    columns = Columns(**read_settings(source)["columns"]) if (source / FINETUNE).is_file() else None
    longest = min(model.config.max_position_embeddings, longest_input(folder))
    return Classifier(model, tokenizer, columns, longest=longest, precision=precision)


def predict_file(
    classifier: Classifier,
    path: str,
    output: Path,
    *,
    text: str | None = None,
    text_pair: str | None = None,
    every_label: bool = False,
    reporter: Reporter | None = None,
) -> int:
    """Predict each row of a file and write a CSV.

    Columns are `prediction`, `probability` (not for numbers) and, if asked for, `probability_LABEL`; for tagging
    one line for each word, with `row` and `word` before them. Several labels at once stand in one cell.

    Args:
        classifier: The model.
        path: A table, JSON lines, Parquet, columns of words, or plain text with one text a line.
        output: Must not exist. It appears when it is whole.
        text: Column with the text; None: that of training, or found.
        text_pair: Column with the second text.
        every_label: Write the probability of every label; a number has none.
        reporter: Who to tell.

    Returns:
        Rows predicted.

    Raises:
        UserError: A file or column is not there, a row cannot be read, or `output` exists or has the name of another
            format.
    """
    reporter = reporter or Reporter()
    refuse_output(output, ".csv")
    report = CorpusReport()
    kind, per_token = classifier.head.kind, classifier.head.per_token
    every_label = every_label and kind != "regression"
    sample, rows = peek(open_rows(path, report, column=text, words=None if per_token else False))
    columns = input_columns(path, sample, classifier, Columns(text or "", text_pair, None))
    trained = classifier.columns
    if not text and trained is not None and columns.text != trained.text:
        reporter.warn(
            f"the first rows of {path} have no column {trained.text!r}, which the model was trained on; "
            f"{columns.text!r} is read"
        )
        rows = _without_column(rows, trained.text, path)
    header = ["row", "word"] if per_token else []
    header += ["prediction"] if kind == "regression" else ["prediction", "probability"]
    header += [f"probability_{label}" for label in classifier.head.labels] if every_label else []
    count, empty, began = 0, 0, time.perf_counter()
    with atomic.growing(output, "w", encoding="utf-8", newline="") as handle:
        handle.write(csv_line(header))
        for chunk in chunks(rows, report, "repair it, since each row gets one prediction"):
            texts = [
                read_words(row, columns.text) if per_token else read_text(path, row, columns.text) for row in chunk
            ]
            pairs = [read_text(path, row, columns.pair) if columns.pair else None for row in chunk]
            empty += sum(not each or (isinstance(each, str) and not each.strip()) for each in texts)
            for number, (each, given) in enumerate(zip(texts, classifier.predict(texts, pairs), strict=True), 1):
                for place, target in enumerate(given):
                    cells = [count + number, each[place]] if per_token else []
                    cells += answer(kind, classifier.head.labels, target)[: 1 if kind == "regression" else 2]
                    handle.write(csv_line([*cells, *(f"{p:.6f}" for p in target)] if every_label else cells))
            count += len(chunk)
            rate = count / (time.perf_counter() - began)
            reporter.progress(f"predicting: {count:,} rows, {rate:,.0f} rows/s", 0.0)
    seconds = time.perf_counter() - began
    reporter.say(f"{count:,} rows in {seconds:.1f} s ({count / seconds:,.0f} rows/s), written to {output}")
    if empty:
        reporter.warn(f"{empty:,} of {count:,} rows have no text; their predictions mean nothing")
    if classifier.cut:
        what = "read in parts" if per_token else "cut at their end"
        reporter.warn(f"{classifier.cut:,} of {count:,} rows are longer than the model reads and were {what}")
    return count


def _without_column(rows: Iterator[NumberedRow], column: str, path: str) -> Iterator[NumberedRow]:
    """The rows, of which none may have the column of training, as another one is read.

    Raises:
        UserError: One has.
    """
    for row in rows:
        if column in row[1]:
            raise UserError(
                f"{path}:{row[0]} has the column {column!r}, which the model was trained on, and the first rows have "
                "not; put such a row first, or name the column to read with --text"
            )
        yield row


def refuse_output(output: Path, suffix: str) -> None:
    """Refuse a file that is there, or whose name promises another format than it gets.

    Raises:
        UserError: It is such a one.
    """
    named = output.suffix.lower()
    if named in FORMATS and named != suffix:
        raise UserError(f"{output} is named {named}, and a {suffix} file is written; choose another name with -o")
    if output.exists():
        raise UserError(f"{output} exists, and nothing is overwritten; choose another file with -o")
    if not output.parent.is_dir():
        raise UserError(f"the folder {output.parent} does not exist; make it, or choose another file with -o")


def chunks(rows: Iterator[NumberedRow], report: CorpusReport, fix: str) -> Iterator[list[NumberedRow]]:
    """The rows, up to `CHUNK_ROWS` at a time, and about `CHUNK_CHARACTERS` characters.

    Raises:
        UserError: One could not be read, also the last.
    """
    while True:
        chunk: list[NumberedRow] = []
        room = CHUNK_CHARACTERS
        for row in islice(rows, CHUNK_ROWS):
            chunk.append(row)
            room -= sum(len(str(value)) for value in row[1].values())
            if room < 0:
                break
        if report.skipped:
            raise UserError(f"{report.skipped_examples[0]}; {fix}")
        if not chunk:
            return
        yield chunk


def input_columns(path: str, sample: list[Fields], classifier: Classifier, wanted: Columns) -> Columns:
    """The columns to read: those named, else those of training, else what looks like text."""
    names = {name for row in sample for name in row}
    trained = classifier.columns
    if trained is not None:
        text = wanted.text or (trained.text if trained.text in names else "")
        pair = wanted.pair or (trained.pair if trained.pair in names else None)
        if trained.pair and not pair:
            raise UserError(f"{path} has no column {trained.pair!r} with the second text; name it with --text-pair")
        wanted = Columns(text, pair, trained.label)
    chosen = choose_columns(path, sample, wanted, labelled=False)
    return chosen if trained is None or trained.pair else chosen._replace(pair=wanted.pair)


def read_text(path: str, row: NumberedRow, column: str) -> str:
    """The text of a row, "" where there is none."""
    number, fields = row
    value = fields.get(column)
    return "" if is_missing(value) else as_text(value, f"{path}:{number}")


def read_words(row: NumberedRow, column: str) -> tuple[str, ...]:
    """The words of a row, none where it has none."""
    value = row[1].get(column)
    return () if is_missing(value) else tuple(replace_surrogates(str(word)) for word in words_of(value))
