"""A whole pretraining run, in the order things happen.

    text -> tokenizer and shards -> settings -> model -> steps -> RUN/model/

The same call again goes on from the newest checkpoint, and ends with the same
weights as a run that was never interrupted.
"""

import json
import shutil
import time
from collections.abc import Mapping
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import torch

from bertsmith import distributed
from bertsmith.averaging import WeightAverage
from bertsmith.budget import REVISIONS
from bertsmith.checkpoint import load_checkpoint
from bertsmith.checkpoint_folders import Found, list_checkpoints, newest_checkpoint, read_state, set_damaged_aside
from bertsmith.data.keyed import text_hash
from bertsmith.diary import Diary
from bertsmith.errors import UserError
from bertsmith.finish import finish_run
from bertsmith.loop import measure_held_out, train
from bertsmith.machine.device import find_device, set_determinism, set_threads
from bertsmith.machine.memory import training_state
from bertsmith.optim import make_optimizer
from bertsmith.output_folder import CONFIG, locked, new_folder
from bertsmith.planning.duration import fit_into_budget, last_rows, seconds_left, try_out
from bertsmith.planning.making import make_plan
from bertsmith.planning.overview import describe
from bertsmith.prepare import prepare
from bertsmith.recorder import set_recording
from bertsmith.replay import prepare_replay, refuse_missing
from bertsmith.reporter import Reporter, Silent
from bertsmith.run_folder import GIVEN, Run, mistakes_forgotten, note_environment, open_run, read_run, refuse_edits
from bertsmith.starting import take_init, write_start

SECONDS_TO_APPEAR = 60.0
"""A network file system remembers for so long that a file was not there."""


def pretrain(
    folder: str | Path,
    given: Mapping[str, Any],
    origin: Mapping[str, str] | None = None,
    reporter: Reporter | None = None,
    *,
    plan_only: bool = False,
    started: float | None = None,
) -> Path:
    """Pretrain a model from text, or go on with a run.

    Args:
        folder: The run's folder.
        given: Settings by name (`config.RunConfig`); all others keep their
            defaults, or what the run decided when it began.
        origin: Where settings were given, when not all of them as a "flag": "file", for example.
        reporter: Who to tell; the log when None.
        plan_only: Stop before the first step.
        started: When the command began, by `time.monotonic`, of which a budget counts its time. None: now.

    Returns:
        RUN/model, a Hugging Face folder.

    Raises:
        UserError: A setting, the text or the folder is not usable, or the disk is full.
        Interrupted: The run was asked to stop and has saved its state.
    """
    folder = Path(folder)
    started = time.monotonic() if started is None else started
    known = read_run(folder).config.training.device if (folder / CONFIG).exists() else "auto"
    device = find_device(str(given.get("device") or known))
    distributed.start(device.type)
    main = distributed.is_main()
    reporter = reporter or Reporter() if main else Silent()
    with ExitStack() as stack:
        stack.callback(distributed.stop)
        run, found = set_up(folder, given, dict.fromkeys(given, "flag") | dict(origin or {}), reporter, stack)
        threads = set_threads(run.config.training.threads)
        set_determinism(device)
        set_recording(run.config.training.cuda_graphs == "auto")
        state: dict[str, Any] = {"step": 0, "tokens": 0, "seconds": 0.0, "skipped": 0, "wall_seconds": 0.0}
        if found.folder is not None:
            state |= read_state(found.folder)
            refuse_edits(run, state.get("settings", {}))
        refuse_finished(run, state["step"], plan_only)
        plan = make_plan(
            run,
            device,
            reporter,
            started=started,
            seconds_before=state["wall_seconds"],
            is_begun=found.folder is not None,
        )
        training = run.config.training
        if main:
            note_environment(run.folder, reporter, device=device.type, threads=threads, ranks=distributed.world_size())

        model = plan.new_model(counted=not plan_only or plan.clock.limits_time)  # of a budget, counting takes its part
        optimizer = make_optimizer(
            model,
            weight_decay=training.weight_decay,
            beta2=training.adam_beta2,
            kind=training.optimizer,
            clip_updates=training.clip_updates,
            precision=training.precision,
            muon_scale=training.muon_scale,
        )
        average = WeightAverage(model, training.average_decay) if training.average_decay else None
        if found.folder is not None:
            load_checkpoint(found.folder, model, optimizer, average)
        diary = Diary(plan, reporter, first_step=state["step"])
        if state["step"] < (training.steps or 0):
            check_free_disk(run, model)
            tried = try_out(plan, model, reporter)
            if plan.clock.limits_time and not (run.folder / REVISIONS).exists():
                fit_into_budget(plan, tried, reporter)
            seconds = seconds_left(plan, tried, first_step=state["step"])
            describe(plan, reporter, first_step=state["step"], seconds=seconds)
            if plan_only:
                plan.save()
                return run.folder
            if state["step"] == 0:
                diary.fill(model, 0)
            diary.write_page()
            train(plan, model, tried.losses, optimizer, state, average=average, diary=diary, reporter=reporter)
        with average.in_place() if average else nullcontext():
            measured = measure_held_out(plan, model, last_rows(plan))
            if main:
                finish_run(model, plan, measured, state, reporter)
                diary.write_page(at_once=True)
        distributed.barrier()
    return run.model


