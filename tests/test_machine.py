"""Cores and memory as a container limits them, and what is refused or made smaller because of it."""

import gc
import math
import subprocess
import sys
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from bertsmith.bench import made_up_batch
from bertsmith.cli import run as command
from bertsmith.errors import UserError
from bertsmith.machine import compiling, measure, memory, work
from bertsmith.machine.compiling import worth_compiling
from bertsmith.machine.device import find_device, set_threads
from bertsmith.machine.limits import free_memory, usable_cores
from bertsmith.machine.measure import best_micro_batch, fastest
from bertsmith.machine.memory import activation_bytes, even_part, memory_need, rows_that_fit, training_state
from bertsmith.model import BertConfig, BertPretrainingModel
from bertsmith.objective import sum_losses
from bertsmith.optim import make_optimizer
from bertsmith.planning import duration

from runs import train

GB = 1 << 30
TINY = BertConfig(vocab_size=300, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)


def write(root: Path, files: Mapping[str, object]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8 * GB),
        ({"proc/self/cgroup": "0::/"}, 8 * GB),  # the root has no limit
        ({"proc/self/cgroup": "0::/", "cgroup/memory.max": 3 * GB, "cgroup/memory.current": GB}, 2 * GB),
        ({"proc/self/cgroup": "0::/", "cgroup/memory.max": "max", "cgroup/memory.current": GB}, 8 * GB),
        (  # a limit stands on a parent
            {
                "proc/self/cgroup": "0::/slice/job",
                "cgroup/slice/memory.max": 4 * GB,
                "cgroup/slice/memory.current": 3 * GB,
                "cgroup/slice/job/memory.max": "max",
                "cgroup/slice/job/memory.current": GB,
            },
            GB,
        ),
        (  # pages of files are given back
            {
                "proc/self/cgroup": "0::/",
                "cgroup/memory.max": 4 * GB,
                "cgroup/memory.current": 4 * GB,
                "cgroup/memory.stat": f"anon 5\ninactive_file {GB}",
            },
            GB,
        ),
        (  # version 1; a container sees its own group as the root
            {
                "proc/self/cgroup": "9:cpu,cpuacct:/docker/x\n7:memory:/docker/x",
                "cgroup/memory/memory.limit_in_bytes": 2 * GB,
                "cgroup/memory/memory.usage_in_bytes": GB,
                "cgroup/memory/memory.stat": "total_inactive_file 0",
            },
            GB,
        ),
        (  # more is used than allowed
            {"proc/self/cgroup": "0::/", "cgroup/memory.max": GB, "cgroup/memory.current": 2 * GB},
            0,
        ),
    ],
)
def test_memory_is_what_a_container_leaves(files: dict[str, object], expected: int, tmp_path: Path) -> None:
    write(tmp_path, {"proc/meminfo": f"MemTotal: 1 kB\nMemAvailable: {8 * GB // 1024} kB", **files})
    assert free_memory(tmp_path / "proc", tmp_path / "cgroup") == expected


def test_memory_is_what_a_limit_of_the_shell_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"proc/meminfo": f"MemAvailable: {8 * GB // 1024} kB", "proc/self/status": f"VmSize: {GB // 1024} kB"}
    write(tmp_path, files)
    free = [8 * GB]
    for limit in (-1, 3 * GB, GB // 2):  # -1: none
        monkeypatch.setattr("resource.getrlimit", lambda _kind, limit=limit: (limit, limit))
        free.append(free_memory(tmp_path / "proc", tmp_path / "cgroup"))
    assert free == [8 * GB, 8 * GB, 2 * GB, 0]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8),
        ({"proc/self/cgroup": "0::/", "cgroup/cpu.max": "max 100000"}, 8),
        ({"proc/self/cgroup": "0::/", "cgroup/cpu.max": "150000 100000"}, 2),
        ({"proc/self/cgroup": "0::/", "cgroup/cpu.max": "10000 100000"}, 1),
        ({"proc/self/cgroup": "0::/a/b", "cgroup/a/cpu.max": "300000 100000"}, 3),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/",
                "cgroup/cpu,cpuacct/cpu.cfs_quota_us": 400000,
                "cgroup/cpu,cpuacct/cpu.cfs_period_us": 100000,
            },
            4,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/",
                "cgroup/cpu/cpu.cfs_quota_us": -1,
                "cgroup/cpu/cpu.cfs_period_us": 100000,
            },
            8,
        ),
    ],
)
def test_cores_are_what_a_container_may_use(
    files: dict[str, object], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _process: set(range(8)))
    write(tmp_path, files)
    assert usable_cores(tmp_path / "proc", tmp_path / "cgroup") == expected


