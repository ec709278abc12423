"""A preparation from the text to the manifest, each reading of the text in its turn."""

import ctypes
import math
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bertsmith.config import TRAINED, DataConfig
from bertsmith.corpus import CorpusReport
from bertsmith.corpus.seen import SeenHashes
from bertsmith.errors import UserError, suggestion
from bertsmith.prepare.accents import RARE, count_accents
from bertsmith.prepare.chunks import section_share, split_of
from bertsmith.prepare.facts import measure_split, most_frequent, unigram_loss
from bertsmith.prepare.fingerprint import difference
from bertsmith.prepare.folder import PreparedFolder, holds_tokenizer
from bertsmith.prepare.inputs import Inputs, Text, held_out_share, read_inputs
from bertsmith.prepare.job import Job, Progress, Report, tell_nobody
from bertsmith.prepare.tokenising import make_shards
from bertsmith.tokenizer import Tokenizer, choose_vocab_size, extend_tokenizer, load_tokenizer, train_tokenizer

SAMPLE_BYTES = 200_000_000
"""Most text that a tokenizer is trained on. More would change few pieces, and cost memory."""

MODEL_MAX_LENGTH = 512
"""Tokens, saved for transformers with a tokenizer that is trained for no run: what BERT reads."""

CHARACTERS_PER_TOKEN = 4
"""Of scripts with letters, about, and more than of others: how many tokens a text has is not known before there is a
tokenizer."""

FREQUENT_IDS = 40
"""Most frequent ids that the manifest keeps."""


@dataclass(slots=True)
class Size:
    """How much text a split holds."""

    sections: int = 0
    characters: int = 0
    bytes: int = 0

    def add(self, characters: int, text_bytes: int) -> None:
        """Count a section of this size."""
        self.sections += 1
        self.characters += characters
        self.bytes += text_bytes


def build(job: Job, inputs: Inputs, state: dict[str, Any]) -> dict[str, Any]:
    """Prepare a text, or what is left of it.

    Args:
        job: Where to, and whom to tell.
        inputs: The text and the tokenizer.
        state: What is known so far: the fingerprint at least.

    Returns:
        The manifest, which is on disk.

    Raises:
        UserError: The text is too small, or changed while it was read.
    """
    if "sizes" not in state:
        state = {**state, **_measure(job, inputs)}
        job.folder.write_state(state)
    for split, size in state["sizes"].items():
        job.require(split, size["bytes"], "bytes")  # before any work
    tokenizer = _make_tokenizer(job, inputs, state)
    make_shards(job, inputs, state)
    changed = difference(inputs.fingerprint, read_inputs(job.config).fingerprint)
    if changed:
        raise UserError(f"{changed}, while it was read; run the same command again")
    manifest = {**state, **_facts(job, state, tokenizer)}
    job.folder.write_manifest(manifest)
    return manifest


def make_tokenizer(
    config: DataConfig,
    folder: Path,
    *,
    report: Report,
    progress: Progress = tell_nobody,
    sequence_length: int = 128,
) -> Tokenizer:
    """Train a tokenizer on a text and save it, without shards.

    Args:
        config: The text and the tokenizer. What it holds out is not trained on, so
            a preparation with the same settings has an unseen validation part.
        folder: Where to.
        report: Told what happens, a line at a time.
        progress: Told how far each stage is.
        sequence_length: That of the preparation: a small text holds out more where rows are long.

    Raises:
        UserError: The text cannot be read or the folder not written, it holds another tokenizer, or no training is
            asked for.
    """
    if config.tokenizer not in TRAINED:
        raise UserError(f"tokenizer is '{config.tokenizer}'{suggestion(config.tokenizer, TRAINED)}")
    job = Job(config, PreparedFolder(folder), sequence_length, report, progress)
    inputs = read_inputs(config)
    state = _measure(job, inputs)
    if not state["sizes"]["train"]["bytes"]:
        raise UserError(
            "the text is too small: the part that is held out is all of it; give more text, or --validation FILE"
        )
    tokenizer = _train(job, inputs, state)
    if (folder / "tokenizer.json").exists() and not holds_tokenizer(folder, tokenizer.fingerprint()):
        raise UserError(f"{folder} holds another tokenizer, and nothing is overwritten; give another folder with -o")
    with job.folder.writing():
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer.save(folder, model_max_length=MODEL_MAX_LENGTH)
    return tokenizer


