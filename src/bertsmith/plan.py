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
from bertsmith.model import BertConfig, BertPretrainingModel
from bertsmith.presets import PRESETS
from bertsmith.reporter import Reporter
from bertsmith.run_folder import Run
from bertsmith.shards import read_manifest
from bertsmith.stages import Stage, make_stages
from bertsmith.tokenizer import Tokenizer, load_tokenizer
from bertsmith.watch import Watch

TOKEN_GOAL = 50e6
MAX_EPOCHS = 20.0
"""Default length of a run: enough epochs for TOKEN_GOAL tokens, at least 1, at most MAX_EPOCHS."""

WARMUP_SHARE = 0.06

VALIDATION_SEED = 0
VALIDATION_MLM_PROBABILITY = 0.15
"""Held-out masks are the same for every run, so that losses can be compared."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything a run works with, decided."""

    run: Run
    manifest: dict[str, Any]
    tokenizer: Tokenizer
    stages: tuple[Stage, ...]
    rows: dict[int, TrainingRows]
    """What is learnt from, by length."""

    held_out: TrainingRows
    device: torch.device

    @property
    def config(self) -> BertConfig:
        """The model as it is pretrained."""
        return model_config(self.run, self.tokenizer)

    @property
    def has_dropout(self) -> bool:
        """Whether a forward pass draws random numbers."""
        return self.config.hidden_dropout_prob > 0 or self.config.attention_probs_dropout_prob > 0

    def stage_of(self, step: int) -> Stage:
        """The stage that a step belongs to."""
        return next(stage for stage in self.stages if step in stage.steps)

    def parameters(self) -> int:
        """Numbers in the model, counted without making them."""
        with torch.device("meta"):
            model = BertPretrainingModel(self.config, next_sentence=self.run.config.training.objective != "mlm")
        return sum(parameter.numel() for parameter in model.parameters())

    def new_model(self) -> BertPretrainingModel:
        """The model with its first weights, the same at each call."""
        training = self.run.config.training
        torch.manual_seed(keyed_seed(training.seed, Stream.INITIAL))
        model = BertPretrainingModel(self.config, next_sentence=training.objective != "mlm")
        return model.to(self.device)

    def first_rows(self, number: int) -> Batch:
        """The first full-length rows, on the device: what speed is measured with."""
        return collate(self.rows[self.run.config.training.sequence_length].__getitems__(list(range(number)))).to(
            self.device
        )

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
    training = run.config.training
    rows = {
        length: rows_of(run, "train", length) for length in (training.sequence_length, training.short_length) if length
    }
    decide_length(run, rows[training.sequence_length])
    stages = make_stages(run.config.training, lambda length: rows[length].rows_per_epoch)
    tokenizer = load_tokenizer(run.folder / "tokenizer")
    held_out = rows_of(run, "validation", training.sequence_length)
    plan = Plan(run, manifest, tokenizer, stages, rows, held_out, device)
    require_memory(plan.parameters(), device)
    decide_by_measuring(plan, reporter)
    if run.config.training.device == "auto":
        run.decide("measured", device=device.type)
    if distributed.is_main():
        run.save()
    return plan


def decide_objective(run: Run, manifest: dict[str, Any]) -> None:
    """Next sentences are worth predicting where most of the text has them."""
    if run.config.training.objective == "auto":
        enough = manifest["multi_sentence_fraction"] >= 0.5
        run.decide("measured", objective="mlm+nsp" if enough else "mlm")


def decide_shape(run: Run) -> None:
    """Fill in the model's shape, the learning rate and the rows of a step from the preset."""
    preset, model, training = PRESETS[run.config.model.preset], run.config.model, run.config.training
    hidden_size = model.hidden_size or preset.hidden_size
    shape = {
        "num_hidden_layers": preset.num_hidden_layers,
        "hidden_size": hidden_size,
        "num_attention_heads": max(1, hidden_size // 64),
        "intermediate_size": 4 * hidden_size,
    }
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
        steps = max(1, ceil(epochs * rows.rows_per_epoch / (training.global_batch_size or 1)))
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


def model_config(run: Run, tokenizer: Tokenizer) -> BertConfig:
    """The model as it is pretrained."""
    model = run.config.model
    shape = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size")
    return BertConfig(
        vocab_size=tokenizer.vocab_size,
        pad_token_id=tokenizer.pad_token_id,
        max_position_embeddings=run.config.training.sequence_length,
        hidden_dropout_prob=model.hidden_dropout_prob,
        attention_probs_dropout_prob=model.attention_probs_dropout_prob,
        **{name: getattr(model, name) for name in shape},
    )


def rows_of(run: Run, split: Literal["train", "validation"], sequence_length: int) -> TrainingRows:
    """The rows this run learns from, or those it is measured on, whose masks are the same for every run."""
    training = run.config.training
    assert training.objective != "auto"
    held_out = split == "validation"
    return open_rows(
        run.folder,
        split,
        sequence_length=sequence_length,
        objective=training.objective,
        mlm_probability=VALIDATION_MLM_PROBABILITY if held_out else training.mlm_probability,
        end_probability=None if held_out else training.end_probability,
        mask_units="token" if held_out else training.mask_units,
        mask_covering=training.mask_covering and not held_out,
        short_sequence_probability=training.short_sequence_probability,
        seed=VALIDATION_SEED if held_out else training.seed,
    )


def decide_by_measuring(plan: Plan, reporter: Reporter) -> None:
    """Measure precision, micro-batch size and compiling where they are not given, in about a second each."""
    run, device = plan.run, plan.device
    training = run.config.training
    share = [stage.divide(training) for stage in plan.stages][-1].rows  # all must be divisible
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
        return plan.first_rows(size)

    if training.precision == "auto":
        probe = make_batch(min(share, training.micro_batch_size or 16))
        run.decide("measured", precision=faster_precision(model, probe))
    precision = run.config.training.precision
    if training.micro_batch_size is None:
        run.decide("measured", micro_batch_size=best_micro_batch(model, share, make_batch, precision))
    if training.compile == "auto":
        division = plan.stages[-1].divide(run.config.training)
        number = division.micro_batches * (training.steps or 1)
        good = worth_compiling(model, make_batch(division.micro_batch_size), precision, micro_batches=number)
        run.decide("measured", compile="yes" if good else "no")
    reporter.progress("measuring this machine", 1.0)
