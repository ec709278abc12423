"""What this machine can do, and what a training step makes of it: `bertsmith bench`.

Measures the matrix and copy rates, then the step of a preset or a run on made-up rows, eager and
compiled, and where its time goes. Nothing is written.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from bertsmith.config import flat
from bertsmith.data.batch import Batch
from bertsmith.data.shards import read_manifest
from bertsmith.errors import UserError, first_line
from bertsmith.machine.compiling import compiled_losses, has_compiler
from bertsmith.machine.device import find_device, require_memory, set_threads
from bertsmith.machine.kinds import kinds_of_work
from bertsmith.machine.measure import best_micro_batch, compare_precisions
from bertsmith.machine.memory import activation_bytes, rows_that_fit, training_state
from bertsmith.machine.work import copy_rate, joules_of, matrix_rate, seconds_of, step_operations
from bertsmith.model import AnyConfig, AnyPretrainingModel, has_dropout, new_config, new_model
from bertsmith.model.first_weights import without_weights
from bertsmith.objective import sum_losses
from bertsmith.optim import make_optimizer, set_learning_rate
from bertsmith.output_folder import CONFIG
from bertsmith.planning.decisions import TOKEN_GOAL
from bertsmith.presets import PRESETS, SHAPE
from bertsmith.recorder import recorder_on
from bertsmith.reporter import duration
from bertsmith.run_folder import read_run
from bertsmith.step import StepTooLarge, SumLosses, train_step

VOCAB_SIZE = 30522
"""That of the 2018 models, when no prepared text says another."""

STEPS = 5

OF_STEPS = (
    "preset", *SHAPE, "hidden_dropout_prob", "attention_probs_dropout_prob",
    "sequence_length", "global_batch_size", "optimizer", "precision",
)  # fmt: skip
"""Settings that say how long the steps of a run take."""


def run_bench(given: Mapping[str, Any], prepared: Path | None = None) -> dict[str, Any]:
    """Measure the machine and a training step on it.

    Args:
        given: Settings by name, as for `pretrain`; what is not there is that of the run, of the preset, or measured.
        prepared: A run, or what `bertsmith prepare` wrote: its vocabulary is used and the time of its text estimated.

    Returns:
        What `describe_bench` shows, as plain JSON values; rates are per second, memory in bytes.

    Raises:
        UserError: A setting is not usable, or the folder is not prepared.
    """
    device = find_device(given.get("device", "auto"))
    threads = set_threads(given.get("threads"))
    manifest = read_manifest(prepared / "data") if prepared is not None else None
    of_run = settings_of_run(prepared) if prepared is not None else {}
    if "preset" in given:
        of_run = {name: value for name, value in of_run.items() if name not in SHAPE}
    given = of_run | dict(given)
    preset = PRESETS[given.get("preset", "bert-mini")]
    config = new_config(
        preset.model_type,
        special_ids={"pad_token_id": 0},
        max_position_embeddings=given.get("sequence_length", 128),
        hidden_dropout_prob=given.get("hidden_dropout_prob", 0.0),
        attention_probs_dropout_prob=given.get("attention_probs_dropout_prob", 0.0),
        vocab_size=manifest["vocab_size"] if manifest else VOCAB_SIZE,
        **preset.shape() | {name: given[name] for name in SHAPE if name in given},
    )
    with without_weights():
        parameters = sum(p.numel() for p in new_model(config, next_sentence=False).parameters())
    require_memory(parameters, device)
    model = new_model(config, next_sentence=preset.has_next_sentence_head).to(device)
    rows = given.get("global_batch_size", preset.global_batch_size)

    def make_batch(count: int) -> Batch:
        return made_up_batch(config, count).to(device)

    precision = given.get("precision", "auto")
    optimizer = given.get("optimizer", "muon")
    state = training_state(model, optimizer=optimizer)
    most = rows_that_fit(model, make_batch, precision, state=state)
    if precision == "auto":
        precision = compare_precisions(model, make_batch, min(rows, most))[0].precision
    size = best_micro_batch(model, rows, make_batch, precision, most=most, state=state).rows
    micro_batches = [make_batch(min(size, rows - first)) for first in range(0, rows, size)]
    batch = micro_batches[0]
    rates = {kind: matrix_rate(device, kind) for kind in ("bfloat16", "float32")}
    work = sum(
        step_operations(config, tokens=len(b.input_ids), row_length=b.row_length, predictions=len(b.masked_index))
        for b in micro_batches
    )
    facts: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else device.type,
        "threads": threads,
        "torch": torch.__version__,
        "matrix_rate": rates,
        "copy_rate": copy_rate(device),
        "preset": given.get("preset", "bert-mini"),
        "parameters": parameters,
        "rows": rows,
        "micro_batch_size": size,
        "row_length": batch.row_length,
        "precision": precision,
        "optimizer": optimizer,
        "operations": work,
        "state_memory": state + 4 * parameters,
        "activation_memory": activation_bytes(model, batch, precision),
    }
    update = Update(model, micro_batches, optimizer=optimizer, precision=precision)
    facts["ways"] = {
        way: _measure(step, device, rows * batch.row_length, work / rates[precision])
        for way, step in _ways(update, given.get("compile", "auto"), device)
    }
    facts["not_compiled"] = update.problem
    tokens = manifest["splits"]["train"]["tokens"] if manifest else int(TOKEN_GOAL)
    best = max(way["tokens_per_second"] for way in facts["ways"].values())
    facts |= {"text": str(prepared) if prepared else None, "text_tokens": tokens, "text_seconds": tokens / best}
    return facts | {"joules": joules_of(update.run, device)}


def settings_of_run(folder: Path) -> dict[str, Any]:
    """What of a run's settings says how long its steps take, by name; nothing of a text that was prepared alone."""
    if not (folder / CONFIG).exists():
        return {}
    values = flat(read_run(folder).config)
    return {name: values[name] for name in OF_STEPS if values[name] is not None}


