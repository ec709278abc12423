"""What a run says before its first step: sizes, length, estimated time, and the levels to compare the loss with."""

from math import log

from bertsmith import distributed
from bertsmith.planning.decisions import CONTINUED_RATE
from bertsmith.planning.expectation import MANY_EPOCHS, expected_loss
from bertsmith.planning.plan import Plan
from bertsmith.presets import PRESETS
from bertsmith.reporter import Reporter, counted

MUCH_UNKNOWN = 0.02
"""Share of unknown tokens from which on a run warns: in a language without spaces words are whole phrases."""


ONLY_WITH = {"muon_scale": ("optimizer", "muon"), "decay_share": ("schedule", "trapezoid")}
"""Settings that have an effect with one value of another setting alone."""

PARTS_OF = {"short_share": "short_length", "replay_share": "replay"}
"""Settings that have an effect only where another setting is given."""


def _about(seconds: float) -> str:
    """An estimate of time as a person says it."""
    if seconds < 60:
        return "less than a minute"
    return f"about {seconds / 60:.0f} min" if seconds < 5400 else f"about {seconds / 3600:,.1f} h"


def describe(plan: Plan, reporter: Reporter, *, first_step: int, seconds: float) -> None:
    """Say sizes, length, estimated time and levels before the first step."""
    training, manifest = plan.run.config.training, plan.manifest
    parameters = plan.parameters()
    steps = training.steps or 0
    places = plan.places(range(steps))
    last = plan.stages[-1]
    epochs = places / last.sequence_length / plan.rows[last.sequence_length].rows_per_epoch
    config = plan.config
    reporter.say(
        f"model: {plan.run.config.model.preset}, {config.num_hidden_layers} layers x {config.hidden_size}, "
        f"{parameters / 1e6:.1f} M parameters, vocabulary {config.vocab_size:,}"
    )
    reporter.say(
        f"run: {training.objective}, {counted(steps, 'step')} x {counted(last.rows, 'row')} x "
        f"{last.sequence_length} places{_before(plan)} = {places / 1e6:.1f} M, "
        f"{epochs:.1f} epochs; "
        f"{training.precision} on {plan.device.type}, {counted(training.micro_batch_size or 1, 'row')} at once"
        + (", compiled" if training.compile == "yes" else "")
        + (f", {distributed.world_size()} processes" if distributed.world_size() > 1 else "")
        + f"; {_about(seconds)} on this machine"
    )
    reporter.say(
        f"levels: a uniform guess scores {log(config.vocab_size):.2f} nats, "
        f"token frequencies alone {manifest['unigram_loss']:.2f}; the masked-token loss must fall below that"
    )
    if manifest["unknown_fraction"] > MUCH_UNKNOWN:
        reporter.warn(
            f"{manifest['unknown_fraction']:.0%} of the tokens are unknown to the tokenizer, as all words of more than "
            "100 letters are, and nothing is learnt of them; --tokenizer bpe has pieces for everything"
        )
    if epochs <= MANY_EPOCHS:
        _say_what_to_expect(plan, reporter, places)
    else:
        reporter.warn(
            f"this text is read {epochs:,.0f} times: on a small text the held-out loss began to rise after about "
            f"{MANY_EPOCHS} (docs/benchmarks.md); more text, fewer steps or a smaller model would do more"
        )
    for name, (other, value) in ONLY_WITH.items():
        if plan.run.origin.get(name) == "flag" and getattr(training, other) != value:
            reporter.warn(f"{name} has no effect, since {other} is '{getattr(training, other)}' and not '{value}'")
    for name, whole in PARTS_OF.items():
        if plan.run.origin.get(name) == "flag" and getattr(training, whole) is None:
            reporter.warn(f"{name} has no effect without {whole}")
    if training.mask_covering and training.mask_units == "span":
        reporter.warn("mask_covering does hardly anything for spans, whose places are drawn anew in each epoch")
    model = plan.run.config.model
    if model.init is not None:
        usual = f", {CONTINUED_RATE:g} of what a {model.preset} begins with from new weights"
        rate = usual if plan.run.origin.get("learning_rate") == "preset" else ""
        reporter.say(f"going on from {model.init}: peak learning rate {training.learning_rate:g}{rate}")
    if first_step:
        reporter.say(f"continuing after step {first_step:,} of {steps:,}")


def _say_what_to_expect(plan: Plan, reporter: Reporter, tokens: int) -> None:
    """The loss at the end, where runs of this size were measured."""
    model = plan.run.config.model
    if model.init or not PRESETS[model.preset].is_shape_of(model):
        return
    expected = expected_loss(model.preset, tokens, plan.manifest["unigram_loss"])
    if expected is None:
        reporter.say(f"expected: not known, since no run of {model.preset} was measured; docs/benchmarks.md has others")
        return
    reporter.say(
        f"expected: held-out masked tokens {expected.how} {expected.nats:.1f} nats, as {model.preset} after "
        f"{expected.tokens / 1e6:.1f} M tokens of English Wikipedia (docs/benchmarks.md, one or two seeds); other text "
        "may differ by a nat"
    )


def _before(plan: Plan) -> str:
    """The shapes of the stages before the last."""
    shapes = [f"{stage.rows} x {stage.sequence_length} up to step {stage.steps.stop:,}" for stage in plan.stages[:-1]]
    return f" ({', '.join(shapes)})" if shapes else ""
