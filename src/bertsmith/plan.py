"""The plan of a run: its data, its model, and the settings that nobody gave.

Missing settings are found from the text and the machine and written to the run;
on resume nothing is missing, so nothing is found out twice.
"""

from dataclasses import dataclass
from math import ceil
from typing import Any, Literal

import torch

from bertsmith import distributed
from bertsmith.batch import Batch, collate
from bertsmith.errors import UserError
from bertsmith.examples import TrainingRows, open_rows
from bertsmith.keyed import Stream, keyed_seed
from bertsmith.measure import (
    best_micro_batch,
    faster_precision,
    has_compiler,
    require_memory,
    worth_compiling,
)
from bertsmith.model import AnyConfig, AnyPretrainingModel, has_dropout, new_config, new_model
from bertsmith.presets import PRESETS
from bertsmith.reporter import Reporter
from bertsmith.run_folder import Run
from bertsmith.shards import read_manifest
from bertsmith.tokenizer import Tokenizer, load_tokenizer
from bertsmith.watch import Watch

TOKEN_GOAL = 50e6
MAX_EPOCHS = 20.0
"""Default length of a run: enough epochs for TOKEN_GOAL tokens, at least 1, at most MAX_EPOCHS."""

WARMUP_SHARE = 0.06

SPECIAL_IDS = ("pad_token_id", "cls_token_id", "sep_token_id", "mask_token_id")

VALIDATION_SEED = 0
VALIDATION_MLM_PROBABILITY = 0.15
"""Held-out masks are the same for every run, so that losses can be compared."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything a run works with, decided."""

    run: Run
    manifest: dict[str, Any]
    tokenizer: Tokenizer
    rows: TrainingRows
    held_out: TrainingRows
    device: torch.device

    @property
    def config(self) -> AnyConfig:
        """The model as it is pretrained."""
        return model_config(self.run, self.tokenizer)

    @property
    def has_dropout(self) -> bool:
        """Whether a forward pass draws random numbers."""
        return has_dropout(self.config)

    @property
    def places_per_step(self) -> int:
        """Token places of a step, padding included."""
        return rows_per_step(self.run) * self.run.config.training.sequence_length

    def parameters(self) -> int:
        """Numbers in the model, counted without making them."""
        with torch.device("meta"):
            model = model_of(self.run, self.tokenizer)
        return sum(parameter.numel() for parameter in model.parameters())

    def new_model(self) -> AnyPretrainingModel:
        """The model with its first weights, the same at each call."""
        torch.manual_seed(keyed_seed(self.run.config.training.seed, Stream.INITIAL))
        return model_of(self.run, self.tokenizer).to(self.device)

    def watch(self, reporter: Reporter) -> Watch:
        """Who looks at the losses of this run."""
        training = self.run.config.training
        return Watch(
            reporter,
            unigram_loss=self.manifest["unigram_loss"],
            learning_rate=training.learning_rate or 0.0,
            max_steps=training.steps or 0,
        )


def make_plan(run: Run, device: torch.device, reporter: Reporter) -> Plan:
    """Open the prepared data and decide what is not decided yet; the decisions are saved with the run."""
    manifest = read_manifest(run.folder / "data")
    decide_objective(run, manifest)
    decide_shape(run)
    rows = rows_of(run, "train")
    decide_length(run, rows)
    rows.total_rows = (run.config.training.steps or 1) * rows_per_step(run)
    tokenizer = load_tokenizer(run.folder / "tokenizer")
    plan = Plan(run, manifest, tokenizer, rows, rows_of(run, "validation"), device)
    require_memory(plan.parameters(), device)
    decide_by_measuring(plan, reporter)
    if run.config.training.device == "auto":
        run.decide("measured", device=device.type)
    if distributed.is_main():
        run.save()
    return plan


def decide_objective(run: Run, manifest: dict[str, Any]) -> None:
    """Next sentences are worth predicting where most of the text has them, and the model has a head for them."""
    if run.config.training.objective != "auto":
        return
    if not PRESETS[run.config.model.preset].has_next_sentence_head:
        run.decide("preset", objective="mlm")
    else:
        enough = manifest["multi_sentence_fraction"] >= 0.5
        run.decide("measured", objective="mlm+nsp" if enough else "mlm")


def decide_shape(run: Run) -> None:
    """Fill in the model's shape, the learning rate and the rows of a step from the preset."""
    preset, model, training = PRESETS[run.config.model.preset], run.config.model, run.config.training
    shape = preset.shape(model.hidden_size)
    run.decide("preset", **{name: value for name, value in shape.items() if getattr(model, name) is None})
    if training.learning_rate is None:
        rate = preset.muon_rate if training.optimizer == "muon" else preset.adamw_rate
        run.decide("preset", learning_rate=rate)
    if training.global_batch_size is None:
        run.decide("preset", global_batch_size=preset.global_batch_size)