def _measure(job: Job, inputs: Inputs) -> dict[str, Any]:
    """First reading: how much text there is, and what could not be read."""
    started = time.monotonic()
    job.progress("reading", 0.0)
    sizes = {share: {split: Size() for split in ("train", "validation")} for share in inputs.shares}
    accents, characters, learnt = 0, 0, SeenHashes()
    reports = {"text": CorpusReport()}
    for section in inputs.corpus.sections(reports["text"]):
        size = len(section.text), len(section.text.encode())
        accents, characters = accents + count_accents(section.text), characters + size[0]
        if inputs.validation is not None:
            learnt.add(section.split_key)
        place = section_share(section, b"validation")  # hashed once; `split_of` is the rule
        for share, parts in sizes.items():
            parts["validation" if place < share else "train"].add(*size)
    for line in reports["text"].lines():
        job.report(line)
    if inputs.validation is not None:
        reports["validation"] = _measure_validation(job, inputs.validation, learnt, sizes[0.0]["validation"])
    job.progress("reading", 1.0)
    share = _least_share(job, {share: parts["validation"].characters for share, parts in sizes.items()})
    if share > inputs.shares[0]:
        job.report(f"the text is small, so {share:.0%} of its sections are held out instead of {inputs.shares[0]:.0%}")
    return {
        "validation_fraction": share,
        "sizes": {split: asdict(size) for split, size in sizes[share].items()},
        "strip_accents": None if inputs.tokenizer else _removes_accents(job, accents / max(1, characters)),
        "corpus": {name: asdict(report) for name, report in reports.items()},
        "seconds": {"reading": round(time.monotonic() - started, 2)},
    }


def _measure_validation(job: Job, text: Text, learnt: SeenHashes, size: Size) -> CorpusReport:
    """Read a validation text of its own into `size`, and say where it is among what is learnt from."""
    report, known = CorpusReport(), 0
    for section in text.sections(report):
        known += not learnt.add(section.split_key)
        size.add(len(section.text), len(section.text.encode()))
    for line in report.lines():
        job.report(f"validation: {line}")
    if known:
        job.report(
            f"validation: {known:,} of its {size.sections:,} sections stand in the text, too, so they are learnt from "
            "and the held-out loss will be too low; take them out of either"
        )
    return report


def _least_share(job: Job, held_out: Mapping[float, int]) -> float:
    """The least share that holds out enough, or the largest where none does.

    Args:
        job: Says how many tokens are enough.
        held_out: Characters that each share holds out, the least share first.
    """
    wanted = 1.5 * CHARACTERS_PER_TOKEN * job.least_tokens
    return next((share for share, size in held_out.items() if size >= wanted), max(held_out))


def _make_tokenizer(job: Job, inputs: Inputs, state: dict[str, Any]) -> Tokenizer:
    """Second reading: train the tokenizer, unless it was given or is there already."""
    folder = job.folder
    if state["tokenizer"] is None or not holds_tokenizer(folder.tokenizer, state["tokenizer"]):
        tokenizer = _extended(job, inputs, state) if inputs.tokenizer else _train(job, inputs, state)
        state["tokenizer"] = tokenizer.fingerprint()
        folder.write_state(state)
        folder.write_tokenizer(tokenizer, model_max_length=job.sequence_length)
        _give_back_memory()
    return load_tokenizer(folder.tokenizer)


