"""What several test files use."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: many threads on tiny tensors only wait for each other


import pytest

from prose import write_prose

REPOSITORY = Path(__file__).resolve().parent.parent


def development_data(name: str) -> Path:
    """A file or folder of the development data, which is no part of the project; skips the test if it is absent.

    Looked for in the folder that BERTSMITH_DATA names, else in ../shared/data beside the repository.
    """
    root = Path(os.environ.get("BERTSMITH_DATA") or REPOSITORY.parent / "shared" / "data")
    path = root / name
    if not path.exists():
        pytest.skip(f"needs development data: {path} is absent; set BERTSMITH_DATA")
    return path


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of made-up prose, long enough to train a tiny model on."""
    return write_prose(tmp_path_factory.mktemp("text") / "prose.txt")


@pytest.fixture(scope="session", autouse=True)
def signals_as_in_a_terminal() -> None:
    """Programs that tests start inherit what is ignored, and a job in the background ignores Ctrl-C and hang-up."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session", autouse=True)
def short_measurements() -> Iterator[None]:
    """A run measures the machine for about a second before its first step; tests care for what it does with that."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bertsmith.machine.measure.SECONDS_PER_CHOICE", 0.02)
        patch.setattr("bertsmith.machine.work.CPU_SHAPES", ((128, 256, 512), (256, 256, 256)))
        yield