def decide_length(run: Run, rows: TrainingRows) -> None:
    """Fill in the number of steps, the warm-up and how often the held-out loss is measured."""
    training = run.config.training
    if training.steps is None:
        epochs = training.epochs or min(MAX_EPOCHS, max(1.0, round(TOKEN_GOAL / rows.source.num_tokens)))
        steps = max(1, ceil(epochs * rows.rows_per_epoch / rows_per_step(run)))
        run.decide("default", steps=steps)
    steps = run.config.training.steps or 1
    if training.warmup_steps is not None and training.warmup_steps > steps:
        raise UserError(
            f"warmup_steps is {training.warmup_steps:,} and the run has {steps:,} steps: the learning rate would never "
            "reach its peak; give fewer, or leave it out"
        )
    if training.warmup_steps is None:
        run.decide("default", warmup_steps=round(WARMUP_SHARE * steps))
    if training.validation_every is None:
        run.decide("default", validation_every=max(1, ceil(steps / 10)))


def model_config(run: Run, tokenizer: Tokenizer) -> AnyConfig:
    """The model as it is pretrained."""
    model = run.config.model
    return new_config(
        PRESETS[model.preset].model_type,
        special_ids={name: getattr(tokenizer, name) for name in SPECIAL_IDS},
        max_position_embeddings=run.config.training.sequence_length,
        hidden_dropout_prob=model.hidden_dropout_prob,
        attention_probs_dropout_prob=model.attention_probs_dropout_prob,
        vocab_size=tokenizer.vocab_size,
        **{name: getattr(model, name) for name in PRESETS[model.preset].shape()},
    )


def model_of(run: Run, tokenizer: Tokenizer) -> AnyPretrainingModel:
    """The model that a run pretrains, with new weights."""
    return new_model(model_config(run, tokenizer), next_sentence=run.config.training.objective != "mlm")


def rows_of(run: Run, split: Literal["train", "validation"]) -> TrainingRows:
    """The rows this run learns from, or those it is measured on, whose masks are the same for every run."""
    training = run.config.training
    assert training.objective != "auto"
    held_out = split == "validation"
    return open_rows(
        run.folder,
        split,
        sequence_length=training.sequence_length,
        objective=training.objective,
        mlm_probability=VALIDATION_MLM_PROBABILITY if held_out else training.mlm_probability,
        whole_word_masking=training.whole_word_masking and not held_out,
        short_sequence_probability=training.short_sequence_probability,
        seed=VALIDATION_SEED if held_out else training.seed,
    )


def rows_per_step(run: Run) -> int:
    """Rows of a step over all ranks; decided by `decide_shape`."""
    return run.config.training.global_batch_size or 1


@dataclass(frozen=True, slots=True)
class Division:
    """How the rows of a step are divided."""

    rows: int
    """Rows of one rank."""

    micro_batch_size: int

    @property
    def micro_batches(self) -> int:
        """Micro-batches of one rank and step."""
        return ceil(self.rows / self.micro_batch_size)


def rows_per_rank(run: Run) -> int:
    """Rows of a step that one rank computes.

    Raises:
        UserError: The rows cannot be divided evenly.
    """
    rows, ranks = rows_per_step(run), distributed.world_size()
    if rows % ranks:
        raise UserError(
            f"global_batch_size is {rows}, which {ranks} processes cannot share; give a multiple of {ranks}"
        )
    return rows // ranks


def divide(run: Run) -> Division:
    """The division of a step that was decided."""
    share = rows_per_rank(run)
    return Division(share, min(share, run.config.training.micro_batch_size or share))


def decide_by_measuring(plan: Plan, reporter: Reporter) -> None:
    """Measure precision, micro-batch size and compiling where they are not given, in about a second each."""
    run, device = plan.run, plan.device
    training = run.config.training
    share = rows_per_rank(run)
    if training.compile == "yes" and device.type == "cpu" and not has_compiler():
        raise UserError("compile is 'yes', but no C++ compiler was found; install g++ or give --compile no")
    if training.micro_batch_size is None and training.gradient_accumulation_steps is not None:
        pieces = training.gradient_accumulation_steps
        if share % pieces:
            raise UserError(
                f"gradient_accumulation_steps is {pieces}, which does not divide the {share} rows of a step; "
                "give a divisor of them, or --micro-batch-size"
            )
        run.decide("default", micro_batch_size=share // pieces)
        training = run.config.training
    if training.micro_batch_size is not None and "auto" not in (training.precision, training.compile):
        return
    reporter.progress("measuring this machine", 0.0)
    model = plan.new_model()

    def make_batch(size: int) -> Batch:
        return collate(plan.rows.__getitems__(list(range(size)))).to(device)

    if training.precision == "auto":
        probe = make_batch(min(share, training.micro_batch_size or 16))
        run.decide("measured", precision=faster_precision(model, probe))
    precision = run.config.training.precision
    if training.micro_batch_size is None:
        run.decide("measured", micro_batch_size=best_micro_batch(model, share, make_batch, precision))
    if training.compile == "auto":
        division = divide(run)
        number = division.micro_batches * (training.steps or 1)
        good = worth_compiling(model, make_batch(division.micro_batch_size), precision, micro_batches=number)
        run.decide("measured", compile="yes" if good else "no")
    reporter.progress("measuring this machine", 1.0)
