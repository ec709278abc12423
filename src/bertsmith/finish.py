"""The end of a run: RUN/model/ in the layout of Hugging Face, and what the user is told.

What the model learnt from is the user's: a few held-out sentences with their
guesses are shown and written nowhere.
"""

import shutil
import unicodedata
from collections.abc import Iterator, Mapping
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from bertsmith import atomic
from bertsmith.any_classifier import AnyClassifier, ForeignClassifier
from bertsmith.card import model_card
from bertsmith.errors import UserError
from bertsmith.examples import TokenSource
from bertsmith.intervals import wilson_interval
from bertsmith.model import AnyPretrainingModel, architecture, new_model, with_dropout
from bertsmith.plan import Plan
from bertsmith.predict import Candidate, guess
from bertsmith.reporter import Reporter
from bertsmith.shards import Int64Array
from bertsmith.step import Measured
from bertsmith.tokenizer import Tokenizer

EXAMPLES = 5
CANDIDATES = 3

SENTENCE_TOKENS = (8, 40)
"""Shortest and longest sentence that is shown: enough to guess from, and not more than a line or two."""

SENTENCES_TRIED = 1000
"""Sentences looked at for one example. Text without fitting ones gives fewer examples."""


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
    card = model_card(
        config=exported.config,
        training=run.config.training,
        manifest=plan.manifest,
        measured=measured,
        nsp_interval=interval,
        state=state,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        init_sha256=run.config.model.init_sha256,
    )
    try:
        publish_model(run.model, exported, plan.tokenizer, card, reporter)
    except OSError as error:
        raise UserError(
            f"the model could not be written to {run.model}: {error.strerror or error}; "
            "the checkpoints are whole: make room and give the same command again"
        ) from error
    for line in results(measured, interval, plan.manifest, state):
        reporter.say(line)
    for line in filled_masks(model, plan.tokenizer, plan.held_out.source):
        reporter.say(line)
    reporter.say(f"the model is in {run.model}")


def for_fine_tuning(model: AnyPretrainingModel) -> AnyPretrainingModel:
    """The same model, sharing its weights, with the dropout that fine-tuning should use."""
    dropout = architecture(model.config.model_type).fine_tuning_dropout
    config = with_dropout(model.config, hidden=dropout, attention=dropout)
    with torch.device("meta"):  # its own weights are never made
        exported = new_model(config, next_sentence=model.nsp_head is not None)
    exported.load_state_dict(model.state_dict(), assign=True)
    return exported


