"""The Hugging Face folder of a BERT: config.json and model.safetensors, read and written.

Names of tensors differ in two ways: transformers nests them deeper, and keeps
query, key and value apart where ours are one matrix, stacked in that order. No
pickle is read or written.
"""

import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from bertsmith import atomic
from bertsmith.errors import UserError
from bertsmith.model.check import require
from bertsmith.model.heads import initialize

logger = logging.getLogger(__name__)

Model = TypeVar("Model", bound=nn.Module)

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
TRANSFORMERS_VERSION = "5.23.0"
"""The release whose folders these are."""

SHAPE_KEYS = (
    "attention_probs_dropout_prob", "hidden_act", "hidden_dropout_prob", "hidden_size", "initializer_range",
    "intermediate_size", "layer_norm_eps", "max_position_embeddings", "num_attention_heads", "num_hidden_layers",
    "pad_token_id", "type_vocab_size", "vocab_size",
)  # fmt: skip
"""Keys of config.json that are fields of `BertConfig`, by the same names."""

UNSUPPORTED = {
    "position_embedding_type": ("absolute", None),
    "is_decoder": (False, None),
    "add_cross_attention": (False, None),
    "tie_word_embeddings": (True, None),
    "quantization_config": (None,),
}
"""Keys of config.json that would make it another model, and the values that do not."""

MODULES = {
    "embeddings.norm": ("embeddings.LayerNorm",),
    "attention.qkv": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "attention.out": ("attention.output.dense",),
    "attention_norm": ("attention.output.LayerNorm",),
    "intermediate": ("intermediate.dense",),
    "output": ("output.dense",),
    "output_norm": ("output.LayerNorm",),
    "mlm_head": ("cls.predictions",),
    "mlm_head.dense": ("cls.predictions.transform.dense",),
    "mlm_head.norm": ("cls.predictions.transform.LayerNorm",),
    "nsp_head": ("cls.seq_relationship",),
}
"""Our names of modules, below their block where they are in one, and the names of transformers."""

MLM_HEAD = "cls.predictions."

IGNORED = ("position_ids", "cls.predictions.decoder.weight", "cls.predictions.decoder.bias")
"""Ends of names of constants, and of second copies of the word embeddings and of the bias."""

FLOATS = ("F32", "F16", "BF16", "F64")
"""Number formats of safetensors that are read; all become float32."""


class Place(NamedTuple):
    """Where a tensor is."""

    path: Path
    key: str


def hf_names(name: str) -> tuple[str, ...]:
    """Names that transformers has for one of our tensors; several are stacked along the first dimension.

    Args:
        name: As in the state dict of `BertPretrainingModel`, so with "bert." before the encoder.
    """
    module, _, leaf = name.rpartition(".")
    block = re.match(r"bert\.blocks\.(\d+)\.", module)
    outer = "bert." if module.startswith("bert.") else ""
    ours, theirs = outer, outer
    if block:
        ours, theirs = block.group(), f"bert.encoder.layer.{block.group(1)}."
    inner = module.removeprefix(ours)
    return tuple(f"{theirs}{new}.{leaf}" for new in MODULES.get(inner, (inner,)))


def write_folder(folder: Path, model: nn.Module, shape: Mapping[str, Any], *, architecture: str) -> None:
    """Write config.json and model.safetensors, each in one step.

    Args:
        folder: Made if it is not there. Other files in it stay.
        model: A BERT of ours.
        shape: The fields of its `BertConfig`.
        architecture: The class of transformers that the folder is for.
    """
    is_bare = architecture == "BertModel"
    tensors: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        names = hf_names(f"bert.{name}" if is_bare else name)
        for hf_name, part in zip(names, tensor.chunk(len(names)), strict=True):
            tensors[hf_name.removeprefix("bert.") if is_bare else hf_name] = part.detach().cpu().contiguous()
    dtype = str(next(iter(tensors.values())).dtype).removeprefix("torch.")
    fixed = {
        "architectures": [architecture],
        "classifier_dropout": None,
        "dtype": dtype,
        "torch_dtype": dtype,  # the same for transformers 4
        "model_type": "bert",
        "tie_word_embeddings": True,
        "transformers_version": TRANSFORMERS_VERSION,
    }
    config = dict(sorted({**fixed, **shape}.items()))
    folder.mkdir(parents=True, exist_ok=True)
    atomic.write_bytes(folder / WEIGHTS, safetensors.torch.save(tensors, metadata={"format": "pt"}))
    atomic.write_json(folder / "config.json", config)


