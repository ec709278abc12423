"""How much of the Trainer's time Bertsmith's modern recipe needs for the Trainer's final held-out loss.

    python benchmarks/time_to_loss.py PREPARED [--seconds 1800] [--rates 5e-4 1e-3 2e-3] [--rows 32 64]
        [--baseline-preset bert-mini] [--screen 300 --finalists 1] [--shares 0.05 0.1 0.2 0.4 1] [--seeds 0] [-o FOLDER]

PREPARED is what `bertsmith prepare` wrote: both sides learn from the same token ids and
are measured on the same held-out rows and masks. The Trainer trains `BertForMaskedLM` at
its fastest flags on a CPU (fused AdamW; compiled in bfloat16, or float32 where that is software; on a GPU,
where others were not compared, compiled only where it has five minutes), for each rate and batch as many steps
as the time allows, the rate falling to 0; the best of these is the baseline. With `--screen`
all are given so many seconds first, and only the best `--finalists` of them the whole time. Bertsmith is
given a twentieth, a tenth, ... of that time as `--budget`, until it reaches the baseline's
loss, for each seed. Clocks run from the start of the process, compiling included; the last measurement
and the writing of the model are not counted on either side. Each part that is done is kept in
the output folder and not done again.
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from sides import TRAINER_GPU_WORKERS, fast_precision

PROBE_STEPS = 12
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SECONDS_WORTH_COMPILING = 300.0
"""On a GPU, where a compilation takes half a minute."""


def train_baseline(case: dict[str, Any]) -> None:
    """The Trainer for a number of seconds; leaves a folder that our own code reads. Run in its own process."""
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
    from bertsmith.presets import PRESETS

    started = time.monotonic()
    half = fast_precision(DEVICE) == "bfloat16"  # without it compiling is no gain, either
    compiled = half and (DEVICE == "cpu" or case["seconds"] >= SECONDS_WORTH_COMPILING)
    transformers.logging.set_verbosity_error()
    folder, length = Path(case["data"]), 128
    shards = open_shards(folder / "data", "train")
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")

    class Blocks(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return shards.num_tokens // (length - 2)

        def __getitem__(self, number: int) -> dict[str, Any]:
            places = torch.arange(number * (length - 2), (number + 1) * (length - 2)).numpy()
            return {"input_ids": [tokenizer.cls_token_id, *shards.take(places).tolist(), tokenizer.sep_token_id]}

    def trainer(steps: int, *callbacks: TrainerCallback) -> Trainer:
        shape = PRESETS[case["preset"]].shape()
        torch.manual_seed(0)
        model = BertForMaskedLM(
            BertConfig(
                vocab_size=len(tokenizer),
                max_position_embeddings=length,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
                **shape,
            )
        )
        arguments = TrainingArguments(
            output_dir=case["out"],
            per_device_train_batch_size=case["rows"],
            max_steps=steps,
            learning_rate=case["rate"],
            lr_scheduler_type="linear",
            warmup_steps=round(0.06 * steps),
            weight_decay=0.01,
            bf16=half,
            torch_compile=compiled,
            optim="adamw_torch_fused",
            use_cpu=DEVICE == "cpu",
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            dataloader_pin_memory=DEVICE == "cuda",
            dataloader_num_workers=TRAINER_GPU_WORKERS if DEVICE == "cuda" else 0,
            seed=0,
        )
        collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)
        return Trainer(model, arguments, train_dataset=Blocks(), data_collator=collator, callbacks=list(callbacks))

    class Clock(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.times: list[float] = []

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.times.append(time.monotonic())

    probe = Clock()
    trainer(PROBE_STEPS, probe).train()  # its compiled code serves the real run too
    each = (probe.times[-1] - probe.times[PROBE_STEPS // 2]) / (PROBE_STEPS - 1 - PROBE_STEPS // 2)
    # the probe is no part of a user's run, but its compilation is: count that once
    compiling = probe.times[0] - started
    steps = max(1, int((case["seconds"] - compiling) / each))
    began = time.monotonic()
    run = trainer(steps)
    run.train()
    seconds = compiling + time.monotonic() - began
    run.model.save_pretrained(case["out"])
    tokenizer.save_pretrained(case["out"])
    done = {"steps": steps, "seconds": seconds, "tokens": steps * case["rows"] * length}
    (Path(case["out"]) / "baseline.json").write_text(json.dumps(done), encoding="utf-8")


def held_out_loss(model_folder: Path, data: Path, most_rows: int = 2048) -> float:
    """Loss on the held-out rows that Bertsmith's own runs on masked words are measured on, in float32."""
    from bertsmith.data.batch import collate
    from bertsmith.data.examples import open_rows
    from bertsmith.model import load_model
    from bertsmith.objective import sum_losses
    from bertsmith.planning.from_settings import VALIDATION_SEED
    from bertsmith.step import evaluate_loss

    rows = open_rows(data, "validation", objective="mlm", seed=VALIDATION_SEED)
    numbers = range(min(most_rows, rows.rows_per_epoch))
    device = torch.device(DEVICE)
    batches = (collate(rows.__getitems__(list(numbers[i : i + 32]))).to(device) for i in range(0, len(numbers), 32))
    return evaluate_loss(
        load_model(model_folder, heads=True).to(device), sum_losses, batches, precision="float32"
    ).mlm_loss


def measured_once(out: Path, model_folder: Path, data: Path) -> float:
    """`held_out_loss`, kept in the output folder."""
    kept = out / "held_out.json"
    if not kept.exists():
        kept.write_text(json.dumps(held_out_loss(model_folder, data)), encoding="utf-8")
    return float(json.loads(kept.read_text(encoding="utf-8")))


