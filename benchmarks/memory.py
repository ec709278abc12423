"""Memory of a step of 64 rows of 128 tokens beyond weights, gradients and moments, against the Trainer's.

    python benchmarks/memory.py [--presets bert-mini bert-base]

The same model, batch and text on both sides (see sides.py), AdamW, no dropout. The Trainer
computes the rows it is given, at its fastest flags; Bertsmith takes as many at once as it
finds fastest by itself. Both also with 16 rows at once. Each in a new process. The last line has the ratios.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from sides import fast_precision
from training_speed import measure

from bertsmith.config import DataConfig
from bertsmith.data.batch import collate
from bertsmith.data.examples import open_rows
from bertsmith.machine.measure import best_micro_batch
from bertsmith.machine.memory import rows_that_fit, training_state
from bertsmith.model import BertConfig, BertPretrainingModel
from bertsmith.prepare import prepare
from bertsmith.presets import PRESETS
from bertsmith.tokenizer import load_tokenizer

ROWS, LENGTH, SMALL = 64, 128, 16
HALF = fast_precision()
FLAGS = {
    "precision": HALF,
    "compile": HALF == "bfloat16",
    "attention": "sdpa",
    "optim": "adamw_torch_fused",
}
"""The fastest here, of the Trainer as of ours."""


def chosen_size(base: dict[str, Any]) -> int:
    """Rows at once that a run would choose here."""
    rows = open_rows(Path(base["data"]), sequence_length=LENGTH, objective="mlm", short_sequence_probability=0)
    config = BertConfig(**base["shape"], hidden_dropout_prob=0, attention_probs_dropout_prob=0)
    model = BertPretrainingModel(config, next_sentence=False).to(base["device"])

    def make_batch(size: int) -> Any:
        return collate(rows.__getitems__(list(range(size)))).to(torch.device(base["device"]))

    most = rows_that_fit(model, make_batch, HALF, state=training_state(model, optimizer="adamw"))
    return best_micro_batch(model, ROWS, make_batch, HALF, most=most).rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=["bert-mini", "bert-base"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--data", type=Path, default=Path("runs/benchmark-data"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.data.mkdir(parents=True, exist_ok=True)
    prepare(DataConfig(vocab_size=8192), options.data, report=lambda _line: None)
    ratios = []
    for name in options.presets:
        shape = PRESETS[name].shape() | {
            "vocab_size": load_tokenizer(options.data / "tokenizer").vocab_size,
            "max_position_embeddings": LENGTH,
        }
        base = {"shape": shape, "length": LENGTH, "rows": ROWS, "dropout": 0.0, "steps": 2, "data": str(options.data)}
        base |= {"device": options.device, "threads": options.threads} | FLAGS
        found: dict[tuple[str, int], float] = {}
        chosen = chosen_size(base)
        for side, size in (("trainer", ROWS), ("bertsmith", chosen), ("trainer", SMALL), ("bertsmith", SMALL)):
            result = measure(side, base | {"micro_batch": size})
            if result and (side, size) not in found:
                found[side, size] = result["memory"]
                which = "  (its own choice)" if (side, size) == ("bertsmith", chosen) else ""
                print(f"{name}, {side}, {size} rows at once: {result['memory'] / 1e6:,.0f} MB{which}", flush=True)
        ratios.append(f"{name} {found['bertsmith', chosen] / found['trainer', ROWS]:.2f}")
    print("memory of a step of 64 x 128, Bertsmith to Trainer: " + ", ".join(ratios))


if __name__ == "__main__":
    main()
