"""Going on from a model that exists: `--init`, from its folder to RUN/init/, the weights that the first step finds.

    RUN/init/config.json, model.safetensors, tokenizer   a Hugging Face folder, with all that the run trains
    RUN/init/start.json                                   what it was made of

Once RUN/init/ is there the model it came from is needed no more.
"""

import shutil
from dataclasses import fields, replace
from math import log
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bertsmith import atomic
from bertsmith.data.keyed import Stream, keyed_seed
from bertsmith.data.shards import read_manifest
from bertsmith.errors import UserError
from bertsmith.model import MODEL_TYPES, AnyConfig, AnyPretrainingModel, architecture, model_type_of, new_model
from bertsmith.model.folder import ModelFolder
from bertsmith.model_source import find_model, model_hash
from bertsmith.planning.from_settings import SPECIAL_IDS
from bertsmith.prepare.adopt import prepared_source
from bertsmith.presets import FIRST_WEIGHTS, PRESETS, SHAPE, sizes_of
from bertsmith.reporter import Reporter
from bertsmith.run_folder import GIVEN, Run
from bertsmith.tokenizer import ROLES, Tokenizer, load_fitting_tokenizer, load_tokenizer, same_pieces

INIT, START = "init", "start.json"

OF_PIECES = ("bert.embeddings.word_embeddings.weight", "mlm_head.bias")
"""Tensors with a row for each piece of the vocabulary."""


class Source(NamedTuple):
    """The model that a run starts from."""

    name: str
    """As it was named."""

    folder: ModelFolder
    config: AnyConfig
    tokenizer: Tokenizer
    sha256: str


def take_init(run: Run) -> Source | None:
    """Look at the model of --init and take over its shape and, unless another is asked for, its tokenizer.

    Returns:
        The model; None without --init, or when RUN/init/ holds it already.

    Raises:
        UserError: It is no BERT or ModernBERT, another one than before, or contradicts a setting.
    """
    model = run.config.model
    if model.init is None:
        return None
    counted = [name for name, value in FIRST_WEIGHTS if getattr(run.config.training, name) == value]
    if given := [name for name in counted if run.origin.get(name) in GIVEN]:
        raise UserError(
            f"{', '.join(given)}: only new weights can begin so; leave that out with --init, or the --plan that says it"
        )
    if _holds_start(run):
        return None
    folder = find_model(Path(model.init))
    kind_name = model_type_of(folder)
    if kind_name not in MODEL_TYPES:
        raise UserError(f"init is {model.init}, a {kind_name!r}; only BERT and ModernBERT can be trained further here")
    kind = architecture(kind_name)
    opened = ModelFolder(folder, kind.naming)
    config = kind.config(**opened.shape)
    tokenizer = load_fitting_tokenizer(folder, config.vocab_size)
    source = Source(model.init, opened, config, tokenizer, model_hash(folder))
    if run.origin.get("init_sha256") in GIVEN and model.init_sha256 != source.sha256:
        raise UserError(f"init_sha256 is {model.init_sha256}, but {model.init} has {source.sha256}; give that model")
    _refuse_contradictions(run, source)
    found = {name: getattr(source.config, name) for name in SHAPE}
    found |= {"init_sha256": source.sha256, "preset": nearest_preset(source.config)}
    run.decide("init", **{name: value for name, value in found.items() if run.origin.get(name) not in GIVEN})
    if run.origin.get("tokenizer") not in GIVEN and prepared_source(run.config.data) is None:
        run.decide("init", tokenizer=str(folder.resolve()))
    return source


def _refuse_contradictions(run: Run, source: Source) -> None:
    """Hold the settings that the user gave against the model."""
    training, given = run.config.training, {n for n, origin in run.origin.items() if origin in GIVEN}
    config, model = source.config, run.config.model
    for name in (name for name in SHAPE if name in given):
        if getattr(model, name) != getattr(config, name):
            raise UserError(
                f"{name} is {getattr(model, name)}, but {source.name} has {getattr(config, name)}; leave it out"
            )
    preset = PRESETS[model.preset]
    if "preset" in given and not (preset.model_type == config.model_type and preset.is_shape_of(config)):
        raise UserError(
            f"preset is '{model.preset}', but {source.name} is a {source.folder.naming.title} of "
            f"{config.num_hidden_layers} layers x {config.hidden_size}; leave --preset out"
        )
    if training.objective not in ("auto", "mlm") and config.model_type != "bert":
        raise UserError(
            f"objective is '{training.objective}', but {source.name} is a {source.folder.naming.title}, which has no "
            "head for pairs of sentences; give --objective mlm"
        )
    if training.sequence_length > config.max_position_embeddings:
        raise UserError(
            f"sequence_length is {training.sequence_length}, but {source.name} reads {config.max_position_embeddings} "
            f"tokens; give --sequence-length {config.max_position_embeddings} or less"
        )


