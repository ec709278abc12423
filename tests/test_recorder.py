"""Steps whose pieces are recorded, against steps whose pieces are done as they are."""

import gc
import weakref
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from bertsmith import loop
from bertsmith import recorder as recorder_module
from bertsmith.bench import made_up_batch
from bertsmith.data.batch import Batch
from bertsmith.errors import UserError
from bertsmith.finetuning.tasks.batches import TaskBatch
from bertsmith.finetuning.tasks.objective import make_objective
from bertsmith.interrupt import Interrupted
from bertsmith.machine import measure
from bertsmith.machine.compiling import compiled_losses
from bertsmith.model import AnyPretrainingModel, BertModel
from bertsmith.model.classifier import BertClassifier, Head
from bertsmith.objective import sum_losses
from bertsmith.optim import AnyOptimizer, make_optimizer, set_learning_rate
from bertsmith.recorder import Recorder, Work, recorder_on, set_recording, tensors_of
from bertsmith.step import StepResult, train_step

import runs
from small_models import model_of

Kind = Literal["adamw", "muon"]


class PretendedRecording:
    """What a CUDA graph does, on a CPU: the work is done again, with what lies at its places in memory."""

    made = 0

    def __init__(self, work: Work, inputs: tuple[Any, ...], parameters: list[nn.Parameter], _pool: Any) -> None:
        PretendedRecording.made += 1
        self.work = work
        self.copies = [part.mapped(Tensor.clone) if isinstance(part, Batch) else part.clone() for part in inputs]
        self.parameters = parameters
        self.is_first = all(parameter.grad is None for parameter in parameters)
        self.gradients = [torch.full_like(p, torch.nan) if self.is_first else p.grad for p in parameters]

    def replay(self, inputs: tuple[Any, ...]) -> Tensor | None:
        for mine, other in zip(tensors_of(self.copies), tensors_of(inputs), strict=True):
            mine.copy_(other)
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            assert self.is_first or parameter.grad is gradient, "the recording reads another place in memory"
            parameter.grad = None if self.is_first else gradient
        output = self.work(*self.copies)
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            if self.is_first and gradient is not None and parameter.grad is not None:
                gradient.copy_(parameter.grad)
            parameter.grad = gradient
        return output


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "Recording", PretendedRecording)
    monkeypatch.setattr("torch.cuda.graph_pool_handle", lambda: 1)
    PretendedRecording.made = 0


def batches(model: AnyPretrainingModel, sizes: list[int], seed: int) -> list[Batch]:
    """Made-up rows with other ids and labels in each step."""
    made = []
    for number, size in enumerate(sizes):
        batch = made_up_batch(model.config, size)
        generator = torch.Generator().manual_seed(10 * seed + number)
        ids = torch.randint(5, 500, batch.input_ids.shape, generator=generator)
        labels = torch.where(torch.rand(batch.labels.shape, generator=generator) < 0.8, ids[batch.masked_index], -100)
        made.append(Batch(ids, *_rest(batch), labels, batch.next_sentence_label, batch.row_length, batch.num_tokens))
    return [batch.to(next(model.parameters()).device) for batch in made]


