"""Commands that give a model to other programs. Each imports its program when it is called."""

from contextlib import closing
from pathlib import Path
from typing import Any

import click

from bertsmith.commands.flags import PATH, named, settings
from bertsmith.errors import UserError
from bertsmith.finetuning.config import FinetuneConfig

FORMS = ("onnx", "sentence-transformers", "hub")
FLAGS = {
    "onnx": ("task", "int8", "data"),
    "sentence-transformers": ("pooling",),
    "hub": ("licence", "data_description", "upload", "repo"),
}
"""Which flags each form has."""

TASKS = ("auto", "feature-extraction", "fill-mask", "text-classification", "token-classification")

POOLINGS = ("auto", "mean", "pooled")
POOLING_HELP = "what makes a vector [pooled output if labels of texts trained the pooler, else the mean]."


@click.command("export")
@click.argument("model", type=PATH)
@click.option("--to", "form", type=click.Choice(FORMS), required=True, help="The form to write.")
@click.option("-o", "--output", type=PATH, help="Folder to write [MODEL-FORM].")
@click.option("--task", type=click.Choice(TASKS), default="auto", show_default=True, help="onnx: what it gives.")
@click.option("--int8", is_flag=True, help="onnx: also with 8-bit weights, whose cost is measured and shown.")
@click.option("--data", help="onnx: text or labelled rows to measure 8-bit weights on [what the run held out].")
@click.option("--pooling", type=click.Choice(POOLINGS), default="auto", help="sentence-transformers: " + POOLING_HELP)
@click.option("--licence", help="hub: under which others may use the model, such as apache-2.0 [asked for].")
@click.option("--data-description", help="hub: what text it was trained on, from where, with what rights [asked for].")
@click.option("--upload", is_flag=True, help="hub: send the folder there; without this and --repo nothing leaves.")
@click.option("--repo", help="hub: OWNER/NAME of the new, private repository to upload to [none].")
def export(model: Path, form: str, output: Path | None, **flags: Any) -> None:
    """Write MODEL, a run or a folder, in a form that other programs load; checked before it is there."""
    from bertsmith.commands.console import make_reporter

    given = only_for(form, flags)
    output = output or default_output(model, form)
    with closing(make_reporter()) as reporter:
        if form == "onnx":
            from bertsmith.export.onnx import export_onnx

            export_onnx(model, output, **given, reporter=reporter)
        elif form == "sentence-transformers":
            from bertsmith.export.sentences import export_sentences

            export_sentences(model, output, **given, reporter=reporter)
        else:
            from bertsmith.export.hub import export_hub

            export_hub(model, output, **given, reporter=reporter)


@click.command("embed")
@click.argument("model", type=PATH)
@click.argument("data", callback=named)
@click.option("-o", "--output", type=PATH, required=True, help="NumPy file to write (.npy).")
@click.option("--text-field", "--text", "text_field", help="Column with the text [found].")
@click.option("--pooling", type=click.Choice(POOLINGS), default="auto", help="W" + POOLING_HELP[1:])
@settings(FinetuneConfig, only=("device", "threads"))
@click.option("--half", is_flag=True, help="Compute the products in bfloat16: faster where the device has it.")
def embed(
    model: Path,
    data: str,
    output: Path,
    *,
    text_field: str | None,
    pooling: Any,
    device: str | None,
    threads: int | None,
    half: bool,
) -> None:
    """Write a vector for each row of DATA with MODEL, a run or a folder, also of sentence-transformers; order is kept.

    DATA is a table, JSON lines, Parquet, or plain text with one text a line. The vectors are float32 [rows, width].
    """
    from bertsmith.commands.console import make_reporter
    from bertsmith.embed import embed_file
    from bertsmith.machine.device import find_device, set_threads
    from bertsmith.sentence_vectors import load_sentence_encoder

    set_threads(threads)
    encoder = load_sentence_encoder(model, pooling=pooling)
    encoder.model.to(find_device(device or "auto"))
    precision = "bfloat16" if half else "float32"
    with closing(make_reporter()) as reporter:
        embed_file(encoder, data, output, text_field=text_field, precision=precision, reporter=reporter)


def only_for(form: str, flags: dict[str, Any]) -> dict[str, Any]:
    """The flags of a form.

    Raises:
        UserError: One was given that belongs to another.
    """
    for name, value in flags.items():
        if name not in FLAGS[form] and value not in (None, False, "auto"):
            owner = next(other for other, names in FLAGS.items() if name in names)
            raise UserError(f"--{name.replace('_', '-')} is for --to {owner}, and this is --to {form}; leave it out")
    return {name: flags[name] for name in FLAGS[form]}


def default_output(model: Path, form: str) -> Path:
    """MODEL-FORM, beside the model."""
    if not model.name:
        raise UserError(f"{model} has no name to call the export by; name a folder with -o")
    return model.with_name(f"{model.name}-{form}")
