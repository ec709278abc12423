"""Batches that come before they are asked for."""

import pytest
import torch

from bertsmith.bench import made_up_batch
from bertsmith.data.batch import Batch
from bertsmith.loading import Batches
from bertsmith.model import BertConfig

CONFIG = BertConfig(
    vocab_size=100, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, max_position_embeddings=16
)


class Work:
    """What a GPU was given before an event was recorded."""

    is_done = False

    def record(self) -> None:
        pass

    def query(self) -> bool:
        return self.is_done


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> Batches:
    """Seven of one to seven rows."""

    monkeypatch.setattr("torch.cuda.Event", Work)
    return Batches((made_up_batch(CONFIG, rows) for rows in range(1, 8)), torch.device("cpu"))


def sizes(batches: list[Batch]) -> list[int]:
    return [len(batch) for batch in batches]


def test_batches_keep_their_order_whenever_they_come(batches: Batches) -> None:
    """Micro-batches of a step may be more or fewer than those of the step before."""
    assert sizes(batches.take(2)[0]) == [1, 2]
    batches.fetch(2)
    assert sizes(batches.take(1)[0]) == [3]
    batches.fetch(1)
    assert sizes(batches.take(3)[0]) == [4, 5, 6]
    batches.fetch(3)  # the last is left
    assert sizes(batches.take(1)[0]) == [7]


def test_a_gpu_waits_for_rows_only_if_it_is_done_with_what_it_had(
    batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter(range(100))
    monkeypatch.setattr("time.monotonic", lambda: float(next(times)))
    assert batches.take(1)[1] == 1.0
    batches.fetch(1)
    assert batches.take(1)[1] == pytest.approx(1.0)  # of asking for none more
    monkeypatch.setattr(Work, "is_done", True)
    batches.fetch(1)
    assert batches.take(1)[1] == pytest.approx(2.0)


def test_a_batch_travels_as_it_is() -> None:
    """Between processes it is taken apart."""
    batch = made_up_batch(CONFIG, 3)
    make, parts = batch.__reduce__()
    assert not any(isinstance(part, torch.Tensor) for part in parts)
    again = make(*parts)
    for name in ("input_ids", "token_type_ids", "position_ids", "cu_seqlens", "masked_index", "labels"):
        one, other = getattr(again, name), getattr(batch, name)
        assert torch.equal(one, other)
        assert one.dtype == other.dtype
    assert torch.equal(again.next_sentence_label, batch.next_sentence_label)
    assert (again.row_length, again.num_tokens) == (batch.row_length, batch.num_tokens)
