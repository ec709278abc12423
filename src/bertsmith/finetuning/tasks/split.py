"""Which rows are held out: a share of every label, and equal texts always on one side.

The choice is a hash of the text and the seed, so it does not depend on the order
of the rows, and a text that occurs twice cannot be trained on and tested with.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from bertsmith.data.keyed import Stream, keyed_seed, text_hash
from bertsmith.finetuning.config import Kind
from bertsmith.finetuning.tasks.examples import Example, names_of

SCORE_STRATA = 10
"""Numbers are held out evenly over tenths of their range of ranks."""


def hold_out(
    examples: Sequence[Example], fraction: float, kind: Kind, *, seed: int, purpose: int
) -> tuple[list[Example], list[Example]]:
    """Divide examples into those that stay and those that are held out.

    Args:
        examples: In the order of their file, which both parts keep.
        fraction: Share held out, of each stratum.
        kind: Says what a stratum is: a label; the rarest label of a row or sentence; a tenth of the scores.
        seed: Of the run.
        purpose: 0 for validation, 1 for test, 2 for `max_rows`, so that all are independent.
    """
    strata: dict[str, dict[bytes, list[int]]] = defaultdict(lambda: defaultdict(list))
    for index, stratum in enumerate(_strata(examples, kind)):
        strata[stratum][text_key(examples[index])].append(index)
    taken: set[bytes] = set()
    owed = 0.0  # what rounding kept back so far, so that many small strata together give their share
    salt = keyed_seed(seed, Stream.SPLIT, purpose)
    for _, texts in sorted(strata.items()):
        size = sum(map(len, texts.values()))
        owed += fraction * size
        left = min(round(owed), size - 1)  # a label that occurs once is learnt from
        for text in sorted(texts, key=lambda text: text_hash(f"{salt} {text.hex()}")):
            if len(texts[text]) <= left:
                left -= len(texts[text])
                owed -= len(texts[text])
                taken.add(text)
    held = {index for index, example in enumerate(examples) if text_key(example) in taken}
    kept = [example for index, example in enumerate(examples) if index not in held]
    return kept, [examples[index] for index in sorted(held)]


def text_key(example: Example) -> bytes:
    """What is equal for equal texts."""
    text = example.text if isinstance(example.text, str) else " ".join(example.text)
    return text_hash(f"{text}\0{example.pair or ''}")


def _strata(examples: Sequence[Example], kind: Kind) -> list[str]:
    """The stratum of each example."""
    if kind == "regression":
        numbers = np.array([example.label for example in examples], dtype=np.float64)
        ranks = np.argsort(np.argsort(numbers, kind="stable"))
        return [str(rank * SCORE_STRATA // len(examples)) for rank in ranks]
    counts = Counter(name for example in examples for name in set(names_of(example.label)))
    return [min(names_of(example.label), key=lambda name: (counts[name], name), default="") for example in examples]


def shared_texts(one: Sequence[Example], other: Sequence[Example]) -> int:
    """Examples of `other` whose text is also in `one`."""
    known = set(map(text_key, one))
    return sum(text_key(example) in known for example in other)
