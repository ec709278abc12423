"""What a run's page says of the text."""

from xml.etree.ElementTree import Element

from bertsmith.report.facts import RunFacts
from bertsmith.report.html import add, add_table, bar, section


def add_data(main: Element, facts: RunFacts) -> None:
    """Counts, lengths of the documents, most frequent pieces."""
    part = section(main, "Text", "" if facts.manifest else "The text is not prepared yet.")
    if not {"train", "validation"} <= facts.manifest.get("splits", {}).keys():
        return
    columns = add(part, "div", class_="columns")
    add_table(add(columns, "div"), ("", "count"), _counts(facts), class_="numbers")
    lengths = facts.manifest["splits"]["train"].get("document_lengths")
    if lengths:
        block = add(columns, "div")
        add(block, "h3", "Documents by their length in tokens")
        most = max(lengths)
        first = next(number for number, count in enumerate(lengths) if count)
        rows = [(_interval(number), bar(count / most), f"{count:,}") for number, count in enumerate(lengths)]
        add_table(block, (), rows[first:], class_="bars numbers")
    if facts.pieces:
        add(part, "h3", "Most frequent pieces")
        columns = add(part, "div", class_="columns")
        half = -(-len(facts.pieces) // 2)
        most = facts.pieces[0][1]
        for group in (facts.pieces[:half], facts.pieces[half:]):
            rows = [(piece, bar(count / most), f"{count:,}") for piece, count in group]
            add_table(add(columns, "div"), (), rows, class_="bars numbers")
    if not (lengths and facts.pieces):
        why = "Lengths or pieces were not counted when this text was prepared, or its tokenizer cannot be read."
        add(part, "p", why, class_="note")


def _interval(power: int) -> str:
    """Lengths from 2^power to below the next power."""
    return "1" if power == 0 else f"{2**power:,} to {2 ** (power + 1) - 1:,}"


def _counts(facts: RunFacts) -> list[tuple[str, str]]:
    manifest = facts.manifest
    corpus, splits = manifest.get("corpus", {}).get("text", {}), manifest["splits"]
    counted = [
        ("documents", corpus.get("documents")),
        ("exact duplicates left out", corpus.get("duplicates")),
        ("lines, rows or files skipped", corpus.get("skipped")),
        ("words", corpus.get("words")),
        ("bytes of UTF-8", corpus.get("text_bytes")),
        ("tokens to learn from", splits["train"]["tokens"]),
        ("tokens held out", splits["validation"]["tokens"]),
        ("vocabulary, pieces", manifest.get("vocab_size")),
    ]
    rows = [(name, f"{value:,}") for name, value in counted if value is not None]
    for name, key, form in (
        ("unknown pieces", "unknown_fraction", ".3%"),
        ("bytes per token", "bytes_per_token", ".2f"),
        ("token frequencies alone, nats", "unigram_loss", ".3f"),
    ):
        if manifest.get(key) is not None:
            rows.append((name, format(manifest[key], form)))
    return rows
