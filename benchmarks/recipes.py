"""What each lever of the recipe is worth: the same text and tokens, one change at a time.

    python benchmarks/recipes.py PREPARED [--steps 1250] [--seeds 0 1] [--lanes 2] [--only NAME ...] [-o FOLDER]
                                 [--blimp FOLDER] [--goal LOSS] [--size tiny]

PREPARED is what `bertsmith prepare` wrote. The first recipes go from the 2018 one to the
recommended one, each with one change more; the others change one thing of the recommended
one. All learn from the same number of tokens, and are measured on the same held-out rows
and masks, without pairs, in float32. `--lanes` runs so many at once with a share of the
cores each, so speeds are those of one lane. Each run that is done is kept in the output
folder and not done again. `--blimp` measures 100 minimal pairs of each paradigm, too; `--goal` tells
when a run first measured that loss. Prints a table, and draws recipes.svg where matplotlib is installed.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from math import inf
from pathlib import Path
from typing import NamedTuple

from sides import fast_precision
from time_to_loss import held_out_loss

from bertsmith.presets import PRESETS

ROWS = 16
MEASURED_ROWS = 1024


class Recipe(NamedTuple):
    """A set of flags, by what is new in it."""

    name: str
    flags: str
    rows: int = ROWS
    """Rows of a step; the number of steps is such that the tokens are the same."""


PLAIN = "--output-bias zero --embedding-init normal --attention-init normal"
RECIPE_2018 = f"--preset bert-SIZE --objective mlm+nsp --optimizer adamw --schedule linear {PLAIN}"
MODERN = f"--preset modern-SIZE --objective mlm --optimizer muon --mlm-probability 0.15 --muon-scale 1 {PLAIN}"
BEST = f"{MODERN} --schedule trapezoid"
MASKED = f"{BEST} --mlm-probability 0.3 --end-probability 0.15"
FASTER = f"{MASKED} --muon-scale 2"
FREQUENCIES = f"{FASTER} --output-bias unigram"
NEIGHBOURS = f"{FREQUENCIES} --embedding-init ppmi"
RECOMMENDED = f"{NEIGHBOURS} --attention-init neighbours"
BERT = RECIPE_2018.replace("adamw", "muon")
COUNTED = f"{BERT} --output-bias unigram --embedding-init ppmi --attention-init neighbours"
"""Of a flag that is given twice the last counts."""

STEPS_FROM_2018 = (
    Recipe("2018: BERT, MLM + NSP, AdamW, linear", RECIPE_2018),
    Recipe("masked words alone", RECIPE_2018.replace("mlm+nsp", "mlm")),
    Recipe("Muon", BERT.replace("mlm+nsp", "mlm")),
    Recipe("modern encoder", f"{MODERN} --schedule linear"),
    Recipe("trapezoid", BEST),
    Recipe("mask 30 % to 15 %", MASKED),
    Recipe("Muon's matrices at twice the rate", FASTER),
    Recipe("scores begin at frequencies", FREQUENCIES),
    Recipe("embeddings begin at neighbours", NEIGHBOURS),
    Recipe("attention begins beside each token (recommended)", RECOMMENDED),
)
ALONE = (
    Recipe("8 rows a step", RECOMMENDED, 8),
    Recipe("32 rows a step", RECOMMENDED, 32),
    Recipe("mask 30 %", RECOMMENDED.replace("--end-probability 0.15 ", "")),
    Recipe("mask 40 % to 15 %", f"{RECOMMENDED} --mlm-probability 0.4"),
    Recipe("attention alone begins beside each token", f"{FREQUENCIES} --attention-init neighbours"),
    Recipe("Muon's matrices at four times the rate", f"{RECOMMENDED} --muon-scale 4"),
    Recipe("two thirds of the rate", f"{RECOMMENDED} --learning-rate RATE*0.67"),
    Recipe("twice the rate", f"{RECOMMENDED} --learning-rate RATE*2"),
    Recipe("half the rate, Muon's matrices as before", f"{RECOMMENDED} --learning-rate RATE*0.5 --muon-scale 4"),
    Recipe("twice the rate, Muon's matrices as before", f"{RECOMMENDED} --learning-rate RATE*2 --muon-scale 1"),
    Recipe("warm-up of 50 steps", f"{RECOMMENDED} --warmup-steps 50"),
    Recipe("decay share 0.6", f"{RECOMMENDED} --decay-share 0.6"),
    Recipe("adam-beta2 0.95", f"{RECOMMENDED} --adam-beta2 0.95"),
    Recipe("clip-updates", f"{RECOMMENDED} --clip-updates"),
    Recipe("average-decay 0.99", f"{RECOMMENDED} --average-decay 0.99"),
    Recipe("weight decay 0.1", f"{RECOMMENDED} --weight-decay 0.1"),
    Recipe("batch-ramp", f"{RECOMMENDED} --batch-ramp 0.3"),
    Recipe("short rows of 64 first", f"{RECOMMENDED} --short-length 64 --short-share 0.5"),
    Recipe("span masks", f"{RECOMMENDED} --mask-units span"),
    Recipe("whole-word masks", f"{RECOMMENDED} --mask-units word"),
    Recipe("masks that cover", f"{RECOMMENDED} --mask-covering"),
    Recipe("BERT, MLM + NSP, Muon, linear", BERT),
    Recipe("BERT, MLM + NSP, Muon, trapezoid", BERT.replace("linear", "trapezoid")),
    Recipe("BERT, MLM + NSP, Muon, linear, frequencies", f"{BERT} --output-bias unigram"),
    Recipe("BERT, MLM + NSP, Muon, linear, counted weights", COUNTED),
    Recipe("BERT, MLM + NSP, Muon, linear, counted weights, attention at random", f"{COUNTED} --attention-init normal"),
    Recipe("BERT, MLM + NSP, Muon, trapezoid, counted weights", f"{COUNTED} --schedule trapezoid"),
    Recipe("BERT, MLM + NSP, Muon twice as fast, linear, counted weights", f"{COUNTED} --muon-scale 2"),
    Recipe("BERT, MLM + NSP, AdamW, linear, counted weights", f"{COUNTED} --optimizer adamw"),
    Recipe("BERT, MLM + SOP, Muon, linear", BERT.replace("nsp", "sop")),
)


class Found(NamedTuple):
    """What a run gave."""

    loss: float
    tokens_per_second: float
    curve: list[tuple[int, float]]
    """Tokens so far and held-out loss on the run's own rows."""

    blimp: float | None = None
    """Share of minimal pairs that are right, mean over the paradigms."""

    def seconds_to(self, goal: float) -> float | None:
        """Time to a held-out loss, in a line between two measurements."""
        for (before, higher), (tokens, loss) in itertools.pairwise([(0, inf), *self.curve]):
            if loss <= goal:
                part = 1.0 if higher == inf else (higher - goal) / (higher - loss)
                return (before + part * (tokens - before)) / self.tokens_per_second
        return None


