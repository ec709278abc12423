"""One update: exact whatever it is divided into, and never taken when it is not finite."""

import math
from functools import partial
from pathlib import Path
from typing import Literal

import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor, nn

from bertsmith import distributed
from bertsmith.config import TrainingConfig
from bertsmith.data.batch import Batch, collate
from bertsmith.data.rows import IGNORE_INDEX
from bertsmith.model import BertConfig, BertPretrainingModel
from bertsmith.objective import Sums, count_targets, sum_losses
from bertsmith.optim import make_optimizer, set_learning_rate
from bertsmith.planning.stages import make_stages
from bertsmith.reporter import Reporter
from bertsmith.step import CompilerFailed, Measured, StepResult, StepTooLarge, evaluate_loss, train_step
from bertsmith.watch import Watch

from corpora import lognormal, make_corpus, make_rows
from runs import free_port

TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
STEP = partial(train_step, max_grad_norm=1.0, precision="float32")
CORPUS = make_corpus([length % 40 + 1 for length in lognormal(0, 60)])
ROWS = make_rows(CORPUS, sequence_length=32, objective="mlm+nsp")


def new_model(dropout: float = 0.0) -> BertPretrainingModel:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=CORPUS.num_tokens + 5,
        max_position_embeddings=32,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        **TINY,
    )
    return BertPretrainingModel(config)


def batches(sizes: list[int], first: int = 0) -> list[Batch]:
    made = []
    for size in sizes:
        made.append(collate(ROWS.__getitems__(list(range(first, first + size)))))
        first += size
    return made


def update(model: BertPretrainingModel, micro: list[Batch], step: int = 0, dropout: bool = False) -> StepResult:
    optimizer = make_optimizer(model, weight_decay=0.01, beta2=0.98)
    set_learning_rate(optimizer, 0.1)
    key = (0, step) if dropout else None
    return STEP(model, sum_losses, micro, optimizer, dropout_key=key, first_row=0)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("sizes", [[12], [3, 1, 8], [1] * 12])
def test_the_update_does_not_depend_on_the_micro_batches(sizes: list[int], dropout: float) -> None:
    """Micro-batches hold different numbers of masked tokens and pairs; the step must be that of all at once."""
    model, reference = new_model(dropout).double(), new_model(dropout).double()
    drops = dropout > 0
    result, expected = update(model, batches(sizes), dropout=drops), update(reference, batches([12]), dropout=drops)
    assert result.measured == pytest.approx(expected.measured, rel=1e-6)  # counted in float32
    assert result.grad_norm == pytest.approx(expected.grad_norm, rel=1e-6)
    assert result.tokens == expected.tokens
    for one, other in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_the_gradient_is_that_of_the_mean_over_all_targets() -> None:
    """Against a plain float64 loop over rows, divided once."""
    model = new_model().double()
    total = torch.zeros(2, dtype=torch.float64)
    counts = torch.zeros(2, dtype=torch.float64)
    for batch in batches([1] * 6):
        bounds = batch.cu_seqlens.tolist()
        for a, b, label in zip(bounds[:-1], bounds[1:], batch.next_sentence_label.tolist(), strict=True):
            inside = (batch.masked_index >= a) & (batch.masked_index < b) & (batch.labels != IGNORE_INDEX)
            if b == a:
                continue
            output = model(batch.input_ids[None, a:b], token_type_ids=batch.token_type_ids[None, a:b])
            for place, true in zip(batch.masked_index[inside], batch.labels[inside], strict=True):
                total[0] -= output.mlm_logits[0, place - a].log_softmax(-1)[true]
                counts[0] += 1
            if label != IGNORE_INDEX:
                total[1] -= output.nsp_logits[0].log_softmax(-1)[label]
                counts[1] += 1
    mean = (total / counts).sum()
    mean.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    norm = math.sqrt(sum(float((g**2).sum()) for g in expected.values()))
    model.zero_grad()

    result = update(model, batches([2, 4]))
    assert result.measured.loss == pytest.approx(mean.item(), rel=1e-6)
    assert result.grad_norm == pytest.approx(norm, rel=1e-5)


