"""Sentence vectors of a whole file: a row of numbers for each row of text, in their order, in bounded memory."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bertsmith import atomic
from bertsmith.corpus.report import CorpusReport
from bertsmith.errors import UserError
from bertsmith.finetuning.classify import chunks, read_text, refuse_output
from bertsmith.finetuning.tasks.rows import Columns, choose_columns, open_rows, peek
from bertsmith.reporter import Reporter
from bertsmith.sentence_vectors import SentenceEncoder


def read_texts(path: str, field: str | None) -> Iterator[list[str]]:
    """The texts of a file, some thousand at a time; "" where a row has none.

    Args:
        path: A table, JSON lines, Parquet, or plain text with one text a line.
        field: Column with the text; None: found.

    Raises:
        UserError: The file or column is not there, or a row cannot be read.
    """
    report = CorpusReport()
    sample, rows = peek(open_rows(path, report, column=field, words=False))
    column = choose_columns(path, sample, Columns(field or "", None, None), labelled=False).text
    for chunk in chunks(rows, report, "repair it, or take it out"):
        yield [read_text(path, row, column) for row in chunk]


def embed_file(
    encoder: SentenceEncoder,
    path: str,
    output: Path,
    *,
    text_field: str | None = None,
    precision: str = "float32",
    reporter: Reporter | None = None,
) -> tuple[int, int]:
    """Write the vectors of a file's rows.

    Args:
        encoder: On any device.
        path: As in `read_texts`.
        output: A NumPy file, float32 [rows, D]. Must not exist; it appears when it is whole.
        text_field: Column with the text; None: found.
        precision: As in `SentenceEncoder.encode`.
        reporter: Who to tell.

    Returns:
        The shape.

    Raises:
        UserError: The file or column is not there, a row cannot be read, no row has a text, or `output` exists or is
            named as another format.
    """
    reporter = reporter or Reporter()
    refuse_output(output, ".npy")
    width = encoder.model.config.hidden_size
    count = empty = 0
    began = time.perf_counter()
    with atomic.growing(output, "wb") as handle:
        _write_header(handle, 0, width)
        for texts in read_texts(path, text_field):
            handle.write(encoder.encode(texts, precision=precision).tobytes())
            count += len(texts)
            empty += sum(not text.strip() for text in texts)
            rate = count / (time.perf_counter() - began)
            reporter.progress(f"embedding: {count:,} rows, {rate:,.0f} rows/s", 0.0)
        if empty == count:
            raise UserError(f"no row of {path} has a text; name the column with --text-field")
        handle.seek(0)
        _write_header(handle, count, width)
    seconds = time.perf_counter() - began
    reporter.say(
        f"{count:,} rows in {seconds:.1f} s ({count / seconds:,.0f} rows/s): float32 [{count:,}, {width}], "
        f"written to {output}; a vector is {encoder.recipe}"
    )
    if empty:
        reporter.warn(f"{empty:,} of {count:,} rows have no text; their vectors mean nothing")
    if encoder.cut:
        reporter.warn(f"{encoder.cut:,} of {count:,} rows are longer than the model reads and were cut at their end")
    return count, width


def _write_header(handle: object, rows: int, width: int) -> None:
    """The header of a .npy file, as long for any number of rows: numpy leaves room for the first axis to grow."""
    header = {"descr": np.dtype(np.float32).newbyteorder("<").str, "fortran_order": False, "shape": (rows, width)}
    np.lib.format.write_array_header_1_0(handle, header)  # type: ignore[arg-type]
