"""The page of a training for sentence vectors: how they agree with people's scores, before it and after."""

from collections.abc import Mapping
from typing import Any
from xml.etree.ElementTree import Element

from bertsmith.report.html import add, add_table, new_page, section
from bertsmith.report.page import add_heading

NOTICE = "This page shows the name of a folder of yours and what was measured, and no text."


def vectors_page(name: str, metrics: Mapping[str, Any]) -> Element:
    """The page of a finished training.

    Args:
        name: Of its folder.
        metrics: What its metrics.json holds (docs/formats.md).
    """
    root, main = new_page(f"{name} - Bertsmith")
    add_heading(main, name, NOTICE, "Trained for sentence vectors.")
    part = section(main, "Cosines and people's scores")
    if metrics["sts_pairs"]:
        add(part, "p", f"Of {metrics['sts_pairs']:,} pairs of sentences. 1: they agree; 0: they do not.", class_="note")
        rows = [
            (label, *(f"{metrics[f'sts_{kind}_{when}']:.4f}" for when in ("before", "after")))
            for label, kind in (("by rank (Spearman)", "spearman"), ("in a line (Pearson)", "pearson"))
        ]
        add_table(part, ("correlation", "before", "after"), rows)
    else:
        add(part, "p", "Not measured: no pairs with scores were given with --test.", class_="note")
    made = section(main, "How it was made", "Contrastively, without labels (SimCSE, arXiv:2104.08821).")
    add_table(made, (), [
        ("sentences", f"{metrics['sentences']:,}"),
        ("passes over them", f"{metrics['epochs']:g}"),
        ("sentences in a batch", f"{metrics['batch_size']:,}"),
        ("mean loss of the training, nats", f"{metrics['train_loss']:.4f}"),
        ("a vector is", "the mean over the tokens" if metrics["pooling"] == "mean" else "a layer with tanh over [CLS]"),
        ("seed", str(metrics["seed"])),
    ])  # fmt: skip
    return root