@pytest.mark.parametrize(
    ("environment", "given", "expected"),
    [
        ({"OMP_NUM_THREADS": "3"}, None, 3),
        ({"OMP_NUM_THREADS": "3"}, 2, 2),
        ({"OMP_NUM_THREADS": "3,1"}, None, 3),
        ({"OMP_NUM_THREADS": "many"}, None, 8),
        ({"OMP_NUM_THREADS": "1", "LOCAL_WORLD_SIZE": "2"}, None, 4),  # torchrun set it
        ({"OMP_NUM_THREADS": "3", "LOCAL_WORLD_SIZE": "2"}, None, 3),
    ],
)
def test_threads_are_those_that_the_user_asks_for(
    environment: dict[str, str], given: int | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bertsmith.machine.device.usable_cores", lambda: 8)
    monkeypatch.setattr("torch.set_num_threads", lambda _count: None)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert set_threads(given) == expected


@pytest.mark.parametrize("name", ["gpu", "cuda:0"])
def test_a_device_that_nobody_knows_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"device is '{name}'; give one of auto, cuda, mps, cpu"):
        find_device(name)


def test_a_gpu_without_room_for_a_large_product_is_measured_with_a_small_one(monkeypatch: pytest.MonkeyPatch) -> None:
    randn = torch.randn

    def full(rows: int, columns: int, **options: Any) -> torch.Tensor:
        if rows * columns > 3072 * 768:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return randn(rows, columns, **options)

    monkeypatch.setattr(work, "CPU_SHAPES", ((4096, 768, 3072),))
    monkeypatch.setattr("torch.randn", full)
    assert work.matrix_rate(torch.device("cpu"), "float32") > 0


@pytest.mark.parametrize(("small", "rate"), [(5e9, 1e11), (2e8, 2e8)])
def test_a_small_product_that_had_to_wait_is_not_the_rate_of_the_machine(
    monkeypatch: pytest.MonkeyPatch, small: float, rate: float
) -> None:
    monkeypatch.setattr(work, "CPU_SHAPES", ((4096, 768, 3072),))
    monkeypatch.setattr(work, "product_rate", lambda _device, _precision, shape=None: 1e11 if shape else small)
    assert work.matrix_rate(torch.device("cpu"), "float32") == rate


def test_there_is_at_least_one_thread(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["playground", "m"], ["embed", "m", "d", "-o", "o"], ["predict", "m", "d", "-o", "o"]):
        assert command([*arguments, "--threads", "-2"]) == 2
        assert capsys.readouterr().err == "bertsmith: threads is -2; give 1 to 1024, or leave --threads out\n"


def make_batch(rows: int) -> Any:
    return made_up_batch(TINY, rows)


def test_the_need_of_memory_grows_with_the_rows_as_it_was_measured() -> None:
    model = BertPretrainingModel(TINY)
    for precision in ("float32", "bfloat16"):
        state = training_state(model, optimizer="adamw")
        assert state == 12 * sum(p.numel() for p in model.parameters())
        need = memory_need(model, make_batch, precision, state=state, most=1 << 40)
        counted = activation_bytes(model, make_batch(6), precision)
        assert need.fixed + 6 * need.per_row - state == pytest.approx(counted, rel=0.01)


def test_rows_that_do_not_fit_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    model = BertPretrainingModel(TINY)
    need = memory_need(model, make_batch, "float32", state=1000, most=1 << 40)
    monkeypatch.setattr(memory, "free_room", lambda _device: 2 * (need.fixed + 5 * need.per_row) + 2)
    assert rows_that_fit(model, make_batch, "float32", state=1000) == 5
    tried = []

    def count(*arguments: Any, **_options: Any) -> float:
        tried.append(len(arguments[2]))
        return float(len(arguments[2]))

    monkeypatch.setattr(measure, "seconds_per_micro_batch", count)
    assert best_micro_batch(model, 16, make_batch, "float32", most=5).rows == 2
    assert tried == [2, 4]
    assert best_micro_batch(model, 7, make_batch, "float32", most=5).rows == 4  # four and three


