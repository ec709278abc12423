"""The folder of an ONNX export: model.onnx and what goes with it, as optimum lays it out.

model.onnx             the graph
model_quantized.onnx   the same with 8-bit weights, if asked for
config.json            of the model; tokenizer.json, tokenizer_config.json, README.md
"""

import shutil
from pathlib import Path
from typing import NamedTuple

from bertsmith import atomic
from bertsmith.export.folder import staged
from bertsmith.export.graph import Agreement, compare, our_outputs, task_of, write_graph
from bertsmith.export.runtime import Session, require_onnx
from bertsmith.finetune_folder import find_model, tokenizer_of
from bertsmith.model import architecture
from bertsmith.reporter import Reporter

GRAPH, QUANTIZED = "model.onnx", "model_quantized.onnx"


class Exported(NamedTuple):
    """What was written."""

    task: str
    agreement: Agreement


def export_onnx(source: Path, output: Path, *, task: str = "auto", reporter: Reporter | None = None) -> Exported:
    """Write a model as ONNX, checked against our own outputs.

    Args:
        source: A run, or a Hugging Face folder.
        output: Must not exist, or be an empty folder; it appears when all is checked.
        task: One of `graph.TASKS`, or "auto": what the folder's heads are for.
        reporter: Who to tell.

    Raises:
        UserError: The model cannot be read, has no such head, or its graph gives other values; a library is missing.
    """
    reporter = reporter or Reporter()
    require_onnx()
    folder = find_model(source)
    task = task_of(folder, task)
    ours = our_outputs(folder, task)
    tokenizer = tokenizer_of(folder, ours.config.vocab_size)
    with staged(output) as staging:
        reporter.progress(f"tracing the model for {task}", 0.0)
        write_graph(folder, task, ours, staging / GRAPH)
        session = Session(staging / GRAPH)
        agreement = compare(ours, session)
        reporter.progress(f"tracing the model for {task}", 1.0)
        names = architecture(ours.config.model_type).input_names
        tokenizer.save(staging, model_max_length=ours.config.max_position_embeddings, model_input_names=names)
        shutil.copyfile(folder / "config.json", staging / "config.json")
        atomic.write_text(staging / "README.md", _card(folder, task, session, agreement))
    reporter.say(
        f"{task}: ONNX Runtime gives our outputs within {agreement.difference:.1g}, of values up to "
        f"{agreement.largest:.3g}, at {agreement.shapes} shapes of rows and tokens, padding among them"
    )
    reporter.say(f"written to {output}")
    return Exported(task, agreement)


def _card(folder: Path, task: str, session: Session, agreement: Agreement) -> str:
    """The model's card, and how to run the graph."""
    path = folder / "README.md"
    card = path.read_text(encoding="utf-8").rstrip() + "\n\n" if path.is_file() else ""
    return f"""{card}# ONNX

`{GRAPH}` is the model for {task}. Inputs, int64 [rows, tokens]: {", ".join(session.input_names)}; outputs, float32: \
{", ".join(session.output_names)}. Rows and tokens are free.
Compared with the PyTorch model at {agreement.shapes} shapes of rows and tokens, with padding: largest difference \
{agreement.difference:.1g}, of values up to {agreement.largest:.3g}.

```python
import numpy as np
import onnxruntime
from tokenizers import Tokenizer

tokenizer = Tokenizer.from_file("path/to/this/folder/tokenizer.json")
tokenizer.enable_padding()
session = onnxruntime.InferenceSession("path/to/this/folder/{GRAPH}")

rows = tokenizer.encode_batch(["A text.", "Another, longer text."])
inputs = {{
    "input_ids": np.array([row.ids for row in rows]),
    "attention_mask": np.array([row.attention_mask for row in rows]),
    "token_type_ids": np.array([row.type_ids for row in rows]),
}}
names = [each.name for each in session.get_inputs()]
outputs = session.run(None, {{name: inputs[name] for name in names}})
```
"""
