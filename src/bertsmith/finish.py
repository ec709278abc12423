"""The end of a run: RUN/model/ in the layout of Hugging Face, and what the user is told."""

import shutil
import sys
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from bertsmith import atomic
from bertsmith.card import PAIRS, model_card
from bertsmith.errors import UserError
from bertsmith.fillings import Filling, fill_examples, hide_words, one_line
from bertsmith.finetuning.any_classifier import AnyClassifier, ForeignClassifier
from bertsmith.intervals import wilson_interval
from bertsmith.metrics import EVALUATION
from bertsmith.model import AnyPretrainingModel, architecture, new_model, with_dropout
from bertsmith.model.first_weights import without_weights
from bertsmith.planning.plan import Plan
from bertsmith.reporter import Reporter, counted
from bertsmith.step import Measured
from bertsmith.tokenizer import Tokenizer


def finish_run(
    model: AnyPretrainingModel,
    plan: Plan,
    measured: Measured,
    state: Mapping[str, Any],
    reporter: Reporter,
) -> None:
    """Write RUN/model/ and say what came out.

    Args:
        model: With its last weights.
        plan: What it was trained with; all steps of its run are done.
        measured: Its losses on held-out text.
        state: `step`, `tokens`, `seconds` and `skipped` of the whole run.
        reporter: Who to tell.

    Raises:
        UserError: The model is no good, or could not be written; the checkpoints are whole.
    """
    if not isfinite(measured.loss):
        raise UserError(
            f"the held-out loss is {measured.loss}, so no model was written; "
            "start again with --fresh and a lower --learning-rate"
        )
    run = plan.run
    exported = for_fine_tuning(model)
    interval = wilson_interval(measured.nsp_accuracy, measured.nsp_targets) if measured.nsp_targets else None
    parameters = sum(parameter.numel() for parameter in model.parameters())
    card = model_card(
        config=exported.config,
        training=run.config.training,
        manifest=plan.manifest,
        measured=measured,
        nsp_interval=interval,
        state=state,
        parameters=parameters,
        init_sha256=run.config.model.init_sha256,
    )
    try:
        targets = {"mlm_targets": measured.mlm_targets, "nsp_targets": measured.nsp_targets}
        numbers = {"step": state["step"], "parameters": parameters, **measured.losses(), **targets}
        atomic.write_json(run.folder / EVALUATION, numbers | {"nsp_interval": interval})
        publish_model(run.model, exported, plan.tokenizer, card, reporter)
    except OSError as error:
        raise UserError(
            f"the model could not be written to {run.model}: {error.strerror or error}; "
            "the checkpoints are whole: make room and give the same command again"
        ) from error
    for line in results(measured, interval, plan, state):
        reporter.say(line)
    examples = hide_words(plan.held_out.source, plan.tokenizer, longest=model.config.max_position_embeddings)
    for line in filled_masks(fill_examples(model, plan.tokenizer, examples)):
        reporter.say(line)
    reporter.say(f"the model is in {run.model}")


def for_fine_tuning(model: AnyPretrainingModel) -> AnyPretrainingModel:
    """The same model, sharing its weights, with the dropout that fine-tuning should use."""
    dropout = architecture(model.config.model_type).fine_tuning_dropout
    config = with_dropout(model.config, hidden=dropout, attention=dropout)
    with without_weights():
        exported = new_model(config, next_sentence=model.nsp_head is not None)
    exported.load_state_dict(model.state_dict(), assign=True)
    return exported


def publish_model(
    folder: Path,
    model: AnyPretrainingModel | AnyClassifier,
    tokenizer: Tokenizer,
    card: str,
    reporter: Reporter,
    *,
    max_length: int | None = None,
) -> None:
    """Write a Hugging Face folder in one step: a kill leaves the one before, a whole one, or none.

    A folder that holds the same model already is left as it is, since its card
    may have been edited; one with another model is kept under another name.
    Its tokenizer says that inputs have up to `max_length` tokens, or as many as the model has positions.

    Raises:
        OSError: The disk is full or not writable.
    """
    staging = folder.with_name(folder.name + atomic.TEMPORARY_SUFFIX)
    shutil.rmtree(staging, ignore_errors=True)
    try:
        model.save_pretrained(staging)
        if isinstance(model, ForeignClassifier):
            names = model.input_names
        else:
            names = architecture(model.config.model_type).input_names
        longest = min(model.config.max_position_embeddings, max_length or sys.maxsize)
        tokenizer.save(staging, model_max_length=longest, model_input_names=names)
        if holds_same(folder, staging):
            return
        atomic.write_text(staging / "README.md", card)
        if folder.exists():
            kept = atomic.next_free(folder.with_name(f"{folder.name}-before"))
            folder.rename(kept)
            reporter.say(f"{folder} held another model, which is now {kept}")
        atomic.publish(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def holds_same(folder: Path, staging: Path) -> bool:
    """Whether every file of `staging` stands in `folder` with the same content."""
    return all(
        (folder / file.name).is_file() and atomic.sha256(folder / file.name) == atomic.sha256(file)
        for file in staging.iterdir()
    )


def results(
    measured: Measured, interval: tuple[float, float] | None, plan: Plan, state: Mapping[str, Any]
) -> list[str]:
    """What the run gave, as lines."""
    manifest = plan.manifest
    lines = [
        f"held-out masked tokens: loss {measured.mlm_loss:.3f} nats (token frequencies alone "
        f"{manifest['unigram_loss']:.3f}, uniform guess {manifest['uniform_loss']:.3f}), "
        f"{measured.mlm_accuracy:.1%} of {measured.mlm_targets:,} right"
    ]
    if interval is not None:
        low, high = interval
        lines.append(
            f"held-out {PAIRS[plan.run.config.training.objective][1]}: loss {measured.nsp_loss:.3f} nats, "
            f"{measured.nsp_accuracy:.1%} of "
            f"{measured.nsp_targets:,} pairs right, 95 % interval {low:.1%} to {high:.1%}"
        )
    speed = state["tokens"] / max(state["seconds"], 1e-9)
    lines.append(
        f"trained {counted(state['step'], 'step')} on {state['tokens']:,} tokens in {state['seconds'] / 60:.1f} min "
        f"({speed:,.0f} tokens/s)" + (f", {counted(state['skipped'], 'step')} skipped" if state["skipped"] else "")
    )
    return lines


def filled_masks(fillings: Sequence[Filling]) -> list[str]:
    """Held-out sentences with a masked word and the guesses for it: a heading and a line for each, or nothing."""
    lines = []
    for filling in fillings:
        ranked = ", ".join(f"{token} {probability:.0%}" for token, probability in filling.guesses)
        text = one_line(f"{filling.before} {filling.mask}{filling.after}")
        lines.append(f"  {text}  (true: {filling.truth}; guessed: {ranked})")
    return ["masks filled in held-out text:", *lines] if lines else []
