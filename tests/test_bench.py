"""The work of a step is counted as PyTorch counts it, and `bertsmith bench` reports what it measured."""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.utils.flop_counter import FlopCounterMode

from bertsmith.bench import describe_bench, made_up_batch, run_bench
from bertsmith.errors import UserError
from bertsmith.machine import work
from bertsmith.machine.compiling import keep_instruction_sets_apart
from bertsmith.machine.kinds import kind_of, kinds_of_work, spent_time
from bertsmith.model import BertConfig, BertPretrainingModel
from bertsmith.objective import sum_losses
from bertsmith.run_folder import read_run

from runs import TINY, train


@pytest.fixture(autouse=True)
def small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rates of the machine are not looked at here, and take seconds to measure."""
    monkeypatch.setattr(work, "CPU_SHAPES", ((64, 64, 64),))
    monkeypatch.setattr("bertsmith.bench.copy_rate", lambda _device: 1e9)


def test_operations_are_those_that_pytorch_counts() -> None:
    config = BertConfig(
        vocab_size=1000, hidden_size=64, num_hidden_layers=3, num_attention_heads=2, intermediate_size=192
    )
    batch = made_up_batch(config, rows=2)
    model = BertPretrainingModel(config, next_sentence=False)
    with FlopCounterMode(display=False) as counter:
        sum_losses(model, batch).losses.sum().backward()
    expected = work.step_operations(config, tokens=1024, row_length=512, predictions=len(batch.masked_index))
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.01)


def test_a_made_up_batch_is_a_batch() -> None:
    batch = made_up_batch(BertConfig(vocab_size=50, max_position_embeddings=20), rows=3)
    assert len(batch) == 3
    assert torch.equal(batch.labels, batch.input_ids[batch.masked_index])
    assert len(batch.masked_index.unique()) == 9
    assert batch.cu_seqlens.tolist() == [0, 20, 40, 60]


@pytest.mark.parametrize("preset", ["bert-tiny", "modern-tiny"])
def test_the_numbers_agree_with_each_other(preset: str) -> None:
    given = {"preset": preset, "global_batch_size": 2, "sequence_length": 16, "precision": "float32"}
    facts = run_bench({**given, "compile": "no", "threads": 1, "device": "cpu", "hidden_dropout_prob": 0.1})
    eager = facts["ways"]["eager"]
    assert set(facts["ways"]) == {"eager"}
    assert eager["tokens_per_second"] * eager["seconds"] == pytest.approx(32)
    share = facts["operations"] / eager["seconds"] / facts["matrix_rate"]["float32"]
    assert eager["peak_share"] == pytest.approx(share)
    assert sum(eager["kinds"].values()) == pytest.approx(1)
    assert facts["text_seconds"] == pytest.approx(50e6 / eager["tokens_per_second"])
    assert any("tokens/s" in line for line in describe_bench(facts))


def test_a_run_is_measured_as_it_is(text: Path, tmp_path: Path) -> None:
    """Its shape, length and rows, unless a flag says otherwise."""
    run = train(tmp_path / "run", text, steps=1, optimizer="adamw").parent
    training = read_run(run).config.training
    given = {"compile": "no", "threads": 1, "device": "cpu"}
    facts = run_bench(given, run)
    expected = (TINY["sequence_length"], TINY["global_batch_size"], "adamw", training.precision)
    assert (facts["row_length"], facts["rows"], facts["optimizer"], facts["precision"]) == expected
    assert facts["preset"] == "bert-tiny"
    assert facts["parameters"] < 200_000
    other = run_bench({**given, "preset": "bert-tiny", "global_batch_size": 2}, run)
    assert other["rows"] == 2
    assert other["parameters"] > 400_000


def test_time_is_put_down_to_the_right_kind() -> None:
    big, small = torch.ones(400, 400), torch.ones(4)
    assert next(iter(kinds_of_work(lambda: [big @ big for _ in range(5)], torch.device("cpu")))) == "matrix products"
    assert next(iter(kinds_of_work(lambda: [small.clone() for _ in range(50)], torch.device("cpu")))) != "attention"


def test_on_a_gpu_the_time_of_kernels_counts_once() -> None:
    """The profiler names it again at the operation that called the kernel, and at ranges around it."""
    operation = SimpleNamespace(device_type=DeviceType.CPU, self_device_time_total=5.0, self_cpu_time_total=1.0)
    kernel = SimpleNamespace(device_type=DeviceType.CUDA, self_device_time_total=5.0, self_cpu_time_total=0.0)
    around = SimpleNamespace(device_type=DeviceType.CUDA, self_device_time_total=5.0, is_user_annotation=True)
    assert [spent_time(event, "cuda") for event in (operation, kernel, around)] == [0.0, 5.0, 0.0]
    assert spent_time(operation, "cpu") == 1.0


def test_a_step_that_does_not_fit_at_once_is_measured_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bertsmith.bench.rows_that_fit", lambda *_, **__: 2)
    given = {"preset": "bert-tiny", "global_batch_size": 8, "sequence_length": 16, "precision": "float32"}
    facts = run_bench({**given, "compile": "no", "threads": 1, "device": "cpu"})
    assert (facts["rows"], facts["micro_batch_size"]) in {(8, 2), (8, 1)}
    assert facts["ways"]["eager"]["tokens_per_second"] * facts["ways"]["eager"]["seconds"] == pytest.approx(128)
    assert any(
        f"8 rows x 16 places, {facts['micro_batch_size']} rows at once" in line for line in describe_bench(facts)
    )


def test_rows_that_do_not_divide_are_all_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bertsmith.bench.rows_that_fit", lambda *_, **__: 5)
    computed: list[int] = []
    monkeypatch.setattr(
        "bertsmith.bench.Update.run", lambda update, *_: computed.append(sum(map(len, update.micro_batches)))
    )
    given = {"preset": "bert-tiny", "global_batch_size": 7, "sequence_length": 16, "precision": "float32"}
    facts = run_bench({**given, "compile": "no", "threads": 1, "device": "cpu"})
    assert (facts["rows"], facts["micro_batch_size"], set(computed)) == (7, 4, {7})


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("void pytorch_flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel<Flash_bwd_kernel_traits<64", "attention"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_bprop_wgmma_f16_knob_26_64x64x64", "attention"),
        ("void cudnn::fusion::compute_dot_do_o_specialized<true, 64>(void const*", "attention"),
        ("nvjet_sm90_tst_192x192_64x3_2x1_v_bz_coopB_splitK_NTN", "matrix products"),
        ("void at::native::(anonymous namespace)::GammaBetaBackwardCUDAKernelTemplate<float", "LayerNorm"),
        ("triton_per_fused__to_copy_add_native_layer_norm_backward_17", "LayerNorm"),
        ("void at::native::vectorized_elementwise_kernel<8, at::native::GeluBackwardCUDAKernelImpl", "GELU"),
        ("void at::native::(anonymous namespace)::multi_tensor_apply_kernel<at::native::Fused", "optimizer"),
        ("void at::native::vectorized_elementwise_kernel<8, at::native::bfloat16_copy_kernel_cuda", "copies and casts"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>", "element by element"),
        ("triton_poi_fused_stack_18", "fused by the compiler"),
    ],
)
def test_the_kernels_of_an_h100_are_of_a_kind(kernel: str, kind: str) -> None:
    assert kind_of(kernel) == kind


@pytest.mark.parametrize("there", [False, True])
def test_a_compiler_that_is_missing_or_fails_is_said(there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no headers")

    monkeypatch.setattr("bertsmith.bench.has_compiler", lambda _device: there)
    monkeypatch.setattr("bertsmith.bench.compiled_losses", lambda: fail)
    monkeypatch.setattr("bertsmith.bench.kinds_of_work", lambda *_: {})
    given = {"preset": "bert-tiny", "global_batch_size": 1, "sequence_length": 16, "precision": "float32"}
    given |= {"threads": 1, "device": "cpu"}
    problem = "the compiler failed: no headers; put it right" if there else "no C++ compiler was found; install g++"
    assert f"compiled: not measured, {problem}" in describe_bench(run_bench(given))
    with pytest.raises(UserError, match=re.escape(f"compile is 'yes', but {problem} or give --compile no")):
        run_bench({**given, "compile": "yes"})


@pytest.mark.slow
def test_the_command_prints_it() -> None:
    command = [sys.executable, "-m", "bertsmith", "bench", "--preset", "bert-tiny", "--compile", "no"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "of the matrix rate" in result.stdout


def test_compiled_code_is_kept_apart_by_instruction_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """PyTorch's cache gives code for AVX512 to a process that is told to use AVX2, and memory is corrupted."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    for _ in range(2):
        keep_instruction_sets_apart()
        assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / torch.backends.cpu.get_cpu_capability())