def flags_of(recipe: Recipe, size: str) -> list[str]:
    """The flags of a recipe for a size of model: its presets, and multiples of their rates."""
    flags = recipe.flags.replace("SIZE", size).split()
    rate = PRESETS[f"modern-{size}"].muon_rate
    return [f"{rate * float(flag.removeprefix('RATE*')):.4g}" if flag.startswith("RATE*") else flag for flag in flags]


def folder_of(recipe: Recipe, seed: int, options: argparse.Namespace) -> Path:
    """Where a run is kept."""
    name = recipe.name.split(":")[0].replace(" ", "-").replace("%", "pc").replace("(", "").replace(")", "")
    return Path(options.output) / f"{options.size}-{name}-{options.steps}-{seed}"


def run(recipe: Recipe, seed: int, options: argparse.Namespace) -> Found:
    """Train and measure, or read what was found before."""
    out = folder_of(recipe, seed, options)
    kept = Path(f"{out}.json")
    if not kept.exists():
        threads = max(1, len(os.sched_getaffinity(0)) // options.lanes)
        steps = options.steps * ROWS // recipe.rows
        command = [
            sys.executable,
            "-m",
            "bertsmith",
            "pretrain",
            str(options.data),
            "-o",
            str(out),
            *flags_of(recipe, options.size),
        ]
        command += ["--steps", str(steps), "--global-batch-size", str(recipe.rows), "--seed", str(seed)]
        command += ["--validation-every", str(max(1, steps // 10)), "--threads", str(threads), "--compile", "no"]
        command += ["--precision", options.precision]
        with Path(f"{out}.log").open("a", encoding="utf-8") as log:
            subprocess.run(
                command, check=True, stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": str(threads)}
            )
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        speed = statistics.median(line["tokens_per_second"] for line in lines)
        done, curve = 0, []
        for line in lines:
            done += line["tokens"]
            if line.get("validation_mlm_loss") is not None:
                curve.append((done, line["validation_mlm_loss"]))
        loss = held_out_loss(out / "model", options.data, MEASURED_ROWS)
        kept.write_text(json.dumps(Found(loss, speed, curve)._asdict()), encoding="utf-8")
    found = Found(**json.loads(kept.read_text(encoding="utf-8")))
    if options.blimp and found.blimp is None:
        found = found._replace(blimp=minimal_pairs(out / "model", options.blimp))
        kept.write_text(json.dumps(found._asdict()), encoding="utf-8")
    return found


def minimal_pairs(model: Path, folder: Path) -> float:
    """Share of the pairs that are right, mean over the paradigms."""
    command = [sys.executable, "-m", "bertsmith", "evaluate", str(model), "--blimp", str(folder), "--threads", "1"]
    command += ["--pairs", "100", "--words", "0", "--json"]
    (measured,) = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)["models"]
    return float(measured["minimal_pairs"]["accuracy"])


def table(found: dict[str, list[Found]], recommended: str, goal: float | None) -> list[str]:
    """Loss with its range over seeds, what the change gave, minimal pairs, speed and the time to the goal."""
    to_goal = "" if goal is None else f"{goal:g} after |"
    lines = [f"| | held-out loss | range | against the recommended | BLiMP | tokens/s of a lane | {to_goal}"]
    lines.append("|---|---|---|---|---|---|" + ("---|" if goal else ""))
    base = statistics.mean(each.loss for each in found[recommended]) if recommended in found else None
    for name, results in found.items():
        losses = [each.loss for each in results]
        mean = statistics.mean(losses)
        spread = f"{min(losses):.3f} to {max(losses):.3f}" if len(losses) > 1 else "one seed"
        against = "" if base is None else f"{mean - base:+.3f}"
        speed = statistics.median(each.tokens_per_second for each in results)
        pairs = [each.blimp for each in results if each.blimp is not None]
        right = f"{statistics.mean(pairs):.1%}" if pairs else ""
        line = f"| {name} | {mean:.3f} | {spread} | {against} | {right} | {speed:,.0f} |"
        if goal is not None:
            times = [seconds for each in results if (seconds := each.seconds_to(goal)) is not None]
            line += f" {statistics.mean(times):,.0f} s |" if len(times) == len(results) else " not reached |"
        lines.append(line)
    return lines


def draw(found: dict[str, list[Found]], path: Path) -> None:
    """Loss against tokens for the steps from 2018 on, mean of the seeds."""
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        return
    plt.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "recipes"}  # text as text; the same file each time
    figure, axes = plt.subplots(figsize=(10, 4.5))
    for name in [recipe.name for recipe in STEPS_FROM_2018 if recipe.name in found]:
        curves = [each.curve for each in found[name]]
        tokens = [tokens / 1e6 for tokens, _ in curves[0]]
        losses = [statistics.mean(loss for _, loss in places) for places in zip(*curves, strict=True)]
        axes.plot(tokens, losses, marker="o", ms=3, label=name)
    axes.set(xlabel="million tokens", ylabel="held-out loss, nats per masked token")
    axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=1250, help=f"of {ROWS} rows")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--size", choices=["tiny", "mini", "small", "base"], default="mini")
    parser.add_argument("--lanes", type=int, default=2)
    parser.add_argument("--only", nargs="+", help="names of recipes")
    parser.add_argument("--blimp", type=Path)
    parser.add_argument("--goal", type=float)
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/recipes"))
    options = parser.parse_args()
    options.precision = fast_precision()
    options.output.mkdir(parents=True, exist_ok=True)
    recipes = [each for each in (*STEPS_FROM_2018, *ALONE) if not options.only or each.name in options.only]
    found: dict[str, list[Found]] = {}
    with ThreadPoolExecutor(options.lanes) as lanes:
        jobs = [(recipe, lanes.submit(run, recipe, seed, options)) for seed in options.seeds for recipe in recipes]
        for recipe, job in jobs:
            found.setdefault(recipe.name, []).append(job.result())
            print(f"{recipe.name}: {found[recipe.name][-1].loss:.3f}", flush=True)
    print("\n".join(table(found, STEPS_FROM_2018[-1].name, options.goal)))
    draw(found, options.output / "recipes.svg")


if __name__ == "__main__":
    main()
