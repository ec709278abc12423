"""What an architecture is called in a Hugging Face folder, and the names of its tensors there.

`bert_folder.py` and `modernbert_folder.py` have one `Naming` each.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple


class Naming(NamedTuple):
    """What an architecture is called in a folder. Our own encoder is always "bert.", its blocks "bert.blocks.0."."""

    model_type: str
    """In config.json."""

    title: str
    """Of the architecture, for people."""

    encoder: str
    """Begin of the names of the encoder in a folder that has heads; without heads it is left out."""

    blocks: str
    """Begin of the names of the blocks, after `encoder` and before the number."""

    modules: Mapping[str, tuple[str, ...]]
    """Our names of modules, below their block where they are in one, and theirs; several are stacked in ours."""

    mlm_head: str
    """Begin of the names that only a folder with a head for masked words has."""

    ignored: tuple[str, ...]
    """Ends of names of constants, and of second copies of tied tensors."""

    read_shape: Callable[[Mapping[str, Any], Path], dict[str, Any]]
    """Takes config.json and its path, and gives the fields of our config; raises UserError for another model."""

    config_json: Callable[[Mapping[str, Any]], dict[str, Any]]
    """Takes the fields of our config and what else there is to say, and gives the keys of config.json."""


def hf_names(name: str, naming: Naming) -> tuple[str, ...]:
    """Names that transformers has for one of our tensors; several are stacked along the first dimension.

    Args:
        name: As in the state dict of our pretraining model, so with "bert." before the encoder.
        naming: Of its architecture.
    """
    module, _, leaf = name.rpartition(".")
    block = re.match(r"bert\.blocks\.(\d+)\.", module)
    ours, theirs = ("bert.", naming.encoder) if module.startswith("bert.") else ("", "")
    if block:
        ours, theirs = block.group(), f"{naming.encoder}{naming.blocks}{block.group(1)}."
    inner = module.removeprefix(ours)
    return tuple(f"{theirs}{new}.{leaf}" for new in naming.modules.get(inner, (inner,)))
