"""Which folder a model's name means: a path, that of a run, or the id of a model on the Hugging Face hub, downloaded.

Downloads are not tested where there is no network: what is tested is what is asked for, and what is refused.
"""

import hashlib
import os
from pathlib import Path

from bertsmith import atomic
from bertsmith.corpus.hub import hub_id
from bertsmith.errors import UserError, first_line
from bertsmith.output_folder import CONFIG, FINETUNE

FILES = ["*.json", "*.txt", "*.model", "*.safetensors"]
"""What is downloaded: no pickle, and no code."""


def find_model(source: Path) -> Path:
    """The Hugging Face folder that a path means: that of a finished run, the path itself, or a model of the hub.

    Raises:
        UserError: There is none.
    """
    source = local_folder(source)
    if (source / CONFIG).is_file() or (source / FINETUNE).is_file():
        if not (source / "model").is_dir():
            raise UserError(f"{source} has no model yet; let the run finish, the same command goes on with it")
        return source / "model"
    for folder in (source, source / "model"):  # the latter: what `finetune --embeddings` wrote
        if (folder / "config.json").is_file():
            return folder
    if not source.exists():
        raise UserError(
            f"{source} does not exist; give the folder of a run, or of a model that save_pretrained wrote, or the id "
            "of one on the hub, as OWNER/NAME"
        )
    if (source / "data" / "manifest.json").is_file():
        raise UserError(f"{source} holds prepared text but no model; run `bertsmith pretrain {source}` first")
    raise UserError(
        f"{source} is neither a run nor a model ({CONFIG}, {FINETUNE} and config.json are missing); give another folder"
    )


def model_hash(folder: Path) -> str:
    """Hash of the weights, the shape and the vocabulary of a model."""
    words = folder / "tokenizer.json"
    words = words if words.exists() else folder / "vocab.txt"
    files = sorted([*folder.glob("*.safetensors"), folder / "config.json", words])
    hashes = [atomic.sha256(path) for path in files if path.exists()]
    return hashlib.sha256("".join(hashes).encode("ascii")).hexdigest()


def local_folder(source: str | Path) -> Path:
    """The folder of a model.

    Args:
        source: A path; or, where no such path exists, an id on the hub such as "user/name", which is then downloaded.

    Raises:
        UserError: The model cannot be had, or has no weights as safetensors.
    """
    path = Path(os.path.expanduser(source))
    if path.exists() or hub_id(str(source)) is None or path.parent.is_dir():
        return path
    return _download(str(source))


def _download(source: str) -> Path:
    """Get the files of a model from the hub; weights as safetensors alone."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise UserError(
            f"{source} does not exist here, and to get it from the hub more is needed: pip install bertsmith[hf]"
        ) from None
    try:
        folder = Path(snapshot_download(source, allow_patterns=FILES))
    except Exception as error:  # whatever it raises means that there is no such model
        line = first_line(error)
        raise UserError(f"{source} does not exist here and cannot be had from the hub: {line}") from error
    if not any(folder.glob("*.safetensors")):
        raise UserError(
            f"{source} has no weights as safetensors on the hub; a pickle could run any code and is never loaded: "
            "give a model that has them"
        )
    return folder
