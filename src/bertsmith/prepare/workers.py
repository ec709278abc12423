"""Processes that turn chunks of text into shards.

Each worker is a fresh interpreter that is fed through a pipe and imports only
what tokenising needs, so it stays small whatever the program around it has
loaded. It ends when its pipe is closed: none outlives a killed run. It writes no
file: shards come back through the pipe, so this process alone writes.

    request   8 bytes length, then the chunk as JSON
    answer    8 bytes length, then 1 byte (0 done, 1 failed), then the shard or the traceback
"""

import json
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import IO

from bertsmith.errors import UserError
from bertsmith.prepare.chunks import Chunk, tokenise
from bertsmith.tokenizer import load_tokenizer

_SERVE = "from bertsmith.prepare.workers import serve; serve()"
_QUEUED = 2
"""Chunks that wait, read already, for a worker to be free."""

Store = Callable[[Chunk, bytes], None]


def tokenise_all(
    chunks: Iterable[Chunk], tokenizer_folder: Path, *, workers: int, store: Store, done: Callable[[Chunk], None]
) -> None:
    """Turn all chunks into shards.

    Args:
        chunks: Read as workers become free; few are held at once.
        tokenizer_folder: A saved tokenizer.
        workers: Number of processes; with 1 this process does the work.
        store: Keeps a finished shard. Called from several threads.
        done: Told of each chunk that is kept. Called from this thread, in no particular order.

    Raises:
        UserError: A worker process was killed.
    """
    if workers == 1:
        tokenizer = load_tokenizer(tokenizer_folder)
        for chunk in chunks:
            store(chunk, tokenise(chunk.documents, chunk.texts, tokenizer))
            done(chunk)
        return
    with _Workers(tokenizer_folder, workers) as pool:
        pool.run(chunks, store, done)


class _Workers:
    """Worker processes, each with a thread of this process that talks to it."""

    def __init__(self, tokenizer_folder: Path, count: int) -> None:
        self.count = count
        self._command = [sys.executable, "-P", "-c", _SERVE, str(tokenizer_folder.resolve())]
        self._threads = ThreadPoolExecutor(count)
        self._own = threading.local()
        self._lock = threading.Lock()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._closed = False

    def __enter__(self) -> "_Workers":
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._closed = True
            for process in self._processes:
                process.kill()  # idle by now, unless something failed: then its work is not wanted
        self._threads.shutdown(cancel_futures=True)
        for process in self._processes:
            process.communicate()

    def run(self, chunks: Iterable[Chunk], store: Store, done: Callable[[Chunk], None]) -> None:
        """Give every chunk to the next free worker."""
        pending: set[Future[Chunk]] = set()
        for chunk in chunks:
            pending.add(self._threads.submit(self._work, chunk, store))
            if len(pending) >= self.count + _QUEUED:
                pending = _collect(pending, done)
        while pending:
            pending = _collect(pending, done)

    def _work(self, chunk: Chunk, store: Store) -> Chunk:
        """Have this thread's process tokenise a chunk, and keep the result."""
        process = self._process()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            _write(process.stdin, json.dumps([chunk.documents, chunk.texts], ensure_ascii=False).encode())
            answer = _read(process.stdout)
        except (BrokenPipeError, EOFError) as error:
            raise UserError(
                f"a worker process ended early (exit status {process.wait()}), usually for lack of memory; "
                "run the same command again, with --workers 1 if it stays so"
            ) from error
        if answer[0]:
            raise RuntimeError(f"in the worker, at {chunk.file}:\n{answer[1:].decode()}")
        store(chunk, answer[1:])
        return chunk

    def _process(self) -> subprocess.Popen[bytes]:
        """The worker of the calling thread, started when first asked for."""
        with self._lock:
            if not hasattr(self._own, "process"):
                if self._closed:
                    raise UserError("the preparation was stopped")
                self._own.process = self._start()
                self._processes.append(self._own.process)
        process: subprocess.Popen[bytes] = self._own.process
        return process

    def _start(self) -> subprocess.Popen[bytes]:
        single = {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        path = os.pathsep.join(part for part in sys.path if part)
        return subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **single, "PYTHONPATH": path},
            # Ctrl-C on the terminal is for this process alone.
            process_group=None if os.name == "nt" else 0,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )


def _collect(pending: set[Future[Chunk]], done: Callable[[Chunk], None]) -> set[Future[Chunk]]:
    """Wait for at least one chunk; the ones still in work are returned."""
    finished, pending = wait(pending, return_when=FIRST_COMPLETED)
    for future in finished:
        done(future.result())
    return pending


def _write(pipe: IO[bytes], *parts: bytes) -> None:
    pipe.write(sum(map(len, parts)).to_bytes(8, "little"))
    for part in parts:
        pipe.write(part)
    pipe.flush()


def _read(pipe: IO[bytes]) -> bytes:
    """Read one message.

    Raises:
        EOFError: The other side is gone.
    """
    head = pipe.read(8)
    size = int.from_bytes(head, "little")
    data = pipe.read(size)
    if len(head) < 8 or len(data) < size:
        raise EOFError
    return data


def serve() -> None:
    """Be a worker: answer until the pipe is closed. The tokenizer's folder is the argument of the process."""
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # end without a word when the main process is gone
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get among the answers
    tokenizer = load_tokenizer(sys.argv[1])
    while True:
        try:
            request = _read(requests)
        except EOFError:
            return
        try:
            documents, texts = json.loads(request)
            _write(answers, b"\0", tokenise(documents, texts, tokenizer))
        except Exception:
            _write(answers, b"\1", traceback.format_exc().encode())
