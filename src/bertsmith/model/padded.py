"""The way from a padded batch to a packed one and back. Letters as in `packed.py`."""

from collections.abc import Callable

import torch
from torch import Tensor

from bertsmith.errors import require
from bertsmith.model.output import BertOutput
from bertsmith.model.packed import pad, unpad


def encode_padded(
    encode: Callable[..., BertOutput],
    ids: tuple[Tensor, ...],
    position_ids: Tensor | None,
    attention_mask: Tensor | None,
    *,
    queries: Tensor | None,
    longest: int,
) -> BertOutput:
    """Drop the padding, encode the packed batch, and put the padding back.

    Args:
        encode: Takes what `ids` and the positions are for the T real tokens, each int64 [T], `packed` and `queries`.
        ids: The input ids, int64 [B, L], and what else there is of each token, shaped alike.
        position_ids: int64, of a shape that expands to [B, L]. None: counted from 0 in each row.
        attention_mask: [B, L], not 0 at real tokens; None: all are real.
        queries: int64 [B, Q]. Flat places whose output is asked for; that of the last block is then [B x Q, D].
        longest: Positions that the model has.

    Raises:
        UserError: The input is not [B, L], its rows are too long, the mask has another shape, or there are both a mask
            and queries.
    """
    input_ids = ids[0]
    shape = tuple(input_ids.shape)
    require(len(shape) == 2, f"input_ids has the shape {shape}; give [rows, tokens], or say where sequences are packed")
    rows, length = shape
    require(0 < length <= longest, f"a row has {length} tokens; this model takes 1 to {longest}, cut the text")
    if attention_mask is not None:
        given = tuple(attention_mask.shape)
        require(given == shape, f"attention_mask has the shape {given}; give it that of input_ids, {shape}")
        problem = "attention_mask is given with queries, which are for rows without padding; give masked_index as [M]"
        require(queries is None, problem)
    if position_ids is None:
        position_ids = torch.arange(length, device=input_ids.device)
    tokens, indices, packed = unpad(input_ids, attention_mask)
    others = (part.expand(rows, length).flatten()[indices] for part in (*ids[1:], position_ids))
    output = encode(tokens, *others, packed=packed, queries=queries)
    last = output.sequence_output if queries is not None else pad(output.sequence_output, indices, (rows, length))
    before = (pad(state, indices, (rows, length)) for state in (output.hidden_states or ())[:-1])
    return BertOutput(last, output.pooled_output, output.hidden_states and (*before, last))
