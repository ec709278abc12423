"""A folder that `SentenceTransformer(folder)` loads, with vectors equal to ours."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from bertsmith import atomic
from bertsmith.errors import UserError
from bertsmith.evaluation.foreign import quiet
from bertsmith.export.folder import carried_card, staged
from bertsmith.model import architecture
from bertsmith.reporter import Reporter
from bertsmith.sentence_vectors import SentenceEncoder, find_encoder, load_sentence_encoder

TOLERANCE = 1e-4
"""Largest difference from our vectors, as a share of their largest value, or of 1."""

CHECKED = 64
"""Made-up sentences that are compared."""


class Exported(NamedTuple):
    """What was written."""

    pooling: str
    difference: float
    """Largest, of the vectors of the sentences compared."""


@contextmanager
def sentence_transformers() -> Iterator[Any]:
    """The library, quiet while it is used.

    Raises:
        UserError: It is not installed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own code
        try:
            library = import_module("sentence_transformers")
            import_module("sentence_transformers.models")
            import_module("sentence_transformers.losses")
            import transformers
        except ImportError as error:
            raise UserError(f"sentence vectors need more ({error}): pip install bertsmith[embed]") from None
        with quiet(transformers):
            yield library


def export_sentences(
    source: Path, output: Path, *, pooling: Any = "auto", reporter: Reporter | None = None
) -> Exported:
    """Write a model for sentence-transformers, checked against our own vectors.

    Args:
        source: A run, or a Hugging Face folder.
        output: Must not exist, or be an empty folder; it appears when all is checked.
        pooling: As in `load_sentence_encoder`.
        reporter: Who to tell.

    Raises:
        UserError: The model cannot be read, or sentence-transformers gives other vectors, or is not installed.
    """
    reporter = reporter or Reporter()
    encoder = load_sentence_encoder(source, pooling=pooling)
    with staged(output) as staging:
        reporter.progress("writing the modules", 0.0)
        save_modules(encoder, staging)
        difference = compare(encoder, staging)
        reporter.progress("writing the modules", 1.0)
        atomic.write_text(staging / "README.md", _card(source, encoder, difference))
    reporter.say(f"a vector is {encoder.recipe}; those of SentenceTransformer are ours within {difference:.1g}")
    reporter.say(f"written to {output}")
    return Exported(encoder.pooling, difference)


def save_modules(encoder: SentenceEncoder, folder: Path) -> None:
    """Let the library write its own files; the tokenizer is ours, which its older versions read too."""
    with sentence_transformers() as library:
        model = build_modules(library, encoder, folder)
        model.save_pretrained(str(folder), create_model_card=False)
    save_tokenizer(encoder, folder)


def build_modules(library: Any, encoder: SentenceEncoder, folder: Path) -> Any:
    """A `SentenceTransformer` of an encoder, on the CPU; `folder` is used to hand the weights over."""
    parts = library.models
    network, pooler = encoder.model, getattr(encoder.model, "pooler", None)
    if pooler is not None:
        network.pooler = None  # it becomes a module of its own
    network.save_pretrained(folder)
    if pooler is not None:
        network.pooler = pooler
    save_tokenizer(encoder, folder)
    bare = {"add_pooling_layer": False} if architecture(network.config.model_type).adds_pooler else {}
    transformer = parts.Transformer(str(folder), model_kwargs=bare, max_seq_length=encoder.longest)
    width = network.config.hidden_size
    modules = [transformer, parts.Pooling(width, "cls" if encoder.pooling == "pooled" else "mean")]
    if pooler is not None:
        dense = parts.Dense(width, width, True, torch.nn.Tanh())
        dense.linear.load_state_dict(pooler.dense.state_dict())
        modules.append(dense)
    if encoder.normalized:
        modules.append(parts.Normalize())
    return library.SentenceTransformer(modules=modules, device="cpu")


def save_tokenizer(encoder: SentenceEncoder, folder: Path) -> None:
    """Write the tokenizer, with the longest sentence that is read."""
    names = architecture(encoder.model.config.model_type).input_names
    encoder.tokenizer.save(folder, model_max_length=encoder.longest, model_input_names=names)


def compare(encoder: SentenceEncoder, folder: Path) -> float:
    """Load a folder with the library and hold its vectors against ours.

    Raises:
        UserError: They differ.
    """
    texts = made_up(encoder)
    ours = encoder.encode(texts)
    with sentence_transformers() as library:
        model = library.SentenceTransformer(str(folder), device="cpu", local_files_only=True)
        theirs = model.encode(texts, batch_size=16, show_progress_bar=False)
    difference = float(np.abs(ours - theirs).max())
    limit = TOLERANCE * max(1.0, float(np.abs(ours).max()))
    if not difference <= limit:  # also where it is no number
        raise UserError(
            f"sentence-transformers gives other vectors, off by {difference:.2g}, more than {limit:.2g}, so nothing "
            "was written; try another version of it"
        )
    return difference


def made_up(encoder: SentenceEncoder) -> list[str]:
    """Sentences of random pieces, from none to more than the model reads."""
    draw = np.random.default_rng(0)
    ordinary = encoder.tokenizer.ordinary_ids()
    lengths = np.linspace(1, 1.2 * min(encoder.longest, 1024), CHECKED).astype(int)
    return ["", *(encoder.tokenizer.decode(draw.choice(ordinary, length)) for length in lengths[1:])]


def sentence_card(folder: Path) -> str:
    """The card of a model for a folder of sentence-transformers, without the code that loads it as it was."""
    return carried_card(folder, library="sentence-transformers", task="sentence-similarity")


def _card(source: Path, encoder: SentenceEncoder, difference: float) -> str:
    """The model's card, and how its vectors are made."""
    words = (
        "the pooled output: a layer with tanh over `[CLS]`, which was trained before this export"
        if encoder.pooling == "pooled"
        else "the mean over its tokens"
    )
    return f"""{sentence_card(find_encoder(source))}# Sentence vectors

The vector of a sentence is {words}: {encoder.model.config.hidden_size} numbers. \
At most {encoder.longest:,} tokens are read.
Compared with the model that was exported on {CHECKED} made-up sentences: largest difference {difference:.1g}.

```python
from sentence_transformers import SentenceTransformer

vectors = SentenceTransformer("path/to/this/folder").encode(["A sentence.", "Another one."])
```
"""
