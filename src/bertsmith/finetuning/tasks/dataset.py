"""Everything a fine-tuning run learns from and is measured on, from its files."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from bertsmith.errors import UserError
from bertsmith.finetuning.config import FinetuneConfig, Kind
from bertsmith.finetuning.tasks.encoding import Input, encode_texts
from bertsmith.finetuning.tasks.examples import (
    Example,
    find_labels,
    label_counts,
    names_of,
    read_labelled,
    refuse_unseen,
)
from bertsmith.finetuning.tasks.rows import Columns
from bertsmith.finetuning.tasks.scores import require_libraries
from bertsmith.finetuning.tasks.split import hold_out, shared_texts, text_key
from bertsmith.model.classifier import PROBLEM_TYPES, Head
from bertsmith.tokenizer import Tokenizer

RARE = 0.2
"""A label with less than this share of an even part of the rows is called rare."""


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of one purpose, ready for the model."""

    examples: list[Example]
    inputs: list[Input]
    targets: list[np.ndarray]
    """Of each input."""

    cut: int
    """Rows longer than the model reads."""

    def by_row(self, values: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Values of the inputs joined to values of the rows: a long sentence has several inputs."""
        if len(self.inputs) == len(self.examples):
            return list(values)
        parts: list[list[np.ndarray]] = [[] for _ in self.examples]
        for each, value in zip(self.inputs, values, strict=True):
            parts[each.row].append(value)
        return [np.concatenate(part) for part in parts]


@dataclass(frozen=True, slots=True)
class TaskData:
    """A task: what is predicted, and its rows."""

    head: Head
    columns: Columns
    train: Part
    validation: Part
    test: Part | None
    notes: list[str]
    """What the user should know about the data, a line each."""

    fingerprint: str
    """Hash of all rows and the division."""

    @property
    def held_out(self) -> dict[str, Part]:
        """Rows that are not learnt from: validation, and test where there is one."""
        return {"validation": self.validation} | ({"test": self.test} if self.test else {})

    @property
    def parts(self) -> dict[str, Part]:
        """All rows: train, then those held out."""
        return {"train": self.train, **self.held_out}

    @property
    def kind(self) -> Kind:
        """Of the task."""
        return self.head.kind  # type: ignore[return-value]


def load_task(path: str, config: FinetuneConfig, tokenizer: Tokenizer, *, longest: int) -> TaskData:
    """Read the files of a task, hold rows out where no file was given, and encode all.

    Args:
        path: The labelled rows.
        config: Names of columns, other files, shares.
        tokenizer: Of the model.
        longest: Most tokens that the model reads.

    Raises:
        UserError: A file or a label makes no sense; the library that measures is missing.
    """
    length = min(longest, config.max_length or longest)
    file = read_labelled(path, config, None, None)
    kind = file.kind
    require_libraries(kind)
    head = Head(kind, find_labels(file, kind))
    notes = list(file.notes)
    train = file.examples
    given: dict[str, list[Example]] = {}
    seed = config.seed if config.split_seed is None else config.split_seed
    for name, other in (("validation", config.validation), ("test", config.test)):
        if other is not None:
            more = read_labelled(other, config, file.columns, kind)
            refuse_unseen(more, head.labels, path)
            notes += more.notes
            given[name] = more.examples
    for number, (name, fraction) in enumerate(
        (("validation", config.validation_fraction), ("test", config.test_fraction))
    ):
        if name not in given and fraction:
            train, given[name] = hold_out(train, fraction, kind, seed=seed, purpose=number)
            if not given[name] or not train:
                texts = len(set(map(text_key, file.examples)))
                few = f"{len(file.examples):,} rows" + (f" of {texts:,} texts" if texts < len(file.examples) else "")
                raise UserError(
                    f"{path} has {few}, too few to hold out {fraction:.0%} of each label; "
                    f"give more rows, or a file with --{name}"
                )
            notes.append(f"{name}: {len(given[name]):,} rows of {path}, {fraction:.0%} of each label")
    if config.max_rows is not None and config.max_rows < len(train):
        all_rows = len(train)
        train, _ = hold_out(train, 1 - config.max_rows / all_rows, kind, seed=seed, purpose=2)
        train = train[: config.max_rows]  # of labels that occur once all rows stayed
        notes.append(
            f"{len(train):,} of {all_rows:,} training rows are learnt from, of each label as many as its share"
        )
    for name, examples in given.items():
        if shared := shared_texts(train, examples):
            notes.append(f"{shared:,} of {len(examples):,} {name} rows have a text that is also trained on")
    if shared := shared_texts(given["validation"], given.get("test", [])):
        notes.append(f"{shared:,} of {len(given['test']):,} test rows have a text that the weights are also chosen on")
    parts = {
        name: encode_part(examples, head, tokenizer, length) for name, examples in {"train": train, **given}.items()
    }
    notes += _warnings(parts, length, config, head)
    fingerprint = fingerprint_of({name: part.examples for name, part in parts.items()})
    return TaskData(head, file.columns, parts["train"], parts["validation"], parts.get("test"), notes, fingerprint)


def fingerprint_of(parts: Mapping[str, Sequence[Example]]) -> str:
    """Hash of rows and their division: of the JSON of all of them, which is never in memory as a whole."""
    digest = hashlib.sha256(b"[")
    for place, (name, examples) in enumerate(parts.items()):
        digest.update(f"{', ' * (place > 0)}[{json.dumps(name)}, [".encode())
        for number, example in enumerate(examples):
            digest.update(f"{', ' * (number > 0)}{json.dumps(example)}".encode())
        digest.update(b"]]")
    digest.update(b"]")
    return digest.hexdigest()


def encode_part(examples: list[Example], head: Head, tokenizer: Tokenizer, length: int) -> Part:
    """Turn labelled rows into inputs of at most `length` tokens, and targets."""
    encoded = encode_texts(
        tokenizer, [each.text for each in examples], [each.pair for each in examples], max_length=length
    )
    return Part(examples, encoded.sequences, targets_of(examples, encoded.sequences, head), encoded.cut)


def targets_of(examples: Sequence[Example], inputs: Sequence[Input], head: Head) -> list[np.ndarray]:
    """Labels as numbers.

    Args:
        examples: The rows that the inputs were made from.
        inputs: In the order of the rows; several inputs of one sentence follow each other.
        head: Knows all labels of the examples.

    Returns:
        For each input int64 [1], or [words] for tagging; float32 [1, C] for several labels; float64 [1, 1] for a
        number, as float32 would change large ones that differ little.
    """
    index = {name: number for number, name in enumerate(head.labels)}
    if head.kind == "regression":
        return [np.array([[examples[each.row].label]], dtype=np.float64) for each in inputs]
    if head.kind == "multi-label":
        targets = [np.zeros((1, len(index)), dtype=np.float32) for _ in inputs]
        for each, present in zip(inputs, targets, strict=True):
            present[0, [index[name] for name in names_of(examples[each.row].label)]] = 1
        return targets
    numbers = (index[name] for example in examples for name in names_of(example.label))
    counts = (len(each.places) if head.per_token else 1 for each in inputs)
    return [np.array(list(islice(numbers, count)), dtype=np.int64) for count in counts]


def _warnings(parts: dict[str, Part], length: int, config: FinetuneConfig, head: Head) -> list[str]:
    """What may surprise: texts that are cut, and rare labels."""
    notes = []
    rows, cut = (sum(counts) for counts in zip(*((len(p.examples), p.cut) for p in parts.values()), strict=True))
    if cut:
        what = "are read in parts" if head.per_token else "are cut at their end"
        notes.append(f"{cut:,} of {rows:,} rows are longer than {length:,} tokens and {what}")
    if PROBLEM_TYPES[head.kind] != "single_label_classification":
        return notes
    counts = label_counts(parts["train"].examples, head.labels)
    if missing := [name for name, count in counts.items() if not count]:
        few = "; raise --max-rows" if config.max_rows is not None else ""
        notes.append(f"no training row has the label {missing[0]!r}{_and_more(missing)}, so it is not learnt{few}")
    elif config.class_weights == "none":
        rarest = min(counts, key=lambda name: counts[name])
        share = counts[rarest] / sum(counts.values())
        if share * len(counts) < RARE:
            notes.append(
                f"the label {rarest!r} is rare ({share:.1%} of the rows); where rare labels matter, "
                "try --class-weights balanced --metric macro_f1"
            )
    return notes


def _and_more(names: Sequence[str]) -> str:
    return f" (nor {len(names) - 1:,} others)" if len(names) > 1 else ""
