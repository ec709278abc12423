"""Text to token shards: everything that happens before training, as restartable tasks.

    RUN/tokenizer/            trained on the text, or a copy of the one that was given
    RUN/data/state.json       while preparing: the fingerprint, and what reading the text has shown
    RUN/data/train-*.safetensors, validation-*.safetensors
    RUN/data/manifest.json    written last

The text is read three times: to measure it, to train the tokenizer, and to
tokenise it. Only a small one is held meanwhile, so memory does not grow with
the text, and what is finished when the process is killed is not done again.

    reuse.py        what is there already, and what has to be made
    adopt.py        a text that was prepared before
    build.py        the three readings, then the manifest
    tokenising.py   the third reading
    inputs.py       the text, which is read several times, and the tokenizer that is given
    chunks.py       what one task is
    workers.py      the processes that do them
    accents.py      whether accents go with lower-casing
    facts.py        counts over the finished shards
    neighbours.py   which pieces stand beside which
    held_out.py     the held-out text of prepared data, read again
    fingerprint.py  what prepared data was made from
    folder.py       the files of a run that belong to the preparation
    job.py          what these functions hand each other
"""

from bertsmith.prepare.build import make_tokenizer
from bertsmith.prepare.held_out import held_out_sections
from bertsmith.prepare.reuse import Prepared, prepare

__all__ = ["Prepared", "held_out_sections", "make_tokenizer", "prepare"]
