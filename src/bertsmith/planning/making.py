"""The plan of a run is made: its data is opened, and the settings that nobody gave are found.

They follow from the text (`decisions.py`), the budget (`sizing.py`) and the machine (`measuring.py`), and are written
to the run; on resume nothing is missing, so nothing is found out twice.
"""

import torch

from bertsmith.budget import Clock, parse_budget, seconds_at_last_look
from bertsmith.data.shards import read_manifest
from bertsmith.machine.device import require_memory
from bertsmith.planning.decisions import (
    decide_family,
    decide_first_attention,
    decide_length,
    decide_objective,
    decide_recipe,
    decide_shape,
)
from bertsmith.planning.from_settings import rows_of, training_rows
from bertsmith.planning.measuring import decide_by_measuring
from bertsmith.planning.plan import Plan
from bertsmith.planning.sizing import decide_by_budget
from bertsmith.reporter import Reporter
from bertsmith.run_folder import Run
from bertsmith.tokenizer import load_tokenizer


def make_plan(
    run: Run, device: torch.device, reporter: Reporter, *, started: float, seconds_before: float, is_begun: bool
) -> Plan:
    """Open the prepared data and decide what is not decided yet; the decisions are saved with the run.

    Args:
        run: Its text is prepared.
        device: Where to train.
        reporter: Who to tell.
        started: When this command began, by `time.monotonic`.
        seconds_before: Time that earlier commands have spent on the run.
        is_begun: It has a checkpoint, so that nothing that matters may change.
    """
    manifest = read_manifest(run.folder / "data")
    tokenizer = load_tokenizer(run.folder / "tokenizer")
    decide_family(run)
    decide_objective(run, manifest)
    if not is_begun:
        decide_recipe(run)
    training = run.config.training
    used = max(seconds_before, seconds_at_last_look(run.folder))
    clock = Clock(parse_budget(training.budget) if training.budget else None, started=started, used_before=used)
    rows = {
        length: training_rows(run, length) for length in (training.sequence_length, training.short_length) if length
    }
    if clock.budget is not None and training.steps is None:
        decide_by_budget(run, clock, rows[training.sequence_length], tokenizer, device)
    decide_shape(run)
    if not is_begun:
        decide_first_attention(run, tokenizer)
    decide_length(run, rows[training.sequence_length])
    held_out = rows_of(run, "validation", training.sequence_length)
    plan = Plan(run, manifest, tokenizer, rows, held_out, device, clock, is_begun)
    require_memory(plan.parameters(), device)
    decide_by_measuring(plan, reporter)
    if run.config.training.device == "auto":
        run.decide("measured", device=device.type)
    plan.save()
    return plan