class ModelFolder:
    """A Hugging Face folder of a BERT, opened for reading: its shape, and where its tensors are.

    Raises:
        UserError: The folder is none, or of something else.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shape = _shape_of(read_config(folder), folder)
        self.places = _find_tensors(folder)

    def has(self, prefix: str) -> bool:
        """Whether there are tensors whose names begin so; names as in `BertForPreTraining`."""
        return any(name.startswith(prefix) for name in self.places)

    def load(self, build: Callable[[], Model], prefix: str = "", untrained: str | None = None) -> Model:
        """Make a model and copy the tensors into it.

        Args:
            build: Makes it. It draws no weights here, so the random state does not move.
            prefix: What our names lack before they are those of `BertPretrainingModel`.
            untrained: Begin of the names that the folder does not have; they are left unset.

        Raises:
            UserError: Tensors are missing, too many, or of another shape.
        """
        with torch.device("meta"):
            model = build()
        model.to_empty(device="cpu")
        targets: dict[str, Tensor] = {}
        for name, tensor in model.state_dict().items():
            if untrained is None or not name.startswith(untrained):
                names = hf_names(prefix + name)
                targets.update(zip(names, tensor.chunk(len(names)), strict=True))
        self._check_names(targets, prefix)
        for path in sorted({self.places[name].path for name in targets}):
            self._copy_file(path, targets)
        return model.eval()

    def _check_names(self, targets: Mapping[str, Tensor], prefix: str) -> None:
        """Hold the names in the files against those of the model."""
        missing = [name for name in targets if name not in self.places]
        require(not missing, f"{self.folder} lacks {_some(missing)}; the weights do not belong to its config.json")
        others = [name for name in self.places if name not in targets]
        left_out = [name for name in others if not name.startswith(prefix) or name.startswith("bert.pooler.")]
        unknown = [name for name in others if name not in left_out]
        require(not unknown, f"{self.folder} has unknown {_some(unknown)}; it is not a plain BERT")
        if left_out:
            logger.info("%s also holds %s, not used here", self.folder, _some(left_out))

    def _copy_file(self, path: Path, targets: Mapping[str, Tensor]) -> None:
        """Copy from one file. A copy, and no view of the file, so that memory is aligned as in a new model."""
        with _opened(path) as file:
            for name, target in targets.items():
                if self.places[name].path == path:
                    key = self.places[name].key
                    found, wanted = list(file.get_slice(key).get_shape()), list(target.shape)
                    require(found == wanted, f"{key} in {path} is {found}, but config.json asks for {wanted}")
                    kind = file.get_slice(key).get_dtype()
                    require(kind in FLOATS, f"{key} in {path} is {kind}; only {', '.join(FLOATS)} can be read")
                    target.copy_(file.get_tensor(key))


def read_encoder(folder: Path, build: Callable[[dict[str, Any], bool], Model], add_pooling_layer: bool | None) -> Model:
    """Read what is below "bert.". `build` gets the shape, and whether to have a pooler."""
    source = ModelFolder(folder)
    if source.has("bert.pooler."):
        has_pooler = add_pooling_layer is not False
        return source.load(lambda: build(source.shape, has_pooler), prefix="bert.")
    if not add_pooling_layer:
        logger.warning("%s holds no pooler, so pooled_output will be None; use a mean over the tokens", folder)
        return source.load(lambda: build(source.shape, False), prefix="bert.")
    logger.warning("%s holds no pooler; its weights are random until they are trained", folder)
    model = source.load(lambda: build(source.shape, True), prefix="bert.", untrained="pooler.")
    initialize(model.get_submodule("pooler"), source.shape.get("initializer_range", 0.02))
    return model


def read_pretraining_model(folder: Path, build: Callable[[dict[str, Any], bool], Model]) -> Model:
    """Read the encoder and its heads. `build` gets the shape, and whether to predict next sentences."""
    source = ModelFolder(folder)
    require(source.has(MLM_HEAD), f"{folder} has no head for masked words; read it with BertModel.from_pretrained")
    return source.load(lambda: build(source.shape, source.has("cls.seq_relationship.")))


def has_pretraining_heads(folder: Path) -> bool:
    """Whether a folder holds more than an encoder: a head for masked words."""
    return ModelFolder(folder).has(MLM_HEAD)


def read_config(folder: Path) -> dict[str, Any]:
    """Read config.json.

    Raises:
        UserError: It is not there, or is no JSON object.
    """
    path = folder / "config.json"
    require(path.is_file(), f"{folder} holds no config.json; give a folder that save_pretrained wrote")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    require(isinstance(config, dict), f"{path} is no JSON object; it is not the config.json of a model")
    return config  # type: ignore[no-any-return]


def _shape_of(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The fields of `BertConfig`; a key that is not there keeps its default, which is that of transformers."""
    kind = config.get("model_type", "bert")
    require(kind == "bert", f"model_type in {folder / 'config.json'} is {kind!r}; only 'bert' can be read")
    for key, allowed in UNSUPPORTED.items():
        value = config.get(key, allowed[0])
        require(value in allowed, f"{key} in {folder / 'config.json'} is {value!r}; only {allowed[0]!r} can be read")
    return {key: config[key] for key in SHAPE_KEYS if key in config}