def _rest(batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return batch.token_type_ids, batch.position_ids, batch.cu_seqlens, batch.masked_index


def train(
    model: AnyPretrainingModel,
    plan: list[list[int]],
    recorder: Recorder | None,
    *,
    kind: Kind = "adamw",
    losses: Any = sum_losses,
    precision: str = "float32",
    dropout: bool = False,
) -> list[StepResult]:
    """A step for each list of micro-batches, each with a learning rate of its own."""
    optimizer: AnyOptimizer = make_optimizer(model, weight_decay=0.01, beta2=0.98, kind=kind, precision=precision)
    results = []
    for step, sizes in enumerate(plan):
        set_learning_rate(optimizer, 0.01 / (step + 1))
        results.append(
            train_step(
                model,
                losses,
                batches(model, sizes, step),
                optimizer,
                max_grad_norm=1.0,
                precision=precision,
                dropout_key=(0, step) if dropout else None,
                recorder=recorder,
            )
        )
    return results


PLANS = {
    "one": [[4]] * 5,
    "several": [[2, 2, 2, 1]] * 5,
    "changing": [[4], [4], [2, 2], [2, 2], [2, 2], [4], [4], [4]],
}


@pytest.mark.usefixtures("pretended")
@pytest.mark.parametrize("kind", ["adamw", "muon"])
@pytest.mark.parametrize("plan", PLANS)
def test_recorded_steps_are_the_steps(plan: str, kind: Kind) -> None:
    plain, recorded = model_of("bert"), model_of("bert")
    expected = train(plain, PLANS[plan], None, kind=kind)
    results = train(recorded, PLANS[plan], Recorder(recorded.parameters()), kind=kind)
    assert PretendedRecording.made >= 3  # the gradients, their norm, the update
    for one, other in zip(results, expected, strict=True):
        assert one.measured == pytest.approx(other.measured, rel=1e-5)
        assert one.grad_norm == pytest.approx(other.grad_norm, rel=1e-5)
    for one, other in zip(recorded.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("pretended")
def test_a_step_that_is_not_taken_changes_nothing_and_the_next_one_is() -> None:
    """The first update is skipped, so it must be made once before it can be recorded."""
    model = model_of("bert")
    recorder = Recorder(model.parameters())
    with torch.no_grad():
        model.mlm_head.bias[0] = torch.inf
    before = [parameter.clone() for parameter in model.parameters()]
    optimizer = make_optimizer(model, weight_decay=0.01, beta2=0.98)
    set_learning_rate(optimizer, 0.01)

    def step(seed: int) -> StepResult:
        rows = batches(model, [4], seed)
        return train_step(
            model, sum_losses, rows, optimizer, max_grad_norm=1.0, precision="float32", dropout_key=None,
            recorder=recorder,
        )  # fmt: skip

    assert [step(seed).applied for seed in range(3)] == [False] * 3
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), before, strict=True))
    with torch.no_grad():
        model.mlm_head.bias[0] = 0.0
    assert [step(seed).applied for seed in range(3, 7)] == [True] * 4
    counted = {float(state["step"]) for state in optimizer.state.values()}
    assert counted == {4.0}


