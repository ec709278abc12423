"""What one training row holds, before rows become a batch of tensors.

Letters: L places in a row, S most sequences in a row, K most predictions in a row.
"""

from typing import NamedTuple

from bertsmith.data.packing import Int64Array

IGNORE_INDEX = -100
"""Label of a place where there is nothing to predict."""


class Row(NamedTuple):
    """One training row; all int64."""

    input_ids: Int64Array
    """[L]. What the model sees, masks applied."""

    token_type_ids: Int64Array
    """[L]. 1 at B and its [SEP], 0 elsewhere."""

    position_ids: Int64Array
    """[L]. Counted from 0 in each sequence."""

    lengths: Int64Array
    """[S + 1]. Places of each sequence, 0 where there is none; last, the empty places of the row."""

    next_sentence_label: Int64Array
    """[S + 1]. 0 follows, 1 random, IGNORE_INDEX where there is no pair."""

    masked_places: Int64Array
    """[K]. Places in the row that are predicted, filled with 0."""

    labels: Int64Array
    """[K]. Their true ids, IGNORE_INDEX where filled."""
