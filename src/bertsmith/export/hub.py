"""A folder ready for the Hugging Face hub, and, only when told to, its upload.

The model and its tokenizer are copied; the model card keeps its measured
numbers and gets what only its maker knows: a licence, and what the data were.
"""

import re
import shutil
from pathlib import Path
from typing import Any

from bertsmith import atomic
from bertsmith.errors import UserError, first_line
from bertsmith.export.folder import staged
from bertsmith.finetuning.any_classifier import inspect_folder
from bertsmith.model import is_foreign, load_model
from bertsmith.reporter import Reporter
from bertsmith.sentence_vectors import find_encoder
from bertsmith.tokenizer import load_fitting_tokenizer

FILES = (
    "config.json", "model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors",
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt",
    "modules.json", "config_sentence_transformers.json", "sentence_bert_config.json",
    "*_Pooling/config.json", "*_Dense/config.json", "*_Dense/model.safetensors", "*_Normalize/config.json",
)  # fmt: skip
"""What is shared of a folder, as patterns; whatever else lies in it stays where it is."""

LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]*")
"""An identifier as the hub has them."""

REPO = re.compile(r"[\w.-]+/[\w.-]+")


def export_hub(
    source: Path,
    output: Path,
    *,
    licence: str | None,
    data_description: str | None,
    upload: bool = False,
    repo: str | None = None,
    reporter: Reporter | None = None,
) -> None:
    """Prepare a folder for the hub; upload it where `upload` and `repo` are both given.

    Args:
        source: A run, or a Hugging Face folder with a model card.
        output: Must not exist, or be an empty folder.
        licence: Of the model, an identifier of the hub such as "apache-2.0".
        data_description: What it was trained on, in words.
        upload: Send the folder to a new, private repository.
        repo: Its name, "owner/name".
        reporter: Who to tell.

    Raises:
        UserError: The model cannot be read or has no card, something is not given, huggingface_hub is not installed,
            or the upload failed; then the folder is there all the same.
    """
    reporter = reporter or Reporter()
    licence, description = _check(licence, data_description, upload, repo)
    hub = require_hub()
    folder = find_encoder(source)
    if is_foreign(folder):
        inspect_folder(folder)
    else:
        load_fitting_tokenizer(folder, load_model(folder).config.vocab_size)
    card = read_card(hub, folder / "README.md")
    with staged(output) as staging:
        for pattern in FILES:
            for path in folder.glob(pattern):
                place = staging / path.relative_to(folder)
                place.parent.mkdir(exist_ok=True)
                shutil.copyfile(path, place)
        card.data.license = licence
        card.text = _with_description(card.text, description)
        atomic.write_text(staging / "README.md", str(card).rstrip() + "\n")
    reporter.say(f"written to {output}: look through its README.md, which everyone will see")
    if not upload:
        reporter.say("nothing was uploaded; --upload --repo OWNER/NAME does that")
        return
    assert repo is not None
    _upload(hub, output, repo)
    reporter.say(f"uploaded to {repo}, a new private repository; make it public there")


def require_hub() -> Any:
    """The library of the hub.

    Raises:
        UserError: It is not installed.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise UserError(f"the hub needs more than is installed ({error}): pip install bertsmith[hf]") from None
    return huggingface_hub


def read_card(hub: Any, path: Path) -> Any:
    """The model card of a folder, as the library of the hub has it.

    Raises:
        UserError: There is none, or the hub could not read its header.
    """
    if not path.is_file():
        raise UserError(
            f"{path.parent} has no model card ({path.name}) with measured numbers; export a run, or write one"
        )
    try:
        return hub.ModelCard(path.read_text(encoding="utf-8"))
    except Exception as error:  # no UTF-8, no YAML, no mapping, results of a form it does not know
        raise UserError(f"the header of {path} is not what the hub reads ({first_line(error)}); mend it") from error


def _check(licence: str | None, description: str | None, upload: bool, repo: str | None) -> tuple[str, str]:
    """See that all is given that only the user knows."""
    if not licence:
        raise UserError("--to hub needs --licence, under which others may use the model, such as apache-2.0 or other")
    if not LICENCE.fullmatch(licence.lower()):
        raise UserError(
            f"--licence is {licence!r}; give an identifier of the hub, such as apache-2.0, cc-by-4.0 or other"
        )
    if not (description or "").strip():
        raise UserError("--to hub needs --data-description: what text it was trained on, from where, with what rights")
    if upload != (repo is not None):
        given, missing = ("--upload", "--repo OWNER/NAME") if upload else ("--repo", "--upload")
        raise UserError(f"{given} is given without {missing}; nothing is uploaded without both")
    if repo is not None and not REPO.fullmatch(repo):
        raise UserError(f"--repo is {repo!r}; give OWNER/NAME")
    return licence.lower(), (description or "").strip()


def _with_description(text: str, description: str) -> str:
    """The card with a section on the data, before its limits where it has them."""
    section = f"## Data\n\n{description}\n"
    before, limits, after = text.partition("\n## Limits\n")
    return f"{before.rstrip()}\n\n{section}{limits}{after}"


def _upload(hub: Any, folder: Path, repo: str) -> None:
    """Send a folder to a new private repository.

    Raises:
        UserError: It exists, or the hub refuses.
    """
    api = hub.HfApi()
    try:
        api.create_repo(repo, private=True, exist_ok=False)
        api.upload_folder(repo_id=repo, folder_path=str(folder), commit_message="Upload model")
    except Exception as error:  # of many kinds: no token, no right, no network, the name is taken
        raise UserError(
            f"{folder} is ready, but the upload to {repo} failed: {first_line(error)}; when that is mended, "
            f"`hf upload --private OWNER/NAME {folder}` sends it"
        ) from error