def test_a_model_that_no_row_fits_beside_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = BertPretrainingModel(TINY)
    monkeypatch.setattr(memory, "free_room", lambda _device: 1000)
    with pytest.raises(UserError, match="even one row of 512 tokens"):
        rows_that_fit(model, make_batch, "float32", state=1000)


def test_counting_stops_before_the_memory_is_full() -> None:
    model = BertPretrainingModel(TINY)
    layers = 0

    def count(*_: object) -> None:
        nonlocal layers
        layers += 1

    for block in model.bert.blocks:
        block.register_forward_hook(count)
    with pytest.raises(memory.TooLarge):
        activation_bytes(model, make_batch(1), most=10)
    assert layers == 0
    assert activation_bytes(model, make_batch(1)) > 0
    assert sum_losses(model, make_batch(1)).losses.requires_grad
    assert torch.isfinite(sum_losses(model, make_batch(1)).losses).all()


def test_nothing_is_left_of_a_model_that_was_measured() -> None:
    """A saved output that keeps the node that made it would keep model and activations for ever."""
    model = BertPretrainingModel(TINY)
    parameter = weakref.ref(model.mlm_head.bias)
    activation_bytes(model, make_batch(1))
    del model
    gc.collect()
    assert parameter() is None


@pytest.mark.parametrize(("rows", "most", "expected"), [(43, 42, 22), (64, 64, 64), (64, 20, 16), (5, 1, 1), (9, 8, 5)])
def test_rows_are_divided_evenly(rows: int, most: int, expected: int) -> None:
    assert even_part(rows, most) == expected


GPU = "meta"
"""A device that is no CPU, and everywhere."""


@pytest.mark.parametrize(
    ("device", "seconds", "passes"),
    [("cpu", 0.001, 1 + measure.MOST_PASSES), ("cpu", 0.11, 1 + 4), ("cpu", 1.0, 2), ("cpu", 3.0, 1), (GPU, 3.0, 2)],
)
def test_a_pass_is_timed_a_few_times_after_one_to_warm_up_unless_it_is_long(
    device: str, seconds: float, passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "SECONDS_PER_CHOICE", 0.4)
    timed: list[float] = []
    monkeypatch.setattr(measure, "_time_pass", lambda *_: timed.append(seconds) or seconds)
    model = BertPretrainingModel(TINY).to(device)
    assert measure.seconds_per_micro_batch(model, sum_losses, None, "float32") == seconds
    assert len(timed) == passes


