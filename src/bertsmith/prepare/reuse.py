"""What of a preparation is there already, and what has to be made."""

from pathlib import Path
from typing import Any, NamedTuple

from bertsmith.config import DataConfig
from bertsmith.data.shards import read_manifest, verify
from bertsmith.errors import UserError
from bertsmith.prepare.adopt import adopt, prepared_source, restore
from bertsmith.prepare.build import build
from bertsmith.prepare.fingerprint import difference
from bertsmith.prepare.folder import PreparedFolder, holds_tokenizer
from bertsmith.prepare.inputs import Inputs, read_inputs
from bertsmith.prepare.job import Job, Progress, Report, tell_nobody
from bertsmith.prepare.tokenising import make_shards


class Prepared(NamedTuple):
    """A text that is ready for training."""

    folder: Path
    """RUN/data, for `open_shards`."""

    tokenizer_folder: Path
    """RUN/tokenizer."""

    manifest: dict[str, Any]
    """What docs/formats.md lists."""


def prepare(
    config: DataConfig,
    folder: Path,
    *,
    report: Report,
    progress: Progress = tell_nobody,
    keep_existing: bool = False,
    sequence_length: int = 128,
    explicit: frozenset[str] = frozenset(),
) -> Prepared:
    """Turn a text into a tokenizer and token shards, or use those that are there.

    What was prepared from the same text, tokenizer and settings is used after a
    look at its hashes, and damaged shards are made again; what was interrupted
    goes on; anything else is prepared anew, and the reason reported.

    Args:
        config: The text, and how it becomes token ids.
        folder: The run; gets `tokenizer/` and `data/`.
        report: Told what happens, a line at a time.
        progress: Told how far each stage is.
        keep_existing: The run was trained on what is there, so nothing else will
            do: a text that is gone or changed is reported, and no shard is replaced.
        sequence_length: Each split must fill 100 sequences of so many tokens.
        explicit: Settings that the user gave. Of a text that was prepared before they ask for the same.

    Raises:
        UserError: The text cannot be read or is too small, a file cannot be
            written, or a shard is damaged and cannot be made again.
    """
    job = Job(config, PreparedFolder(folder), sequence_length, report, progress)
    if keep_existing:
        manifest = _keep(job)
    elif (source := prepared_source(config)) is not None:
        manifest = adopt(job, source, explicit)
    else:
        manifest = _reuse_or_build(job)
    for split, facts in manifest["splits"].items():
        job.require(split, facts["tokens"], "tokens")
    return Prepared(job.folder.data, job.folder.tokenizer, manifest)


def _reuse_or_build(job: Job) -> dict[str, Any]:
    """Use, continue or begin a preparation of raw text."""
    inputs = read_inputs(job.config)
    job.folder.claim()
    manifest, state = job.folder.manifest(), None
    if manifest is not None:
        reason = difference(manifest["fingerprint"], inputs.fingerprint) or _tokenizer_fault(job, manifest)
        if reason is None and _repair(job, inputs, manifest, verify(job.folder.data)):
            job.report(f"using the text prepared in {job.folder.data}")
            return manifest
        job.report(f"preparing again: {reason or 'damaged shards could not be made as they were'}")
    elif (state := job.folder.state()) is not None:
        reason = difference(state["fingerprint"], inputs.fingerprint)
        job.report(f"preparing from the beginning: {reason}" if reason else "continuing the interrupted preparation")
        state = None if reason else state
    return build(job, inputs, state or job.folder.begin(inputs.fingerprint))


def _keep(job: Job) -> dict[str, Any]:
    """Use what a run was trained on, whatever became of its text."""
    fresh = "--fresh starts a new run"
    try:
        manifest = read_manifest(job.folder.data)
    except UserError as error:
        raise UserError(f"{error}; {fresh}") from error
    if not {"fingerprint", "tokenizer", "unigram_loss"} <= manifest.keys():
        raise UserError(f"{job.folder.manifest_path} is damaged: it lacks entries; put it back, or {fresh}")
    fault = _tokenizer_fault(job, manifest)
    if fault:
        raise UserError(f"{job.folder.tokenizer} does not fit this run: {fault}; put it back, or {fresh}")
    origin, reason = _origin(job, manifest)
    names = verify(job.folder.data)
    if names and (origin is None or reason):
        raise UserError(f"{job.folder.data / names[0]} is damaged and cannot be made again: {reason}; {fresh}")
    if isinstance(origin, PreparedFolder):
        restore(job, origin, names)
    elif origin is not None and not _repair(job, origin, manifest, names):
        raise UserError(f"{job.folder.data / names[0]} is damaged and was not made as before; {fresh}")
    if reason:
        job.report(f"{reason}; this run goes on with the text it was given first ({fresh})")
    return manifest


def _origin(job: Job, manifest: dict[str, Any]) -> tuple[Inputs | PreparedFolder | None, str | None]:
    """Find what a run was prepared from, and say in what it differs now."""
    try:
        source = prepared_source(job.config)
        if source is not None:
            now = read_manifest(source.data)["fingerprint"]
            return source, difference(manifest["fingerprint"], now)
        inputs = read_inputs(job.config)
    except UserError as error:
        return None, f"the text cannot be read any more: {error}"
    return inputs, difference(manifest["fingerprint"], inputs.fingerprint)


def _tokenizer_fault(job: Job, manifest: dict[str, Any]) -> str | None:
    return (
        None if holds_tokenizer(job.folder.tokenizer, manifest["tokenizer"]) else "the tokenizer is missing or changed"
    )


def _repair(job: Job, inputs: Inputs, manifest: dict[str, Any], names: list[str]) -> bool:
    """Make damaged shards again.

    Returns:
        Whether all shards are now as the manifest says.
    """
    if not names:
        return True
    job.report(f"making {len(names)} damaged or missing shards again, {names[0]} first")
    with job.folder.writing():
        for name in names:
            (job.folder.data / name).unlink(missing_ok=True)
    make_shards(job, inputs, {**manifest, "seconds": {}})
    return not set(verify(job.folder.data)) & set(names)