def _give_back_memory() -> None:
    """Return to the system what training freed, 300 MB for 100 MB of text; glibc keeps it while the workers run."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def _train(job: Job, inputs: Inputs, state: dict[str, Any]) -> Tokenizer:
    """Train a tokenizer on the training text, or on a sample of it."""
    size, config, started = state["sizes"]["train"], job.config, time.monotonic()
    sample = min(1.0, SAMPLE_BYTES / size["bytes"])
    if sample < 1:
        job.report(f"the tokenizer is trained on {sample:.1%} of the text: sections chosen by hash, about 200 MB")
    tokenizer = train_tokenizer(
        _training_texts(job, inputs, state, sample),
        kind=config.tokenizer,
        vocab_size=config.vocab_size or choose_vocab_size(size["bytes"]),
        lowercase=config.lowercase,
        strip_accents=state["strip_accents"],
        at_most=config.vocab_size is None,
    )
    seconds = time.monotonic() - started
    state["seconds"]["tokenizer"] = round(seconds, 2)
    speed = sample * size["bytes"] / 1e6 / seconds
    job.report(
        f"tokenizer: {config.tokenizer}, {tokenizer.vocab_size:,} pieces, trained in {seconds:.0f} s ({speed:.1f} MB/s)"
    )
    return tokenizer


def _removes_accents(job: Job, share: float) -> bool:
    """Whether a new tokenizer removes accents: as was asked for, else where it lower-cases and they are rare.

    Args:
        job: Whom to tell.
        share: Of the characters that would change, in [0, 1].
    """
    asked, lowercase = job.config.strip_accents, job.config.lowercase
    if asked is None and lowercase and share > RARE:
        job.report(f"accents are kept, since {share:.1%} of the characters would change; --strip-accents removes them")
    return asked if asked is not None else lowercase and share <= RARE


def _extended(job: Job, inputs: Inputs, state: dict[str, Any]) -> Tokenizer:
    """The given tokenizer, with words of the text where that is asked for."""
    assert inputs.tokenizer is not None
    if job.config.extend_vocab is None:
        return inputs.tokenizer
    sample = min(1.0, SAMPLE_BYTES / state["sizes"]["train"]["bytes"])
    texts = _training_texts(job, inputs, state, sample)
    tokenizer = extend_tokenizer(inputs.tokenizer, texts, job.config.extend_vocab)
    job.report(f"tokenizer: {job.config.extend_vocab:,} words added, {tokenizer.vocab_size:,} pieces")
    return tokenizer


def _training_texts(job: Job, inputs: Inputs, state: dict[str, Any], sample: float) -> Iterator[str]:
    """Sections of the training text, or of a sample that depends on their keys alone."""
    share, expected = held_out_share(state, inputs), sample * state["sizes"]["train"]["characters"]
    seen, told = 0, 0.0
    for section in inputs.corpus.sections():
        if split_of(section, share) == "train" and section_share(section, b"sample") < sample:
            yield section.text
            seen += len(section.text)
            if seen / expected >= told + 0.002:  # telling costs time
                told = min(1.0, seen / expected)
                job.progress("training the tokenizer", told)


def _facts(job: Job, state: dict[str, Any], tokenizer: Tokenizer) -> dict[str, Any]:
    """Count the finished shards."""
    data, vocab_size = job.folder.data, tokenizer.vocab_size
    train, validation = (measure_split(data, split, vocab_size) for split in ("train", "validation"))
    tokens = train.manifest["tokens"]
    return {
        "text": [{"name": name, "size": file["size"]} for name, file in state["fingerprint"]["text"]["files"].items()],
        "vocab_size": vocab_size,
        "splits": {"train": train.manifest, "validation": validation.manifest},
        "multi_sentence_fraction": train.multi_sentence_fraction,
        "unigram_loss": unigram_loss(train.counts, validation.counts),
        "uniform_loss": math.log(vocab_size),
        "frequent_ids": most_frequent(train.counts, FREQUENT_IDS),
        "unknown_fraction": int(train.counts[tokenizer.unk_token_id]) / tokens,
        "characters_per_token": state["sizes"]["train"]["characters"] / tokens,
        "bytes_per_token": state["sizes"]["train"]["bytes"] / tokens,
    }