def nearest_preset(config: AnyConfig) -> str:
    """The preset of a like size, whose batch and rates are taken."""

    def size(layers: int, width: int) -> float:
        return log(layers * width**2)

    own = size(config.num_hidden_layers, config.hidden_size)
    return min(
        sizes_of("bert" if config.model_type == "bert" else "modern"),
        key=lambda name: abs(size(PRESETS[name].num_hidden_layers, PRESETS[name].hidden_size) - own),
    )


def write_start(run: Run, source: Source, reporter: Reporter) -> None:
    """Write RUN/init/, when the text is prepared: the source's weights, fitted to the run's tokenizer and objective.

    Raises:
        UserError: A prepared text has another tokenizer, or the disk is full.
    """
    tokenizer = load_tokenizer(run.folder / "tokenizer")
    is_own = tokenizer.fingerprint() == source.tokenizer.fingerprint()
    if not is_own and run.config.data.extend_vocab is None and run.origin.get("tokenizer") not in GIVEN:
        raise UserError(
            f"the prepared text has another tokenizer than {source.name}; prepare it with --tokenizer {source.name}, "
            "or give the text itself"
        )
    next_sentence = _decide_objective(run, source)
    torch.manual_seed(keyed_seed(run.config.training.seed, Stream.INITIAL))
    config = source.config if is_own else _config_for(source.config, tokenizer)
    model = new_model(config, next_sentence=next_sentence)
    missing = copy_weights(model, source, with_pieces=is_own)
    lines = [f"start: the weights of {source.name} ({source.sha256[:12]})"]
    if missing:
        lines.append(f"new, since it has none: {', '.join(missing)}")
    if source.folder.has("cls.seq_relationship.") and not next_sentence:
        lines.append("its head for next sentences is left out: the objective is masked words alone")
    if not is_own:
        kept = carry_over(model, source, tokenizer, extended=run.config.data.extend_vocab is not None)
        rest = "begin as the mean of their pieces" if run.config.data.extend_vocab else "are drawn anew"
        lines.append(
            f"vocabulary: {kept:,} of {tokenizer.vocab_size:,} pieces keep their embeddings, the others {rest}"
        )
    run.save()  # the objective belongs to what is published
    _publish(run, model, tokenizer, {"sha256": source.sha256, **_asked(run)})
    for line in lines:
        reporter.say(line)


def _decide_objective(run: Run, source: Source) -> bool:
    """Pairs of sentences are trained where they are asked for, or the model and the text know them.

    Returns:
        Whether the model needs a head for them.
    """
    if run.config.training.objective == "auto" or run.origin.get("objective") not in GIVEN:
        share = read_manifest(run.folder / "data")["multi_sentence_fraction"]
        pairs = source.folder.has("cls.seq_relationship.") and share >= 0.5
        run.decide("init", objective="mlm+nsp" if pairs else "mlm")
    return run.config.training.objective != "mlm"


def _config_for(config: AnyConfig, tokenizer: Tokenizer) -> AnyConfig:
    """The shape for another tokenizer, with a row for each piece and no more."""
    known = {field.name for field in fields(config)}
    ids: dict[str, Any] = {name: getattr(tokenizer, name) for name in SPECIAL_IDS if name in known}
    return replace(config, vocab_size=tokenizer.vocab_size, **ids)


