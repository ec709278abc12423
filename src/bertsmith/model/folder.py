"""The Hugging Face folder of a model: config.json and model.safetensors, read and written.

What an architecture is called there says its `Naming`. No pickle is read or written.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from bertsmith import atomic
from bertsmith.errors import UserError, require
from bertsmith.model.first_weights import without_weights
from bertsmith.model.naming import Naming, hf_names

logger = logging.getLogger(__name__)

Model = TypeVar("Model", bound=nn.Module)

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
TRANSFORMERS_VERSION = "5.23.0"
"""The release whose folders these are."""

FLOATS = ("F32", "F16", "BF16", "F64")
"""Number formats of safetensors that are read; all become float32."""


class Place(NamedTuple):
    """Where a tensor is."""

    path: Path
    key: str


def write_folder(
    folder: Path, model: nn.Module, shape: Mapping[str, Any], naming: Naming, *, architecture: str
) -> None:
    """Write config.json and model.safetensors, each in one step.

    Args:
        folder: Made if it is not there. Other files in it stay.
        model: One of ours.
        shape: The fields of its config, and what else config.json is to say.
        naming: Of its architecture.
        architecture: The class of transformers that the folder is for; `BertModel` and `ModernBertModel` have no heads.
    """
    encoder_only = architecture.endswith("Model")
    tensors = {
        (name.removeprefix(naming.encoder) if encoder_only else name): tensor.detach().cpu().contiguous()
        for name, tensor in _hf_tensors(model.state_dict(), naming, encoder_only=encoder_only).items()
    }
    dtype = str(next(iter(tensors.values())).dtype).removeprefix("torch.")
    fixed = {
        "architectures": [architecture],
        "dtype": dtype,
        "torch_dtype": dtype,  # the same for transformers 4
        "model_type": naming.model_type,
        "tie_word_embeddings": True,
        "transformers_version": TRANSFORMERS_VERSION,
    }
    folder.mkdir(parents=True, exist_ok=True)
    atomic.write_bytes(folder / WEIGHTS, safetensors.torch.save(tensors, metadata={"format": "pt"}))
    atomic.write_json(folder / "config.json", dict(sorted({**fixed, **naming.config_json(shape)}.items())))


def _hf_tensors(tensors: Mapping[str, Tensor], naming: Naming, *, encoder_only: bool) -> dict[str, Tensor]:
    """Tensors of one of our models by their names in a folder with heads; what is stacked in ours as views of it."""
    named: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        names = hf_names(f"bert.{name}" if encoder_only else name, naming)
        named.update(zip(names, tensor.chunk(len(names)), strict=True))
    return named


class ModelFolder:
    """A Hugging Face folder of a model, opened for reading: its shape, and where its tensors are.

    Raises:
        UserError: The folder is none, or of something else.
    """

    def __init__(self, folder: Path, naming: Naming) -> None:
        self.folder = folder
        self.naming = naming
        self._config = read_config(folder)
        self.shape = encoder_shape(self._config, folder / "config.json", naming)
        self.places = _find_tensors(folder, naming)

    def has(self, prefix: str) -> bool:
        """Whether there are tensors whose names begin so; names as in a folder with heads."""
        return any(name.startswith(prefix) for name in self.places)

    def require_mlm_head(self) -> None:
        """See that there is a head for masked words.

        Raises:
            UserError: There is none.
        """
        require(
            self.has(self.naming.mlm_head),
            f"{self.folder} has no head for masked words; give a model that learnt them and was tuned for nothing else "
            "since",
        )

    def load(
        self,
        build: Callable[[], Model],
        *,
        encoder_only: bool = False,
        untrained: tuple[str, ...] = (),
        unused: tuple[str, ...] = (),
    ) -> Model:
        """Make a model in float32 and copy the tensors into it.

        Args:
            build: Makes it. It draws no weights here, so the random state does not move.
            encoder_only: Whether it is an encoder without heads.
            untrained: Begins of names of ours that are not looked for in the folder; they are left unset.
            unused: Begins of names in the folder that the model has no use for.

        Raises:
            UserError: Tensors are missing, too many, of another shape or no numbers.
        """
        with without_weights():
            model = build()
        model.float().to_empty(device="cpu")  # whatever PyTorch's default dtype is
        trained = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(untrained)}
        targets = _hf_tensors(trained, self.naming, encoder_only=encoder_only)
        if any(name.startswith(self.naming.mlm_head) for name in targets):
            self.naming.read_shape(self._config, self.folder / "config.json")  # a head is tied, or refused
        self._check_names(targets, self.naming.encoder if encoder_only else "", unused)
        for path in sorted({self.places[name].path for name in targets}):
            self._copy_file(path, targets)
        return model.eval()

    def _check_names(self, targets: Mapping[str, Tensor], prefix: str, unused: tuple[str, ...]) -> None:
        """Hold the names in the files against those of the model."""
        missing = [name for name in targets if name not in self.places]
        require(not missing, f"{self.folder} lacks {_some(missing)}; the weights do not belong to its config.json")
        others = [name for name in self.places if name not in targets]
        unused = ("bert.pooler.", *unused)
        left_out = [name for name in others if not name.startswith(prefix) or name.startswith(unused)]
        unknown = [name for name in others if name not in left_out]
        require(not unknown, f"{self.folder} has unknown {_some(unknown)}; it is not a plain {self.naming.title}")
        if left_out:
            logger.info("%s also holds %s, not used here", self.folder, _some(left_out))

    def _copy_file(self, path: Path, targets: Mapping[str, Tensor]) -> None:
        """Copy from one file. A copy, and no view of the file, so that memory is aligned as in a new model."""
        with _opened(path) as file:
            for name, target in targets.items():
                where, key = self.places[name]
                if where != path:
                    continue
                found, wanted = list(file.get_slice(key).get_shape()), list(target.shape)
                require(found == wanted, f"{key} in {path} is {found}, but config.json asks for {wanted}")
                kind = file.get_slice(key).get_dtype()
                require(kind in FLOATS, f"{key} in {path} is {kind}; only {', '.join(FLOATS)} can be read")
                tensor = file.get_tensor(key)
                is_sound = bool(tensor.isfinite().all())
                require(is_sound, f"{key} in {path} has values that are no numbers; get the model again")
                target.copy_(tensor)


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
    classes = config.get("architectures") or []
    require(isinstance(classes, list), f"architectures in {path} is {classes!r}; it must be a list of names")
    return config  # type: ignore[no-any-return]


def encoder_shape(config: Mapping[str, Any], path: Path, naming: Naming) -> dict[str, Any]:
    """The fields of our config that a config.json gives, whatever ties a head for masked words to the embeddings.

    Args:
        config: What it holds.
        path: Where it is.
        naming: Of the architecture.

    Raises:
        UserError: It is of another model.
    """
    kind = config.get("model_type", naming.model_type)
    require(kind == naming.model_type, f"model_type in {path} is {kind!r}; only {naming.model_type!r} can be read here")
    return naming.read_shape({**config, "tie_word_embeddings": True}, path)


def refuse_others(config: Mapping[str, Any], path: Path, allowed: Mapping[str, tuple[Any, ...]]) -> None:
    """See that keys of config.json, where they are there, have values that our model has.

    Raises:
        UserError: One has another value.
    """
    for key, values in allowed.items():
        value = config.get(key, values[0])
        require(value in values, f"{key} in {path} is {value!r}; only {values[0]!r} can be read")


def _find_tensors(folder: Path, naming: Naming) -> dict[str, Place]:
    """Where each tensor is, by its name in a folder with heads; copies of tied tensors and buffers are left out."""
    keys: dict[str, Path] = {}
    if (folder / WEIGHTS).is_file():
        with _opened(folder / WEIGHTS) as file:
            keys = dict.fromkeys(file.keys(), folder / WEIGHTS)
    elif (folder / INDEX).is_file():
        keys = dict(_read_index(folder))
    else:
        refuse_pickle(folder)
        raise UserError(f"{folder} holds no {WEIGHTS}; give a folder that save_pretrained wrote")
    bare = any(key.startswith("embeddings.") for key in keys)
    places = {}
    for key, path in keys.items():
        name = key.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
        name = f"{naming.encoder}{name}" if bare else name
        if not name.endswith(naming.ignored):
            places[name] = Place(path, key)
    return places


def refuse_pickle(folder: Path) -> None:
    """Say what is wrong with a folder whose weights are a pickle.

    Raises:
        UserError: It is one.
    """
    pickles = sorted(folder.glob("pytorch_model*.bin"))
    if pickles and not any(folder.glob("*.safetensors")):
        raise UserError(
            f"{folder} has only {pickles[0].name}, a pickle, which could run any code and is never loaded; "
            "if you trust it, open it in transformers and save it again with save_pretrained"
        )


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
