"""Which folder a model's name means: a path as it is, or the id of a model on the Hugging Face hub, downloaded.

Not tested where there is no network: what is tested is what is asked for, and what is refused.
"""

import os
from pathlib import Path

from bertsmith.corpus.hub import hub_id
from bertsmith.errors import UserError, first_line

FILES = ["*.json", "*.txt", "*.model", "*.safetensors"]
"""What is downloaded: no pickle, and no code."""


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
