"""Training an encoder for sentence vectors, without labels, by the trainer of sentence-transformers.

Each sentence is read twice under different dropout; its two vectors shall be
closer to each other than to those of the other sentences of the batch (SimCSE,
arXiv:2104.08821, section 3). There are no checkpoints: a run that is stopped
begins anew.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bertsmith import atomic
from bertsmith.embed import read_texts
from bertsmith.errors import UserError
from bertsmith.export.folder import staged
from bertsmith.export.sentences import build_modules, compare, save_tokenizer, sentence_card, sentence_transformers
from bertsmith.finetuning.config import FinetuneConfig
from bertsmith.finetuning.tasks.examples import read_labelled
from bertsmith.machine.device import find_device, set_threads
from bertsmith.model import has_dropout, with_dropout
from bertsmith.report import PAGE
from bertsmith.report.html import to_html
from bertsmith.report.vectors import vectors_page
from bertsmith.reporter import Reporter
from bertsmith.sentence_vectors import SentenceEncoder, find_encoder, load_sentence_encoder

SETTINGS = ("text", "test", "epochs", "batch_size", "learning_rate", "max_length", "seed", "device", "threads")
"""Those of `FinetuneConfig` that are used here."""

DROPOUT = 0.1
"""Of a model that has none: it is what makes the two readings differ."""

SCALE = 20.0
"""Factor of the cosines, the temperature of 0.05 of the paper."""

BATCH_SIZE, RATE, RATE_WIDTH, HIGHEST_RATE = 64, 3e-5, 768, 1e-3
"""Of the paper, for BERT-base; the rate is larger for narrower models, with the square of the width."""


class Pairs(NamedTuple):
    """Pairs of sentences and how alike people found them."""

    first: list[str]
    second: list[str]
    scores: list[float]


class Correlation(NamedTuple):
    """Of the cosines of pairs with their scores."""

    spearman: float
    pearson: float


class Measured(NamedTuple):
    """What the training changed."""

    pairs: int
    before: Correlation
    after: Correlation


def train_embeddings(
    output: Path,
    model: Path,
    data: str,
    given: Mapping[str, Any],
    *,
    pooling: Any = "auto",
    reporter: Reporter | None = None,
) -> Path:
    """Train an encoder on sentences.

    Args:
        output: Folder of the run: `model`, which `SentenceTransformer` loads, and metrics.json. Must not exist, or be
            empty; it appears at the end.
        model: As for `load_sentence_encoder`.
        data: A table, JSON lines, Parquet, or plain text with one sentence a line.
        given: Settings of `SETTINGS` by name; `test` is a file of pairs with scores to measure on.
        pooling: As for `load_sentence_encoder`.
        reporter: Who to tell.

    Returns:
        OUTPUT/model.

    Raises:
        UserError: A setting, the model, the sentences or the pairs are not usable; a library is missing.
    """
    reporter = reporter or Reporter()
    config = _settings(given)
    with sentence_transformers():
        pass  # before anything is read
    set_threads(config.threads)
    device = find_device(config.device)
    encoder = load_sentence_encoder(model, pooling=pooling)
    encoder.longest = min(encoder.longest, config.max_length or encoder.longest)
    pairs = read_pairs(config.test) if config.test else None
    sentences = read_sentences(data, config.text, reporter)
    before = correlate(encoder, pairs) if pairs else None
    before_card = sentence_card(find_encoder(model))
    with staged(output) as staging:
        if not has_dropout(encoder.model.config):
            encoder.model.config = with_dropout(encoder.model.config, hidden=DROPOUT, attention=DROPOUT)
        loss = _train(encoder, sentences, config, device=device.type, folder=staging / "model", reporter=reporter)
        trained = load_sentence_encoder(staging / "model")
        compare(trained, staging / "model")
        measured = Measured(len(pairs.scores), before, correlate(trained, pairs)) if pairs and before else None
        metrics = _metrics(encoder, config, sentences=len(sentences), loss=loss, measured=measured)
        atomic.write_json(staging / "metrics.json", metrics)
        atomic.write_bytes(staging / PAGE, to_html(vectors_page(output.name, metrics)))
        atomic.write_text(staging / "model" / "README.md", before_card + _card(trained, metrics))
    if measured is not None:
        reporter.say(
            f"cosines of {measured.pairs:,} pairs with their scores, Spearman: {measured.before.spearman:.4f} before, "
            f"{measured.after.spearman:.4f} after"
        )
    reporter.say(f"the model is in {output / 'model'}, figures in {output / 'metrics.json'} and {output / PAGE}")
    return output / "model"


def _settings(given: Mapping[str, Any]) -> FinetuneConfig:
    """The settings of this training.

    Raises:
        UserError: One was given that is not used.
    """
    given = {name: value for name, value in given.items() if value is not None}
    for name in given:
        if name not in SETTINGS:
            flag = f"--{name.replace('_', '-')}"
            raise UserError(f"{flag} has no use with --embeddings, which learns from sentences alone; leave it out")
    return FinetuneConfig(**({"epochs": 1.0, "batch_size": BATCH_SIZE} | given))


def read_sentences(data: str, field: str | None, reporter: Reporter) -> list[str]:
    """The distinct sentences of a file, in their order; a sentence would push its own copy away.

    Raises:
        UserError: There are fewer than two.
    """
    rows = 0
    distinct: dict[str, None] = {}
    for texts in read_texts(data, field):
        rows += len(texts)
        distinct.update(dict.fromkeys(text for text in (text.strip() for text in texts) if text))
    if len(distinct) < 2:
        raise UserError(f"{data} has {len(distinct)} sentences that differ; give more, one a row, or name --text")
    left_out = f", {rows - len(distinct):,} empty or repeated rows left out" if rows > len(distinct) else ""
    reporter.say(f"{len(distinct):,} sentences{left_out}")
    return list(distinct)


def read_pairs(path: str) -> Pairs:
    """Pairs with scores: columns `text`, `text_pair` and `score`, found as in fine-tuning.

    Raises:
        UserError: The file has none.
    """
    file = read_labelled(path, FinetuneConfig(task="regression"), None, "regression")
    if file.columns.pair is None:
        raise UserError(f"{path} has no column 'text_pair'; give pairs of sentences with a score")
    examples = [(str(each.text), each.pair or "", float(str(each.label))) for each in file.examples]
    first, second, scores = (list(column) for column in zip(*examples, strict=True))
    if len(set(scores)) < 2:
        raise UserError(f"{path} has one score in all rows; there is nothing to correlate with")
    return Pairs(first, second, scores)


def correlate(encoder: SentenceEncoder, pairs: Pairs) -> Correlation:
    """Correlation of the cosines of pairs with their scores; 0 where all cosines are the same."""
    from scipy.stats import pearsonr, spearmanr

    one, other = (encoder.encode(texts) for texts in (pairs.first, pairs.second))
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    cosines = (one * other).sum(1) / np.maximum(lengths, 1e-12)
    if np.ptp(cosines) == 0:
        return Correlation(0.0, 0.0)
    return Correlation(*(float(find(cosines, pairs.scores).statistic) for find in (spearmanr, pearsonr)))


def _train(
    encoder: SentenceEncoder,
    sentences: list[str],
    config: FinetuneConfig,
    *,
    device: str,
    folder: Path,
    reporter: Reporter,
) -> float:
    """Train, write the modules, and give the mean loss in nats."""
    scratch = folder.with_name("trainer")  # its trainer wants a folder, and writes nothing to it
    with sentence_transformers() as library:
        from datasets import Dataset
        from datasets.utils import logging as of_datasets
        from transformers import TrainerCallback

        class Telling(TrainerCallback):
            """Says how far the trainer is."""

            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
                reporter.progress("training on sentences", min(1.0, state.global_step / max(1, state.max_steps)))

        of_datasets.disable_progress_bar()
        model = build_modules(library, encoder, folder)
        model.model_card_data.widget = [{}]  # else it looks for sentences to show on a card, with a bar of its own
        width = encoder.model.config.hidden_size
        arguments = library.SentenceTransformerTrainingArguments(
            output_dir=str(scratch),
            num_train_epochs=config.epochs,
            per_device_train_batch_size=config.batch_size,
            learning_rate=config.learning_rate or min(HIGHEST_RATE, RATE * (RATE_WIDTH / width) ** 2),
            warmup_steps=0.1,
            seed=config.seed,
            use_cpu=device == "cpu",
            dataloader_pin_memory=device == "cuda",
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        trainer = library.SentenceTransformerTrainer(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_dict({"anchor": sentences, "positive": sentences}),
            loss=library.losses.MultipleNegativesRankingLoss(model, scale=SCALE),
        )
        for callback in list(trainer.callback_handler.callbacks):  # they print, and make a card of the sentences
            if type(callback).__name__.endswith(("PrinterCallback", "ModelCardCallback")):
                trainer.remove_callback(callback)
        trainer.add_callback(Telling())
        loss = float(trainer.train().training_loss)
        model.to("cpu").save_pretrained(str(folder), create_model_card=False)
    shutil.rmtree(scratch, ignore_errors=True)
    save_tokenizer(encoder, folder)
    if not np.isfinite(loss):
        raise UserError(f"the loss became {loss}; give a lower --learning-rate")
    return loss


def _metrics(
    encoder: SentenceEncoder, config: FinetuneConfig, *, sentences: int, loss: float, measured: Measured | None
) -> dict[str, Any]:
    """What metrics.json holds."""
    found: dict[str, Any] = {}
    if measured is not None:
        for when, value in (("before", measured.before), ("after", measured.after)):
            found |= {f"sts_spearman_{when}": value.spearman, f"sts_pearson_{when}": value.pearson}
    return found | {
        "sts_pairs": measured.pairs if measured is not None else None,
        "sentences": sentences,
        "train_loss": loss,
        "pooling": encoder.pooling,
        "epochs": config.epochs,
        "batch_size": config.batch_size,
        "seed": config.seed,
    }


def _card(encoder: SentenceEncoder, metrics: Mapping[str, Any]) -> str:
    """The section of the model card."""
    rows = [("sentences", f"{metrics['sentences']:,}"), ("epochs", f"{metrics['epochs']:g}")]
    if metrics["sts_pairs"]:
        rows += [
            (
                f"Spearman with the scores of {metrics['sts_pairs']:,} pairs, {when}",
                f"{metrics[f'sts_spearman_{when}']:.4f}",
            )
            for when in ("before", "after")
        ]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    return f"""# Trained for sentence vectors

Contrastively, without labels (SimCSE, arXiv:2104.08821): each sentence twice under different dropout. A vector is \
{"the mean over the tokens" if encoder.pooling == "mean" else "a layer with tanh over `[CLS]`"}.

| | |
|---|---|
{table}

```python
from sentence_transformers import SentenceTransformer

vectors = SentenceTransformer("path/to/this/folder").encode(["A sentence.", "Another one."])
```
"""
