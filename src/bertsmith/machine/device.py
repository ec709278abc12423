"""Where a command computes: the device, its threads, and the memory that is left there."""

import os

import torch

from bertsmith import distributed
from bertsmith.errors import UserError
from bertsmith.machine.limits import free_memory, usable_cores

MOST_THREADS = 1024
"""More are a slip of the pen, and the system would refuse them with a crash."""


def find_device(name: str) -> torch.device:
    """The device to compute on; "auto" takes CUDA, then Apple's GPU, then the CPU.

    Several processes have a GPU of CUDA each; Apple's cannot be shared.

    Raises:
        UserError: There is no such device, or this machine does not have it, or not for each of its processes.
    """
    several = distributed.is_one_of_several()
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name not in ("auto", *available):
        raise UserError(f"device is {name!r}; give one of auto, {', '.join(available)}")
    if name != "auto" and not available[name]:
        usable = ", ".join(kind for kind, there in available.items() if there)
        raise UserError(f"device is '{name}', which this machine does not have; it has {usable}")
    if name == "mps" and several:
        raise UserError("device is 'mps', which several processes cannot share; start one, or give --device cpu")
    available["mps"] &= not several
    kind = next(kind for kind, there in available.items() if there) if name == "auto" else name
    if kind != "cuda":
        return torch.device(kind)
    gpus, number = torch.cuda.device_count(), distributed.local_rank()
    if number >= gpus:
        raise UserError(
            f"{distributed.local_world_size()} processes were started here and there are {gpus} GPUs to compute on; "
            f"start {gpus}, or give --device cpu"
        )
    return torch.device("cuda", number)


def set_threads(threads: int | None) -> int:
    """Use so many CPU threads; None: as OMP_NUM_THREADS says, else all cores, shared between the local ranks.

    Raises:
        UserError: There cannot be so many.
    """
    if threads is not None and not 1 <= threads <= MOST_THREADS:
        raise UserError(f"threads is {threads}; give 1 to {MOST_THREADS}, or leave --threads out")
    threads = threads or _asked_threads() or max(1, usable_cores() // distributed.local_world_size())
    torch.set_num_threads(threads)
    return threads


def set_determinism(device: torch.device) -> None:
    """On a CPU take the same operations every time: sums in another order would differ from run to run.

    `torch.use_deterministic_algorithms` tells the compiler, too, and loads it for that; `compiled_losses` does
    so where there is something to compile.
    """
    torch.set_deterministic_debug_mode("error" if device.type == "cpu" else "default")


def _asked_threads() -> int | None:
    """Threads that the environment asks for. torchrun sets 1 for several processes, which nobody asked for."""
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    threads = int(first) if first.isdecimal() else 0
    return threads if threads > (distributed.local_world_size() > 1) else None


def free_room(device: torch.device) -> int:
    """Bytes that this process may still take there: of a CPU its share of the memory that is free."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # PyTorch's own, to use again
        return torch.cuda.mem_get_info(device)[0] + kept
    return free_memory() // distributed.local_world_size()


def require_memory(
    parameters: int, device: torch.device, *, cure: str = "choose a smaller --preset or --vocab-size"
) -> None:
    """See that a model can be trained here at all, before it is made.

    Args:
        parameters: Numbers in the model. Each is kept at least three times in float32: weight, gradient and a moment.
        device: Where it is trained.
        cure: What the user can do.

    Raises:
        UserError: It does not fit.
    """
    needed = 12 * parameters
    free = free_room(device)
    if needed > free:
        raise UserError(
            f"a model of {parameters / 1e6:,.0f} M parameters needs at least {needed / 1e9:,.1f} GB for its training "
            f"state alone and {free / 1e9:,.1f} GB are free; {cure}"
        )