def refuse_finished(run: Run, step: int, plan_only: bool) -> None:
    """Refuse to plan what is done.

    Raises:
        UserError: All steps of the run are done, and only its plan was asked for.
    """
    if plan_only and step and step >= (run.config.training.steps or 0):
        raise UserError(f"all {step:,} steps of {run.folder} are done, so there is nothing to plan; give another -o")


def set_up(
    folder: Path, given: Mapping[str, Any], origin: Mapping[str, str], reporter: Reporter, stack: ExitStack
) -> tuple[Run, Found]:
    """Open the run's folder and prepare its text, on the main rank; the others wait and read it.

    Returns:
        The run, and the checkpoint to go on from.

    Raises:
        UserError: This rank is on a machine that does not share the folder.
    """
    if not distributed.is_main():
        distributed.barrier()
        wait_for_settings(folder)
        run = read_run(folder)
        return run, newest_checkpoint(run.checkpoints)
    stack.enter_context(new_folder(folder, owned_by=(CONFIG,)))
    stack.enter_context(locked(folder))
    run = open_run(folder, given, origin)
    stack.enter_context(mistakes_forgotten(run))
    found = newest_checkpoint(run.checkpoints)
    set_damaged_aside(found, reporter.warn)
    if found.damaged and found.folder is None:
        reporter.warn("no whole checkpoint is left: the run begins again with its first step")
    source = take_init(run) if found.folder is None else None
    run.save()
    prepare_text(run, reporter, keep_existing=found.folder is not None)
    if found.folder is None and (source := source or take_init(run)):  # the text may have given another tokenizer
        write_start(run, source, reporter)
    run.save()
    distributed.barrier()  # from here on all ranks decide together
    return run, found


def wait_for_settings(folder: Path) -> None:
    """Wait until the settings that the main rank wrote are seen from this machine.

    Raises:
        UserError: They are not: the folder is another one here.
    """
    until = time.monotonic() + SECONDS_TO_APPEAR
    while not (folder / CONFIG).exists():
        if time.monotonic() >= until:
            raise UserError(f"the folder of the run, {folder}, is not here; all machines of a run have to share it")
        time.sleep(0.5)


def prepare_text(run: Run, reporter: Reporter, *, keep_existing: bool) -> None:
    """Make the tokenizer and the shards, or find them made; forget what was decided for other text."""
    replay = run.config.training.replay
    if replay is not None and not keep_existing:
        refuse_missing(replay)
    prepared = prepare(
        run.config.data,
        run.folder,
        report=reporter.say,
        progress=reporter.progress,
        keep_existing=keep_existing,
        sequence_length=run.config.training.sequence_length,
        explicit=frozenset(name for name, origin in run.origin.items() if origin in GIVEN),
    )
    if not keep_existing:
        run.begin_with(fingerprint_of(prepared.manifest))
    if replay is not None:
        prepare_replay(
            run.folder,
            replay,
            run.config.data,
            reporter,
            sequence_length=run.config.training.sequence_length,
            keep_existing=keep_existing,
        )


def fingerprint_of(manifest: Mapping[str, Any]) -> str:
    """Hash of what the shards were made from."""
    return text_hash(json.dumps(manifest["fingerprint"], sort_keys=True)).hex()


def check_free_disk(run: Run, model: torch.nn.Module) -> None:
    """Look for room for the checkpoints before the first step.

    Raises:
        UserError: The disk is too full.
    """
    training = run.config.training
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    more = max(0, training.keep - len(list_checkpoints(run.checkpoints))) + 1  # one more while saving
    each = training_state(model, optimizer=training.optimizer, averaged=training.average_decay > 0)
    needed = each * more + weights  # a checkpoint has the weights for the gradients; and the model at the end
    free = shutil.disk_usage(run.folder).free
    if free < needed:
        raise UserError(
            f"{free / 1e6:,.0f} MB are free at {run.folder} and the checkpoints need {needed / 1e6:,.0f} MB; "
            "free some, lower --keep, or choose another disk with -o"
        )
