"""The model card: RUN/model/README.md, as Hugging Face shows it.

Only numbers and names of settings go in. A card is made to be shared, the text
that the model learnt from may not be: nothing of it, and no name of a file,
folder, machine or user, is among the arguments that are written.
"""

from collections.abc import Mapping
from typing import Any

from bertsmith.config import TrainingConfig
from bertsmith.model import AnyConfig, architecture
from bertsmith.step import Measured

HEADER = """\
---
library_name: transformers
pipeline_tag: fill-mask
tags:
- {tag}
- {begin}
- bertsmith
---
"""
"""Language and licence are those of the text: unknown here, so they are left to whoever shares the model."""


TASKS = {
    "mlm": "masked words",
    "mlm+nsp": "masked words and next sentences",
    "mlm+sop": "masked words and the order of sentences",
}
PAIRS = {
    "mlm+nsp": ("next-sentence", "next sentences"),
    "mlm+sop": ("sentence-order", "the order of sentences"),
}
"""What is asked of a pair, before "loss" and after "trained by"."""

OPTIMIZERS = {"adamw": "AdamW", "muon": "Muon for the matrices of the blocks, AdamW for the rest"}


def model_card(
    *,
    config: AnyConfig,
    training: TrainingConfig,
    manifest: Mapping[str, Any],
    measured: Measured,
    nsp_interval: tuple[float, float] | None,
    state: Mapping[str, Any],
    parameters: int,
    init_sha256: str | None = None,
) -> str:
    """Write the card of a pretrained model.

    Args:
        config: The model as it is exported.
        training: All decided.
        manifest: Counts of the prepared text; only its numbers are read.
        measured: Losses on held-out text at the end.
        nsp_interval: 95 % interval of the next-sentence accuracy; None without that task.
        state: `step`, `tokens` and `seconds` of the whole run.
        parameters: Weights of the model, tied ones counted once.
        init_sha256: Hash of the model that it was pretrained further from; None: from new weights.

    Returns:
        Markdown with a YAML header.
    """
    parts = (
        HEADER.format(
            tag=config.model_type, begin="continued-pretraining" if init_sha256 else "pretrained-from-scratch"
        ),
        _what_it_is(config, training, parameters, init_sha256),
        _how_to_load(config, training),
        _results(measured, nsp_interval, training, manifest),
        _text(manifest),
        _recipe(config, training, manifest, state),
        _limits(config, training, init_sha256),
    )
    return "\n".join(parts)


def _what_it_is(config: AnyConfig, training: TrainingConfig, parameters: int, init_sha256: str | None) -> str:
    tasks = TASKS[training.objective]
    begin, how = "new weights", "pretrained from scratch"
    if init_sha256 is not None:
        begin, how = f"the weights of another model (hash {init_sha256})", "pretrained further"
    kind = architecture(config.model_type)
    return f"""\
# {kind.naming.title}, {config.num_hidden_layers} layers x {config.hidden_size}, {how}

An encoder with {parameters:,} parameters and the architecture of {kind.naming.title} ({kind.paper}), pretrained with
Bertsmith from {begin} on the text of its maker: {tasks}.
"""


def _how_to_load(config: AnyConfig, training: TrainingConfig) -> str:
    model_class = "AutoModelForPreTraining" if training.objective != "mlm" else "AutoModelForMaskedLM"
    if training.objective != "mlm":
        advice = f"""\
`AutoModelForMaskedLM`, `AutoModel` and the fill-mask pipeline load it too. For sentence vectors mean pooling is the
usual choice; the pooler was trained by {PAIRS[training.objective][1]}."""
    else:
        advice = """\
The fill-mask pipeline loads it too. For sentence vectors use mean pooling: nothing trained a pooler here, so there is
none"""
        advice += (
            ", and the one that `AutoModel` adds is random." if architecture(config.model_type).adds_pooler else "."
        )
    return f"""\
## Use

```python
from transformers import {model_class}, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
model = {model_class}.from_pretrained("path/to/this/folder")
```

{advice}
`SentenceTransformer("path/to/this/folder")` does mean pooling by itself.
"""


def _results(
    measured: Measured,
    nsp_interval: tuple[float, float] | None,
    training: TrainingConfig,
    manifest: Mapping[str, Any],
) -> str:
    rows = [
        ("masked-token loss, nats", f"{measured.mlm_loss:.3f}"),
        ("the same when only token frequencies are known", f"{manifest['unigram_loss']:.3f}"),
        ("the same for a uniform guess", f"{manifest['uniform_loss']:.3f}"),
        ("masked tokens guessed right", f"{measured.mlm_accuracy:.1%} of {measured.mlm_targets:,}"),
    ]
    if nsp_interval is not None:
        low, high = nsp_interval
        task = PAIRS[training.objective][0]
        rows += [
            (f"{task} loss, nats", f"{measured.nsp_loss:.3f}"),
            (
                f"{task} pairs told right (95 % interval)",
                f"{measured.nsp_accuracy:.1%} of {measured.nsp_targets:,} ({low:.1%} to {high:.1%})",
            ),
        ]
    return f"## Results on held-out text\n\n{markdown_table(('measure', 'value'), rows)}"


