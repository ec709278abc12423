"""The loss and its gradient against PyTorch's own in float64."""

import pytest
import torch
import torch.nn.functional as F

from bertsmith import objective
from bertsmith.data.rows import IGNORE_INDEX
from bertsmith.errors import UserError
from bertsmith.model import Packed
from bertsmith.model.packed import first_places
from bertsmith.objective import SummedCrossEntropy

from small_models import model_of


def data(dtype: torch.dtype = torch.float64, rows: int = 23, vocab_size: int = 50) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(rows, vocab_size, generator=generator, dtype=torch.float64)
    labels = torch.randint(vocab_size, (rows,), generator=generator)
    labels[::3] = IGNORE_INDEX
    labels[1] = logits[1].argmax()
    return logits.to(dtype).requires_grad_(), labels


@pytest.mark.parametrize("rows_at_once", [1, 5, 23, 1_000])
def test_loss_gradient_and_hits_are_those_of_pytorch(monkeypatch: pytest.MonkeyPatch, rows_at_once: int) -> None:
    monkeypatch.setattr(objective, "CPU_CHUNK", 50 * rows_at_once)
    logits, labels = data()
    loss, correct = SummedCrossEntropy.apply(logits, labels)
    (gradient,) = torch.autograd.grad(3 * loss, logits)
    expected = F.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX, reduction="sum")
    (expected_gradient,) = torch.autograd.grad(3 * expected, logits)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-12, atol=1e-12)
    assert correct == (logits.argmax(-1) == labels).sum()
    assert correct >= 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision_rounds_only_what_it_stores(dtype: torch.dtype) -> None:
    logits, labels = data(dtype)
    loss, _ = SummedCrossEntropy.apply(logits, labels)
    (gradient,) = torch.autograd.grad(loss, logits)
    exact = logits.detach().double().requires_grad_()
    expected = F.cross_entropy(exact, labels, ignore_index=IGNORE_INDEX, reduction="sum")
    (expected_gradient,) = torch.autograd.grad(expected, exact)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=torch.finfo(dtype).eps, atol=1e-7)


def test_nothing_to_predict_costs_nothing_and_huge_logits_stay_finite() -> None:
    logits, labels = data(torch.float32)
    loss, correct = SummedCrossEntropy.apply(logits, torch.full_like(labels, IGNORE_INDEX))
    assert (loss, correct) == (0, 0)
    assert not torch.autograd.grad(loss, logits)[0].any()
    loss, _ = SummedCrossEntropy.apply(logits * 1e4, labels)
    assert torch.isfinite(loss)


def test_a_logit_that_is_not_finite_is_not_hidden() -> None:
    logits, labels = data(torch.float32)
    with torch.no_grad():
        logits[1, 3] = float("nan")
    loss, _ = SummedCrossEntropy.apply(logits, labels)
    assert torch.isnan(loss)


def test_going_back_twice_is_refused() -> None:
    """The gradient is scaled in place, so a second time would scale it twice."""
    logits = torch.randn(3, 5, requires_grad=True)
    loss, _ = SummedCrossEntropy.apply(logits, torch.tensor([1, 2, 3]))
    (loss / 3).backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        (loss / 3).backward()


def test_second_derivatives_are_refused() -> None:
    logits = torch.randn(3, 5, requires_grad=True)
    loss, _ = SummedCrossEntropy.apply(logits.sin(), torch.tensor([1, 2, 3]))
    with pytest.raises(UserError, match="no second derivatives"):
        torch.autograd.grad(loss, logits, create_graph=True)


@pytest.mark.parametrize(("family", "next_sentence"), [("bert", True), ("bert", False), ("modernbert", False)])
@pytest.mark.parametrize("row_length", [8, None])
def test_what_nobody_asks_for_changes_nothing(family: str, next_sentence: bool, row_length: int | None) -> None:
    """The last block computes the masked places alone: scores and gradients are those of computing all of them."""
    window = {"local_attention": 4} if family == "modernbert" else {}
    model = model_of(family, next_sentence=next_sentence, **window).double()
    ids = torch.randint(1, 50, (24,))
    packed = Packed(torch.tensor([0, 5, 8, 8, 16, 17, 24], dtype=torch.int32), 8, row_length)  # one of them is empty
    rows = [[4, 1, 0], [9, 8, 8], [23, 20, 17]] if row_length else [[4, 1], [5, 7], [8, 8], [9, 8], [16, 16], [23, 17]]
    queries, real = torch.tensor(rows), torch.tensor([0, 1, 3, 4, 5])
    has_token = torch.ones_like(queries, dtype=torch.bool) if row_length else torch.arange(6)[:, None].expand(6, 2) != 2
    results = []
    for index in (queries, queries.flatten()):
        model.zero_grad()
        output = model(ids, masked_index=index, packed=packed)
        parts = [output.mlm_logits[has_token.flatten()]]
        parts += [] if output.nsp_logits is None else [output.nsp_logits[real]]
        sum(part.square().sum() for part in parts).backward()
        results.append([part.detach() for part in parts] + [p.grad for p in model.parameters()])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_places_of_each_row_are_those_of_a_batch_without_padding(family: str) -> None:
    model = model_of(family).eval()
    ids, places = torch.randint(1, 50, (2, 4)), torch.tensor([[3, 1], [4, 4]])
    one, other = (model(ids, masked_index=index) for index in (places, places.flatten()))
    torch.testing.assert_close(one.mlm_logits, other.mlm_logits)
    assert one.nsp_logits is None or torch.allclose(one.nsp_logits, other.nsp_logits, atol=1e-6)
    with pytest.raises(UserError, match="attention_mask is given with queries"):
        model(ids, torch.ones_like(ids), masked_index=places)
    output = model.bert(ids, queries=places, output_hidden_states=True)
    assert torch.equal(output.hidden_states[-1], output.sequence_output)
    assert [state.shape for state in output.hidden_states] == [(2, 4, 64)] * 3 + [(4, 64)]


@pytest.mark.parametrize("family", ["bert", "modernbert"])
@pytest.mark.parametrize(("row_length", "shape", "rows"), [(8, (1, 2), 2), (8, (4, 1), 2), (None, (2, 2), 4)])
def test_queries_that_cannot_be_those_of_the_rows_are_refused(
    family: str, row_length: int | None, shape: tuple[int, int], rows: int
) -> None:
    model, ids = model_of(family, next_sentence=False), torch.ones(16, dtype=torch.int64)
    packed = Packed(torch.tensor([0, 4, 8, 12, 16], dtype=torch.int32), 8, row_length)
    with pytest.raises(UserError, match=rf"have the shape \({shape[0]}, {shape[1]}\) and the batch has {rows} rows"):
        model(ids, masked_index=torch.zeros(shape, dtype=torch.int64), packed=packed)


def test_rows_with_more_sequences_than_others_have_no_place_for_their_first_tokens() -> None:
    packed = Packed(torch.tensor([0, 4, 8, 16], dtype=torch.int32), 8, 8)
    with pytest.raises(UserError, match="3 sequences are not as many in each of 2 rows"):
        first_places(packed, 16)
    packed = Packed(torch.tensor([0, 4, 8, 16, 16], dtype=torch.int32), 8, 8)
    assert first_places(packed, 16).tolist() == [[0, 4], [8, 15]]
