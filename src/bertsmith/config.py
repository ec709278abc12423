"""Everything a run can be told, as frozen dataclasses, and where each value came from.

The three tables of a configuration file are the three classes below; a field is
at once a TOML key, a command-line flag (`--field-name`) and a line of help. A
`None` means "found out when the run starts"; what was found is written to
RUN/config.toml and read again on resume, never found out twice.
"""

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from bertsmith.budget import MOST_STEPS, parse_budget
from bertsmith.errors import UserError, require, suggestion
from bertsmith.presets import PRESETS, SHAPE
from bertsmith.strict import from_mapping, setting

TRAINED = ("wordpiece", "bpe")
"""Values of `DataConfig.tokenizer` that ask for a new tokenizer; any other is a path."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """What is read and how it becomes token ids. Decides the prepared shards."""

    text: tuple[str, ...] = setting((), "Files, folders or data set names to learn from; none: the built-in corpus.")
    text_field: str | None = setting(None, "Column or key that holds the text in tables and JSON lines [found].")
    document: Literal["auto", "file", "blank-line", "line"] = setting(
        "auto", "What one document is in plain text: decided by the file, or one per file, block or line."
    )
    encoding: str | None = setting(None, "Character encoding of the text, such as cp1252 [UTF-8, else detected].")
    validation: str | None = setting(None, "Held-out text, a file or folder [a part of the text, by hash].")
    validation_fraction: float | None = setting(
        None, "Share of the sections held out when no --validation is given [0.01, more of a small text]."
    )
    tokenizer: str = setting("wordpiece", "Train 'wordpiece' or 'bpe', or the path of an existing tokenizer.")
    vocab_size: int | None = setting(None, "Pieces in the vocabulary [chosen from the size of the text].")
    extend_vocab: int | None = setting(None, "Add so many words of the text to an existing WordPiece tokenizer [0].")
    lowercase: bool = setting(True, "Lower-case the text (an uncased model).")
    strip_accents: bool | None = setting(None, "Remove accents [where text is lower-cased and has few].")
    workers: int | None = setting(None, "Processes that prepare the text [all cores].")

    def __post_init__(self) -> None:
        fraction = self.validation_fraction
        require(
            fraction is None or 0 < fraction < 1,
            f"validation_fraction is {fraction}; give a share between 0 and 1, such as 0.01",
        )
        require(
            self.vocab_size is None or 5 < self.vocab_size < 1_000_000,
            f"vocab_size is {self.vocab_size}; give a number such as 8192, or leave it out",
        )
        require(
            self.vocab_size is None or self.tokenizer in TRAINED,
            f"vocab_size is {self.vocab_size}, but the tokenizer {self.tokenizer} exists already and keeps its own; "
            "leave one out",
        )
        require(
            self.extend_vocab is None or 0 < self.extend_vocab < 1_000_000,
            f"extend_vocab is {self.extend_vocab}; give a number of words such as 1000",
        )
        require(self.workers is None or self.workers > 0, f"workers is {self.workers}; give at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Shape of the model: a preset, and what differs from it."""

    init: str | None = setting(None, "Go on from this model: a run, a BERT or ModernBERT folder, or a hub id [none].")
    init_sha256: str | None = setting(None, "Hash of that model [found]; another one is refused.")
    family: Literal["bert", "modern"] = setting(
        "bert", "Whose size a budget finds, or -mini, where no --preset is given."
    )
    preset: str = setting("bert-mini", f"Architecture and size of the model: {', '.join(PRESETS)}.")
    num_hidden_layers: int | None = setting(None, "Blocks [preset].")
    hidden_size: int | None = setting(None, "Width of the model [preset].")
    num_attention_heads: int | None = setting(None, "Heads per block [hidden size / 64].")
    intermediate_size: int | None = setting(None, "Width of the feed-forward layer [preset].")
    hidden_dropout_prob: float = setting(0.0, "Dropout while pretraining, in [0, 1).")
    attention_probs_dropout_prob: float = setting(
        0.0, "Attention dropout while pretraining, in [0, 1); above 0 the fused kernels are lost."
    )

    def __post_init__(self) -> None:
        require(self.preset in PRESETS, f"preset is '{self.preset}'{suggestion(self.preset, PRESETS)}")
        for name in SHAPE:
            value = getattr(self, name)
            require(value is None or 0 < value < 1_000_000, f"{name} is {value}; give 1 to 999999")
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            value = getattr(self, name)
            require(0 <= value < 1, f"{name} is {value}; give a probability in [0, 1)")


