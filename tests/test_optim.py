"""Learning rates and parameter groups."""

import pytest
import torch
from torch import nn

from bertsmith.adamw import AdamW, StableAdamW
from bertsmith.averaging import WeightAverage
from bertsmith.errors import UserError
from bertsmith.model import BertConfig, BertPretrainingModel
from bertsmith.muon import Muon, alike, orthogonal
from bertsmith.optim import (
    divide_evenly,
    learning_rate_at,
    make_optimizer,
    parameter_groups,
    set_learning_rate,
)

from small_models import model_of

SETTINGS = {"peak": 1.0, "warmup_steps": 10, "max_steps": 100}


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_the_first_step_learns_and_the_peak_is_reached(schedule: str) -> None:
    rates = [learning_rate_at(step, **SETTINGS, schedule=schedule) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[10] == 1.0
    assert all(rate > 0 for rate in rates[:100])
    assert rates[100] == (1.0 if schedule == "constant" else 0.0)


def test_a_trapezoid_stays_and_falls_over_its_last_part() -> None:
    rates = [learning_rate_at(step, **SETTINGS, schedule="trapezoid", decay_share=0.2) for step in range(101)]
    assert rates[9:81] == [1.0] * 72
    assert rates[90] == pytest.approx(0.5)
    assert rates[100] == 0.0


@pytest.mark.parametrize("schedule", ["linear", "cosine", "trapezoid"])
def test_a_run_that_became_shorter_than_its_warm_up_falls_all_the_same(schedule: str) -> None:
    rates = [learning_rate_at(n, peak=1.0, warmup_steps=150, max_steps=100, schedule=schedule) for n in range(101)]
    assert rates[:80] == [(step + 1) / 150 for step in range(80)]
    assert rates[85:] == sorted(rates[85:], reverse=True)
    assert rates[99] == pytest.approx(1 / 30)


def test_the_schedule_works_without_warm_up_and_with_nothing_else() -> None:
    assert learning_rate_at(0, peak=1.0, warmup_steps=0, max_steps=1, schedule="linear") == 1.0
    assert learning_rate_at(4, peak=1.0, warmup_steps=5, max_steps=5, schedule="linear") == 1.0


def test_biases_and_norms_do_not_decay() -> None:
    model = nn.Sequential(nn.Embedding(3, 4), nn.Linear(4, 4), nn.LayerNorm(4))
    decayed, kept = parameter_groups(model.parameters(), 0.1)
    assert [tuple(p.shape) for p in decayed["params"]] == [(3, 4), (4, 4)]
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    assert len(kept["params"]) == 3


def test_the_update_is_that_of_adamw() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 3, bias=False).double()
    weight = model.weight.detach().clone()
    optimizer = make_optimizer(model, weight_decay=0.1, beta2=0.98)
    optimizer.param_groups[0]["lr"] = 0.01
    first, second = torch.zeros_like(weight), torch.zeros_like(weight)
    for step in range(1, 4):
        gradient = torch.randn(3, 3, dtype=torch.float64)
        model.weight.grad = gradient.clone()
        optimizer.step()
        first = 0.9 * first + 0.1 * gradient
        second = 0.98 * second + 0.02 * gradient**2
        update = (first / (1 - 0.9**step)) / ((second / (1 - 0.98**step)).sqrt() + 1e-6)
        weight = weight * (1 - 0.01 * 0.1) - 0.01 * update
    torch.testing.assert_close(model.weight.detach(), weight, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("is_fused", [True, False])
def test_adamw_is_that_of_pytorch(dtype: torch.dtype, is_fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit, also where a parameter has no gradient for a while, and on devices without the fused kernel."""
    monkeypatch.setattr("bertsmith.adamw.is_fused", lambda _parameter: is_fused)
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(5, 3, dtype=dtype)), nn.Parameter(torch.randn(7, dtype=dtype))]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    optimizer = AdamW([{"params": ours, "weight_decay": 0.1}], beta2=0.98)
    reference = torch.optim.AdamW(theirs, lr=0.0, weight_decay=0.1, betas=(0.9, 0.98), eps=1e-6, fused=is_fused)
    for step in range(5):
        for each in (optimizer, reference):
            each.zero_grad()
            for group in each.param_groups:
                group["lr"] = 0.1 / (step + 1)
        for one, other in zip(ours[: 1 if step == 2 else 2], theirs, strict=False):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        optimizer.step()
        reference.step()
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one, other)
        assert {name: value.tolist() for name, value in optimizer.state[one].items()} == {
            name: value.tolist() for name, value in reference.state[other].items()
        }


def test_a_surprising_gradient_makes_a_smaller_step() -> None:
    """A second moment that is behind lets AdamW take steps far larger than its rate; the clipped ones are not."""
    steps = {}
    for clip in (False, True):
        model = nn.Linear(4, 4, bias=False)
        optimizer = make_optimizer(model, weight_decay=0.0, beta2=0.98, clip_updates=clip)
        set_learning_rate(optimizer, 0.01)
        torch.manual_seed(0)
        for size in [1e-3] * 20 + [1.0]:
            before = model.weight.detach().clone()
            model.weight.grad = size * torch.randn(4, 4)
            optimizer.step()
            steps[clip, size] = (model.weight.detach() - before).square().mean().sqrt().item()
    torch.testing.assert_close(steps[True, 1e-3], steps[False, 1e-3], rtol=0.3, atol=0)
    assert steps[True, 1.0] < 0.3 * steps[False, 1.0]
    assert optimizer.param_groups[0]["lr"] == 0.01


def test_the_size_of_an_update_is_that_of_the_paper() -> None:
    model = nn.Linear(3, 3, bias=False).double()
    optimizer = make_optimizer(model, weight_decay=0.0, beta2=0.9, clip_updates=True)
    assert isinstance(optimizer, StableAdamW)
    set_learning_rate(optimizer, 1e-9)
    torch.manual_seed(1)
    second = torch.zeros(3, 3, dtype=torch.float64)
    for step in range(1, 5):
        gradient = torch.randn(3, 3, dtype=torch.float64) * step**3
        second = 0.9 * second + 0.1 * gradient**2
        expected = (gradient**2 / (second / (1 - 0.9**step))).mean().sqrt().item()
        model.weight.grad = gradient
        assert optimizer._update_size(optimizer.param_groups[0]) == pytest.approx(expected, rel=1e-12)
        optimizer.step()


def test_matrices_are_divided_evenly_and_each_once() -> None:
    matrices = [nn.Parameter(torch.empty(n, n)) for n in (64, 64, 32, 32, 48, 16, 16)]
    parts = divide_evenly(matrices, 3)
    assert sorted(id(m) for part in parts for m in part) == sorted(map(id, matrices))
    work = [sum(m.numel() * min(m.shape) for m in part) for part in parts]
    assert max(work) <= 64**3 + 16**3
    assert divide_evenly(matrices, 1)[0] != []


def test_averaged_weights_are_those_of_a_loop_and_are_given_back() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    average = WeightAverage(model, 0.9)
    expected = model.weight.detach().clone()
    for step in range(1, 30):
        with torch.no_grad():
            model.weight.add_(torch.randn(2, 3))
        average.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.weight.detach()
    own = model.weight.detach().clone()
    with average.in_place():
        torch.testing.assert_close(model.weight.detach(), expected)
    assert torch.equal(model.weight, own)
    torch.testing.assert_close(average.tensors["weight"], expected)


@pytest.mark.parametrize("model_type", ["bert", "modernbert"])
def test_muon_takes_the_matrices_of_the_blocks_alone(model_type: str) -> None:
    model = model_of(model_type)
    optimizer = make_optimizer(model, weight_decay=0.1, beta2=0.98, kind="muon")
    groups = [{id(p) for p in group["params"]} for group in optimizer.param_groups]
    decayed, kept, of_muon = [{name for name, p in model.named_parameters() if id(p) in group} for group in groups]
    kinds = {"attention.qkv", "attention.out", "intermediate", "output"}
    assert of_muon == {f"bert.blocks.{layer}.{kind}.weight" for layer in range(3) for kind in kinds}
    assert decayed >= {"bert.embeddings.word_embeddings.weight", "mlm_head.dense.weight"}
    assert all(name.endswith(("norm.weight", ".bias")) for name in kept)
    assert sum(map(len, groups)) == len(decayed | kept | of_muon) == len(list(model.parameters()))


@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
def test_muons_scale_multiplies_the_rate_of_its_matrices_alone(weight_decay: float) -> None:
    config = BertConfig(vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    moved = []
    for scale in (1.0, 3.0):
        torch.manual_seed(0)
        model = BertPretrainingModel(config)
        optimizer = make_optimizer(
            model, weight_decay=weight_decay, beta2=0.98, kind="muon", precision="float32", muon_scale=scale
        )
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        set_learning_rate(optimizer, 0.01)
        optimizer.step()
        moved.append({name: p.detach() - before[name] for name, p in model.named_parameters()})
    for name, step in moved[0].items():
        factor = 3.0 if ".blocks." in name and step.ndim == 2 else 1.0
        torch.testing.assert_close(moved[1][name], factor * step, rtol=1e-4, atol=1e-6)


def test_muons_update_is_nearly_orthogonal_and_as_large_as_adamws() -> None:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50, hidden_size=64, intermediate_size=256, num_hidden_layers=1, num_attention_heads=1
    )
    model = BertPretrainingModel(config)
    optimizer = make_optimizer(model, weight_decay=0.0, beta2=0.98, kind="muon")
    set_learning_rate(optimizer, 0.01)
    weight = model.bert.blocks[0].intermediate.weight
    before = weight.detach().clone()
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    update = (before - weight.detach()) / 0.01
    scale = 0.2 * 256**0.5  # arXiv:2502.16982, equation 4
    assert torch.linalg.svdvals(update).div(scale).sub(1).abs().max() < 0.35  # five rounds of Newton and Schulz
    assert update.square().mean().sqrt().item() == pytest.approx(0.2, rel=0.2)  # of AdamW's size


@pytest.mark.parametrize("shape", [(12, 40), (40, 12), (16, 16)])
def test_muon_is_that_of_pytorch(shape: tuple[int, int]) -> None:
    """Bit for bit, with the products in bfloat16; in float32 the same but for rounding."""
    torch.manual_seed(0)
    start = torch.randn(shape)
    ours, exact, theirs = (torch.nn.Parameter(start.clone()) for _ in range(3))
    muon = Muon([ours], weight_decay=0.1, products=torch.bfloat16)
    in_float32 = Muon([exact], weight_decay=0.1, products=torch.float32)
    reference = torch.optim.Muon([theirs], lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    set_learning_rate(muon, 0.02)
    set_learning_rate(in_float32, 0.02)
    for step in range(4):
        for matrix in (ours, exact, theirs):
            matrix.grad = torch.randn(shape, generator=torch.Generator().manual_seed(step))
        for optimizer in (muon, in_float32, reference):
            optimizer.step()
    assert torch.equal(ours, theirs)
    assert 0 < (exact - theirs).abs().max() < 0.02
    assert torch.equal(muon.state[ours]["momentum_buffer"], reference.state[theirs]["momentum_buffer"])


@pytest.mark.parametrize("products", [torch.float32, torch.bfloat16])
def test_singular_values_come_near_1(products: torch.dtype) -> None:
    given = torch.randn(20, 50, generator=torch.Generator().manual_seed(0))
    before = given.clone()
    values = torch.linalg.svdvals(orthogonal(given, products).float())
    assert values.min() > 0.6
    assert values.max() < 1.3
    assert torch.equal(given, before)


def test_matrices_of_a_shape_that_are_updated_together_are_updated_as_each_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on a GPU, which one pretends to be."""
    shapes = [(12, 40), (40, 12), (12, 40), (16, 16), (40, 12), (12, 40)]

    def updated() -> list[nn.Parameter]:
        matrices = [nn.Parameter(torch.ones(shape)) for shape in shapes]
        optimizer = Muon(matrices, weight_decay=0.1, products=torch.float32)
        set_learning_rate(optimizer, 0.02)
        generator = torch.Generator().manual_seed(0)
        for _ in range(3):
            for matrix in matrices:
                matrix.grad = torch.randn(matrix.shape, generator=generator)
            optimizer.step()
        return matrices

    alone = updated()
    monkeypatch.setattr(nn.Parameter, "is_cuda", True, raising=False)
    assert len(alike(alone)) == len(set(shapes))
    for one, other in zip(alone, updated(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
        assert (one - 1).abs().max() > 0.01


def test_an_unknown_schedule_is_refused() -> None:
    with pytest.raises(UserError, match="schedule is 'trapez'; did you mean 'trapezoid'"):
        learning_rate_at(0, peak=1.0, warmup_steps=1, max_steps=10, schedule="trapez")  # type: ignore[arg-type]
