"""The files of a run that belong to the preparation, and no others."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bertsmith.atomic import TEMPORARY_SUFFIX, publish, read_json, write_json
from bertsmith.data.shards import MANIFEST, read_manifest
from bertsmith.errors import UserError
from bertsmith.tokenizer import Tokenizer, load_tokenizer

STATE = "state.json"
_OWN = re.compile(rf"((train|validation)-\d+\.safetensors|{MANIFEST}|{STATE})({TEMPORARY_SUFFIX})?")


def holds_tokenizer(folder: Path, fingerprint: str | None) -> bool:
    """Whether the tokenizer in a folder is the one that is meant."""
    try:
        return load_tokenizer(folder).fingerprint() == fingerprint
    except UserError:
        return False


class PreparedFolder:
    """A run, seen from the preparation."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.data = root / "data"
        self.tokenizer = root / "tokenizer"
        self.manifest_path = self.data / MANIFEST
        self.state_path = self.data / STATE

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Explain in one line what keeps a file from being written.

        Raises:
            UserError: The disk is full, or the folder cannot be written.
        """
        try:
            yield
        except OSError as error:
            raise UserError(
                f"cannot write in {self.root}: {error.strerror or error}; free some space or give another folder "
                "with -o (what is finished stays, and the same command continues)"
            ) from error

    def claim(self) -> None:
        """Make the folder for data, and remove what an interrupted write left there.

        Raises:
            UserError: The folder cannot be written, or holds files of something else.
        """
        with self.writing():
            self.data.mkdir(parents=True, exist_ok=True)
            names = sorted(os.listdir(self.data))
        foreign = [name for name in names if not _OWN.fullmatch(name)]
        if foreign:
            raise UserError(
                f"{self.data} holds '{foreign[0]}', which is no part of a prepared text; give another folder with -o"
            )
        if not self._is_ours(names):
            raise UserError(f"{self.data} holds files that no prepared text names; give another folder with -o")
        if self.tokenizer.exists() and not (self.manifest_path.exists() or self.state_path.exists()):
            raise UserError(
                f"{self.tokenizer} was not made by this run; give another folder with -o, and "
                f"--tokenizer {self.tokenizer} to use it"
            )
        with self.writing():
            for name in names:
                if name.endswith(TEMPORARY_SUFFIX):
                    (self.data / name).unlink()

    def _is_ours(self, names: list[str]) -> bool:
        """Whether files with names like ours are a preparation: its manifest or its state says so."""
        for path in (self.manifest_path, self.state_path):
            try:
                facts = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
            if isinstance(facts, dict) and (not facts or "fingerprint" in facts):  # it begins with an empty state
                return True
        return not any(name.endswith((".safetensors", MANIFEST)) for name in names)

    def manifest(self) -> dict[str, Any] | None:
        """The manifest, None when it is missing or damaged."""
        try:
            return read_manifest(self.data)
        except UserError:
            return None

    def state(self) -> dict[str, Any] | None:
        """What an interrupted preparation knew, None when there was none."""
        state = read_json(self.state_path)
        return state if "fingerprint" in state else None

    def write_state(self, state: dict[str, Any]) -> None:
        """Keep what is known so far."""
        with self.writing():
            write_json(self.state_path, state)

    def write_manifest(self, manifest: dict[str, Any]) -> None:
        """Declare the preparation finished."""
        with self.writing():
            write_json(self.manifest_path, manifest)
            self.state_path.unlink(missing_ok=True)

    def begin(self, fingerprint: dict[str, Any]) -> dict[str, Any]:
        """Remove what was prepared before.

        Killed at any place, it leaves neither a preparation that looks finished
        nor one that looks as if it could be continued.

        Returns:
            The state of a preparation that has done nothing yet.
        """
        self.write_state({})
        with self.writing():
            self.manifest_path.unlink(missing_ok=True)
            for path in self.data.glob("*.safetensors"):
                path.unlink()
        state = {"fingerprint": fingerprint, "tokenizer": None, "seconds": {}}
        self.write_state(state)
        return state

    def write_tokenizer(self, tokenizer: Tokenizer, *, model_max_length: int) -> None:
        """Put a tokenizer in the place of the one that is there, if it is another."""
        if holds_tokenizer(self.tokenizer, tokenizer.fingerprint()):
            return
        staging = self.root / f"tokenizer{TEMPORARY_SUFFIX}"
        replaced = self.root / f"tokenizer-replaced{TEMPORARY_SUFFIX}"
        with self.writing():
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir()
            tokenizer.save(staging, model_max_length=model_max_length)
            shutil.rmtree(replaced, ignore_errors=True)
            if self.tokenizer.exists():
                self.tokenizer.rename(replaced)
            publish(staging, self.tokenizer)
            shutil.rmtree(replaced, ignore_errors=True)
