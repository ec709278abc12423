"""Dropout drops the right share, keeps the mean, and is a function of the seed."""

import shutil

import pytest
import torch

from bertsmith.bench import made_up_batch
from bertsmith.model import BertConfig, BertPretrainingModel
from bertsmith.model.dropout import LEVELS, Dropout, _levels, draw_seeds, dropout, set_rows
from bertsmith.objective import sum_losses


@pytest.mark.parametrize("chance", [0.001, 0.1, 0.5, 0.9])
def test_the_share_and_the_mean_are_right(chance: float) -> None:
    torch.manual_seed(0)
    values = dropout(torch.ones(1000, 1001), chance)
    dropped = (values == 0).double().mean().item()
    sigma = (chance * (1 - chance) / 1_001_000) ** 0.5
    assert dropped == pytest.approx(chance, abs=5 * sigma + 1 / LEVELS)
    assert values.double().mean().item() == pytest.approx(1, abs=5 * sigma / (1 - chance))
    assert values.unique().numel() == 2


def test_elements_are_independent_of_their_neighbours() -> None:
    torch.manual_seed(0)
    kept = (dropout(torch.ones(1 << 20), 0.5) > 0).double() - 0.5
    for distance in (1, 2, 3, 4, 8, 1024):
        assert abs((kept[:-distance] * kept[distance:]).mean().item()) < 5 * 0.25 / 1024


def test_every_level_is_as_frequent_and_calls_are_independent() -> None:
    torch.manual_seed(0)
    one, other = (_levels((1024, 1024), draw_seeds(torch.zeros(0))).flatten() for _ in range(2))
    counts = torch.bincount(one, minlength=LEVELS).double()
    expected = len(one) / LEVELS
    chi_squared = ((counts - expected).square() / expected).sum().item()
    assert len(counts) == LEVELS
    assert abs(chi_squared - (LEVELS - 1)) < 5 * (2 * LEVELS) ** 0.5
    for shift in (0, 1, 64, 1024):
        apart = torch.stack([one.roll(shift), other]).double()
        assert abs(torch.corrcoef(apart)[0, 1].item()) < 5 / 1024


def test_places_are_those_in_the_step() -> None:
    """Seven rows of the step at once, or the last three of them after the others."""
    try:
        torch.manual_seed(0)
        set_rows(0, 7)
        whole = dropout(torch.ones(7 * 16, 5), 0.5)
        torch.manual_seed(0)
        set_rows(4, 3)
        assert torch.equal(dropout(torch.ones(3 * 16, 5), 0.5), whole[4 * 16 :])
        torch.manual_seed(0)
        far = 1 << 30  # places are counted modulo 2^32
        set_rows(far, 1)
        assert dropout(torch.ones(16, 5), 0.5).mean().item() == pytest.approx(1, abs=0.6)
    finally:
        set_rows(0, 1)


def test_the_gradient_passes_where_the_value_does() -> None:
    torch.manual_seed(0)
    values = torch.randn(37, 11, dtype=torch.float64, requires_grad=True)
    out = dropout(values, 0.3)
    out.sum().backward()
    kept = out != 0
    scale = LEVELS / (LEVELS - round(0.3 * LEVELS))
    assert torch.equal(values.grad, kept * torch.full_like(values, scale))
    torch.testing.assert_close(out, values.detach() * kept * scale)


def test_the_seed_decides_and_evaluation_drops_nothing() -> None:
    layer, values = Dropout(0.2), torch.randn(3, 5, 7)
    torch.manual_seed(3)
    one = layer(values)
    torch.manual_seed(3)
    assert torch.equal(one, layer(values))
    assert not torch.equal(one, layer(values))
    assert layer.eval()(values) is values
    assert layer.train()(torch.zeros(0)).shape == (0,)


def test_what_is_dropped_is_zero_even_where_the_value_is_not_finite() -> None:
    torch.manual_seed(0)
    out = dropout(torch.full((1000,), float("inf")), 0.5)
    assert not out.isnan().any()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch's own, when it compiles
def test_compiled_code_drops_the_same_elements(request: pytest.FixtureRequest) -> None:
    """Forward and backward take one mask, and it is that of eager code, so compiling changes rounding only."""
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("needs a C++ compiler")
    config = BertConfig(
        vocab_size=100, hidden_size=64, num_hidden_layers=3, num_attention_heads=2, intermediate_size=128
    )
    model, batch = BertPretrainingModel(config), made_up_batch(config, rows=2)
    results = []
    compiled = torch.compile(sum_losses, dynamic=False, fullgraph=True)
    request.addfinalizer(lambda: set_rows(0, 1))
    for losses, first in ((sum_losses, 0), (compiled, 0), (sum_losses, 6), (compiled, 6)):
        torch.manual_seed(5)
        set_rows(first, 2)
        model.zero_grad()
        losses(model, batch).losses.sum().backward()
        results.append([parameter.grad.clone() for parameter in model.parameters()])
    for one, other, later, compiled_later in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(later, compiled_later, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(results[0][0], results[2][0])
