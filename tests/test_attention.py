"""Attention over packed sequences: every kernel against a plain float64 loop, forward and backward."""

import inspect
import math
from dataclasses import replace
from itertools import accumulate, pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from bertsmith.model import attention
from bertsmith.model.attention import attend, prepare, project
from bertsmith.model.dropout import LEVELS
from bertsmith.model.packed import Packed, pad, place_in_sequence, unpad

HEADS, HEAD_DIM = 3, 8

WINDOWS = [None, 0, 2, 64, 1000]
"""Shorter than most sequences below, longer than some, and longer than all."""

LAYOUTS = {
    "rows of several sequences": ([5, 3, 8, 1, 1, 6, 4, 4], 8),
    "rows with empty sequences": ([5, 3, 8, 0, 2, 6, 0, 0], 8),
    "rows of one full sequence": ([8, 8, 8, 8], 8),
    "sequences anywhere": ([5, 1, 11, 7, 3], None),
    "empty sequences anywhere": ([0, 5, 0, 11, 0, 0], None),
    "one long row": ([300, 100], 400),
    "long rows of one sequence": ([260, 260], 260),
    "long sequences anywhere": ([300, 1, 0, 70], None),
}


def packed_of(lengths: list[int], row_length: int | None, window: int | None = None) -> Packed:
    cu_seqlens = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
    return Packed(cu_seqlens, max(lengths), row_length, window)


def qkv_of(tokens: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(tokens, 3, HEADS, HEAD_DIM, generator=generator).to(dtype).requires_grad_()


def loop(qkv: Tensor, lengths: list[int], window: int | None) -> Tensor:
    """The definition: softmax(q k^T / sqrt(K)) v, one sequence and token after the other, over the keys in reach."""
    outputs = []
    for q, k, v in (part.unbind(1) for part in qkv.split(lengths)):
        for place in range(len(q)):
            near = slice(None) if window is None else slice(max(0, place - window), place + window + 1)
            scores = torch.einsum("hk,nhk->hn", q[place], k[near]) / HEAD_DIM**0.5
            outputs.append(torch.einsum("hn,nhk->hk", scores.softmax(-1), v[near]))
    return torch.stack(outputs)


def queries_of(lengths: list[int], row_length: int | None) -> tuple[Tensor, Tensor]:
    """Four places of each row, one of them twice, int64 [R, 4], and whether each has a token: a row may be empty."""
    sizes = lengths if row_length is None else [row_length] * (sum(lengths) // row_length)
    generator = torch.Generator().manual_seed(2)
    chosen = [torch.randint(max(1, size), (3,), generator=generator) for size in sizes]
    places = torch.stack([torch.cat([part, part[:1]]) for part in chosen])
    starts = torch.tensor([0, *accumulate(sizes)][:-1])
    has_token = torch.tensor(sizes)[:, None].expand_as(places) > 0
    return (places + starts[:, None]).clamp(max=sum(lengths) - 1), has_token


def attend_queries(qkv: Tensor, packed: Packed, lengths: list[int]) -> tuple[Tensor, Tensor]:
    """Attention of some places alone, float [M, H, K], and these, int64 [M]."""
    queries, has_token = (part.to(qkv.device) for part in queries_of(lengths, packed.row_length))
    q, k, v = qkv.unbind(1)
    out = attend(q[queries.flatten()], k, v, replace(packed, queries=queries))
    return out[has_token.flatten()], queries[has_token].cpu()


def assert_equals_loop(
    qkv: Tensor, out: Tensor, lengths: list[int], window: int | None, tolerance: float, *, places: Any = ...
) -> None:
    """Compare values, and the gradient of a random projection."""
    exact_input = qkv.detach().double().cpu().requires_grad_()
    exact = loop(exact_input, lengths, window)[places]
    direction = torch.randn(exact.shape, generator=torch.Generator().manual_seed(1))
    out.backward(direction.to(out))
    exact.backward(direction.to(out.dtype).double())
    torch.testing.assert_close(out.detach().double().cpu(), exact.detach(), rtol=0, atol=tolerance)
    assert qkv.grad is not None
    assert exact_input.grad is not None
    torch.testing.assert_close(qkv.grad.double().cpu(), exact_input.grad, rtol=0, atol=tolerance)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-12), (torch.float32, 5e-6), (torch.bfloat16, 0.1), (torch.float16, 0.02)],
)
def test_attend_equals_a_loop_over_tokens(name: str, window: int | None, dtype: torch.dtype, tolerance: float) -> None:
    lengths, row_length = LAYOUTS[name]
    qkv = qkv_of(sum(lengths), dtype)
    out = attend(*qkv.unbind(1), packed_of(lengths, row_length, window))
    assert out.dtype == dtype
    assert_equals_loop(qkv, out, lengths, window, tolerance)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.bfloat16, 0.1)])