class Update:
    """A training step on the same micro-batches, again and again."""

    def __init__(
        self,
        model: AnyPretrainingModel,
        micro_batches: list[Batch],
        *,
        optimizer: Any,
        precision: str,
        records: bool = True,
    ) -> None:
        self.model = model
        self.micro_batches = micro_batches
        self.precision = precision
        self.optimizer = make_optimizer(model, weight_decay=0.01, beta2=0.98, kind=optimizer, precision=precision)
        self.compiled: SumLosses | None = None
        self.problem: str | None = None
        """Why it cannot be compiled, and what to do."""
        self.has_dropout = has_dropout(model.config)
        device = micro_batches[0].input_ids.device
        self.recorder = recorder_on(device, model.parameters()) if records else None
        self.recorded: SumLosses | None = None
        set_learning_rate(self.optimizer, 1e-4)

    def run(self, losses: SumLosses = sum_losses) -> None:
        """Do one step."""
        if self.recorder is not None and losses is not self.recorded:
            self.recorder.forget()  # a GPU has no room for both ways
            self.recorded = losses
        try:
            train_step(
                self.model,
                losses,
                self.micro_batches,
                self.optimizer,
                max_grad_norm=1.0,
                precision=self.precision,
                dropout_key=(0, 0) if self.has_dropout else None,
                recorder=self.recorder,
            )
        except StepTooLarge:
            raise UserError(
                f"the memory of the GPU is too small for {len(self.micro_batches[0])} rows at once; give a smaller "
                "--global-batch-size or --preset"
            ) from None

    def run_compiled(self) -> None:
        """Do one step, compiled the first time."""
        self.compiled = self.compiled or compiled_losses()
        self.run(self.compiled)


