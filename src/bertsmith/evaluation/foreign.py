"""Masked-language models of other architectures, through transformers.

`ForeignModel` is called as our own models are, so that whatever measures them
measures these too. Letters as in `model/bert.py`.
"""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bertsmith.errors import UserError, first_line
from bertsmith.model import BertPretrainingOutput, Packed
from bertsmith.model.folder import refuse_pickle
from bertsmith.model.packed import place_in_sequence
from bertsmith.tokenizer import ROLES, Tokenizer


class ForeignModel(nn.Module):
    """A masked-language model of transformers with the face of `BertPretrainingModel`, without next sentences."""

    nsp_head = None

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        self._index: Tensor | None = None
        scorer = network.get_output_embeddings()
        if scorer is not None:
            scorer.register_forward_pre_hook(self._pick_places)

    def _pick_places(self, _module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Let the last matrix, which scores the vocabulary, see the masked places alone."""
        if self._index is None:
            return inputs
        return (inputs[0].flatten(0, -2).index_select(0, self._index), *inputs[1:])

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,  # noqa: ARG002
        position_ids: Tensor | None = None,  # noqa: ARG002
        *,
        masked_index: Tensor | None = None,
        packed: Packed | None = None,
    ) -> BertPretrainingOutput:
        """Guess masked words.

        Args:
            input_ids: int64 [B, L], or [T] when packed.
            attention_mask: [B, L], not 0 at real tokens. None: all are real.
            token_type_ids: Not used: each sequence is one text.
            position_ids: Not used: the model counts its own.
            masked_index: int64 [M], or [R, Q] as ours take it. Flat places, in [0, B x L) or [0, T), to score the
                vocabulary at; None: all.
            packed: Boundaries of a packed batch. Its sequences become padded rows here.
        """
        masked_index = None if masked_index is None else masked_index.flatten()
        if packed is not None:
            rows = to_rows(input_ids, packed.cu_seqlens)
            index = rows.places if masked_index is None else rows.places[masked_index]
            length = rows.input_ids.shape[1]
            # Rows without an asked place, such as padding, are left out: some models refuse them.
            asked, row = (index // length).unique(return_inverse=True)  # type: ignore[no-untyped-call]
            index = row * length + index % length
            return BertPretrainingOutput(self._score(rows.input_ids[asked], rows.attention_mask[asked], index), None)
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        index = torch.arange(input_ids.numel(), device=input_ids.device) if masked_index is None else masked_index
        logits = self._score(input_ids, mask, index)
        return BertPretrainingOutput(logits if masked_index is not None else logits.view(*input_ids.shape, -1), None)

    def _score(self, input_ids: Tensor, attention_mask: Tensor, index: Tensor) -> Tensor:
        """Logits [M, V] at flat places of [B, L].

        Raises:
            UserError: The model does not take such input.
        """
        self._index = index
        try:
            logits: Tensor = self.network(input_ids=input_ids, attention_mask=attention_mask).logits
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # its code is not ours, and there are fifty architectures
            name = type(self.network).__name__
            raise UserError(f"{name} of transformers cannot score masked words here: {first_line(error)}") from error
        finally:
            self._index = None
        # A model whose last matrix is hidden from `get_output_embeddings` has scored every place.
        return logits.flatten(0, 1).index_select(0, index) if logits.dim() == 3 else logits


class Rows(NamedTuple):
    """A packed batch as padded rows."""

    input_ids: Tensor
    """int64 [N, L], 0 at padding, which is not read."""

    attention_mask: Tensor
    """int64 [N, L]."""

    places: Tensor
    """int64 [T]. Flat place of each token in the rows."""


def to_rows(input_ids: Tensor, cu_seqlens: Tensor) -> Rows:
    """One row for each sequence that is not empty."""
    lengths = cu_seqlens.diff().long()
    lengths = lengths[lengths > 0]
    longest = int(lengths.max())
    row = torch.arange(len(lengths), device=input_ids.device).repeat_interleave(lengths)
    places = row * longest + place_in_sequence(cu_seqlens, len(input_ids))
    flat = input_ids.new_zeros(2, len(lengths) * longest)
    flat[0, places], flat[1, places] = input_ids, 1
    ids, mask = flat.view(2, len(lengths), longest)
    return Rows(ids, mask, places)


class Foreign(NamedTuple):
    """A folder that transformers has read."""

    network: ForeignModel
    tokenizer: Tokenizer
    max_length: int


def load_foreign(folder: Path) -> Foreign:
    """Read a masked-language model and its tokenizer with transformers: float32, on the CPU, in evaluation mode.

    No pickle is read, and no code that came with the model is run.

    Args:
        folder: Written by save_pretrained.

    Raises:
        UserError: transformers is not installed, or the folder is no masked-language model with a fast tokenizer.
    """
    with quiet_transformers(folder) as transformers:
        network, missing = load_network(folder, transformers.AutoModelForMaskedLM, "masked-language model")
        if missing:
            raise UserError(
                f"{folder} has no head for masked words: it lacks {missing[0]}; give a masked-language model"
            )
    tokenizer, longest = load_foreign_tokenizer(folder, network)
    return Foreign(ForeignModel(network).eval(), tokenizer, longest)


def load_network(folder: Path, loader: Any, what: str, **settings: Any) -> tuple[Any, list[str]]:
    """A model as float32, and the names of its weights that the folder does not have.

    Args:
        folder: Written by save_pretrained.
        loader: A class of transformers, such as AutoModelForMaskedLM.
        what: It loads, in words.
        settings: What else it is to be told, such as names of labels.

    Raises:
        UserError: The folder holds no such model, or weights that are no numbers.
    """
    refuse_pickle(folder)
    try:
        network, found = loader.from_pretrained(
            folder,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            **settings,
        )
    except Exception as error:  # whatever it raises means that there is no such model
        raise UserError(f"{folder} holds no {what} that transformers reads: {first_line(error)}") from error
    if damaged := [name for name, tensor in network.named_parameters() if not tensor.isfinite().all()]:
        raise UserError(f"{damaged[0]} in {folder} has values that are no numbers; get the model again")
    return network.float(), sorted(found["missing_keys"])


def load_foreign_tokenizer(folder: Path, network: Any) -> tuple[Tokenizer, int]:
    """The tokenizer of a folder, and the longest input that it and the model allow.

    Raises:
        UserError: There is none that tells words apart, or it belongs to another model.
    """
    with quiet_transformers(folder) as transformers:
        try:
            theirs = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except Exception as error:  # as above
            raise UserError(f"{folder} holds no tokenizer that transformers reads: {first_line(error)}") from error
    if not theirs.is_fast:
        raise UserError(f"the tokenizer in {folder} has no tokenizer.json, which tells words apart; save a fast one")
    names = {role: getattr(theirs, role) for role in ROLES}
    lacking = [role for role, name in names.items() if name is None]
    if lacking:
        raise UserError(f"the tokenizer in {folder} has no {lacking[0]}; masked words cannot be scored without it")
    content = json.loads(theirs.backend_tokenizer.to_str()) | {"truncation": None, "padding": None}
    tokenizer, table = Tokenizer(content, names), network.get_input_embeddings()
    places = int(getattr(table, "num_embeddings", getattr(network.config, "vocab_size", tokenizer.vocab_size)))
    if tokenizer.vocab_size > places:
        raise UserError(
            f"the tokenizer in {folder} has {tokenizer.vocab_size:,} pieces and the model {places:,}; "
            "they do not belong together: get the folder again"
        )
    return tokenizer, int(min(theirs.model_max_length, _positions(network)))


def _positions(network: Any) -> int:
    """Longest sequence that a model has positions for; some keep the first few rows of their table for padding."""
    longest = getattr(network.config, "max_position_embeddings", None) or 1 << 30
    for name, module in network.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            longest = min(longest, module.num_embeddings - module.padding_idx - 1)
    return int(longest)


@contextmanager
def quiet_transformers(folder: Path) -> Iterator[Any]:
    """The library, without its own bars and warnings: what matters is said by the errors here.

    Raises:
        UserError: It is not installed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own imports
        try:
            import transformers
        except ImportError:
            raise UserError(
                f"{folder} is no BERT; to read other models transformers is needed: pip install bertsmith[hf]"
            ) from None
        with quiet(transformers):
            yield transformers


@contextmanager
def quiet(transformers: Any) -> Iterator[None]:
    """Without its own bars and warnings: what matters is said by the errors here."""
    log = transformers.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()