class Trained(NamedTuple):
    """A run of the Trainer and what it reached."""

    loss: float
    rate: float
    rows: int
    facts: dict[str, Any]
    """Its steps, seconds and tokens."""


def trained(options: argparse.Namespace, rate: float, rows: int, seconds: float) -> Trained:
    """The Trainer with one rate and batch for so long, or what it reached before."""
    preset = options.baseline_preset
    out = options.output / f"trainer-{preset}-{rate:g}-{rows}-{seconds:g}"
    if not (out / "baseline.json").exists():
        case = {"data": str(options.data), "out": str(out), "preset": preset}
        case |= {"rate": rate, "rows": rows, "seconds": seconds}
        subprocess.run([sys.executable, __file__, "--baseline", json.dumps(case)], check=True)
    facts = json.loads((out / "baseline.json").read_text(encoding="utf-8"))
    loss = measured_once(out, out, options.data)
    print(
        f"  Trainer, {preset}, rate {rate:g}, {rows} rows: {loss:.3f} after {facts['steps']:,} steps, "
        f"{facts['tokens'] / 1e6:.1f} M tokens in {facts['seconds']:,.0f} s",
        flush=True,
    )
    return Trained(loss, rate, rows, facts)


def baseline(options: argparse.Namespace) -> Trained:
    """The lowest loss of the Trainer over rates and batches."""
    cases = list(itertools.product(options.rates, options.rows))
    if options.screen:
        screened = sorted(trained(options, rate, rows, options.screen) for rate, rows in cases)
        cases = [(each.rate, each.rows) for each in screened[: options.finalists]]
    return min(trained(options, rate, rows, options.seconds) for rate, rows in cases)


class Ours(NamedTuple):
    """A run of our side."""

    preset: str
    loss: float
    tokens: int
    seconds: float
    """From its start to the end of its steps."""


def ours(options: argparse.Namespace, share: float, seed: int) -> Ours:
    """A run with a share of the time, or what it reached before."""
    from bertsmith.checkpoint_folders import newest_checkpoint, read_state
    from bertsmith.run_folder import read_run

    what = options.preset or "modern"
    out = options.output / (f"{what}-{share:g}-{options.seconds:g}" + (f"-seed-{seed}" if seed else ""))
    if not (out / "model").exists():
        command = [sys.executable, "-m", "bertsmith", "pretrain", str(options.data), "-o", str(out)]
        command += ["--preset", options.preset] if options.preset else ["--family", "modern"]
        command += ["--budget", f"{share * options.seconds:g}s", "--seed", str(seed)]
        command += ["--validation-every", "1000000"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    checkpoint = newest_checkpoint(out / "checkpoints").folder
    assert checkpoint is not None
    state, loss = read_state(checkpoint), measured_once(out, out / "model", options.data)
    return Ours(read_run(out).config.model.preset, loss, state["tokens"], state["wall_seconds"])


def least_time(options: argparse.Namespace, seed: int, goal: float) -> float | None:
    """Seconds of the shortest run that reaches a loss; None where none does."""
    for share in sorted(options.shares):
        run = ours(options, share, seed)
        print(
            f"  {run.preset}, seed {seed}, {share:.1%} of the time ({run.seconds:,.0f} s, {run.tokens / 1e6:.2f} M "
            f"tokens): {run.loss:.3f}",
            flush=True,
        )
        if run.loss <= goal:
            return run.seconds
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--seconds", type=float, default=1800.0)
    parser.add_argument("--rates", type=float, nargs="+", default=[5e-4, 1e-3, 2e-3])
    parser.add_argument("--rows", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--baseline-preset", default="bert-mini", help="size of the Trainer's model")
    parser.add_argument("--screen", type=float, help="seconds")
    parser.add_argument("--finalists", type=int, default=1)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.05, 0.1, 0.2, 0.4, 1.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of our side")
    parser.add_argument("--preset", help="of our side [the size of modern-* that the budget takes]")
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/time-to-loss"))
    parser.add_argument("--baseline", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.baseline:
        return train_baseline(json.loads(options.baseline))
    if options.data is None:
        parser.error("name a prepared folder")
    from bertsmith.data.shards import read_manifest

    options.output.mkdir(parents=True, exist_ok=True)
    unigram = read_manifest(options.data / "data")["unigram_loss"]
    print(f"{options.data.name}, {torch.get_num_threads()} threads, baseline of {options.seconds:,.0f} s", flush=True)
    best = baseline(options)
    below = unigram - best.loss
    print(
        f"baseline {best.loss:.3f} nats (rate {best.rate:g}, {best.rows} rows), {below:.2f} below the unigram level",
        flush=True,
    )
    if below < 0.3:
        print("that is less than 0.3 nats: the time is too short to compare anything")
    times = [least_time(options, seed, best.loss) for seed in options.seeds]
    ratios = sorted(each / best.facts["seconds"] for each in times if each is not None)
    if len(ratios) < len(times):
        print(f"the baseline's loss was not reached with {len(times) - len(ratios)} of {len(times)} seeds")
    if ratios:
        spread = f" ({ratios[0]:.3f} to {ratios[-1]:.3f}, {len(ratios)} seeds)" if len(ratios) > 1 else ""
        print(f"ratio of time to the baseline's loss: at most {statistics.median(ratios):.3f}{spread}")
    return None


if __name__ == "__main__":
    main()
