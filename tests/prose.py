"""Made-up English: enough text to train on, without any data."""

import random
from pathlib import Path

NOUNS = "dog cat river house engine letter garden window captain teacher storm market forest doctor song bridge".split()
VERBS = "sees follows builds leaves finds carries paints remembers crosses watches loses opens".split()
ADJECTIVES = "old small green quiet broken bright heavy early".split()


def name(draw: random.Random) -> str:
    """An invented name of a place, so that the text has many different words."""
    return "".join(draw.choice("bdfgklmnprstvz") + draw.choice("aeiou") for _ in range(draw.randint(2, 4))).capitalize()


def sentence(draw: random.Random) -> str:
    """A short sentence that a model can learn from."""
    one, other = draw.choice(NOUNS), draw.choice(NOUNS)
    end = draw.choice(("", " in the morning", f" near {name(draw)}", " again"))
    return f"The {draw.choice(ADJECTIVES)} {one} {draw.choice(VERBS)} the {draw.choice(ADJECTIVES)} {other}{end}."


def write_prose(path: Path, *, documents: int = 300, seed: int = 0) -> Path:
    """Write documents of a few sentences, with a blank line between two of them."""
    draw = random.Random(seed)
    lines = [" ".join(sentence(draw) for _ in range(draw.randint(6, 14))) for _ in range(documents)]
    path.write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    return path