_ABOVE_0 = (
    "global_batch_size", "micro_batch_size", "gradient_accumulation_steps", "epochs", "steps", "learning_rate",
    "muon_scale", "max_grad_norm", "checkpoint_every", "keep", "validation_every", "threads",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    """How the model is trained. Sizes of batches are counted in rows of `sequence_length` places."""

    objective: Literal["auto", "mlm", "mlm+nsp", "mlm+sop"] = setting(
        "auto", "Masked words alone, with next sentences, or with the order of sentences; auto looks at the text."
    )
    sequence_length: int = setting(128, "Places in a row, in tokens; also the longest input of the model.")
    global_batch_size: int | None = setting(None, "Rows in one step, over all devices [preset, run's length].")
    micro_batch_size: int | None = setting(None, "Rows computed at once on one device [measured].")
    gradient_accumulation_steps: int | None = setting(
        None, "Micro-batches in one step on one device; instead of --micro-batch-size [measured]."
    )
    epochs: float | None = setting(None, "Passes over the text [enough for about 50 M tokens, 1 to 20].")
    steps: int | None = setting(None, "Optimizer steps, instead of --epochs [as --epochs].")
    budget: str | None = setting(
        None, "Time of the whole command (20m, 2h) or work (1e17flop): finds the length, and size if it is open [none]."
    )
    optimizer: Literal["adamw", "muon"] = setting(
        "muon", "Muon for the matrices of the blocks and AdamW for the rest, or AdamW for all."
    )
    learning_rate: float | None = setting(None, "Peak learning rate [preset].")
    muon_scale: float = setting(1.0, "Learning rate of Muon's matrices, as a multiple of the other weights'.")
    output_bias: Literal["zero", "unigram"] = setting(
        "zero", "Where the score of a piece begins in a new model: at 0, or at its frequency in the text."
    )
    embedding_init: Literal["normal", "ppmi"] = setting(
        "normal",
        "Where embeddings begin in a new model: at random, or alike for pieces with the same neighbours.",
    )
    attention_init: Literal["normal", "neighbours"] = setting(
        "normal", "Where attention begins in a new model: anywhere, or with heads at the tokens beside each token."
    )
    schedule: Literal["linear", "cosine", "constant", "trapezoid"] = setting(
        "linear",
        "Learning rate after the warm-up: falls to 0 in a line or a cosine, stays, or stays and falls at the end.",
    )
    decay_share: float = setting(0.3, "Last share of the steps in which a trapezoid falls to 0.")
    warmup_steps: int | None = setting(None, "Steps in which the rate rises to its peak [6 %, short runs up to 150].")
    weight_decay: float = setting(0.01, "AdamW weight decay; biases and LayerNorm have none.")
    adam_beta2: float = setting(0.98, "AdamW decay of the second moment.")
    max_grad_norm: float = setting(1.0, "Gradients are scaled down to this L2 norm.")
    clip_updates: bool = setting(False, "Scale AdamW's updates of each tensor down to a root mean square of 1, too.")
    average_decay: float = setting(0.0, "Measure and export a moving average of the weights with this decay; 0: no.")
    mlm_probability: float = setting(0.15, "Share of the tokens to predict, in (0, 1).")
    end_probability: float | None = setting(None, "That share at the end of the run, reached in a line [preset].")
    mask_units: Literal["token", "word", "span"] = setting("token", "Mask single pieces, whole words, or spans.")
    mask_covering: bool = setting(False, "Mask other tokens in each epoch, until nearly all have been; not with spans.")
    batch_ramp: float = setting(0.0, "First share of the steps in which their rows grow from a quarter to all.")
    short_length: int | None = setting(None, "Begin with rows of this many places, as many places a step [no].")
    short_share: float = setting(0.9, "First share of the steps that have the short rows.")
    replay: str | None = setting(None, "General text, a file or folder, to learn from beside TEXT [none].")
    replay_share: float = setting(0.1, "Share of the rows that are of --replay, in (0, 1).")
    short_sequence_probability: float = setting(0.1, "Share of the sequences that are shorter than a row.")
    seed: int = setting(0, "Decides the initial weights, the order, the masks and the dropout.")
    device: Literal["auto", "cuda", "mps", "cpu"] = setting("auto", "Where to compute.")
    precision: Literal["auto", "bfloat16", "float32"] = setting("auto", "Number format of the products [measured].")
    compile: Literal["auto", "yes", "no"] = setting("auto", "Use torch.compile [measured].")
    threads: int | None = setting(None, "CPU threads of one process [all cores].")
    cuda_graphs: Literal["auto", "no"] = setting("auto", "Whether one GPU is asked for recorded steps [yes].")
    loader_workers: int | None = setting(None, "Processes that build batches, 0 to 1024 [GPU: 2, CPU: 0].")
    validation_every: int | None = setting(None, "Steps between measurements of held-out loss [a tenth of the run].")
    checkpoint_every: float = setting(10.0, "Minutes between checkpoints.")
    keep: int = setting(2, "Checkpoints that stay.")

    def __post_init__(self) -> None:
        for name in _ABOVE_0:
            value = getattr(self, name)
            require(value is None or 0 < value < MOST_STEPS, f"{name} is {value}; give a number above 0 and below 1e12")
        require((self.warmup_steps or 0) >= 0, f"warmup_steps is {self.warmup_steps}; give 0 or more")
        require(0 <= self.weight_decay < 1e6, f"weight_decay is {self.weight_decay}; give 0 or more")
        require(0 <= self.adam_beta2 < 1, f"adam_beta2 is {self.adam_beta2}; give a number in [0, 1)")
        require(0 <= self.seed < 2**63, f"seed is {self.seed}; give a number from 0 to 2^63 - 1")
        require(self.threads is None or self.threads <= 1024, f"threads is {self.threads}; give 1 to 1024")
        require(0 <= (self.loader_workers or 0) <= 1024, f"loader_workers is {self.loader_workers}; give 0 to 1024")
        require(
            16 <= self.sequence_length <= 65_536,
            f"sequence_length is {self.sequence_length}; give 16 to 65536 places",
        )
        if self.budget is not None:
            parse_budget(self.budget)
        for name in ("mlm_probability", "end_probability"):
            value = getattr(self, name)
            require(value is None or 0 < value < 1, f"{name} is {value}; give a share in (0, 1)")
        for name in ("short_sequence_probability", "decay_share", "batch_ramp", "short_share", "average_decay"):
            value = getattr(self, name)
            require(0 <= value < 1, f"{name} is {value}; give a share in [0, 1)")
        fits = 1e-6 <= self.replay_share <= 1 - 1e-6
        require(fits, f"replay_share is {self.replay_share}; give a share between 0.000001 and 0.999999, such as 0.1")
        require(
            self.replay is None or self.end_probability is None,
            f"replay is {self.replay} and end_probability {self.end_probability}; give one of them",
        )
        short = self.short_length
        require(
            short is None or (16 <= short < self.sequence_length and self.sequence_length % short == 0),
            f"short_length is {short}; give 16 or more that divides the sequence_length, {self.sequence_length}",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """All settings of one run."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        shape = PRESETS[self.model.preset].shape(self.model.hidden_size)
        hidden_size, heads = shape["hidden_size"], self.model.num_attention_heads or shape["num_attention_heads"]
        require(
            hidden_size % heads == 0,
            f"hidden_size ({hidden_size}) must be a multiple of num_attention_heads ({heads})",
        )
        require(
            self.training.objective in {"auto", "mlm"}
            or (PRESETS[self.model.preset].has_next_sentence_head and self.model.family == "bert"),
            f"objective is '{self.training.objective}', but ModernBERT has no head for pairs of sentences; "
            "give --objective mlm, or a bert-* preset",
        )


TABLES: dict[str, type] = {"data": DataConfig, "model": ModelConfig, "training": TrainingConfig}

FREE_SETTINGS = frozenset({"workers", "loader_workers", "cuda_graphs", "validation_every", "checkpoint_every", "keep"})
"""Settings that change no weight: a resume may change them."""


def table_of(name: str) -> str | None:
    """The table that holds the setting `name`, None when there is no such setting."""
    return next((table for table, cls in TABLES.items() if name in {f.name for f in fields(cls)}), None)


def by_table(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Settings by name, sorted into their tables for `run_config`."""
    return {table: {name: value for name, value in values.items() if table_of(name) == table} for table in TABLES}


def read_toml(path: Path) -> dict[str, dict[str, Any]]:
    """Read a configuration file into its tables.

    Raises:
        UserError: The file is missing, is no TOML, or has an unknown table.
    """
    try:
        parsed = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"cannot read {path}, which has to be like config.toml of a run: {error}") from error
    for name, table in parsed.items():
        if name not in {*TABLES, "origin"}:
            raise UserError(f"unknown table '{name}' in {path}{suggestion(name, TABLES)}")
        if not isinstance(table, dict):
            raise UserError(f"'{name}' in {path} is {table!r}; write it as a table, [{name}]")
    return parsed


def run_config(tables: Mapping[str, Mapping[str, Any]]) -> RunConfig:
    """Build the settings of a run from its tables; missing ones keep their defaults."""
    return RunConfig(
        data=from_mapping(DataConfig, tables.get("data", {}), "data."),
        model=from_mapping(ModelConfig, tables.get("model", {}), "model."),
        training=from_mapping(TrainingConfig, tables.get("training", {}), "training."),
    )


def flat(config: RunConfig) -> dict[str, Any]:
    """All settings by name; names are unique over the tables."""
    return {f.name: getattr(getattr(config, table), f.name) for table, cls in TABLES.items() for f in fields(cls)}


EXCLUSIVE_SETTINGS = (
    ("epochs", "steps"),
    ("epochs", "budget"),
    ("steps", "budget"),
    ("micro_batch_size", "gradient_accumulation_steps"),
)
"""Two ways to say one thing; a resolved configuration holds both, a user gives one."""


def check_exclusive(given: Mapping[str, Any]) -> None:
    """Refuse two settings that say the same thing.

    Raises:
        UserError: Both of a pair in EXCLUSIVE_SETTINGS are given.
    """
    for one, other in EXCLUSIVE_SETTINGS:
        if given.get(one) is not None and given.get(other) is not None:
            raise UserError(f"{one} is {given[one]} and {other} is {given[other]}; give one of them")


def changed(config: RunConfig, **values: Any) -> RunConfig:
    """The same settings with some replaced, each named without its table."""
    assert all(table_of(name) for name in values), values
    tables = {table: changes for table, changes in by_table(values).items() if changes}
    return dataclasses.replace(
        config, **{table: dataclasses.replace(getattr(config, table), **changes) for table, changes in tables.items()}
    )
