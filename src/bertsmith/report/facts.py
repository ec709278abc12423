"""All that a page says of a run, read from the run's folder alone. Nothing here needs PyTorch."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from bertsmith import atomic
from bertsmith.errors import UserError
from bertsmith.metrics import EVALUATION, FILLINGS, read_metrics
from bertsmith.output_folder import CONFIG
from bertsmith.run_folder import ENVIRONMENT, Run, read_run
from bertsmith.shards import MANIFEST, read_manifest
from bertsmith.tokenizer import load_tokenizer

Point = tuple[float, float]

CURVE_POINTS = 240
"""Points of a curve; each is the mean of as many steps as it takes. A chart is not much wider in pixels."""

RECENT_STEPS = 100


@dataclass(frozen=True)
class RunFacts:
    """A run as its folder tells it; what is not there yet is empty or None."""

    folder: Path
    run: Run
    environment: dict[str, Any]
    manifest: dict[str, Any] | None
    log: list[dict[str, Any]]
    """Of each step."""

    fillings: list[dict[str, Any]]
    """Of each time the masked sentences were filled."""

    evaluation: dict[str, Any] | None
    """Means over the held-out text at the end."""

    pieces: list[tuple[str, int]]
    """The most frequent pieces of the text, with their counts."""

    weights_hash: str | None
    """SHA-256 of the finished model's weights."""

    @property
    def name(self) -> str:
        """The last part of the folder's path."""
        return self.folder.resolve().name

    @property
    def step(self) -> int:
        """Finished steps."""
        return int(self.log[-1]["step"]) if self.log else 0

    @property
    def finished(self) -> bool:
        """Whether the model is there."""
        return self.run.model.is_dir() and self.step == self.run.config.training.steps

    @cached_property
    def tokens(self) -> int:
        """Real tokens read."""
        return sum(_number(line, "tokens") for line in self.log)

    @cached_property
    def seconds(self) -> float:
        """Time of all steps."""
        return sum(_seconds(line) for line in self.log)

    @property
    def validations(self) -> list[dict[str, Any]]:
        """The lines of the steps after which held-out text was measured."""
        return [line for line in self.log if line.get("validation_mlm_loss") is not None]

    def recent(self, name: str) -> float | None:
        """Mean of a value over the last steps: one step alone is noise."""
        values = [line[name] for line in self.log[-RECENT_STEPS:] if isinstance(line.get(name), int | float)]
        return fmean(values) if values else None

    def curve(self, name: str, *, by_tokens: bool = False) -> list[Point]:
        """A value over the steps, or over the tokens read; each point is the mean of some steps.

        The mean of speeds is that of the tokens over that of the times.
        """
        every = max(1, -(-len(self.log) // CURVE_POINTS))
        points, tokens = [], 0
        for start in range(0, len(self.log), every):
            part = self.log[start : start + every]
            tokens += sum(_number(line, "tokens") for line in part)
            values = [line[name] for line in part if isinstance(line.get(name), int | float)]
            if name == "tokens_per_second":
                seconds = sum(_seconds(line) for line in part)
                values = [sum(_number(line, "tokens") for line in part) / seconds] if seconds else []
            if values:
                points.append((tokens if by_tokens else part[-1]["step"], fmean(values)))
        return points

    def held_out_curve(self, name: str, *, by_tokens: bool = False) -> list[Point]:
        """A value of the held-out text wherever it was measured."""
        points, tokens = [], 0
        for line in self.log:
            tokens += _number(line, "tokens")
            value = line.get(f"validation_{name}")
            if isinstance(value, int | float):
                points.append((tokens if by_tokens else line["step"], value))
        return points


def _number(line: dict[str, Any], name: str) -> Any:
    value = line.get(name)
    return value if isinstance(value, int | float) else 0


def _seconds(line: dict[str, Any]) -> float:
    speed = _number(line, "tokens_per_second")
    return float(_number(line, "tokens") / speed) if speed else 0.0


def read_facts(folder: Path) -> RunFacts:
    """Read the folder of a run.

    Raises:
        UserError: It is no run, or its settings or its manifest are damaged.
    """
    if (folder / "finetune.json").is_file() and not (folder / CONFIG).exists():
        raise UserError(f"{folder} is a fine-tuning run, whose scores are in its metrics.json; give a pretraining run")
    run = read_run(folder)
    manifest = read_manifest(folder / "data") if (folder / "data" / MANIFEST).exists() else None
    weights = run.model / "model.safetensors"
    return RunFacts(
        folder=folder,
        run=run,
        environment=_read_json(folder / ENVIRONMENT) or {},
        manifest=manifest,
        log=read_metrics(folder),
        fillings=[line for line in read_metrics(folder, FILLINGS) if isinstance(line.get("sentences"), list)],
        evaluation=_read_json(folder / EVALUATION),
        pieces=_frequent_pieces(folder, manifest or {}),
        weights_hash=atomic.sha256(weights) if weights.is_file() else None,
    )


def _read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object, or None where it is missing or damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _frequent_pieces(folder: Path, manifest: dict[str, Any]) -> list[tuple[str, int]]:
    """The most frequent ids as the tokenizer spells them; none where they were not counted."""
    counts = manifest.get("frequent_ids")
    if not counts:
        return []
    tokenizer = load_tokenizer(folder / "tokenizer")
    return list(zip(tokenizer.tokens(index for index, _ in counts), (count for _, count in counts), strict=True))
