"""Filling masks: what a model thinks stands at each [MASK] of a text.

    folder --load_for_prediction--> model, tokenizer --fill--> candidates, the filled text

The folder is a run, finished or not, or any BERT in the layout of Hugging Face.
"""

from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import NamedTuple

import torch

from bertsmith.averaging import WeightAverage
from bertsmith.checkpoint import load_checkpoint
from bertsmith.checkpoint_folders import newest_checkpoint
from bertsmith.errors import UserError
from bertsmith.model import AnyPretrainingModel, load_model
from bertsmith.model_source import find_model, local_folder
from bertsmith.output_folder import CONFIG
from bertsmith.planning.from_settings import model_of
from bertsmith.reporter import Reporter
from bertsmith.run_folder import read_run
from bertsmith.tokenizer import Tokenizer, load_fitting_tokenizer, load_tokenizer


class Candidate(NamedTuple):
    """One guess for a mask."""

    token: str
    """The piece as it reads in text, without the marks of its tokenizer."""

    token_id: int
    probability: float
    """Over the whole vocabulary, special tokens included."""


class Filled(NamedTuple):
    """What a model makes of a text with masks."""

    text: str
    """The text with the best candidate at each mask."""

    masks: list[list[Candidate]]
    """For each mask, in the order of the text, its candidates, best first."""

    note: str | None = None
    """Says which part of a long text was read; None when all of it was."""


def load_for_prediction(source: Path, reporter: Reporter | None = None) -> tuple[AnyPretrainingModel, Tokenizer]:
    """Read a model and its tokenizer, on the CPU and in evaluation mode.

    Args:
        source: A run, or a Hugging Face folder of a BERT, or the id of one on the hub. A finished run gives its
            model, a running or stopped one its newest whole checkpoint.
        reporter: Is told of damaged checkpoints; the log when None.

    Raises:
        UserError: There is no model, or it cannot be read.
    """
    source = local_folder(source)
    if (source / CONFIG).is_file() and not (source / "model").is_dir():
        return _read_checkpoint(source, reporter or Reporter())
    folder = find_model(source)
    model = load_model(folder, heads=True)
    return model, load_fitting_tokenizer(folder, model.config.vocab_size)


def _read_checkpoint(folder: Path, reporter: Reporter) -> tuple[AnyPretrainingModel, Tokenizer]:
    """The model as it was at the newest whole checkpoint of a run."""
    run = read_run(folder)
    found = newest_checkpoint(run.checkpoints)
    for line in found.damaged.values():
        reporter.warn(line)
    if found.folder is None:
        raise UserError(
            f"{folder} has no {'whole ' if found.damaged else ''}checkpoint yet; begin its training with "
            f"`bertsmith pretrain`, or wait for one, every {run.config.training.checkpoint_every:g} minutes of training"
        )
    tokenizer = load_tokenizer(folder / "tokenizer")
    model = model_of(run, tokenizer)
    decay = run.config.training.average_decay
    average = WeightAverage(model, decay) if decay else None
    load_checkpoint(found.folder, model, average=average)
    if average is not None:
        average.give_to_model()
    return model.eval(), tokenizer


def fill(model: AnyPretrainingModel, tokenizer: Tokenizer, text: str, *, top_k: int = 5) -> Filled:
    """Guess the masks of a text.

    All masks are guessed at once, each as if the others stayed hidden. Of a
    text that is too long the part around its masks is read.

    Args:
        model: On any device.
        tokenizer: The one it was trained with.
        text: Holds the mask token at least once.
        top_k: Candidates for each mask, at least 1.

    Raises:
        UserError: There is no mask, or the masks lie too far apart for the model, or `top_k` is below 1, or the model
            gives no numbers.
    """
    mask = tokenizer.tokens([tokenizer.mask_token_id])[0]
    if top_k < 1:
        raise UserError(f"top_k is {top_k}; give 1 or more")
    if not text.strip():
        raise UserError(f"the text is empty; give a sentence with {mask} where a word is missing")
    encoding = tokenizer.encode(text)
    places = [place for place, token_id in enumerate(encoding.ids) if token_id == tokenizer.mask_token_id]
    if not places:
        shown = text if len(text) <= 40 else f"{text[:40]}..."
        raise UserError(f"no {mask} in {shown!r}; write {mask} where a word is missing")
    longest = model.config.max_position_embeddings
    ids, note = encoding.ids, None
    if len(ids) > longest:
        first, end = _window(len(ids), places, longest)
        ids = [ids[0], *ids[first:end], ids[-1]]
        note = (
            f"the text has {len(encoding.ids):,} tokens and the model was trained on at most {longest:,} at once: "
            f"tokens {first:,} to {end - 1:,}, around the masks, were read"
        )
    masks = guess(model, tokenizer, ids, top_k=top_k)
    if not isfinite(masks[0][0].probability):
        raise UserError("the scores of the model are no numbers, so its weights are damaged; get the model again")
    best = [candidates[0].token_id for candidates in masks]
    spans = [encoding.offsets[place] for place in places]
    return Filled(_replace(text, spans, [_spelling(tokenizer, token_id) for token_id in best]), masks, note)