@pytest.mark.usefixtures("pretended")
@pytest.mark.parametrize(
    "changes",
    [
        {"micro_batch_size": 4, "average_decay": 0.9, "validation_every": 3, "attention_probs_dropout_prob": 0.1},
        {"batch_ramp": 0.6, "short_length": 16, "optimizer": "adamw", "global_batch_size": 8},
    ],
)
def test_a_recorded_run_is_the_run(
    changes: dict[str, Any], text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Uneven micro-batches, rows of two lengths, a growing batch, measurements, and a stop on the way."""
    settings = {"steps": 12, "vocab_size": 500, "global_batch_size": 6, "hidden_dropout_prob": 0.1} | changes
    runs.train(tmp_path / "plain", text, **settings)
    monkeypatch.setattr(loop, "recorder_on", lambda _device, parameters, warn: Recorder(parameters, warn))
    with pytest.raises(Interrupted):
        runs.train(tmp_path / "recorded", text, runs.Listener(stop_after=7), **settings)
    runs.train(tmp_path / "recorded", text, **settings)
    assert PretendedRecording.made >= 6
    expected, found = runs.weights(tmp_path / "plain"), runs.weights(tmp_path / "recorded")
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-4)


def test_what_cannot_be_recorded_is_done_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def __init__(self, work: Work, inputs: tuple[Any, ...], *_: Any) -> None:
            work(*inputs)  # it leaves gradients behind
            raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(recorder_module, "Recording", Broken)
    monkeypatch.setattr("torch.cuda.graph_pool_handle", lambda: 1)
    plain, recorded, said = model_of("bert"), model_of("bert"), []
    expected = train(plain, PLANS["several"], None)
    results = train(recorded, PLANS["several"], Recorder(recorded.parameters(), said.append))
    for one, other in zip(results, expected, strict=True):
        assert one.measured == pytest.approx(other.measured, rel=1e-5)
    for one, other in zip(recorded.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert len(said) == 1
    assert said[0].endswith("operation not permitted when stream is capturing")


def test_what_failed_keeps_no_memory_and_a_lack_of_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[weakref.ref[Tensor]] = []

    class Full:
        def __init__(self, _work: Work, inputs: tuple[Any, ...], *_: Any) -> None:
            self.copies = [torch.zeros(9), *tensors_of(inputs)]
            alive.append(weakref.ref(self.copies[0]))
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(recorder_module, "Recording", Full)
    monkeypatch.setattr("torch.cuda.graph_pool_handle", lambda: 1)
    model, said = model_of("bert"), []
    recorder = Recorder(model.parameters(), said.append)
    train(model, [[2]] * 3, recorder)
    gc.collect()
    assert [reference() for reference in alive] == [None]
    assert recorder.lacked_room
    assert said[0].endswith("its memory is too small")


def test_a_size_that_leaves_no_room_to_record_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(PretendedRecording):
        def __init__(self, work: Work, inputs: tuple[Any, ...], parameters: list[nn.Parameter], pool: Any) -> None:
            if len(inputs[0]) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            super().__init__(work, inputs, parameters, pool)

    monkeypatch.setattr(recorder_module, "Recording", Full)
    monkeypatch.setattr("torch.cuda.graph_pool_handle", lambda: 1)
    monkeypatch.setattr(measure, "recorder_on", lambda _device, parameters: Recorder(parameters))
    model = model_of("bert")
    found, rows = measure.halving(
        8, lambda rows: measure.seconds_per_micro_batch(model, sum_losses, made_up_batch(model.config, rows), "float32")
    )
    assert found > 0
    assert rows == 2


def test_after_a_failure_that_pytorch_does_not_recover_from_the_switch_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken = []

    class Broken:
        def __init__(self, *_: Any) -> None:
            broken.append(True)
            raise RuntimeError("capture failed")

    def losses(model: nn.Module, batch: Batch) -> Any:
        if broken:
            raise RuntimeError("Offset increment outside graph capture encountered unexpectedly.")
        return sum_losses(model, batch)

    monkeypatch.setattr(recorder_module, "Recording", Broken)
    monkeypatch.setattr("torch.cuda.graph_pool_handle", lambda: 1)
    model = model_of("bert")
    with pytest.raises(UserError, match=r"capture failed.*give --cuda-graphs no"):
        train(model, [[2]] * 3, Recorder(model.parameters()), losses=losses)


def test_recording_is_for_a_gpu_and_can_be_switched_off() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert recorder_on(cpu, []) is None
    assert isinstance(recorder_on(gpu, []), Recorder)
    set_recording(False)
    try:
        assert recorder_on(gpu, []) is None
        work: Work = lambda: None  # noqa: E731
        assert recorder_module.recorded(work, gpu) is work
    finally:
        set_recording(True)


@pytest.mark.usefixtures("pretended")
def test_rows_of_a_task_are_timed_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fine-tuning records nothing, its batches having other shapes each time."""
    monkeypatch.setattr(measure, "recorder_on", lambda _device, parameters: Recorder(parameters))
    encoder = model_of("bert").bert
    assert isinstance(encoder, BertModel)
    classifier = BertClassifier(encoder, Head("classification", ("no", "yes")))
    ids = torch.randint(5, 500, (20,))
    starts = torch.tensor([0, 7, 20], dtype=torch.int32)
    batch = TaskBatch(ids, torch.zeros_like(ids), starts, ids[:0], torch.tensor([0, 1]), longest=13, num_tokens=20)
    objective = make_objective(classifier.head)
    assert measure.seconds_per_micro_batch(classifier, objective.sum_losses, batch, "float32") > 0
    assert PretendedRecording.made == 0


@pytest.mark.usefixtures("pretended")
def test_an_update_that_waits_for_its_numbers_is_not_recorded() -> None:
    model = model_of("bert")
    optimizer = make_optimizer(model, weight_decay=0.01, beta2=0.98, kind="muon", clip_updates=True)
    set_learning_rate(optimizer, 0.01)
    asked: list[Any] = []

    class Listening(Recorder):
        def __call__(self, key: Any, work: Work, *inputs: Any) -> Tensor | None:
            asked.append(key)
            return super().__call__(key, work, *inputs)

    train_step(
        model, sum_losses, batches(model, [4], 0), optimizer, max_grad_norm=1.0, precision="float32", dropout_key=None,
        recorder=Listening(model.parameters()),
    )  # fmt: skip
    assert asked == [("gradients", False, 4 * 64), "clip"]


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize(("model_type", "kind", "dropout"), [("bert", "adamw", 0.1), ("modernbert", "muon", 0.0)])
def test_recorded_steps_are_the_steps_on_a_gpu(
    model_type: str, kind: Kind, dropout: float, plan: str, compiled: bool
) -> None:
    """Sums are in no fixed order there, so the losses of some steps agree to rounding."""
    if compiled and plan != "several":
        pytest.skip("one plan is enough to compile")
    plain, recorded = (model_of(model_type, "cuda", dropout) for _ in range(2))
    how: dict[str, Any] = {"kind": kind, "precision": "bfloat16", "dropout": dropout > 0}
    how["losses"] = compiled_losses() if compiled else sum_losses
    expected = train(plain, PLANS[plan], None, **how)
    said: list[str] = []
    results = train(recorded, PLANS[plan], Recorder(recorded.parameters(), said.append), **how)
    assert said == []
    for one, other in zip(results, expected, strict=True):
        assert one.measured.loss == pytest.approx(other.measured.loss, rel=2e-3)
        assert one.grad_norm == pytest.approx(other.grad_norm, rel=2e-2)
    first = [results[0].measured.loss, expected[0].measured.loss]
    assert first[0] == pytest.approx(first[1], rel=1e-6)


@pytest.mark.gpu
def test_a_gpu_goes_on_after_work_that_cannot_be_recorded() -> None:
    """Work that waits for a number invalidates a capture; dropout after it needs the generator."""
    plain, model, said = model_of("bert", "cuda", 0.1), model_of("bert", "cuda", 0.1), []

    def losses(network: nn.Module, batch: Batch) -> Any:
        sums = sum_losses(network, batch)
        sums.losses.sum().item()
        return sums

    stream = torch.cuda.current_stream()
    expected = train(plain, PLANS["several"], None, losses=losses, dropout=True)
    results = train(model, PLANS["several"], Recorder(model.parameters(), said.append), losses=losses, dropout=True)
    for one, other in zip(results, expected, strict=True):
        assert one.measured.loss == pytest.approx(other.measured.loss, rel=1e-3)
    assert len(said) == 1
    assert torch.cuda.current_stream() == stream


@pytest.mark.gpu
def test_a_replay_drops_what_its_key_says() -> None:
    """The same key the same, another key something else, replayed or not."""
    losses = {}
    for records in (False, True):
        model = model_of("bert", "cuda", 0.5)
        recorder = Recorder(model.parameters()) if records else None
        optimizer = make_optimizer(model, weight_decay=0.0, beta2=0.98)
        set_learning_rate(optimizer, 0.0)
        losses[records] = [
            train_step(
                model, sum_losses, batches(model, [4], 0), optimizer, max_grad_norm=1.0, precision="float32",
                dropout_key=(0, key), recorder=recorder,
            ).measured.loss
            for key in (0, 1, 2, 1, 3)
        ]  # fmt: skip
    assert losses[True] == pytest.approx(losses[False], rel=1e-5)
    assert len({round(loss, 4) for loss in losses[True]}) == 4
