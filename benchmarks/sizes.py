"""Held-out loss against the size of the model and the tokens it learns from: what `plan` expects of a run.

    python benchmarks/sizes.py PREPARED [--presets modern-tiny modern-mini] [--millions 2.5 10] [--lanes 2] [-o FOLDER]

Each preset is trained as a budget trains it (its own recipe, trapezoid), once for each number of
tokens, rows of 128. Where the text has fewer tokens it is read several times: give a small text to see
from how many epochs on the held-out loss rises. Each run that is done is kept in the output folder and
not done again. The last lines are a table, and the lines of it that `planning/expectation.py` keeps.
"""

import argparse
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from recipes import ROWS, Found, Recipe, run

from bertsmith.data.shards import read_manifest

LENGTH = 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--presets", nargs="+", default=["modern-tiny", "modern-mini", "bert-tiny", "bert-mini"])
    parser.add_argument("--millions", type=float, nargs="+", default=[2.5, 10.0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lanes", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/sizes"))
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    manifest = read_manifest(options.data / "data")
    text, unigram = manifest["splits"]["train"]["tokens"], manifest["unigram_loss"]
    jobs: dict[tuple[str, float], Future[Found]] = {}
    with ThreadPoolExecutor(options.lanes) as lanes:
        for millions in options.millions:  # the short ones first
            for preset in options.presets:
                recipe = Recipe(preset, f"--preset {preset} --schedule trapezoid")
                steps = round(millions * 1e6 / (ROWS * LENGTH))
                case = argparse.Namespace(**vars(options) | {"steps": steps})
                jobs[preset, millions] = lanes.submit(run, recipe, options.seed, case)
        for (preset, millions), job in jobs.items():
            print(f"{preset}, {millions:g} M tokens: {job.result().loss:.3f}", flush=True)
    print(f"unigram level {unigram:.3f}; the text has {text / 1e6:.2f} M tokens\n")
    print(f"| | {' | '.join(f'{millions:g} M' for millions in options.millions)} |")
    print(f"|---|{'---|' * len(options.millions)}")
    for preset in options.presets:
        losses = [jobs[preset, millions].result().loss for millions in options.millions]
        print(f"| {preset} | {' | '.join(f'{loss:.3f}' for loss in losses)} |")
    for preset in options.presets:
        below = [f"({m:g}e6, {unigram - jobs[preset, m].result().loss:.2f})" for m in options.millions]
        print(f'    "{preset}": ({", ".join(below)}),')


if __name__ == "__main__":
    main()