def test_queries_of_some_places_equal_a_loop(
    name: str, window: int | None, dtype: torch.dtype, tolerance: float
) -> None:
    lengths, row_length = LAYOUTS[name]
    qkv = qkv_of(sum(lengths), dtype)
    packed = prepare(packed_of(lengths, row_length), qkv.flatten(1), num_heads=HEADS, dropout_p=0.0, window=window)
    out, places = attend_queries(qkv, packed, lengths)
    assert_equals_loop(qkv, out, lengths, window, tolerance, places=places)


@pytest.mark.parametrize("bias", [True, False])
def test_projecting_some_queries_is_projecting_all(bias: bool) -> None:
    torch.manual_seed(0)
    layer, hidden = torch.nn.Linear(24, 72, bias=bias).double(), torch.randn(16, 24, dtype=torch.float64)
    queries = torch.tensor([[3, 0], [9, 15]])
    q, k, v = project(layer, hidden, None, HEADS)
    for part, whole in zip(project(layer, hidden, queries, HEADS), (q[queries.flatten()], k, v), strict=True):
        torch.testing.assert_close(part, whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("name", LAYOUTS)
def test_preparing_once_for_all_layers_changes_nothing(name: str, window: int | None) -> None:
    lengths, row_length = LAYOUTS[name]
    qkv, packed = qkv_of(sum(lengths)), packed_of(lengths, row_length, window)
    prepared = prepare(
        packed_of(lengths, row_length), qkv.flatten(1), num_heads=3 * HEADS, dropout_p=0.0, window=window
    )
    assert prepared.layout is not None
    assert torch.equal(attend(*qkv.unbind(1), prepared), attend(*qkv.unbind(1), packed))


@pytest.mark.parametrize("window", [None, 7, 64])
def test_one_sequence_a_row_that_sees_all_of_it_needs_no_mask(window: int | None) -> None:
    packed = prepare(packed_of([8, 8, 8, 8], 8), torch.zeros(32, 8), num_heads=1, dropout_p=0.0, window=window)
    assert packed.layout is not None
    assert packed.layout.mask is None


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("name", LAYOUTS)
def test_every_query_sees_some_key(name: str, window: int | None) -> None:
    """Those of padding and of empty sequences too: a softmax over nothing would be NaN."""
    lengths, row_length = LAYOUTS[name]
    hidden = torch.zeros(sum(lengths), 8)
    packed = prepare(packed_of(lengths, row_length), hidden, num_heads=1, dropout_p=0.0, window=window)
    assert packed.layout is not None
    assert packed.layout.mask is None or (packed.layout.mask.amax(-1) == 0).all()


def test_prepared_mask_has_the_dtype_of_autocast() -> None:
    lengths, row_length = LAYOUTS["rows of several sequences"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        packed = prepare(packed_of(lengths, row_length), torch.zeros(32, 8), num_heads=1, dropout_p=0.0)
    assert packed.layout is not None
    assert packed.layout.mask is not None
    assert packed.layout.mask.dtype == torch.bfloat16


@pytest.mark.parametrize("row_length", [8, None])
@pytest.mark.parametrize("length", [8, 300])
def test_attention_dropout_zeroes_or_doubles_weights(row_length: int | None, length: int) -> None:
    """Equal keys give every token weight 1/n, and one-hot values make the output the weights themselves."""
    row_length = row_length and length
    zeros = torch.zeros(length, 1, length)
    torch.manual_seed(0)
    weights = attend(zeros, zeros, torch.eye(length)[:, None], packed_of([length], row_length), dropout_p=0.5)
    scaled = (weights * length).round(decimals=4)
    assert set(scaled.unique().tolist()) == {0.0, 2.0}


@pytest.mark.parametrize("name", [name for name, (lengths, _) in LAYOUTS.items() if sum(lengths) < 100])
def test_what_dropout_leaves_equals_a_loop(name: str) -> None:
    """Forward and backward in float64, with the weights that were dropped read off one-hot values."""
    lengths, row_length = LAYOUTS[name]
    tokens, packed = sum(lengths), packed_of(lengths, row_length)
    qkv = qkv_of(tokens, torch.float64)
    q, k, v = qkv.unbind(1)
    torch.manual_seed(0)
    one_hot = torch.eye(tokens, dtype=torch.float64)[:, None].expand(-1, HEADS, -1)
    kept = (attend(q.detach(), k.detach(), one_hot, packed, dropout_p=0.3) > 0).double()  # [T, H, T]
    torch.manual_seed(0)
    out = attend(q, k, v, packed, dropout_p=0.3)
    again = qkv.detach().clone().requires_grad_()
    q, k, v = again.unbind(1)
    sequence = torch.repeat_interleave(torch.tensor(lengths))
    apart = (sequence[:, None] != sequence)[:, None]
    scores = torch.einsum("qhk,nhk->qhn", q, k) / HEAD_DIM**0.5
    scale = 1 / (1 - round(0.3 * LEVELS) / LEVELS)
    weights = scores.masked_fill(apart, -math.inf).softmax(-1) * kept * scale
    exact = torch.einsum("qhn,nhk->qhk", weights, v)
    direction = torch.randn(exact.shape, dtype=torch.float64)
    (out * direction).sum().backward()
    (exact * direction).sum().backward()
    torch.testing.assert_close(out, exact, rtol=0, atol=1e-12)
    torch.testing.assert_close(qkv.grad, again.grad, rtol=0, atol=1e-12)
    assert 0.6 < kept[(~apart).expand_as(kept)].mean() < 0.8


def test_no_tokens_at_all_is_no_error() -> None:
    empty = torch.zeros(0, HEADS, HEAD_DIM)
    assert attend(empty, empty, empty, Packed(torch.zeros(3, dtype=torch.int32), 1)).shape == empty.shape


def test_unpad_keeps_the_real_tokens_in_order() -> None:
    values = torch.arange(12).view(3, 4)
    mask = torch.tensor([[1, 1, 1, 0], [0, 0, 0, 0], [0, 1, 0, 1]])  # right padding, no token, left padding and a hole
    tokens, indices, packed = unpad(values, mask)
    assert tokens.tolist() == [0, 1, 2, 9, 11]
    assert indices.tolist() == [0, 1, 2, 9, 11]
    assert packed.cu_seqlens.tolist() == [0, 3, 3, 5]
    assert packed.cu_seqlens.dtype == torch.int32
    assert packed.max_seqlen == 3


def test_a_batch_without_rows_is_no_error() -> None:
    tokens, _, packed = unpad(torch.zeros(0, 4), torch.zeros(0, 4))
    assert tokens.shape == (0,)
    assert packed.cu_seqlens.tolist() == [0]


def test_pad_undoes_unpad_with_zeros_at_padding() -> None:
    values = torch.randn(3, 4, 5)
    mask = torch.tensor([[1, 1, 1, 0], [0, 0, 0, 0], [0, 1, 0, 1]])
    tokens, indices, _ = unpad(values, mask)
    assert torch.equal(pad(tokens, indices, (3, 4)), values * mask[..., None])


@pytest.mark.parametrize("mask", [None, torch.ones(3, 4)])
def test_a_batch_without_padding_becomes_full_rows(mask: Tensor | None) -> None:
    tokens, _, packed = unpad(torch.arange(12).view(3, 4), mask)
    assert tokens.tolist() == list(range(12))
    assert packed.cu_seqlens.tolist() == [0, 4, 8, 12]
    assert packed.row_length == 4


def test_places_are_counted_from_zero_in_each_sequence() -> None:
    cu_seqlens = torch.tensor([0, 0, 2, 5, 5, 6, 6], dtype=torch.int32)
    assert place_in_sequence(cu_seqlens, 6).tolist() == [0, 1, 0, 1, 2, 0]


@pytest.mark.parametrize("window", [None, 0, 2])
@pytest.mark.parametrize("name", [name for name, (lengths, _) in LAYOUTS.items() if sum(lengths) < 100])
def test_what_varlen_attn_is_asked_for_equals_the_loop(
    name: str, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch's kernel runs on a GPU alone; here one that does what its documentation says takes its place."""
    from torch.nn.attention import varlen

    def stand_in(*arguments: Any, **options: Any) -> Tensor:
        given = inspect.signature(varlen.varlen_attn).bind(*arguments, **options).arguments
        bounds, reach = given["cu_seq_q"].tolist(), given["window_size"]
        lengths = [stop - start for start, stop in pairwise(bounds)]
        assert given["cu_seq_q"].dtype == given["cu_seq_k"].dtype == torch.int32
        assert max(lengths) <= given["max_q"] == given["max_k"]
        assert reach[0] == reach[1]
        qkv = torch.stack([given["query"], given["key"], given["value"]], 1)
        return loop(qkv, lengths, None if reach[0] < 0 else reach[0])

    monkeypatch.setattr(attention, "varlen_attn", stand_in, raising=False)
    monkeypatch.setattr(attention, "_can_use_varlen", lambda *_: True)
    lengths, row_length = LAYOUTS[name]
    qkv = qkv_of(sum(lengths), torch.float64)
    packed = prepare(packed_of(lengths, row_length), qkv.flatten(1), num_heads=HEADS, dropout_p=0.0, window=window)
    assert packed.layout is None
    assert_equals_loop(qkv, attend(*qkv.unbind(1), packed), lengths, window, 1e-12)
    qkv.grad = None
    out, places = attend_queries(qkv, packed, lengths)
    assert_equals_loop(qkv, out, lengths, window, 1e-12, places=places)


@pytest.mark.parametrize(
    ("capability", "row_length", "head_dim", "expected"),
    [
        ((7, 5), 128, 64, False),
        ((8, 0), 128, 64, True),
        ((9, 0), 128, 64, False),
        ((9, 0), 512, 64, False),
        ((9, 0), 513, 64, True),
        ((9, 0), None, 64, True),
        ((9, 0), 128, 192, True),
        ((10, 0), 128, 64, True),
        ((12, 0), 128, 64, True),
    ],
)
def test_short_rows_leave_varlen_attn_only_where_that_was_measured(
    capability: tuple[int, int], row_length: int | None, head_dim: int, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = SimpleNamespace(major=capability[0], minor=capability[1])
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda _device: card)
    packed = Packed(torch.tensor([0, 7], dtype=torch.int32), 7, row_length)
    assert attention._can_use_varlen(packed, torch.device("cuda"), torch.bfloat16, head_dim, 0.0) == expected


@pytest.mark.gpu
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.1), (torch.float16, 0.02)])
def test_attend_on_cuda_equals_the_loop(name: str, window: int | None, dtype: torch.dtype, tolerance: float) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    lengths, row_length = LAYOUTS[name]
    qkv = qkv_of(sum(lengths), dtype).detach().cuda().requires_grad_()
    packed = packed_of(lengths, row_length)
    packed = Packed(packed.cu_seqlens.cuda(), packed.max_seqlen, row_length, window)
    assert_equals_loop(qkv, attend(*qkv.unbind(1), packed), lengths, window, tolerance)
    qkv.grad = None
    out, places = attend_queries(qkv, packed, lengths)
    assert_equals_loop(qkv, out, lengths, window, tolerance, places=places)