def _find_tensors(folder: Path) -> dict[str, Place]:
    """Where each tensor is, by its name in `BertForPreTraining`; copies of tied tensors and buffers are left out."""
    keys: dict[str, Path] = {}
    if (folder / WEIGHTS).is_file():
        with _opened(folder / WEIGHTS) as file:
            keys = dict.fromkeys(file.keys(), folder / WEIGHTS)
    elif (folder / INDEX).is_file():
        keys = dict(_read_index(folder))
    else:
        if (folder / "pytorch_model.bin").is_file():
            raise UserError(
                f"{folder} has only pytorch_model.bin, a pickle, which could run any code and is never loaded; "
                "if you trust it, open it in transformers and save it again with save_pretrained"
            )
        raise UserError(f"{folder} holds no {WEIGHTS}; give a folder that save_pretrained wrote")
    bare = any(key.startswith("embeddings.") for key in keys)
    places = {}
    for key, path in keys.items():
        name = key.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
        name = f"bert.{name}" if bare else name
        if not name.endswith(IGNORED):
            places[name] = Place(path, key)
    return places


def _read_index(folder: Path) -> Iterator[tuple[str, Path]]:
    """Name of each tensor and its file, for weights that are split over several files."""
    try:
        weight_map = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].items()
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"cannot read {folder / INDEX}: it has no weight_map; get the folder again") from error
    for key, name in weight_map:
        inside = isinstance(name, str) and Path(name).name == name  # a path could lead out of the folder
        require(inside and (folder / name).is_file(), f"{folder} has no file {name!r}, which its {INDEX} names")
        yield key, folder / name


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot read {path}, damaged or cut off: {error}; get the file again") from error


def _some(names: list[str]) -> str:
    """The first few of many names."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{'tensor' if len(names) == 1 else 'tensors'} {', '.join(names[:3])}{more}"