def made_up_batch(config: AnyConfig, rows: int) -> Batch:
    """Full rows of random ids, one sequence each, 15 % of the places predicted."""
    generator = torch.Generator().manual_seed(0)
    length = config.max_position_embeddings
    predictions = round(0.15 * length)
    ids = torch.randint(5, config.vocab_size, (rows * length,), generator=generator)
    places = torch.rand(rows, length, generator=generator).argsort(1)[:, :predictions].sort(1).values
    index = (places + torch.arange(rows)[:, None] * length).flatten()
    types = (torch.arange(length) >= length // 2).long().repeat(rows)
    starts = torch.arange(rows + 1, dtype=torch.int32) * length
    next_sentence = torch.arange(rows) % 2
    positions = torch.arange(length).repeat(rows)
    return Batch(ids, types, positions, starts, index, ids[index], next_sentence, length, rows * length)


def _ways(update: Update, compile_setting: str, device: torch.device) -> Iterator[tuple[str, Callable[[], None]]]:
    """How a step is computed: as it is, compiled, or both to compare.

    Raises:
        UserError: It shall be compiled, and there is no compiler, or one that fails.
    """
    if compile_setting != "yes":
        yield "eager", update.run
    if compile_setting == "no":
        return
    problem = None if has_compiler(device) else "no C++ compiler was found; install g++"
    if problem is None:
        try:
            update.run_compiled()
        except (UserError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # of many kinds
            problem = f"the compiler failed: {first_line(error)}; put it right"
    update.problem = problem
    if problem is None:
        yield "compiled", update.run_compiled
    elif compile_setting == "yes":
        raise UserError(f"compile is 'yes', but {problem} or give --compile no")


def _measure(step: Callable[[], None], device: torch.device, tokens: int, least: float) -> dict[str, Any]:
    """Time a step and look where its time goes. `least` is the time of its matrix products at the full rate."""
    seconds = seconds_of(step, device, repeats=STEPS)
    return {
        "tokens_per_second": tokens / seconds,
        "seconds": seconds,
        "peak_share": least / seconds,
        "kinds": kinds_of_work(step, device),
    }


def describe_bench(facts: Mapping[str, Any]) -> list[str]:
    """The measurements for a person."""
    rates = facts["matrix_rate"]
    lines = [
        f"machine: {facts['device']}, {facts['threads']} threads, torch {facts['torch']}; matrix products "
        f"{rates['bfloat16'] / 1e12:.2f} TFLOP/s in bfloat16 and {rates['float32'] / 1e12:.2f} in float32; "
        f"{facts['copy_rate'] / 1e9:.0f} GB/s copied",
        f"step: {facts['preset']}, {facts['parameters'] / 1e6:.1f} M parameters, {facts['rows']} rows x "
        f"{facts['row_length']} places, {facts['micro_batch_size']} rows at once, {facts['precision']}, "
        f"{facts['optimizer']}: {facts['operations'] / 1e12:.2f} TFLOP in matrix products",
        f"memory: {facts['state_memory'] / 1e9:.2f} GB weights, gradients and moments, "
        f"{facts['activation_memory'] / 1e9:.2f} GB activations",
    ]
    for way, measured in facts["ways"].items():
        kinds = ", ".join(f"{kind} {part:.0%}" for kind, part in measured["kinds"].items() if part >= 0.005)
        lines += [
            f"{way}: {measured['tokens_per_second']:,.0f} tokens/s, {measured['seconds'] * 1e3:,.0f} ms a step, "
            f"{measured['peak_share']:.0%} of the matrix rate",
            f"  {kinds}",
        ]
    if facts["not_compiled"]:
        lines.append(f"compiled: not measured, {facts['not_compiled']}")
    what = f"an epoch of {facts['text']}" if facts["text"] else "the length of a default run"
    about = duration(facts["text_seconds"])
    lines.append(f"{facts['text_tokens'] / 1e6:,.1f} M tokens, {what}: about {about} at the faster of these")
    if facts["joules"] is not None:
        lines.append(f"energy: {facts['joules']:,.1f} J a step, as the machine reports it")
    return lines