def test_a_gpu_loads_its_kernels_before_precisions_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first pass in bfloat16 took seconds on an H100, whose later ones take a fifth of those in float32."""
    seen: list[tuple[int, str]] = []

    def seconds(_model: Any, _losses: Any, batch: Any, precision: str, _recorder: Any = None) -> float:
        is_first = (len(batch), precision) not in seen
        seen.append((len(batch), precision))
        return 5.0 if is_first else {"float32": 0.37, "bfloat16": 0.07}[precision]

    monkeypatch.setattr(measure, "_time_pass", seconds)
    monkeypatch.setattr(measure, "half_gain", lambda _device: 2.0)
    speed, rows = measure.compare_precisions(BertPretrainingModel(TINY).to(GPU), make_batch, 1 << 30)
    assert speed == ("bfloat16", 0.07)
    assert rows * TINY.max_position_embeddings == measure.GPU_PROBE_PLACES


@pytest.mark.parametrize(
    ("times", "tried", "expected"),
    [
        ({"float32": 0.4, "bfloat16": 0.07}, {"bfloat16"}, "bfloat16"),  # products are most of it
        ({"float32": 0.003, "bfloat16": 0.004}, {"bfloat16", "float32"}, "float32"),  # casts are
        ({"float32": 0.004, "bfloat16": 0.003}, {"bfloat16", "float32"}, "bfloat16"),
    ],
)
def test_a_gpu_is_not_asked_for_long_passes_in_float32(
    times: dict[str, float], tried: set[str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def seconds(_model: Any, _losses: Any, _batch: Any, precision: str) -> float:
        seen.append(precision)
        return times[precision]

    monkeypatch.setattr(measure, "seconds_per_micro_batch", seconds)
    monkeypatch.setattr(measure, "half_gain", lambda _device: math.inf)
    speed, _ = measure.compare_precisions(BertPretrainingModel(TINY).to(GPU), make_batch, 4)
    assert speed == (expected, times[expected])
    assert set(seen) == tried


def test_a_gpu_that_is_too_small_gets_half_until_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def pretend(*arguments: Any, **_options: Any) -> float:
        if len(arguments[2]) > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return float(len(arguments[2]))

    monkeypatch.setattr(measure, "seconds_per_micro_batch", pretend)
    room, model = 3, BertPretrainingModel(TINY).to(GPU)
    assert best_micro_batch(model, 64, make_batch, "float32", most=1 << 30, state=1000) == (2, 2.0)
    room = 0
    with pytest.raises(UserError, match="too small for one row at a time"):
        best_micro_batch(model, 64, make_batch, "float32", most=1 << 30)


def test_a_gpu_without_room_for_the_state_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: Any, **_options: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    model = BertPretrainingModel(TINY).to(GPU)
    monkeypatch.setattr(measure, "seconds_per_micro_batch", lambda *_arguments, **_options: 1.0)
    monkeypatch.setattr(torch, "empty", full)
    with pytest.raises(UserError, match="too small for one row at a time"):
        best_micro_batch(model, 8, lambda _count: None, "float32", most=1 << 30, state=1000)


def test_the_state_of_an_optimizer_is_what_it_keeps() -> None:
    model = BertPretrainingModel(TINY)
    for kind in ("adamw", "muon"):
        optimizer = make_optimizer(model, weight_decay=0.01, beta2=0.98, kind=kind, precision="float32")  # type: ignore[arg-type]
        sum_losses(model, make_batch(1)).losses.sum().backward()
        optimizer.step()
        moments = [t for state in optimizer.state.values() for t in state.values() if torch.is_tensor(t) and t.ndim]
        kept = sum(t.numel() * t.element_size() for t in [*moments, *(p.grad for p in model.parameters())])
        assert training_state(model, optimizer=kind) == kept
        optimizer.zero_grad()


@pytest.mark.parametrize("is_software", [True, False])
def test_bfloat16_in_software_is_not_tried_on_a_model(is_software: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rates = {"float32": 1.0, "bfloat16": 0.02 if is_software else 2.0}
    monkeypatch.setattr(measure, "product_rate", lambda _device, precision: rates[precision])
    halves = set()

    def losses(model: BertPretrainingModel, batch: Any) -> Any:
        halves.add(torch.is_autocast_enabled("cpu"))
        return sum_losses(model, batch)

    found = fastest(BertPretrainingModel(TINY), make_batch(1), losses)
    assert halves == ({False} if is_software else {False, True})
    assert found.precision == "float32" or not is_software


@pytest.mark.parametrize(
    ("gain", "times", "expected"),
    [
        (2.0, [3, 1], ("bfloat16", 1)),
        (2.0, [3, 9, 1, 2], ("bfloat16", 1)),
        (2.0, [3, 9, 8, 2], ("float32", 2)),
        (0.5, [3, 9], ("float32", 3)),
        (0.5, [9, 3, 4, 2], ("float32", 2)),
    ],
)
def test_a_precision_that_contradicts_its_products_is_looked_at_again(
    gain: float, times: list[float], expected: tuple[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program may have held up all passes of one of them. In order: float32, bfloat16, and both again."""
    left = iter(times)
    monkeypatch.setattr(measure, "half_gain", lambda _device: gain)
    monkeypatch.setattr(measure, "seconds_per_micro_batch", lambda *_: next(left))
    assert fastest(BertPretrainingModel(TINY), make_batch(1)) == expected
    assert not list(left)