def _text(manifest: Mapping[str, Any]) -> str:
    corpus = manifest["corpus"]["text"]
    splits = manifest["splits"]
    rows = [
        ("documents", f"{corpus['documents']:,}"),
        ("words", f"{corpus['words']:,}"),
        ("size, MB of UTF-8", f"{corpus['text_bytes'] / 1e6:,.1f}"),
        ("exact duplicates left out", f"{corpus['duplicates']:,}"),
        ("tokens to learn from", f"{splits['train']['tokens']:,}"),
        ("tokens held out", f"{splits['validation']['tokens']:,}"),
        ("vocabulary, pieces", f"{manifest['vocab_size']:,}"),
        ("unknown tokens", f"{manifest['unknown_fraction']:.3%}"),
    ]
    return f"## Text\n\n{markdown_table(('count', 'value'), rows)}"


def _recipe(config: AnyConfig, training: TrainingConfig, manifest: Mapping[str, Any], state: Mapping[str, Any]) -> str:
    own = 1.0 if training.replay is None else 1.0 - training.replay_share
    passes = own * state["tokens"] / manifest["splits"]["train"]["tokens"]
    rows = [
        ("objective", training.objective),
        ("sequence length, tokens", f"{training.sequence_length:,}"),
        ("rows a step", f"{training.global_batch_size:,}"),
        ("steps", f"{state['step']:,}"),
        ("tokens read, special tokens included", f"{state['tokens']:,}, about {passes:.1f} times the text"),
        (
            "optimizer",
            f"{OPTIMIZERS[training.optimizer]}, beta2 {training.adam_beta2:g}, weight decay {training.weight_decay:g}",
        ),
        (
            "peak learning rate",
            f"{training.learning_rate:g}, {training.schedule}, {training.warmup_steps:,} warm-up steps",
        ),
        ("masked tokens", _masking(training)),
        *_levers(training),
        ("precision", training.precision),
        ("seed", f"{training.seed}"),
        ("training time", f"{state['seconds'] / 60:.1f} min"),
        ("dropout set for fine-tuning", f"{architecture(config.model_type).fine_tuning_dropout:g}"),
    ]
    return f"## Recipe\n\n{markdown_table(('setting', 'value'), rows)}"


def _levers(training: TrainingConfig) -> list[tuple[str, str]]:
    """What was done beyond the plain recipe."""
    levers = (
        (training.replay, "rows of a general text beside this one", f"{training.replay_share:.0%}"),
        (training.average_decay, "weights", f"moving average, decay {training.average_decay:g}"),
        (training.batch_ramp, "rows a step at first", f"fewer, for {training.batch_ramp:.0%} of the steps"),
        (
            training.short_length,
            "tokens a row at first",
            f"{training.short_length}, for {training.short_share:.0%} of the steps",
        ),
        (training.clip_updates, "updates", "scaled down to a root mean square of 1"),
        (
            training.muon_scale != 1,
            "learning rate of Muon's matrices",
            f"{training.muon_scale:g} times that of the rest",
        ),
        (training.output_bias != "zero", "scores of the pieces at first", "their frequencies in the text"),
        (training.embedding_init != "normal", "embeddings at first", "from the neighbours of the pieces in the text"),
        (training.attention_init != "normal", "attention at first", "with heads at the tokens beside each token"),
    )
    return [(name, value) for is_on, name, value in levers if is_on]


def _masking(training: TrainingConfig) -> str:
    share = f"{training.mlm_probability:.0%}"
    end = f" to {training.end_probability:.0%}" if training.end_probability is not None else ""
    units = "" if training.mask_units == "token" else f", {training.mask_units}s"
    return share + end + units + (", others in each epoch" if training.mask_covering else "")


def _limits(config: AnyConfig, training: TrainingConfig, init_sha256: str | None) -> str:
    longest = f"{config.max_position_embeddings:,} tokens"
    lines = [
        f"- It reads at most {longest}; its further training was on sequences of {training.sequence_length:,} at most."
        if init_sha256
        else f"- It was trained on sequences of at most {longest} and reads no longer ones.",
        "- It knows the text it was trained on, and its topics, language and errors; elsewhere it is worse.",
        "- It can repeat parts of that text: share it only with those who may see the text.",
        "- Nobody checked it for bias, or for harm its guesses may do.",
    ]
    if training.objective == "mlm":
        lines.insert(1, "- It has no trained pooler; use mean pooling.")
    return "## Limits\n\n" + "\n".join(lines) + "\n"


def markdown_table(header: tuple[str, str], rows: list[tuple[str, str]]) -> str:
    """A table of two columns."""
    lines = [f"| {header[0]} | {header[1]} |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]
    return "\n".join(lines) + "\n"
