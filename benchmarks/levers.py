"""What each choice inside the training step is worth on this machine: one taken back at a time.

    python benchmarks/levers.py [--preset bert-mini] [--length 128] [--rounds 5]

The full step (bfloat16, or float32 where that is software; compiled, vocabulary and last block at the masked
tokens alone, gradient of the loss made with the loss, explicit softmax attention on a CPU, no dropout) is timed
against the same step without one of these, alternately, in one process.
"""

import argparse
from collections.abc import Callable
from statistics import median
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from sides import fast_precision
from torch import Tensor, nn

from bertsmith import objective
from bertsmith.bench import made_up_batch
from bertsmith.data.batch import Batch
from bertsmith.data.rows import IGNORE_INDEX
from bertsmith.machine.compiling import compiled_losses
from bertsmith.machine.device import set_determinism
from bertsmith.machine.work import seconds_of
from bertsmith.model import BertConfig, BertPretrainingModel, Packed, attention, dropout
from bertsmith.objective import sum_losses
from bertsmith.optim import make_optimizer, set_learning_rate
from bertsmith.presets import PRESETS
from bertsmith.step import train_step


def scored_everywhere(model: nn.Module, batch: Batch) -> objective.Sums:
    """The losses with the vocabulary scored at every place, as most trainers do."""
    packed = Packed(batch.cu_seqlens, batch.row_length, batch.row_length)
    output = model(batch.input_ids, token_type_ids=batch.token_type_ids, position_ids=batch.position_ids, packed=packed)
    labels = torch.full_like(batch.input_ids, IGNORE_INDEX).index_put((batch.masked_index,), batch.labels)
    terms = [objective._sum_term(output.mlm_logits, labels)]
    terms.append(objective._sum_term(output.nsp_logits, batch.next_sentence_label))
    return objective.Sums(torch.stack([loss for loss, _ in terms]), torch.stack([hit for _, hit in terms]))


def whole_last_block(model: nn.Module, batch: Batch) -> objective.Sums:
    """The losses, with the last block computed at every place and not at the masked ones alone."""

    def at_flat_places(*inputs: Tensor, masked_index: Tensor, **more: Any) -> Any:
        return model(*inputs, masked_index=masked_index.flatten(), **more)

    return sum_losses(at_flat_places, batch)  # type: ignore[arg-type]


def plain_cross_entropy(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """PyTorch's cross-entropy in float32, and the hits by argmax."""
    loss = F.cross_entropy(logits.float(), labels, ignore_index=IGNORE_INDEX, reduction="sum")
    return loss, (logits.detach().argmax(-1) == labels).sum().float()


def fused_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout_p: float) -> Tensor:
    """PyTorch's fused kernel, whatever the length."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout_p)


def pytorch_dropout(values: Tensor, chance: float, *, source: Tensor | None = None) -> Tensor:  # noqa: ARG001
    """PyTorch's dropout, with a number from its generator for each element."""
    return F.dropout(values, chance)


def step_of(
    shape: dict[str, int], rows: int, *, dropout: float = 0.0, precision: str | None = None, kind: str = "adamw"
) -> Callable[..., None]:
    """A training step on one batch, in the faster precision unless one is named."""
    precision = precision or fast_precision()
    config = BertConfig(**shape, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
    torch.manual_seed(0)
    model = BertPretrainingModel(config)
    recipe: Any = {"weight_decay": 0.01, "beta2": 0.98, "kind": kind}
    optimizer = make_optimizer(model, **recipe, precision=precision)
    set_learning_rate(optimizer, 1e-4)
    batch = made_up_batch(config, rows)
    key = (0, 0) if dropout else None

    def run(losses: objective.Sums) -> None:
        train_step(model, losses, [batch], optimizer, max_grad_norm=1.0, precision=precision, dropout_key=key)  # type: ignore[arg-type]

    return run


def instead(
    step: Callable[..., None], module: ModuleType, name: str, other: object, *, also: ModuleType | None = None
) -> Callable[[], None]:
    """The step compiled with another function in the place of ours, which must stay there: the compiler looks."""
    compiled = torch.compile(lambda model, batch: sum_losses(model, batch), dynamic=False)

    def run() -> None:
        with patch.object(module, name, other), patch.object(also or module, name, other):
            step(compiled)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="bert-mini")
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    preset, rows = PRESETS[options.preset], max(1, 2048 // options.length)
    shape = {
        "vocab_size": options.vocab_size,
        "hidden_size": preset.hidden_size,
        "num_hidden_layers": preset.num_hidden_layers,
        "num_attention_heads": preset.hidden_size // 64,
        "intermediate_size": 4 * preset.hidden_size,
        "max_position_embeddings": options.length,
    }
    cpu = torch.device("cpu")
    set_determinism(cpu)
    full = step_of(shape, rows)
    compiled = compiled_losses()
    full(compiled)
    everywhere, whole = (torch.compile(losses, dynamic=False) for losses in (scored_everywhere, whole_last_block))
    with_dropout, in_float32, muon = (
        step_of(shape, rows, dropout=0.1),
        step_of(shape, rows, precision="float32"),
        step_of(shape, rows, kind="muon"),
    )
    ways: dict[str, Callable[[], None]] = {
        "all of it": lambda: full(compiled),
        "not compiled": lambda: full(sum_losses),
        "vocabulary scored everywhere": lambda: full(everywhere),
        "the last block everywhere": lambda: full(whole),
        "PyTorch's cross-entropy": instead(full, objective, "_sum_term", plain_cross_entropy),
        "PyTorch's fused attention": instead(full, attention, "_attend_rows", fused_attention),
        "dropout 0.1": lambda: with_dropout(compiled),
        "dropout 0.1, PyTorch's": instead(with_dropout, dropout, "dropout", pytorch_dropout, also=attention),
        "float32": lambda: in_float32(compiled),
        "Muon instead of AdamW": lambda: muon(compiled),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, way in ways.items():
            times[name].append(seconds_of(way, cpu, repeats=3))
    print(
        f"{options.preset}, {rows} x {options.length} tokens, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}"
    )
    for name, seconds in times.items():
        ratios = [one / other for one, other in zip(seconds, times["all of it"], strict=True)]
        speed = rows * options.length / median(seconds)
        print(
            f"{name:30} {speed:8,.0f} tokens/s   time x {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
