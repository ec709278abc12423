"""Several processes as one: the only module that talks to torch.distributed.

Each rank computes its own rows of a step; gradients, losses and counts are
summed over all ranks. Without torchrun every function here is the identity.
"""

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import uuid4

import torch
import torch.distributed as dist
from torch import Tensor

from bertsmith.errors import UserError, first_line

WAIT = timedelta(minutes=30)
"""How long a rank waits for another in a step; then it is taken for dead."""

PATIENCE = timedelta(hours=24)
"""How long at a barrier: preparing a large corpus on rank 0 takes hours."""

SECONDS_BETWEEN_LOOKS = 0.02

BUCKET = 1 << 24
"""Elements that are sent at once; a larger tensor goes alone."""

_patient_group: dist.ProcessGroup | None = None


def start(device_type: str) -> None:
    """Join the other processes when torchrun started this one, else do nothing.

    Args:
        device_type: "cuda" or "cpu"; decides between NCCL and Gloo.

    Raises:
        UserError: The environment speaks of several processes and does not say how they meet, or they did not.
    """
    if not is_one_of_several() or dist.is_initialized():
        return
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise UserError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']} in the environment and {missing[0]} is not set; start several "
            "processes with torchrun, or unset WORLD_SIZE for one"
        )
    if device_type == "cuda":
        torch.cuda.set_device(local_rank())
    try:
        dist.init_process_group("nccl" if device_type == "cuda" else "gloo", timeout=WAIT, **_meeting_place())
        global _patient_group
        _patient_group = dist.new_group(backend="gloo", timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:  # of many kinds: an address that is not there, a number that is none
        raise UserError(
            f"process {os.environ['RANK']} could not join the others at {os.environ['MASTER_ADDR']}:"
            f"{os.environ['MASTER_PORT']}; start all of them at once, with torchrun ({first_line(error)})"
        ) from error


def _meeting_place() -> dict[str, Any]:
    """What `init_process_group` needs to be told beyond the environment.

    The store of torchrun outlives the processes that `--max-restarts` starts again, and still holds the addresses of
    those before, which PyTorch would try to reach: the processes of each start use names of their own in it.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return {}
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(address, port, size, is_master=False, timeout=WAIT)  # type: ignore[attr-defined]
    names = dist.PrefixStore(_name_of_this_start(store, rank, size), store)  # type: ignore[attr-defined]
    return {"store": names, "rank": rank, "world_size": size}


def _name_of_this_start(store: Any, rank: int, size: int) -> str:
    """A name that the processes that were started together agree on, in a store that may hold those of earlier ones.

    Nothing in the environment tells one start from the next on all machines. So each process says by a number drawn at
    random that it is here, the first one answers each number with its own, and goes on when all have read that answer.

    Raises:
        RuntimeError: Not all have come in time.
    """
    own, until = uuid4().hex, time.monotonic() + WAIT.total_seconds()
    if rank > 0:
        store.set(f"here/{rank}", own)
        name: str = store.get(f"answer/{own}").decode()  # waits for it
        store.set(f"{name}/{rank}", "")
        return name
    missing = set(range(1, size))
    while missing:
        for other in [each for each in missing if store.check([f"here/{each}"])]:
            number = store.get(f"here/{other}").decode()  # maybe that of a process of an earlier start
            store.set(f"answer/{number}", own)
        missing = {each for each in missing if not store.check([f"{own}/{each}"])}
        if time.monotonic() > until:
            raise RuntimeError(f"process {min(missing)} has not come")
        time.sleep(SECONDS_BETWEEN_LOOKS)
    return own


def is_one_of_several() -> bool:
    """Whether this process was started as one of several."""
    size = os.environ.get("WORLD_SIZE", "1")
    return size.isdecimal() and int(size) > 1


def stop() -> None:
    """Leave the group of processes."""
    global _patient_group
    if dist.is_initialized():
        _patient_group = None  # held until Python ends, its threads could abort the process
        dist.destroy_process_group()


@contextmanager
def _together() -> Iterator[None]:
    """What all ranks must take part in.

    Raises:
        UserError: One of them has ended, or did not answer.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # of many kinds: connections closed, reset, timed out
        raise UserError(
            f"process {rank()} stops because another process of this run has ended or no longer answers; once the "
            "reason, which that one may have said, is gone, the same command goes on from the newest checkpoint "
            f"({first_line(error)})"
        ) from error


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def local_rank() -> int:
    """Number of this process on its machine, from 0: the number of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def local_world_size() -> int:
    """Number of processes on this machine, which share its cores and memory."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this process is the one that prints and writes."""
    return rank() == 0


def barrier() -> None:
    """Wait until all processes are here, however long the main one prepares or finishes."""
    if dist.is_initialized():
        with _together():
            dist.barrier(group=_patient_group)


def sum_over_ranks(values: Tensor) -> Tensor:
    """Sum a tensor over all ranks, in place; all ranks get the sum."""
    if dist.is_initialized():
        with _together():
            dist.all_reduce(values)
    return values


def from_main(value: float) -> float:
    """A number as the main rank has it."""
    if not dist.is_initialized():
        return value
    return _sum_of_numbers(value if is_main() else 0.0)


def any_rank(flag: bool) -> bool:
    """Whether the flag is set on any rank; all ranks get the same answer."""
    if not dist.is_initialized():
        return flag
    return bool(_sum_of_numbers(float(flag)))


def _sum_of_numbers(value: float) -> float:
    """The sum over all ranks of a number that each has."""
    device = torch.device("cuda", local_rank()) if dist.get_backend() == "nccl" else torch.device("cpu")
    return float(sum_over_ranks(torch.tensor(value, dtype=torch.float64, device=device)).item())


def share(tensors_of_rank: Sequence[Sequence[Tensor]]) -> None:
    """Give every rank the tensors that each rank has worked on, in place."""
    if not dist.is_initialized():
        return
    for owner, tensors in enumerate(tensors_of_rank):
        for bucket in buckets(tensors):
            with _as_one(bucket) as flat, _together():
                dist.broadcast(flat, src=owner)


def sum_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Sum the gradients over all ranks, in place."""
    if not dist.is_initialized():
        return
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for parameter in parameters:
        if parameter.grad is None:  # every rank must send the same tensors
            parameter.grad = torch.zeros_like(parameter)
        by_dtype.setdefault(parameter.grad.dtype, []).append(parameter.grad)
    for gradients in by_dtype.values():
        for bucket in buckets(gradients):
            with _as_one(bucket) as flat:
                sum_over_ranks(flat)


def buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Tensors in their order, as many together as BUCKET elements hold: few messages, and little memory for copies."""
    bucket: list[Tensor] = []
    elements = 0
    for tensor in tensors:
        if bucket and elements + tensor.numel() > BUCKET:
            yield bucket
            bucket, elements = [], 0
        bucket.append(tensor)
        elements += tensor.numel()
    if bucket:
        yield bucket


@contextmanager
def _as_one(tensors: Sequence[Tensor]) -> Iterator[Tensor]:
    """One flat tensor for several; what it holds at the end is theirs."""
    if len(tensors) == 1 and tensors[0].is_contiguous():
        yield tensors[0]
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    yield flat
    for tensor, part in zip(tensors, torch.split(flat, [t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))
