"""What recording the pieces of a step is worth on a GPU (CUDA graphs): the same step with and without, alternately.

    python benchmarks/recording.py [--presets modern-mini modern-small] [--length 128] [--rows 64] [--compile]
    python benchmarks/recording.py --presets bert-base modern-base --length 512 --rows 64 --compile

Made-up rows, Muon, bfloat16, the rows of each preset unless they are given. Prints milliseconds of a step that is
waited for, and the ratio with its range.
"""

import argparse
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from bertsmith.bench import VOCAB_SIZE, Update, made_up_batch
from bertsmith.model import new_config, new_model
from bertsmith.presets import PRESETS

STEPS = 10


def milliseconds(update: Update, *, compiled: bool) -> float:
    """Of a step, the median of some."""
    times = []
    for _ in range(STEPS):
        before = time.perf_counter()
        (update.run_compiled if compiled else update.run)()
        torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - before))
    return median(times)


def update_of(name: str, options: argparse.Namespace, *, records: bool) -> Update:
    """A step of a preset on the GPU, warmed up."""
    preset, device = PRESETS[name], torch.device("cuda")
    shape: dict[str, Any] = preset.shape()
    config = new_config(
        preset.model_type,
        special_ids={"pad_token_id": 0},
        max_position_embeddings=options.length,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        vocab_size=VOCAB_SIZE,
        **shape,
    )
    torch.manual_seed(0)
    model = new_model(config, next_sentence=False).to(device)
    batch = made_up_batch(config, options.rows or preset.global_batch_size).to(device)
    update = Update(model, [batch], optimizer="muon", precision="bfloat16", records=records)
    milliseconds(update, compiled=options.compile)
    return update


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=["modern-mini", "modern-small"])
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit(f"{Path(__file__).name} needs a CUDA device, and there is none")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, rows of {options.length} tokens")
    for name in options.presets:
        updates = {records: update_of(name, options, records=records) for records in (False, True)}
        rounds = [
            {records: milliseconds(update, compiled=options.compile) for records, update in updates.items()}
            for _ in range(options.rounds)
        ]
        ratios = [each[False] / each[True] for each in rounds]
        one_by_one, recorded = (median(each[records] for each in rounds) for records in (False, True))
        print(
            f"{name}, {len(updates[True].micro_batches[0])} rows: one by one {one_by_one:.2f} ms, recorded "
            f"{recorded:.2f} ms, ratio {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
