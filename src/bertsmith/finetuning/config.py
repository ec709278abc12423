"""Everything a fine-tuning run can be told, as one frozen dataclass.

A `None` means "found out when the run starts"; what was found is written to
RUN/finetune.json and read again on resume, never found out twice.
"""

from dataclasses import dataclass
from typing import Literal

from bertsmith.errors import require
from bertsmith.strict import setting

Kind = Literal["classification", "multi-label", "regression", "tagging"]
"""One label of several; any number of labels; a number; a tag for each word."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneConfig:
    """What is learnt from labelled rows, and how."""

    label: str | None = setting(None, "Column with the label, score or tags [found: label, score, tags, ...].")
    text: str | None = setting(None, "Column with the text [found].")
    text_pair: str | None = setting(None, "Column with the second text of a pair [text_pair, if there is one].")
    task: Literal["auto", "classification", "multi-label", "regression", "tagging"] = setting(
        "auto", "What is predicted; auto looks at the labels: lists, numbers with a fraction, anything else."
    )
    label_separator: str | None = setting(
        None, "Splits a cell into several labels, such as ';', where a row has several at once [none]."
    )
    validation: str | None = setting(None, "File to choose the best weights on [a share of the rows, by label].")
    test: str | None = setting(None, "File to measure the result on [a share of the rows, by label].")
    validation_fraction: float = setting(0.1, "Share of the rows held out when no --validation is given.")
    test_fraction: float = setting(
        0.1, "Share of the rows that validation leaves, held out when no --test is given; 0: no test."
    )
    max_rows: int | None = setting(None, "Most rows to learn from, of each label as many as its share [all].")
    max_length: int | None = setting(None, "Longest input, in tokens; longer texts are cut [what the model reads].")
    class_weights: Literal["none", "balanced"] = setting(
        "none", "balanced: errors count in inverse proportion to how frequent the label is, for rare labels."
    )
    metric: str | None = setting(
        None, "Validation score that chooses, such as macro_f1 [accuracy, micro_f1, pearson or entity_f1, by task]."
    )
    epochs: float | None = setting(
        None, "Most passes over the rows [as many as give 600 steps, 3 to 20; over few rows 200 steps]."
    )
    patience: int = setting(3, "Validations in a row without a better score after which a try ends.")
    validation_every: int | None = setting(
        None, "Steps between validations [an epoch, 10 to 500; more where there are many rows to validate on]."
    )
    tries: int = setting(1, "Runs with other rates and seeds; the best on validation is kept, all are reported.")
    learning_rate: float | None = setting(
        None, "Peak learning rate of the first try [by the width of the model: 6e-4 at 256, 7e-5 at 768]."
    )
    schedule: Literal["linear", "cosine", "constant"] = setting(
        "linear", "Learning rate after the warm-up: falls to 0 in a line or a cosine, or stays [linear]."
    )
    warmup_fraction: float = setting(0.1, "Share of the steps in which the learning rate rises to its peak.")
    optimizer: Literal["adamw", "muon"] = setting("adamw", "AdamW for all, or Muon for the matrices of the blocks.")
    weight_decay: float = setting(0.01, "Weight decay; biases and LayerNorm have none.")
    adam_beta2: float = setting(0.98, "AdamW decay of the second moment.")
    max_grad_norm: float = setting(1.0, "Gradients are scaled down to this L2 norm.")
    batch_size: int = setting(32, "Rows in a step.")
    micro_batch_tokens: int = setting(8192, "Most token places computed at once.")
    seed: int = setting(0, "Decides the split, the new weights, the order and the dropout of the first try.")
    split_seed: int | None = setting(None, "Decides the split alone, so that other seeds see the same rows [seed].")
    device: Literal["auto", "cuda", "mps", "cpu"] = setting("auto", "Where to compute.")
    precision: Literal["auto", "bfloat16", "float32"] = setting(
        "auto", "Number format of the products while training [measured]; scores and predictions are in float32."
    )
    threads: int | None = setting(None, "CPU threads [all cores].")
    checkpoint_every: float = setting(10.0, "Minutes between checkpoints.")

    def __post_init__(self) -> None:
        positive = ("epochs", "validation_every", "learning_rate", "max_grad_norm", "threads", "checkpoint_every")
        for name in (*positive, "max_rows", "patience", "tries", "batch_size", "micro_batch_tokens"):
            value = getattr(self, name)
            require(value is None or 0 < value < 1e12, f"{name} is {value}; give a number above 0 and below 1e12")
        fraction = self.validation_fraction
        require(0 < fraction < 0.9, f"validation_fraction is {fraction}; give a share in (0, 0.9)")
        fraction = self.test_fraction
        require(0 <= fraction < 0.9, f"test_fraction is {fraction}; give a share in [0, 0.9)")
        require(0 <= self.warmup_fraction <= 1, f"warmup_fraction is {self.warmup_fraction}; give a share in [0, 1]")
        require(0 <= self.weight_decay < 1e6, f"weight_decay is {self.weight_decay}; give 0 or more")
        require(0 <= self.adam_beta2 < 1, f"adam_beta2 is {self.adam_beta2}; give a number in [0, 1)")
        for name in ("seed", "split_seed"):
            value = getattr(self, name)
            require(value is None or 0 <= value < 2**62, f"{name} is {value}; give a number from 0 to 2^62")
        require(self.max_length is None or self.max_length >= 8, f"max_length is {self.max_length}; give at least 8")
        fits = self.label_separator is None or self.task in ("auto", "multi-label")
        require(fits, f"label_separator is given and task is '{self.task}'; several labels at once are multi-label")


FOUND_OUT = frozenset({"task", "device", "precision"})
"""Settings that "auto" leaves to the data and the machine. Elsewhere it may be the name of a column."""

FREE_SETTINGS = frozenset({"checkpoint_every"})
"""Settings that change no weight: a resume may change them."""