def guess(model: AnyPretrainingModel, tokenizer: Tokenizer, ids: Sequence[int], *, top_k: int) -> list[list[Candidate]]:
    """The candidates for each mask among token ids.

    Args:
        model: On any device; dropout is off here, whatever its mode.
        tokenizer: Its special tokens are never candidates.
        ids: One sequence with its [CLS] and [SEP], at most max_position_embeddings long.
        top_k: Candidates for each mask; all there are when there are fewer.
    """
    input_ids = torch.tensor([list(ids)], device=next(model.parameters()).device)
    places = (input_ids[0] == tokenizer.mask_token_id).nonzero().squeeze(1)
    was_training = model.training
    model.eval()
    with torch.no_grad():
        logits = model(input_ids, masked_index=places).mlm_logits
    model.train(was_training)
    probabilities = logits.float().softmax(-1).cpu()  # [masks, V]
    ordinary = torch.from_numpy(tokenizer.ordinary_ids())
    best = probabilities[:, ordinary].topk(min(top_k, len(ordinary)))
    return [
        [
            Candidate(_spelling(tokenizer, token_id).strip(), token_id, probability)
            for token_id, probability in zip(ordinary[indices].tolist(), values.tolist(), strict=True)
        ]
        for indices, values in zip(best.indices, best.values, strict=True)
    ]


def _window(tokens: int, places: Sequence[int], longest: int) -> tuple[int, int]:
    """The part of a long sequence that is read: as much as fits, with the masks in its middle.

    Args:
        tokens: Length of the sequence, [CLS] and [SEP] included.
        places: Of the masks, rising.
        longest: What the model reads, [CLS] and [SEP] included.

    Returns:
        First place and the place after the last, without [CLS] and [SEP].

    Raises:
        UserError: The masks do not fit into one window.
    """
    room = longest - 2
    spread = places[-1] - places[0] + 1
    if spread > room:
        raise UserError(
            f"the text has {tokens:,} tokens and its masks spread over {spread:,}; the model was trained on at most "
            f"{longest:,} at once: give the masks in shorter texts"
        )
    first = min(max(1, (places[0] + places[-1] + 1 - room) // 2), tokens - 1 - room)
    return first, first + room


def _spelling(tokenizer: Tokenizer, token_id: int) -> str:
    """A piece as it reads after another word, with a space before it if it begins a word of its own."""
    before = tokenizer.decode([tokenizer.sep_token_id], skip_special_tokens=False)
    together = tokenizer.decode([tokenizer.sep_token_id, token_id], skip_special_tokens=False)
    spelling = together.removeprefix(before)
    readable = spelling.strip() and spelling.isprintable()  # a byte alone may be a terminal's control character
    return spelling if readable else tokenizer.tokens([token_id])[0]


def _replace(text: str, spans: Sequence[tuple[int, int]], spellings: Sequence[str]) -> str:
    """Put pieces in the place of masks; one that continues a word joins the word before it."""
    filled, done = "", 0
    for (start, end), spelling in zip(spans, spellings, strict=True):
        filled += text[done:start]
        space = text[start:end].removesuffix(text[start:end].lstrip())  # some mask tokens take the space before them
        filled = filled + space + spelling.lstrip() if spelling.startswith(" ") else filled.rstrip() + spelling
        done = end
    return filled + text[done:]
