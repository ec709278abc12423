"""Any masked-language model that can be named: a run, a folder of ours or of transformers, a hub id."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from bertsmith.checkpoint_folders import newest_checkpoint, read_state
from bertsmith.errors import UserError
from bertsmith.evaluation.foreign import load_foreign
from bertsmith.evaluation.pll import Scorer
from bertsmith.model import is_foreign
from bertsmith.model_source import local_folder
from bertsmith.output_folder import CONFIG
from bertsmith.predict import load_for_prediction
from bertsmith.reporter import Reporter
from bertsmith.run_folder import Run, read_run
from bertsmith.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class OpenModel:
    """A model with its tokenizer, in evaluation mode."""

    source: str
    """As it was named."""

    network: nn.Module
    """A `BertPretrainingModel`, or what is called like one."""

    tokenizer: Tokenizer
    max_length: int
    """Longest sequence, in tokens."""

    run: Run | None
    """The run it came from, whose held-out text it can be measured on."""

    step: int | None = None
    """Of a run, the step whose weights these are; one that trains may write others at any time."""

    @property
    def scorer(self) -> Scorer:
        """What scores sentences."""
        return Scorer(self.network, self.tokenizer, self.max_length)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.network.parameters()).device

    @property
    def has_next_sentence(self) -> bool:
        """Whether it was trained to tell which sentence follows."""
        return getattr(self.network, "nsp_head", None) is not None

    @property
    def parameters(self) -> int:
        """Numbers in the model; tied ones count once."""
        return sum(parameter.numel() for parameter in self.network.parameters())


def open_model(source: str, device: torch.device, reporter: Reporter | None = None) -> OpenModel:
    """Read a model and its tokenizer, float32 and in evaluation mode.

    Args:
        source: A run, finished or not; a folder that transformers loads as a masked-language model; or, where no
            such path exists, the id of one on the Hugging Face hub, which is then downloaded.
        device: Where it shall compute.
        reporter: Is told of damaged checkpoints.

    Raises:
        UserError: There is no such model, or it has no head for masked words.
    """
    path = local_folder(source)
    run = read_run(path) if (path / CONFIG).is_file() else None
    step = _step_of(run) if run else None
    network: Any
    is_folder = run is None and (path / "config.json").is_file()
    if is_folder and is_foreign(path):
        network, tokenizer, longest = load_foreign(path)
    else:
        try:
            network, tokenizer = load_for_prediction(path, reporter)
            longest = network.config.max_position_embeddings
        except UserError as error:  # a BERT with a switch that ours does not have, perhaps
            if not is_folder:
                raise
            try:
                network, tokenizer, longest = load_foreign(path)
            except UserError:
                raise error from None
    return OpenModel(source, network.to(device).eval(), tokenizer, longest, run, step)


def _step_of(run: Run) -> int:
    """The step whose weights a run gives: of its model, else of its newest checkpoint."""
    newest = None if run.model.is_dir() else newest_checkpoint(run.checkpoints).folder
    return int(read_state(newest)["step"]) if newest else run.config.training.steps or 0
