"""Commands that give a model to other programs. Each imports its program when it is called."""

from pathlib import Path
from typing import Any

import click

from bertsmith.errors import UserError

FORMS = ("onnx", "sentence-transformers", "hub")
TASKS = ("auto", "feature-extraction", "fill-mask", "text-classification", "token-classification")


@click.command("export")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--to", "form", type=click.Choice(FORMS), required=True, help="The form to write.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder to write [MODEL-FORM].")
@click.option("--task", type=click.Choice(TASKS), default="auto", show_default=True, help="onnx: what it gives.")
@click.option("--int8", is_flag=True, help="onnx: also with 8-bit weights, whose cost is measured and shown.")
@click.option("--data", help="onnx: text or labelled rows to measure 8-bit weights on [what the run held out].")
def export(model: Path, form: str, output: Path | None, **flags: Any) -> None:
    """Write MODEL, a run or a folder, in a form that other programs load; checked before it is there."""
    from bertsmith.console import make_reporter
    from bertsmith.export.onnx import export_onnx

    output = output or default_output(model, form)
    reporter = make_reporter()
    try:
        export_onnx(model, output, **flags, reporter=reporter)
    finally:
        reporter.close()


def default_output(model: Path, form: str) -> Path:
    """MODEL-FORM, beside the model."""
    if not model.name:
        raise UserError(f"{model} has no name to call the export by; name a folder with -o")
    return model.with_name(f"{model.name}-{form}")