def publish_model(
    folder: Path, model: AnyPretrainingModel | AnyClassifier, tokenizer: Tokenizer, card: str, reporter: Reporter
) -> None:
    """Write a Hugging Face folder in one step: a kill leaves the one before, a whole one, or none.

    A folder that holds the same model already is left as it is, since its card
    may have been edited; one with another model is kept under another name.

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
        tokenizer.save(staging, model_max_length=model.config.max_position_embeddings, model_input_names=names)
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
    measured: Measured, interval: tuple[float, float] | None, manifest: Mapping[str, Any], state: Mapping[str, Any]
) -> list[str]:
    """What the run gave, as lines."""
    lines = [
        f"held-out masked tokens: loss {measured.mlm_loss:.3f} nats (token frequencies alone "
        f"{manifest['unigram_loss']:.3f}, uniform guess {manifest['uniform_loss']:.3f}), "
        f"{measured.mlm_accuracy:.1%} of {measured.mlm_targets:,} right"
    ]
    if interval is not None:
        low, high = interval
        lines.append(
            f"held-out next sentences: loss {measured.nsp_loss:.3f} nats, {measured.nsp_accuracy:.1%} of "
            f"{measured.nsp_targets:,} pairs right, 95 % interval {low:.1%} to {high:.1%}"
        )
    speed = state["tokens"] / max(state["seconds"], 1e-9)
    lines.append(
        f"trained {state['step']:,} steps on {state['tokens']:,} tokens in {state['seconds'] / 60:.1f} min "
        f"({speed:,.0f} tokens/s)" + (f", {state['skipped']:,} steps skipped" if state["skipped"] else "")
    )
    return lines


class Example(NamedTuple):
    """A sentence with one word hidden."""

    ids: list[int]
    """With [CLS] and [SEP], and [MASK] for the word."""

    truth: int
    """Id of the word."""


def filled_masks(model: AnyPretrainingModel, tokenizer: Tokenizer, held_out: TokenSource) -> list[str]:
    """Held-out sentences with a masked word and the guesses for it, as lines.

    Args:
        model: On any device.
        tokenizer: The one it was trained with.
        held_out: Always gives the same examples.

    Returns:
        A heading and a line for each example; nothing when no sentence fits.
    """
    lines = []
    mask = tokenizer.tokens([tokenizer.mask_token_id])[0]
    for example in hide_words(held_out, tokenizer, longest=model.config.max_position_embeddings):
        (candidates,) = guess(model, tokenizer, example.ids, top_k=CANDIDATES)
        text = tokenizer.decode(example.ids[1:-1], skip_special_tokens=False).replace(mask, f" {mask}")
        truth = tokenizer.decode([example.truth]).strip()
        lines.append(f"  {printable(text)}  (true: {truth}; guessed: {_ranked(candidates)})")
    return ["masks filled in held-out text:", *lines] if lines else []


def _ranked(candidates: list[Candidate]) -> str:
    return ", ".join(f"{candidate.token} {candidate.probability:.0%}" for candidate in candidates)


def printable(text: str) -> str:
    """A text as one line, without characters that could steer a terminal."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())


def hide_words(held_out: TokenSource, tokenizer: Tokenizer, *, longest: int) -> Iterator[Example]:
    """Up to `EXAMPLES` sentences from places spread evenly over the text, each with one ordinary word hidden.

    Args:
        held_out: Whole sentences are taken.
        tokenizer: Tells which pieces are words.
        longest: Tokens that the model reads, [CLS] and [SEP] included.
    """
    fewest, most = SENTENCE_TOKENS
    most = min(most, longest - 2)
    continues = tokenizer.continues_word()
    bounds = np.append(held_out.sentence_starts, held_out.num_tokens)
    lengths = np.diff(bounds)
    fitting = np.flatnonzero((lengths >= fewest) & (lengths <= most))
    for part in np.array_split(fitting, EXAMPLES):
        for number in part[:SENTENCES_TRIED]:
            ids = held_out.take(np.arange(bounds[number], bounds[number + 1]))
            words = ordinary_words(ids, continues, tokenizer)
            if words:
                place = words[len(words) // 2]
                hidden = [*ids[:place].tolist(), tokenizer.mask_token_id, *ids[place + 1 :].tolist()]
                yield Example([tokenizer.cls_token_id, *hidden, tokenizer.sep_token_id], int(ids[place]))
                break


def ordinary_words(ids: Int64Array, continues: npt.NDArray[np.bool_], tokenizer: Tokenizer) -> list[int]:
    """Find the words of a sentence that are worth guessing.

    Args:
        ids: [L]. A sentence.
        continues: [V]. Whether a piece goes on with a word.
        tokenizer: Spells the pieces.

    Returns:
        Places of the words that are one piece of letters alone: 4 or more, which leaves out most function
        words, or any number in a script without upper case, such as Chinese, where words are shorter.
    """
    inside = continues[ids]
    alone = np.flatnonzero(~inside & ~np.append(inside[1:], False))
    words = {int(place): tokenizer.decode([int(ids[place])]).strip() for place in alone}
    return [
        place
        for place, word in words.items()
        if (len(word) >= 4 or word.lower() == word.upper()) and word and all(map(_is_letter, word))
    ]


def _is_letter(character: str) -> bool:
    """A letter, or a mark that belongs to one."""
    return unicodedata.category(character)[0] in "LM"
