"""The last reading of a text: every shard that is not there yet."""

import time
from collections.abc import Iterable, Iterator
from itertools import count, takewhile
from pathlib import Path
from typing import Any

from bertsmith.atomic import write_bytes
from bertsmith.corpus import Section
from bertsmith.data.shards import Split, read_layout, read_shard, shard_name
from bertsmith.errors import UserError
from bertsmith.machine.limits import usable_cores
from bertsmith.prepare.chunks import Chunk, chunk_characters, group, split_of
from bertsmith.prepare.inputs import Inputs, held_out_share
from bertsmith.prepare.job import Job
from bertsmith.prepare.workers import tokenise_all
from bertsmith.tokenizer import load_tokenizer


def make_shards(job: Job, inputs: Inputs, state: dict[str, Any]) -> None:
    """Make every shard that is not there.

    A validation text of its own goes first: if it is too small, that shows at once.

    Args:
        job: Where to, and whom to tell.
        inputs: The text.
        state: `sizes` of the splits, which decide the chunks, and the share that is held out.

    Raises:
        UserError: A split is too small, or a file cannot be written.
    """
    sizes = {split: size["characters"] for split, size in state["sizes"].items()}
    work = _Work(job, sum(sizes.values()))
    share = 0.0 if inputs.validation else held_out_share(state, inputs)
    if inputs.validation:
        work.do((("validation", section) for section in inputs.validation.sections()), sizes.pop("validation"))
        _require(job, "validation")  # said before the long part
    work.do(((split_of(section, share), section) for section in inputs.corpus.sections()), sum(sizes.values()))
    _require(job, "validation")
    _require(job, "train")
    job.progress("tokenising", 1.0)
    state["seconds"]["tokenising"] = round(time.monotonic() - work.started, 2)
    job.report(work.summary())


class _Work:
    """Chunks done and skipped so far, in characters."""

    def __init__(self, job: Job, total: int) -> None:
        self.job = job
        self.total = total
        self.chunk_size = chunk_characters(total)
        self.started = time.monotonic()
        self.skipped = self.done = 0

    def do(self, sections: Iterable[tuple[Split, Section]], characters: int) -> None:
        """Turn sections into shards."""
        chunks = -(-characters // self.chunk_size)
        tokenise_all(
            self._missing(sections),
            self.job.folder.tokenizer,
            workers=max(1, min(self.job.config.workers or usable_cores(), chunks)),
            store=self._store,
            done=self._count,
        )

    def summary(self) -> str:
        """How fast it went."""
        seconds = time.monotonic() - self.started
        skipped = f" ({self.skipped / 1e6:.1f} M were done before)" if self.skipped else ""
        return (
            f"tokenised {self.done / 1e6:.1f} M characters{skipped} in {seconds:.0f} s "
            f"({self.done / 1e6 / max(seconds, 1e-9):.1f} M/s)"
        )

    def _missing(self, sections: Iterable[tuple[Split, Section]]) -> Iterator[Chunk]:
        for chunk in group(sections, self.chunk_size):
            if self._is_there(chunk):
                self.skipped += chunk.characters
                self._tell()
            else:
                yield chunk

    def _is_there(self, chunk: Chunk) -> bool:
        try:
            read_layout(self.job.folder.data / chunk.file)
        except UserError:
            return False
        return True

    def _store(self, chunk: Chunk, shard: bytes) -> None:
        with self.job.folder.writing():
            write_bytes(self.job.folder.data / chunk.file, shard)

    def _count(self, chunk: Chunk) -> None:
        self.done += chunk.characters
        self._tell()

    def _tell(self) -> None:
        self.job.progress("tokenising", min(1.0, (self.done + self.skipped) / max(self.total, 1)))


def _require(job: Job, split: Split) -> None:
    """Refuse a split whose finished shards hold too few tokens."""
    names = (job.folder.data / shard_name(split, number) for number in count())
    shards = list(takewhile(Path.exists, names))
    tokens = sum(read_layout(path)["ids"].length for path in shards)
    unknown = 0
    if tokens < job.least_tokens:
        known_as = load_tokenizer(job.folder.tokenizer).unk_token_id
        unknown = sum(int((read_shard(path).ids == known_as).sum()) for path in shards)
    job.require(split, tokens, "tokens", unknown=unknown / max(1, tokens))