def test_the_logged_loss_is_that_of_the_whole_step() -> None:
    model = new_model()
    measured = evaluate_loss(model, sum_losses, batches([5, 3]), precision="float32")
    result = update(model, batches([2, 6]))
    assert result.measured.loss == pytest.approx(measured.loss, rel=1e-5)
    assert result.measured.mlm_targets == measured.mlm_targets


def test_a_measurement_that_fails_leaves_the_model_in_training() -> None:
    """A GPU without room is asked again for fewer rows."""

    def full(_model: nn.Module, _batch: Batch) -> Sums:
        raise torch.OutOfMemoryError("CUDA out of memory")

    model = new_model()
    with pytest.raises(torch.OutOfMemoryError):
        evaluate_loss(model, full, batches([2]), precision="float32")
    assert model.training


def test_a_term_without_targets_adds_nothing() -> None:
    rows = make_rows(CORPUS, sequence_length=32, objective="mlm")
    batch = collate(rows.__getitems__([0, 1]))
    assert count_targets(batch)[1] == 0
    result = update(new_model(), [batch])
    assert result.applied
    assert result.measured.nsp_loss == 0
    assert "nsp_loss" not in result.record(1, 0.1, 1.0, 64)


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_step_that_is_not_finite_changes_nothing(where: str) -> None:
    model = new_model()
    optimizer = make_optimizer(model, weight_decay=0.01, beta2=0.98)
    set_learning_rate(optimizer, 0.1)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}

    def broken(network: torch.nn.Module, batch: Batch) -> object:
        sums = sum_losses(network, batch)
        if where == "loss":
            return sums._replace(losses=sums.losses * torch.tensor([math.nan, 1.0]))
        model.mlm_head.bias.register_hook(lambda gradient: gradient / 0)
        return sums

    result = train_step(
        model, broken, batches([2]), optimizer, max_grad_norm=1.0, precision="float32", dropout_key=None
    )
    assert not result.applied
    assert result.record(1, 0.1, 1.0, 64)["skipped"] is True
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert not optimizer.state
    assert all(p.grad is None for p in model.parameters())


def test_rows_of_a_step_drop_other_elements() -> None:
    """The same row twice, in one micro-batch and in two."""
    (row,) = batches([1])
    (twice,) = (collate([*ROWS.__getitems__([0]), *ROWS.__getitems__([0])]),)
    norms = {update(new_model(dropout=0.3), micro, dropout=True).grad_norm for micro in ([row], [row, row], [twice])}
    assert len({round(norm, 4) for norm in norms}) == 2


def test_dropout_is_a_function_of_seed_and_step() -> None:
    losses = []
    for step in (0, 0, 1):
        torch.manual_seed(step + len(losses))  # what was drawn before must not matter
        losses.append(update(new_model(dropout=0.3), batches([2, 2]), step, dropout=True).measured.loss)
    assert losses[0] == losses[1] != losses[2]


def make_watch(said: list[str], **settings: float) -> Watch:
    class Listener(Reporter):
        def warn(self, line: str) -> None:
            said.append(line)

    return Watch(Listener(), **{"unigram_loss": 6.0, "learning_rate": 3e-3, "max_steps": 500, **settings})


def result_with(loss: float, applied: bool = True) -> StepResult:
    return StepResult(Measured(loss, loss, 0.0, 0.1, 0.0, 10, 0), 1.0, applied, 10)


def test_a_few_skipped_steps_in_a_row_stop_the_run_with_advice() -> None:
    said: list[str] = []
    watch = make_watch(said)
    for step in range(1, 5):
        watch.look(step, result_with(math.nan, applied=False))
    watch.look(5, result_with(5.0))
    for step in range(6, 10):
        watch.look(step, result_with(math.inf, applied=False))
    with pytest.raises(ValueError, match="--fresh") as caught:
        watch.look(10, result_with(math.inf, applied=False))
    assert "step 10" in str(caught.value)
    assert len(said) == 9


@pytest.mark.parametrize(("loss", "warnings"), [(6.02, 1), (5.95, 1), (5.5, 0)])
def test_a_run_at_the_unigram_level_is_told_once(loss: float, warnings: int) -> None:
    said: list[str] = []
    watch = make_watch(said)
    for step in range(1, 700):
        watch.look(step, result_with(loss))
    assert len(said) == warnings
    assert all("--learning-rate 0.001" in line for line in said)


