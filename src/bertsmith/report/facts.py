"""All that a page says of a run, read from the run's folder alone. Nothing here needs PyTorch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertsmith import atomic
from bertsmith.data.shards import MANIFEST, read_manifest
from bertsmith.errors import UserError
from bertsmith.metrics import EVALUATION, FILLINGS, MEASURED, iterate_metrics, read_metrics
from bertsmith.output_folder import CONFIG, FINETUNE
from bertsmith.report.steps import Steps
from bertsmith.run_folder import ENVIRONMENT, Run, read_run
from bertsmith.tokenizer import load_tokenizer


@dataclass(frozen=True)
class RunFacts:
    """A run as its folder tells it; what is not there yet is empty."""

    folder: Path
    run: Run
    environment: dict[str, Any]
    manifest: dict[str, Any]
    """Of the prepared text."""

    steps: Steps

    fillings: list[dict[str, Any]]
    """Of each time the masked sentences were filled."""

    evaluation: dict[str, Any]
    """Means over the held-out text at the end."""

    measured: dict[str, Any]
    """What `bertsmith evaluate` found last."""

    pieces: list[tuple[str, int]]
    """The most frequent pieces of the text, with their counts."""

    weights_hash: str | None
    """SHA-256 of the finished model's weights."""

    @property
    def name(self) -> str:
        """The last part of the folder's path."""
        return self.folder.resolve().name

    @property
    def finished(self) -> bool:
        """Whether the model is there."""
        return self.run.model.is_dir() and self.steps.last == self.run.config.training.steps


def read_facts(folder: Path) -> RunFacts:
    """Read the folder of a run.

    Raises:
        UserError: It is no run, or its settings or its manifest are damaged.
    """
    if (folder / FINETUNE).is_file() and not (folder / CONFIG).exists():
        raise UserError(f"{folder} is a fine-tuning run, whose scores are in its metrics.json; give a pretraining run")
    run = read_run(folder)
    manifest = read_manifest(folder / "data") if (folder / "data" / MANIFEST).exists() else {}
    weights = run.model / "model.safetensors"
    return RunFacts(
        folder=folder,
        run=run,
        environment=atomic.read_json(folder / ENVIRONMENT),
        manifest=manifest,
        steps=Steps(iterate_metrics(folder)),
        fillings=[line for line in read_metrics(folder, FILLINGS) if _is_whole(line.get("sentences"))],
        evaluation=atomic.read_json(folder / EVALUATION),
        measured=atomic.read_json(folder / MEASURED),
        pieces=_frequent_pieces(folder, manifest),
        weights_hash=atomic.sha256(weights) if weights.is_file() else None,
    )


def _is_whole(sentences: Any) -> bool:
    """Whether a line of filled sentences has all that is shown of them."""
    shown = {"before", "after", "truth", "guesses"}
    return isinstance(sentences, list) and all(isinstance(each, dict) and shown <= each.keys() for each in sentences)


def _frequent_pieces(folder: Path, manifest: dict[str, Any]) -> list[tuple[str, int]]:
    """The most frequent ids as the tokenizer spells them; none where they were not counted, or it is gone."""
    counts = manifest.get("frequent_ids")
    if not counts:
        return []
    try:
        tokenizer = load_tokenizer(folder / "tokenizer")
    except UserError:
        return []
    return list(zip(tokenizer.tokens(index for index, _ in counts), (count for _, count in counts), strict=True))
