"""A text that was prepared before: another run, or a folder that `bertsmith prepare` wrote.

Its shards are linked into the run, or copied where the filesystem has no links,
so the run stands alone: it goes on when the other folder is removed.
"""

import os
import shutil
from pathlib import Path
from typing import Any

from bertsmith.atomic import TEMPORARY_SUFFIX, sync_file, sync_folder
from bertsmith.config import DataConfig
from bertsmith.data.shards import read_manifest, verify
from bertsmith.errors import UserError
from bertsmith.prepare.fingerprint import contradictions, difference
from bertsmith.prepare.folder import PreparedFolder, holds_tokenizer
from bertsmith.prepare.job import Job
from bertsmith.tokenizer import load_tokenizer


def prepared_source(config: DataConfig) -> PreparedFolder | None:
    """The prepared folder that the text names, None when it names text.

    Raises:
        UserError: It names one and something else.
    """
    folders = (PreparedFolder(Path(name)) for name in config.text)
    found = [folder for folder in folders if folder.manifest_path.is_file() and folder.tokenizer.is_dir()]
    if found and len(config.text) > 1:
        raise UserError(f"{found[0].root} holds prepared text, which is used alone; prepare all of the text together")
    return found[0] if found else None


def adopt(job: Job, source: PreparedFolder, explicit: frozenset[str]) -> dict[str, Any]:
    """Use the shards and the tokenizer of another folder, unless settings that the user gave (`explicit`) forbid it.

    Returns:
        The manifest, which is on disk.

    Raises:
        UserError: The settings ask for something else, or the source is damaged.
    """
    manifest = read_manifest(source.data)
    settings = manifest["fingerprint"]["settings"]
    decided = {name: manifest.get(name, settings.get(name)) for name in ("validation_fraction", "strip_accents")}
    wrong = contradictions(job.config, settings | decided, explicit)
    if wrong:
        raise UserError(f"{source.root} was prepared with other settings: {wrong[0]}; leave it out, or give the text")
    if source.root.resolve() == job.folder.root.resolve():
        _refuse_damage(source, verify(source.data))
        return manifest
    job.folder.claim()
    present = job.folder.manifest()
    if present is not None:
        reason = difference(present["fingerprint"], manifest["fingerprint"])
        if reason is None and holds_tokenizer(job.folder.tokenizer, manifest["tokenizer"]):
            restore(job, source, verify(job.folder.data))
            return present
        job.report(f"preparing again: {reason or 'its tokenizer is missing or changed'}")
    _refuse_damage(source, verify(source.data))
    job.folder.begin(manifest["fingerprint"])
    job.folder.write_tokenizer(load_tokenizer(source.tokenizer), model_max_length=job.sequence_length)
    restore(job, source, [shard["file"] for split in manifest["splits"].values() for shard in split["shards"]])
    job.folder.write_manifest(manifest)
    job.report(f"using the text prepared in {source.root}")
    return manifest


def restore(job: Job, source: PreparedFolder, names: list[str]) -> None:
    """Bring shards of the source into the run, in the place of damaged or missing ones.

    Raises:
        UserError: They are damaged in the source too.
    """
    if not names:
        return
    bad = set(verify(source.data))
    _refuse_damage(source, [name for name in names if name in bad])
    with job.folder.writing():
        for name in names:
            _bring(source.data / name, job.folder.data / name)
        sync_folder(job.folder.data)


def _refuse_damage(source: PreparedFolder, names: list[str]) -> None:
    if names:
        raise UserError(
            f"{source.data / names[0]} is damaged; run `bertsmith prepare` with its text and -o {source.root} again"
        )


def _bring(path: Path, target: Path) -> None:
    """Link a file, or copy it; `target` has its old content or the new one, never a part."""
    staging = target.with_name(target.name + TEMPORARY_SUFFIX)
    staging.unlink(missing_ok=True)
    try:
        os.link(path, staging)
    except OSError:  # another filesystem, or one without links
        shutil.copyfile(path, staging)
        sync_file(staging)
    os.replace(staging, target)