STEPS, ROWS_OF_STEP = 3, 13
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4}
"""Of weights after that many steps at a rate of 0.01, which is as far as AdamW moves one in a step."""


CASES: list[tuple[Literal["adamw", "muon"], torch.dtype, float]] = [
    ("adamw", torch.float64, 0.0),
    ("adamw", torch.float32, 0.0),
    ("muon", torch.float64, 0.0),
    ("muon", torch.float32, 0.0),
    ("adamw", torch.float64, 0.3),
]
"""Optimizer, dtype, dropout."""


def train_together(
    kind: Literal["adamw", "muon"], dtype: torch.dtype = torch.float64, dropout: float = 0.0
) -> tuple[dict[str, Tensor], list[float]]:
    """Three steps of this rank, or of one process alone: the weights, losses and gradient norms."""
    model = new_model(dropout).to(dtype)
    optimizer = make_optimizer(model, weight_decay=0.01, beta2=0.98, kind=kind, precision="float32")
    set_learning_rate(optimizer, 1e-2)
    training = TrainingConfig(steps=STEPS, global_batch_size=ROWS_OF_STEP, micro_batch_size=4, sequence_length=32)
    (stage,) = make_stages(training, lambda _length: 1000)
    told = []
    for step in range(STEPS):
        division = stage.divide(training)
        first, left = stage.row_of(step) + division.first, division.rows
        sizes = [min(division.micro_batch_size, left - start) for start in range(0, left, division.micro_batch_size)]
        micro = batches(sizes, first=first)
        key = (0, step) if dropout else None
        result = STEP(model, sum_losses, micro, optimizer, dropout_key=key, first_row=division.first)
        told += [result.measured.loss, result.grad_norm]
    numbers = list(range(5))[distributed.rank() :: distributed.world_size()]
    held_out = [collate(ROWS.__getitems__(numbers))]
    told.append(evaluate_loss(model, sum_losses, held_out, precision="float32").loss)
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}, told


def run_out_of_memory_on_one_rank() -> None:
    """All ranks must learn of it, and nothing may have changed."""

    def losses(model: nn.Module, batch: Batch) -> Sums:
        if distributed.rank() == 1 and len(batch) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return sum_losses(model, batch)

    model, untouched = new_model(), new_model()
    optimizer = make_optimizer(model, weight_decay=0.01, beta2=0.98)
    set_learning_rate(optimizer, 0.1)
    step = partial(train_step, model, losses, max_grad_norm=1.0, precision="float32", dropout_key=None)
    with pytest.raises(StepTooLarge):
        step(batches([4]), optimizer)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), untouched.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in model.parameters())
    assert step(batches([2, 2]), optimizer).applied

    class BrokenCompilerError(Exception):
        __module__ = "torch._inductor.exc"

    def compiled(model: nn.Module, batch: Batch) -> Sums:
        if distributed.rank() == 1 and len(batch) > 2:
            raise BrokenCompilerError("no room on the disk\nand more")
        return sum_losses(model, batch)

    said = "no room on the disk" if distributed.rank() == 1 else "in another process"
    with pytest.raises(CompilerFailed, match=said):
        train_step(model, compiled, batches([4]), optimizer, max_grad_norm=1.0, precision="float32", dropout_key=None)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert step(batches([2, 2]), optimizer).applied


def run_rank(rank: int, folder: str, world_size: int, port: int) -> None:
    import os

    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    torch.set_num_threads(1)
    distributed.start("cpu")
    distributed.BUCKET = 1500  # some tensors together, and the word embedding alone
    found = {case: train_together(*case) for case in CASES}
    torch.save(found, Path(folder) / f"{rank}.pt")
    run_out_of_memory_on_one_rank()
    distributed.stop()


def test_two_processes_equal_one(tmp_path: Path) -> None:
    """With rows that do not divide evenly; both ranks hold the same weights bit for bit."""
    mp.spawn(run_rank, (str(tmp_path), 2, free_port()), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for case, found in first.items():
        weights, told = train_together(*case)
        assert found[1] == second[case][1] == pytest.approx(told, rel=1e-6)  # counted in float32
        for name, tensor in weights.items():
            assert torch.equal(found[0][name], second[case][0][name])
            torch.testing.assert_close(found[0][name], tensor, rtol=0, atol=TOLERANCES[case[1]])
