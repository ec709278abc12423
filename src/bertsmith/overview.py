"""What a run says before its first step: sizes, length, estimated time, and the levels to compare the loss with."""

from math import log

from bertsmith.batch import collate
from bertsmith.measure import seconds_per_micro_batch
from bertsmith.model import AnyPretrainingModel
from bertsmith.plan import Plan, divide, rows_per_step
from bertsmith.reporter import Reporter
from bertsmith.step import SumLosses


def seconds_left(plan: Plan, model: AnyPretrainingModel, losses: SumLosses, *, first_step: int) -> float:
    """Estimate the time of the remaining steps from one micro-batch, measured for half a second."""
    training, division = plan.run.config.training, divide(plan.run)
    batch = collate(plan.rows.__getitems__(list(range(division.micro_batch_size)))).to(plan.device)
    seconds = seconds_per_micro_batch(model, losses, batch, training.precision)
    return seconds * division.micro_batches * ((training.steps or 0) - first_step)


def describe(plan: Plan, reporter: Reporter, *, first_step: int, seconds: float) -> None:
    """Say sizes, length, estimated time and levels before the first step."""
    training, manifest = plan.run.config.training, plan.manifest
    parameters = plan.parameters()
    steps = training.steps or 0
    places = steps * plan.places_per_step
    config = plan.config
    reporter.say(
        f"model: {plan.run.config.model.preset}, {config.num_hidden_layers} layers x {config.hidden_size}, "
        f"{parameters / 1e6:.1f} M parameters, vocabulary {config.vocab_size:,}"
    )
    reporter.say(
        f"run: {training.objective}, {steps:,} steps x {rows_per_step(plan.run)} rows x "
        f"{training.sequence_length} places = {places / 1e6:.1f} M, "
        f"{steps * rows_per_step(plan.run) / plan.rows.rows_per_epoch:.1f} epochs; "
        f"{training.precision} on {plan.device.type}, {training.micro_batch_size} rows at once"
        + (", compiled" if training.compile == "yes" else "")
        + f"; about {seconds / 60:,.0f} min on this machine"
    )
    reporter.say(
        f"levels: a uniform guess scores {log(config.vocab_size):.2f} nats, "
        f"token frequencies alone {manifest['unigram_loss']:.2f}; the masked-token loss must fall below that"
    )
    if first_step:
        reporter.say(f"continuing after step {first_step:,} of {steps:,}")
