"""Which checkpoints a run has, and whether they are whole: `checkpoint.py` writes and reads them.

Apart from it, since looking at a run needs no PyTorch, which takes seconds to load.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

from bertsmith import atomic

MANIFEST = "manifest.json"

_NAME = re.compile(r"step-\d{8}")


class Found(NamedTuple):
    """The newest checkpoint that is whole."""

    folder: Path | None
    damaged: dict[Path, str]
    """Newer checkpoints that were passed over, and a line about each."""


def checkpoint_name(step: int) -> str:
    """Folder name of a step; names sort like steps."""
    return f"step-{step:08d}"


def list_checkpoints(folder: Path) -> list[Path]:
    """All finished checkpoints, oldest first. Other folders beside them, such as a user's copies, are not looked at."""
    return sorted(path for path in folder.glob("step-*") if _NAME.fullmatch(path.name) and path.is_dir())


def newest_checkpoint(folder: Path) -> Found:
    """Find the newest checkpoint that is whole, by sizes, headers and hashes."""
    damaged: dict[Path, str] = {}
    for checkpoint in reversed(list_checkpoints(folder)):
        problem = find_damage(checkpoint)
        if problem is None:
            return Found(checkpoint, damaged)
        damaged[checkpoint] = f"checkpoint {checkpoint.name} is damaged ({problem}) and is passed over"
    return Found(None, damaged)


def set_damaged_aside(found: Found, warn: Callable[[str], object]) -> None:
    """Rename damaged checkpoints, so that they neither count as such nor stand in the way of their steps."""
    for checkpoint, line in found.damaged.items():
        kept = checkpoint.rename(atomic.next_free(checkpoint.with_name(f"damaged-{checkpoint.name}")))
        warn(f"{line}; it is kept as {kept.name}")


def find_damage(checkpoint: Path) -> str | None:
    """Say what is wrong with a checkpoint, or None when it is whole."""
    try:
        files = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))["files"]
        if not {"model.safetensors", "state.json"} <= files.keys():
            return f"{MANIFEST} does not name all files"
        for name, expected in files.items():
            path = checkpoint / name
            size = path.stat().st_size
            if size != expected["size"]:
                return f"{name} has {size} bytes instead of {expected['size']}"
            if path.suffix == ".safetensors":
                with safe_open(path, framework="np"):  # reads the header
                    pass
            if atomic.sha256(path) != expected["sha256"]:
                return f"{name} does not match its hash"
    except FileNotFoundError as error:
        return f"{Path(str(error.filename)).name} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        return f"it cannot be read: {error}"
    return None


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The JSON state of a whole checkpoint."""
    state: dict[str, Any] = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
    return state
