"""The model and the rows of a run, as its settings say."""

from pathlib import Path
from typing import Literal

import torch

from bertsmith.config import TrainingConfig
from bertsmith.data.batch import Batch, collate
from bertsmith.data.examples import TrainingRows, open_rows
from bertsmith.errors import UserError
from bertsmith.machine.limits import free_memory
from bertsmith.model import (
    AnyConfig,
    AnyPretrainingModel,
    architecture,
    new_config,
    new_model,
    read_config,
    with_dropout,
)
from bertsmith.model.first_attention import begin_beside
from bertsmith.model.first_embeddings import begin_at_neighbours
from bertsmith.model.first_weights import begin_at_frequencies, without_weights
from bertsmith.model.folder import ModelFolder
from bertsmith.prepare.facts import count_ids, log_frequencies
from bertsmith.prepare.neighbours import contexts_of, count_neighbours
from bertsmith.presets import PRESETS, SHAPE
from bertsmith.replay import REPLAY, AnyRows, MixedRows
from bertsmith.run_folder import Run
from bertsmith.tokenizer import Tokenizer

SPECIAL_IDS = ("pad_token_id", "cls_token_id", "sep_token_id", "mask_token_id")

VALIDATION_SEED = 0
VALIDATION_MLM_PROBABILITY = 0.15
"""Held-out masks are the same for every run on the same rows, so that losses can be compared."""


def model_config(run: Run, tokenizer: Tokenizer) -> AnyConfig:
    """The model as it is pretrained. That of a run with --init has the shape that is in RUN/init/."""
    model = run.config.model
    if model.init is not None:
        folder = run.folder / "init"
        values = read_config(folder)
        kind = architecture(str(values.get("model_type")))
        config = kind.config(**kind.naming.read_shape(values, folder / "config.json"))
        return with_dropout(config, hidden=model.hidden_dropout_prob, attention=model.attention_probs_dropout_prob)
    return new_config(
        PRESETS[model.preset].model_type,
        special_ids={name: getattr(tokenizer, name) for name in SPECIAL_IDS},
        max_position_embeddings=run.config.training.sequence_length,
        hidden_dropout_prob=model.hidden_dropout_prob,
        attention_probs_dropout_prob=model.attention_probs_dropout_prob,
        vocab_size=tokenizer.vocab_size,
        **{name: getattr(model, name) for name in SHAPE},
    )


def model_of(run: Run, tokenizer: Tokenizer) -> AnyPretrainingModel:
    """The model that a run pretrains, with new weights."""
    return new_model(model_config(run, tokenizer), next_sentence=run.config.training.objective != "mlm")


def parameters_of(run: Run, tokenizer: Tokenizer) -> int:
    """Numbers in the model, counted without making them."""
    with without_weights():
        model = model_of(run, tokenizer)
    return sum(parameter.numel() for parameter in model.parameters())


def drawn_model(run: Run, tokenizer: Tokenizer) -> AnyPretrainingModel:
    """The model of a run with weights that are drawn at random, or those of RUN/init/."""
    if run.config.model.init is None:
        return model_of(run, tokenizer)
    kind = architecture(model_config(run, tokenizer).model_type)
    return ModelFolder(run.folder / "init", kind.naming).load(lambda: model_of(run, tokenizer)).train()


def begin_as_set(model: AnyPretrainingModel, training: TrainingConfig, folder: Path) -> None:
    """Change new weights as the settings say, by what can be counted in the text without its replay.

    Raises:
        UserError: The memory is too small to count in.
    """
    embeddings = model.bert.embeddings.word_embeddings
    counts = count_ids(folder, "train", embeddings.num_embeddings)
    if training.output_bias == "unigram":
        begin_at_frequencies(model.mlm_head, log_frequencies(counts))
    if training.embedding_init == "ppmi":
        _require_room_to_count(embeddings.num_embeddings)
        begin_at_neighbours(embeddings, torch.from_numpy(count_neighbours(folder, "train", counts)))
    if training.attention_init == "neighbours":
        begin_beside(model, torch.from_numpy(counts))


def _require_room_to_count(vocab_size: int) -> None:
    needed, free = 2 * 4 * vocab_size * contexts_of(vocab_size), free_memory()  # the counts, and what is made of them
    if needed > free:
        raise UserError(
            f"counting what stands beside each piece of the vocabulary needs {needed / 1e9:.1f} GB and "
            f"{free / 1e9:.1f} GB are free; give --embedding-init normal, or free some memory"
        )


def training_rows(run: Run, sequence_length: int) -> AnyRows:
    """The rows this run learns from: of its text, and of the general text where there is one."""
    training, rows = run.config.training, rows_of(run, "train", sequence_length)
    if training.replay is None:
        return rows
    return MixedRows(rows, rows_of(run, "train", sequence_length, run.folder / REPLAY), training.replay_share)


def first_rows(rows: AnyRows, number: int, device: torch.device) -> Batch:
    """The first rows, on a device: what speed and memory are measured with."""
    return collate(rows.__getitems__(list(range(number)))).to(device)


def rows_of(
    run: Run, split: Literal["train", "validation"], sequence_length: int, folder: Path | None = None
) -> TrainingRows:
    """Rows of the run's text, or of another folder, to learn from, or to measure on with masks as in every run."""
    training = run.config.training
    assert training.objective != "auto"
    held_out = split == "validation"
    return open_rows(
        folder or run.folder,
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
