"""The folder of an ONNX export: model.onnx and what goes with it, as optimum lays it out.

model.onnx             the graph
model_quantized.onnx   the same with 8-bit weights, if asked for
config.json            of the model; tokenizer.json, tokenizer_config.json, README.md
"""

import shutil
from pathlib import Path
from typing import NamedTuple

from bertsmith import atomic
from bertsmith.errors import UserError
from bertsmith.export.folder import carried_card, staged
from bertsmith.export.graph import Agreement, compare, our_outputs, task_of, write_graph
from bertsmith.export.int8 import Cost, Judge, make_judge, quantize
from bertsmith.export.runtime import Session, require_onnx
from bertsmith.finetuning.outcome import shown
from bertsmith.model import architecture
from bertsmith.model_source import find_model
from bertsmith.reporter import Reporter
from bertsmith.tokenizer import load_fitting_tokenizer, longest_input

GRAPH, QUANTIZED = "model.onnx", "model_quantized.onnx"


class Exported(NamedTuple):
    """What was written."""

    task: str
    agreement: Agreement
    cost: Cost | None
    """Of 8-bit weights."""


def export_onnx(
    source: Path,
    output: Path,
    *,
    task: str = "auto",
    int8: bool = False,
    data: str | None = None,
    reporter: Reporter | None = None,
) -> Exported:
    """Write a model as ONNX, checked against our own outputs.

    Args:
        source: A run, or a Hugging Face folder.
        output: Must not exist, or be an empty folder; it appears when all is checked.
        task: One of `graph.TASKS`, or "auto": what the folder's heads are for.
        int8: Also write the graph with 8-bit weights, and measure what they cost.
        data: Held-out text, or labelled rows for a classifier, to measure that on; None: what the run held out.
        reporter: Who to tell.

    Raises:
        UserError: The model cannot be read, has no such head, or its graph gives other values; a library is missing;
            there is nothing to measure 8-bit weights on, or no such weights to measure.
    """
    reporter = reporter or Reporter()
    if data is not None and not int8:
        raise UserError(f"--data is {data}, which only 8-bit weights are measured on; add --int8, or leave --data out")
    require_onnx()
    folder = find_model(source)
    task = task_of(folder, task)
    ours = our_outputs(folder, task)
    tokenizer = load_fitting_tokenizer(folder, ours.config.vocab_size)
    longest = min(ours.config.max_position_embeddings, longest_input(folder))
    judge = make_judge(source, folder, task, tokenizer=tokenizer, longest=longest, data=data) if int8 else None
    with staged(output) as staging:
        reporter.progress(f"tracing the model for {task}", 0.0)
        write_graph(folder, task, ours, staging / GRAPH)
        session = Session(staging / GRAPH)
        agreement = compare(ours, session)
        reporter.progress(f"tracing the model for {task}", 1.0)
        reporter.say(
            f"{task}: ONNX Runtime gives our outputs within {agreement.difference:.1g}, of values up to "
            f"{agreement.largest:.3g}, at {agreement.shapes} shapes of rows and tokens, padding among them"
        )
        cost = _with_int8(staging, session, judge, reporter) if judge else None
        names = architecture(ours.config.model_type).input_names
        tokenizer.save(staging, model_max_length=longest, model_input_names=names)
        shutil.copyfile(folder / "config.json", staging / "config.json")
        card = _card(folder, task, session, agreement, longest) + (_int8_section(staging, cost) if cost else "")
        atomic.write_text(staging / "README.md", card)
    reporter.say(f"written to {output}")
    return Exported(task, agreement, cost)


def _with_int8(staging: Path, session: Session, judge: Judge, reporter: Reporter) -> Cost:
    """Write the graph with 8-bit weights and measure it."""
    reporter.progress("measuring 8-bit weights", 0.0)
    quantize(staging / GRAPH, staging / QUANTIZED)
    cost = Cost(judge.compare(session, Session(staging / QUANTIZED)), judge.rows)
    reporter.progress("measuring 8-bit weights", 1.0)
    sizes = " to ".join(f"{_size(staging, name) / 1e6:,.1f}" for name in (GRAPH, QUANTIZED))
    reporter.say(f"8-bit weights: {sizes} MB; on {cost.rows}, float32 and 8 bits:")
    for each in cost.measures:
        reporter.say(
            f"  {each.name}: {shown(each.float32)} and {shown(each.int8)} ({shown(each.int8 - each.float32, '+')})"
        )
    return cost


def _size(folder: Path, name: str) -> int:
    """Bytes of a graph, with those that stand beside it."""
    return sum(path.stat().st_size for path in folder.glob(f"{name}*"))


def _int8_section(folder: Path, cost: Cost) -> str:
    rows = "\n".join(f"| {each.name} | {shown(each.float32)} | {shown(each.int8)} |" for each in cost.measures)
    sizes = " | ".join(f"{_size(folder, name) / 1e6:,.1f}" for name in (GRAPH, QUANTIZED))
    return f"""
`{QUANTIZED}` is the same graph with 8-bit weights (ONNX Runtime, dynamic). On {cost.rows}:

| | `{GRAPH}` | `{QUANTIZED}` |
|---|---|---|
{rows}
| size, MB | {sizes} |
"""


def _card(folder: Path, task: str, session: Session, agreement: Agreement, longest: int) -> str:
    """The model's card, and how to run the graph."""
    return f"""{carried_card(folder, library="onnx", task=task)}# ONNX

`{GRAPH}` is the model for {task}. Inputs, int64 [rows, tokens]: {", ".join(session.input_names)}; outputs, float32: \
{", ".join(session.output_names)}. Rows and tokens are free, up to {longest:,} tokens.
Compared with the PyTorch model at {agreement.shapes} shapes of rows and tokens, with padding: largest difference \
{agreement.difference:.1g}, of values up to {agreement.largest:.3g}.

```python
import numpy as np
import onnxruntime
from tokenizers import Tokenizer

tokenizer = Tokenizer.from_file("path/to/this/folder/tokenizer.json")
tokenizer.enable_padding()
tokenizer.enable_truncation({longest})
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