def copy_weights(model: AnyPretrainingModel, source: Source, *, with_pieces: bool) -> list[str]:
    """Copy what the source has into a model.

    Args:
        model: Newly drawn; what the source does not have stays so.
        source: Where from.
        with_pieces: Whether to copy what belongs to single pieces, too: the vocabulary is the same.

    Returns:
        Names of what it does not have, for people.
    """
    has = source.folder.has
    heads = {
        "mlm_head.": ("the head for masked words", source.folder.naming.mlm_head),
        "nsp_head.": ("the head for pairs of sentences", "cls.seq_relationship."),
        "bert.pooler.": ("the pooler", "bert.pooler."),
    }
    there = [name for name in heads if any(key.startswith(name) for key in model.state_dict())]
    missing = tuple(name for name in there if not has(heads[name][1]))
    loaded = source.folder.load(
        lambda: new_model(source.config, next_sentence=model.nsp_head is not None),
        untrained=missing,
        unused=("classifier.", "cls.", "head.", "decoder."),
    ).state_dict()
    left = missing if with_pieces else (*missing, *OF_PIECES)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if not name.startswith(left):
                tensor.copy_(loaded[name])
    return [heads[name][0] for name in missing]


@torch.no_grad()
def carry_over(model: AnyPretrainingModel, source: Source, tokenizer: Tokenizer, *, extended: bool) -> int:
    """Give each piece of another vocabulary the embedding, and the bias of its score, that it had.

    Args:
        model: Of the new vocabulary; changed. Embeddings of pieces that were not there stay as they were drawn, and
            their scores get the mean bias: biases are near the logarithms of frequencies, so 0 would make these pieces
            all that is expected.
        source: The model with the old vocabulary.
        tokenizer: The new one.
        extended: Whether a piece that was not there is a word of old pieces, and starts as their mean.

    Returns:
        Pieces that were there.
    """
    old = source.tokenizer
    has_head = source.folder.has(source.folder.naming.mlm_head)
    before = source.folder.load(
        lambda: new_model(source.config, next_sentence=False),
        untrained=() if has_head else ("mlm_head.",),
        unused=("classifier.", "cls.", "head.", "decoder.", "bert.pooler."),
    )
    tables = [(model.bert.embeddings.word_embeddings.weight, before.bert.embeddings.word_embeddings.weight)]
    if has_head:
        tables.append((model.mlm_head.bias, before.mlm_head.bias))
        model.mlm_head.bias.fill_(before.mlm_head.bias.mean())
    roles = {getattr(tokenizer, f"{role}_id"): [getattr(old, f"{role}_id")] for role in ROLES}
    origins = same_pieces(tokenizer, old) | roles
    kept = len(origins)
    if extended:
        words = [index for index in tokenizer.ordinary_ids().tolist() if index not in origins]
        origins |= dict(zip(words, old.encode_sentences(tokenizer.tokens(words)), strict=True))
    for index, origin in origins.items():
        for new, table in tables if origin else []:
            new[index] = table[origin].mean(0)
    return kept


def _asked(run: Run) -> dict[str, Any]:
    """What decides RUN/init/, the tokenizer aside."""
    training = run.config.training
    return {"init": run.config.model.init, "objective": training.objective, "seed": training.seed}


def _publish(run: Run, model: AnyPretrainingModel, tokenizer: Tokenizer, facts: dict[str, Any]) -> None:
    folder = run.folder / INIT
    staging = folder.with_name(INIT + atomic.TEMPORARY_SUFFIX)
    for path in (staging, folder):  # what stands there was made of another model or text, by this run
        shutil.rmtree(path, ignore_errors=True)
    kind = architecture(model.config.model_type)
    try:
        model.save_pretrained(staging)
        longest = model.config.max_position_embeddings
        tokenizer.save(staging, model_max_length=longest, model_input_names=kind.input_names)
        atomic.write_json(staging / START, {**facts, "tokenizer": tokenizer.fingerprint()})
        atomic.publish(staging, folder)
    except OSError as error:
        raise UserError(f"{folder} could not be written: {error.strerror or error}; make room and try again") from error


def _holds_start(run: Run) -> bool:
    """Whether RUN/init/ is what is asked for now, and fits the tokenizer that the run has."""
    facts = atomic.read_json(run.folder / INIT / START)
    try:
        own = load_tokenizer(run.folder / "tokenizer").fingerprint()
    except (OSError, ValueError):
        return False
    return facts.items() >= {**_asked(run), "tokenizer": own}.items()