@pytest.mark.parametrize(
    ("full", "gain", "expected"),
    [
        (1.0, 2.0, ["float32", "bfloat16"]),  # products alone decide
        (1.0, 1.2, ["float32"] * 2 + ["bfloat16"] * 4),  # they say little
        (0.4, 2.0, ["float32"] * 2 + ["bfloat16"] * 4),  # they are not all that takes time
    ],
)
def test_a_long_pass_in_float32_is_not_timed_twice(
    full: float, gain: float, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[tuple[int, str]] = []

    def seconds(_model: Any, _losses: Any, batch: Any, precision: str, _recorder: Any = None) -> float:
        timed.append((len(batch), precision))
        return full if precision == "float32" else 0.3

    monkeypatch.setattr(measure, "_time_pass", seconds)
    monkeypatch.setattr(measure, "half_gain", lambda _device: gain)
    found = measure.compare_precisions(BertPretrainingModel(TINY), make_batch, 64)
    assert found == (("bfloat16", 0.3), 1)
    assert timed == [(1, precision) for precision in expected]


def test_an_update_is_timed_once_for_each_kind_of_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    """And AdamW for a sample of the weights that it has."""
    timed: list[tuple[tuple[int, ...], torch.dtype]] = []
    monkeypatch.setattr(duration, "orthogonal", lambda matrix, products: timed.append((tuple(matrix.shape), products)))
    monkeypatch.setattr(duration, "_seconds", lambda work, _device: work() or 1.0)
    monkeypatch.setattr(duration, "ADAMW_SAMPLE", 100)
    model = BertPretrainingModel(TINY)
    matrices = [p for name, p in model.named_parameters() if ".blocks." in name and p.ndim == 2]
    numbers = sum(p.numel() for p in model.parameters())
    of_adamw = (numbers - sum(p.numel() for p in matrices)) / 100
    assert duration.update_seconds(model, "muon", "bfloat16") == pytest.approx(len(matrices) + of_adamw)
    kinds = {tuple(matrix.shape) for matrix in matrices}
    assert len(timed) == len(kinds) + 1
    assert {shape for shape, _ in timed} == kinds
    assert {products for _, products in timed} == {torch.bfloat16}
    assert duration.update_seconds(model, "adamw", "float32") == pytest.approx(numbers / 100)
    assert len(timed) == len(kinds) + 1


def test_a_cpu_takes_the_same_operations_every_time_compiled_or_not() -> None:
    code = """
import torch
from bertsmith.machine.device import set_determinism
from bertsmith.machine.compiling import compiled_losses
for kind in ("cpu", "cuda"):
    set_determinism(torch.device(kind))
    compiled_losses()
    print(torch.are_deterministic_algorithms_enabled(), torch._inductor.config.deterministic)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["True", "True", "False", "False"]


def test_the_look_at_bfloat16_waits_for_no_second_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def rate(*_: Any) -> float:
        asked.append(torch.get_num_threads())
        return 1.0

    monkeypatch.setattr(measure, "product_rate", rate)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        measure.has_fast_half(torch.device("cpu"))
        assert (asked, torch.get_num_threads()) == ([1, 1], 2)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("minutes", "gain", "expected"), [(14, 0.5, None), (16, 0.5, True), (16, 0.1, False)])
def test_compiling_is_looked_at_where_it_can_pay(
    minutes: int, gain: float, expected: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []
    monkeypatch.setattr(compiling, "has_compiler", lambda _device: True)
    monkeypatch.setattr(compiling, "compiled_losses", lambda: sum_losses)
    monkeypatch.setattr(compiling, "seconds_per_micro_batch", lambda *_: tried.append(1) or 1.0 - gain)
    good = worth_compiling(BertPretrainingModel(TINY), make_batch(1), "float32", micro_batches=60 * minutes, plain=1.0)
    assert good == bool(expected)
    assert bool(tried) == (expected is not None)


def test_averaged_weights_take_memory_where_there_are_any(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is counted is written instead of a micro-batch that fits beside it."""
    counted: list[int] = []

    def count(model: torch.nn.Module, *_: Any, state: int, **_options: Any) -> int:
        counted.append(state - training_state(model, optimizer="muon"))
        return 1 << 20

    monkeypatch.setattr("bertsmith.planning.measuring.rows_that_fit", count)
    for number, decay in enumerate((0.0, 0.9)):
        train(tmp_path / str(number), text, average_decay=decay, plan_only=True)
    assert counted[0] == 0 < counted[1]
