"""Running an ONNX graph, and calling it as our own models are called. Letters as in `graph.py`."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bertsmith.errors import UserError, first_line
from bertsmith.evaluation.foreign import to_rows
from bertsmith.model import BertPretrainingOutput, Packed


def require_onnx() -> Any:
    """The module transformers, when all that ONNX needs is installed.

    Raises:
        UserError: Something is missing.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of their own imports
            import onnxruntime  # noqa: F401
            import onnxscript  # noqa: F401
            import transformers
    except ImportError as error:
        raise UserError(f"ONNX needs more than is installed ({error}): pip install bertsmith[onnx]") from None
    return transformers


class Session:
    """A graph in ONNX Runtime, on the CPU.

    Raises:
        UserError: The runtime does not read it, as an old one does not read what a new PyTorch writes.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        require_onnx()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        options.log_severity_level = 3  # errors alone
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # of many kinds of its own
            why = first_line(error)
            raise UserError(
                f"onnxruntime {onnxruntime.__version__} does not read a graph of torch {torch.__version__} ({why}); "
                "take a newer onnxruntime"
            ) from error
        self.input_names = [each.name for each in self._session.get_inputs()]
        self.output_names = [each.name for each in self._session.get_outputs()]

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs by name, float32, of int64 inputs [B, L] by name; those that the graph does not take are left out."""
        given = {name: inputs[name].numpy() for name in self.input_names}
        return dict(zip(self.output_names, map(torch.from_numpy, self._session.run(None, given)), strict=True))


def padded(input_ids: Tensor, token_type_ids: Tensor, cu_seqlens: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """A packed batch as the inputs of a graph.

    Args:
        input_ids: int64 [T].
        token_type_ids: int64 [T].
        cu_seqlens: int32 [N + 1], the boundaries.

    Returns:
        int64 [N, L] by name, and the flat place of each token in them, int64 [T].
    """
    rows, types = to_rows(input_ids, cu_seqlens), to_rows(token_type_ids, cu_seqlens)
    inputs = {"input_ids": rows.input_ids, "attention_mask": rows.attention_mask, "token_type_ids": types.input_ids}
    return inputs, rows.places


class MaskedGraph(nn.Module):
    """A graph for masked words with the face of `BertPretrainingModel`, without next sentences."""

    nsp_head = None

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session
        self.place = nn.Parameter(torch.zeros(()), requires_grad=False)  # tells where it computes

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor,
        position_ids: Tensor,  # noqa: ARG002
        *,
        masked_index: Tensor,
        packed: Packed,
    ) -> BertPretrainingOutput:
        """Guess masked words of a packed batch, whose sequences become padded rows here.

        Args:
            input_ids: int64 [T].
            token_type_ids: int64 [T].
            position_ids: Not used: the graph counts its own.
            masked_index: int64 [M] or [R, Q]. Places in [0, T) to score the vocabulary at.
            packed: The boundaries.
        """
        inputs, places = padded(input_ids, token_type_ids, packed.cu_seqlens)
        logits = self.session.run(inputs)["logits"].flatten(0, 1)
        return BertPretrainingOutput(logits.index_select(0, places[masked_index.flatten()]), None)
