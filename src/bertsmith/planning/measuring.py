"""Settings of a run that this machine decides: precision, rows at once, and compiling.

Measured before the first step in a few seconds, written to the run and read again on resume.
"""

from math import ceil

from bertsmith import distributed
from bertsmith.errors import UserError
from bertsmith.machine.compiling import has_compiler, worth_compiling
from bertsmith.machine.measure import best_micro_batch, compare_precisions, halving, has_fast_half
from bertsmith.machine.memory import even_part, rows_that_fit, training_state
from bertsmith.model import AnyPretrainingModel
from bertsmith.planning.plan import Plan
from bertsmith.reporter import Reporter
from bertsmith.run_folder import GIVEN, Run

SPARE_OF_KNOWN = 0.75
"""Share of the free memory for rows whose number a run has found out before: more than a new run takes, so that it does
not become less without need, and less than all, since a checkpoint is read beside what it is read into."""


def decide_by_measuring(plan: Plan, reporter: Reporter) -> None:
    """Measure precision, micro-batch size and compiling where they are not given, in about a second each."""
    run = plan.run
    if run.config.training.compile == "yes" and not has_compiler(plan.device):
        _do_without_compiler(plan, reporter)
    for stage in plan.stages:
        stage.divide(run.config.training)  # refuses more ranks than rows
    share = plan.largest_share
    _take_accumulation(run, plan.stages[-1].rows, share)
    training = run.config.training
    is_decided = training.micro_batch_size is not None and "auto" not in (training.precision, training.compile)
    if is_decided and plan.device.type != "cpu":
        return
    reporter.progress("measuring this machine", 0.0)
    model = plan.model_to_measure()
    state = training_state(model, optimizer=training.optimizer, averaged=training.average_decay > 0)
    most = 0
    if training.precision == "auto":
        if half := has_fast_half(plan.device):
            most = rows_that_fit(model, plan.first_rows, "auto", state=state)
            speed, _ = compare_precisions(model, plan.first_rows, min(share, training.micro_batch_size or share, most))
            half = speed.precision == "bfloat16"
        run.decide("measured", precision="bfloat16" if distributed.from_main(half) else "float32")
    precision = run.config.training.precision
    if training.micro_batch_size is None:
        if most < share:  # of "auto", which is no more than that of either precision
            most = rows_that_fit(model, plan.first_rows, precision, state=state)
        size, seconds = best_micro_batch(model, share, plan.first_rows, precision, most=most, state=state)
        run.decide("measured", micro_batch_size=int(distributed.from_main(size)))
        plan.micro_batch_seconds = seconds
    else:
        is_given = run.origin.get("micro_batch_size") in GIVEN
        share_of_free = 1.0 if is_given else SPARE_OF_KNOWN
        most = rows_that_fit(model, plan.first_rows, precision, state=state, share=share_of_free)
        take_what_fits(plan, most, reporter)
    if training.compile == "auto":
        pays = distributed.from_main(_compiling_pays(plan, model))
        run.decide("measured", compile="yes" if pays else "no")
    reporter.progress("measuring this machine", 1.0)


def _do_without_compiler(plan: Plan, reporter: Reporter) -> None:
    """Let a run that compiled go on.

    Raises:
        UserError: The user asks a new one to compile.
    """
    if not plan.is_begun and plan.run.origin.get("compile") != "measured":
        raise UserError("compile is 'yes', but no C++ compiler was found; install g++ or give --compile no")
    reporter.warn(
        "this run compiles its steps and no C++ compiler was found: they are slower until g++ is there, and may "
        "differ in rounding"
    )


def _compiling_pays(plan: Plan, model: AnyPretrainingModel) -> bool:
    """Measured with the micro-batch of the run; of a GPU a size that was given may be too large, as steps find out."""
    training = plan.run.config.training
    division = plan.stages[-1].divide(training)
    pays, _ = halving(
        division.micro_batch_size,
        lambda rows: worth_compiling(
            model,
            plan.first_rows(rows),
            training.precision,
            micro_batches=ceil(division.rows / rows) * plan.steps,
            plain=plan.micro_batch_seconds,
        ),
    )
    return pays


def _take_accumulation(run: Run, rows: int, share: int) -> None:
    """Turn `gradient_accumulation_steps` into a micro-batch size, the same on every rank."""
    training = run.config.training
    pieces = training.gradient_accumulation_steps
    if training.micro_batch_size is not None or pieces is None:
        return
    if rows % pieces:
        raise UserError(
            f"gradient_accumulation_steps is {pieces}, which does not divide the {rows} rows of a step; "
            "give a divisor of them, or --micro-batch-size"
        )
    run.decide("default", micro_batch_size=ceil(share / pieces))


def take_what_fits(plan: Plan, most: int, reporter: Reporter) -> None:
    """Hold a known micro-batch against the rows that fit: a CPU kills a program that takes too much memory.

    In a run that has begun, and one that chose the size itself, it becomes smaller, as on a GPU.

    Raises:
        UserError: A size that was given does not fit.
    """
    run, given = plan.run, plan.run.config.training.micro_batch_size or 1
    size = min(given, plan.largest_share)
    smaller = int(distributed.from_main(size if size <= most else even_part(size, most)))
    if smaller >= size:
        return
    if not plan.is_begun and run.origin.get("micro_batch_size") in GIVEN:
        raise UserError(
            f"micro_batch_size is {given}, which does not fit into the free memory; give --micro-batch-size {smaller}"
        )
    run.decide("memory", micro_batch_size=smaller)
    reporter.warn(f"the free memory is too small for {size} rows at once; going on with {smaller}")
