"""Memory and speed against the size of the corpus, and against the size of the model.

    python benchmarks/growth.py [--millions 2.5 25 250] [--presets bert-tiny ... bert-large]

For the corpus it writes shards of made-up ids with sentences and sections of natural
lengths (four bytes of English a token), opens them as a run does, and builds rows. For
the model it times steps as a run does them, not compiled, with the rows of the preset, 128 places each, Muon;
each size in a process of its own.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from bertsmith.atomic import write_bytes
from bertsmith.data.shards import ShardContent, Shards, pack_shard, shard_name


def write_corpus(data: Path, tokens: int) -> None:
    """Shards of two million tokens each."""
    draw, left, number, document = np.random.default_rng(0), tokens, 0, 0
    data.mkdir()
    while left > 0:
        size = min(left, 2_000_000)
        sentences = np.minimum(draw.lognormal(3.0, 0.6, size // 10).astype(np.int64) + 2, 200)
        sentences = sentences[: np.searchsorted(sentences.cumsum(), size)]
        per_section = np.minimum(draw.lognormal(2.5, 0.8, len(sentences)).astype(np.int64) + 1, len(sentences))
        ends = np.unique(np.minimum(per_section.cumsum(), len(sentences)))
        total = int(sentences.sum())
        starts = np.concatenate([[0], sentences.cumsum()[:-1]])
        content = ShardContent(
            ids=draw.integers(5, 30_000, total).astype(np.uint16),
            sentence_starts=starts,
            section_starts=np.concatenate([[0], sentences.cumsum()[ends - 1]]),
            section_document=document + np.arange(len(ends)),
        )
        document += len(ends)
        write_bytes(data / shard_name("train", number), pack_shard(content))
        number, left = number + 1, left - size


def measure(data: Path) -> dict[str, Any]:
    """Open the rows, build some, and say what it took."""
    from bertsmith.data.batch import collate
    from bertsmith.data.examples import SpecialIds, TrainingRows
    from bertsmith.data.masking import Masking

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    masking = Masking(mlm_probability=0.15, mask_token_id=4, replacement_ids=np.arange(5, 30_000))
    source = Shards(data, "train", sorted(path.name for path in data.iterdir()))
    rows = TrainingRows(source, sequence_length=128, objective="mlm+nsp", special=SpecialIds(0, 2, 3), masking=masking)
    collate(rows.__getitems__(list(range(16))))
    first = time.perf_counter() - started
    started, count = time.perf_counter(), 200
    for step in range(1, count + 1):
        collate(rows.__getitems__(list(range(16 * step, 16 * step + 16))))
    seconds = (time.perf_counter() - started) / count
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    return {"tokens": source.num_tokens, "first": first, "ms": 1e3 * seconds, "memory": memory}


def measure_model(preset: str) -> dict[str, Any]:
    """Time the steps of a size, and say how much memory the process took."""
    from bertsmith.bench import run_bench

    facts = run_bench({"preset": preset, "compile": "no"})
    return facts | {"memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--millions", type=float, nargs="*", default=[2.5, 25.0, 250.0])
    parser.add_argument(
        "--presets", nargs="*", default=["bert-tiny", "bert-mini", "bert-small", "bert-base", "bert-large"]
    )
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--preset", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.preset:
        facts = measure_model(options.preset)
        way = facts["ways"]["eager"]
        size, speed, share = facts["parameters"] / 1e6, way["tokens_per_second"], way["peak_share"]
        print(
            f"{options.preset}, {size:,.1f} M parameters, {facts['rows']} rows: "
            f"{speed:,.0f} tokens/s, {share:.0%} of the matrix rate, "
            f"{facts['memory'] / 1e9:.2f} GB of memory",
            flush=True,
        )
        return
    if options.data:
        facts = measure(options.data)
        print(
            f"{facts['tokens'] / 1e6:8,.1f} M tokens: first batch after {facts['first']:.1f} s, then "
            f"{facts['ms']:.2f} ms for 16 rows of 128, {facts['memory'] / 1e6:,.0f} MB",
            flush=True,
        )
        return
    for millions in options.millions:
        with tempfile.TemporaryDirectory() as name:
            write_corpus(Path(name) / "data", int(millions * 1e6))
            subprocess.run([sys.executable, __file__, "--data", str(Path(name) / "data")], check=True)
    for preset in options.presets:
        subprocess.run([sys.executable, __file__, "--preset", preset], check=True)


if __name__ == "__main__":
    main()
