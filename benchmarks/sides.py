"""One side of a training benchmark, in a process of its own: Bertsmith, or the Trainer of transformers.

    python benchmarks/sides.py bertsmith '{"layers": 4, ...}'

Both train the same BERT (masked words alone) on the same token ids with AdamW,
full rows without padding. Prints one line of JSON: seconds of each step after the
warm-up, and the peak of memory beyond weights, gradients and optimizer state.
"""

import json
import math
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bertsmith.machine.device import set_determinism
from bertsmith.machine.measure import has_fast_half

WARM_UP = {"cpu": 2, "cuda": 3}
"""A GPU does the first step as it is, records the second, and replays the third."""
GPU_LOADER_WORKERS, TRAINER_GPU_WORKERS = 2, 8
"""Processes that make the batches for a GPU; on a CPU they would only take its time. The Trainer's collator takes lists
of numbers, so that it needs more of them."""


def fast_precision(device: str = "cpu") -> str:
    """Bfloat16, or float32 where that is software."""
    return "bfloat16" if has_fast_half(torch.device(device)) else "float32"


def process_memory(kind: str) -> int:
    """Resident memory of this process in bytes: now ("VmRSS"), or at most since the clock was made ("VmHWM")."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split(f"{kind}:")[1].split()[0]) * 1024


class Clock:
    """Times of the steps, and the memory they take beyond the state of the training."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: list[float] = []
        self.before = 0
        if device.type == "cpu":
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
            self.before = process_memory("VmRSS")  # libraries, data and the model's weights
        self.last = time.perf_counter()

    def tick(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.seconds.append(now - self.last)
        self.last = time.perf_counter()

    def report(self, parameters: int, loss: float) -> None:
        state = 3 * 4 * parameters  # gradients and two moments; the weights are counted in `before`
        if self.device.type == "cuda":
            memory = torch.cuda.max_memory_allocated() - state - 4 * parameters
        else:
            memory = process_memory("VmHWM") - self.before - state
        print(
            json.dumps({"seconds": self.seconds[WARM_UP[self.device.type] :], "memory": memory, "loss": loss}),
            flush=True,
        )


def bertsmith_side(case: dict[str, Any]) -> None:
    """Bertsmith as `pretrain` runs it, with its own rows."""
    from bertsmith.data.batch import collate
    from bertsmith.data.examples import open_rows
    from bertsmith.loading import Batches
    from bertsmith.machine.compiling import compiled_losses
    from bertsmith.model import BertConfig, BertPretrainingModel
    from bertsmith.objective import sum_losses
    from bertsmith.optim import make_optimizer, set_learning_rate
    from bertsmith.recorder import recorder_on
    from bertsmith.step import train_step

    device = torch.device(case["device"])
    set_determinism(device)
    rows = open_rows(Path(case["data"]), sequence_length=case["length"], objective="mlm", short_sequence_probability=0)
    torch.manual_seed(0)
    model = BertPretrainingModel(
        BertConfig(**case["shape"], hidden_dropout_prob=case["dropout"], attention_probs_dropout_prob=case["dropout"]),
        next_sentence=False,
    ).to(device)
    optimizer = make_optimizer(
        model, weight_decay=0.01, beta2=0.98, kind=case.get("optimizer", "adamw"), precision=case["precision"]
    )
    set_learning_rate(optimizer, 1e-4)
    losses = compiled_losses() if case["compile"] else sum_losses
    recorder = recorder_on(device, model.parameters())
    clock, size, steps = Clock(device), case["micro_batch"], WARM_UP[case["device"]] + case["steps"]
    loader = torch.utils.data.DataLoader(
        rows,  # type: ignore[arg-type]  # any object with len() and [] will do
        batch_sampler=[list(range(s, s + size)) for s in range(0, steps * case["rows"], size)],
        collate_fn=collate,
        num_workers=GPU_LOADER_WORKERS if device.type == "cuda" else 0,
    )
    batches, count = Batches(iter(loader), device), case["rows"] // size
    for step in range(steps):
        micro, _ = batches.take(count)
        key = (0, step) if case["dropout"] else None
        result = train_step(
            model,
            losses,
            micro,
            optimizer,
            max_grad_norm=1.0,
            precision=case["precision"],
            dropout_key=key,
            recorder=recorder,
            meanwhile=partial(batches.fetch, count) if device.type == "cuda" else None,
        )
        clock.tick()
    clock.report(sum(p.numel() for p in model.parameters()), result.measured.loss)


def trainer_side(case: dict[str, Any]) -> None:
    """The Trainer of transformers, as run_mlm.py sets it up: blocks of ids, masks made by its collator."""
    import transformers
    from transformers import (
        AutoTokenizer,
        BertConfig,
        BertForMaskedLM,
        DataCollatorForLanguageModeling,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    from bertsmith.data.shards import open_shards

    transformers.logging.set_verbosity_error()
    length, folder = case["length"], Path(case["data"])
    shards = open_shards(folder / "data", "train")
    blocks = shards.num_tokens // length

    class Blocks(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return blocks

        def __getitem__(self, number: int) -> dict[str, Any]:
            places = torch.arange(number * length, (number + 1) * length).numpy()
            return {"input_ids": shards.take(places).tolist()}

    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    torch.manual_seed(0)
    shape = case["shape"] | {"max_position_embeddings": length}
    dropout = {"hidden_dropout_prob": case["dropout"], "attention_probs_dropout_prob": case["dropout"]}
    config = BertConfig(**shape, **dropout, attn_implementation=case["attention"])
    model = BertForMaskedLM(config)
    holder: list[Clock] = []

    class Timer(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            holder.append(Clock(torch.device(case["device"])))

        def on_step_end(self, *_: Any, **__: Any) -> None:
            holder[0].tick()

    arguments = TrainingArguments(
        output_dir="unused",
        per_device_train_batch_size=case["micro_batch"],
        gradient_accumulation_steps=case["rows"] // case["micro_batch"],
        max_steps=WARM_UP[case["device"]] + case["steps"],
        bf16=case["precision"] == "bfloat16",
        torch_compile=case["compile"],
        optim=case["optim"],
        use_cpu=case["device"] == "cpu",
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=case["device"] != "cpu",
        dataloader_num_workers=TRAINER_GPU_WORKERS if case["device"] == "cuda" else 0,
        seed=0,
    )
    collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)
    trainer = Trainer(model, arguments, train_dataset=Blocks(), data_collator=collator, callbacks=[Timer()])
    loss = trainer.train().training_loss
    holder[0].report(sum(p.numel() for p in model.parameters()), loss if math.isfinite(loss) else -1.0)


def main() -> None:
    side, case = sys.argv[1], json.loads(sys.argv[2])
    torch.set_num_threads(case["threads"])
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # the Trainer would divide its rows between all cards
    {"bertsmith": bertsmith_side, "trainer": trainer_side}[side](case)


if __name__ == "__main__":
    main()
