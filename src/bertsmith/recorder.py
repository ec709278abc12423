"""Work for a GPU that is recorded once and then asked for as a whole (CUDA graphs).

A step of a small model is some hundred kernels of a few microseconds, and Python takes several times as long to ask
for them one by one (docs/log.md, "Steps that a GPU is asked for as a whole"). A recording keeps the shapes and the
places in memory that it was made with: what goes in is copied there, and weights and gradients stay where they are.
"""

import warnings
from collections.abc import Callable, Hashable, Iterable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from bertsmith.errors import UserError, first_line

Work = Callable[..., Tensor | None]
"""Takes tensors and batches, and leaves what else it does in the weights and their gradients. Must not wait for a
result, nor make anything that outlives it but gradients."""


def directly(_key: Hashable, work: Work, *inputs: Any) -> Any:
    """Do a piece of a step as it is, in the place of a `Recorder`."""
    return work(*inputs)


class Recording:
    """Some work with the shapes of its inputs."""

    def __init__(self, work: Work, inputs: tuple[Any, ...], parameters: list[nn.Parameter], pool: Any) -> None:
        """Record; nothing is computed yet.

        Args:
            work: Was done before, so that all it needs to be made once is there.
            inputs: Tensors and batches; copies of them are what is recorded with.
            parameters: Their gradients may be made or changed.
            pool: Memory that recordings share which are replayed one after the other.
        """
        before = [parameter.grad for parameter in parameters]
        copies = [part.mapped(Tensor.clone) if hasattr(part, "mapped") else part.clone() for part in inputs]
        self._inputs = tensors_of(copies)
        self._graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.current_stream()
        try:
            # other threads, such as those of the terminal, may go on meanwhile
            with torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"):
                self._output = work(*copies)
        except BaseException:
            torch.cuda.set_stream(stream)  # PyTorch may leave its own behind
            _end_of_recording()
            torch.cuda.set_stream(stream)
            raise
        made = zip(parameters, before, strict=True)
        self._gradients = [(p, p.grad) for p, old in made if p.grad is not old]

    def replay(self, inputs: tuple[Any, ...]) -> Tensor | None:
        """Do the work with other inputs of the same shapes; the result is valid until the next replay."""
        if self._inputs:
            torch._foreach_copy_(self._inputs, tensors_of(inputs))
        self._graph.replay()
        for parameter, gradient in self._gradients:
            parameter.grad = gradient
        return self._output


def _end_of_recording() -> None:
    """Record nothing, after a recording that failed, which leaves a GPU's random numbers as inside of a recording.

    Only a recording that succeeds brings them out of that; else dropout is an error ("Offset increment outside graph
    capture encountered unexpectedly").
    """
    graph = torch.cuda.graph(torch.cuda.CUDAGraph(), capture_error_mode="thread_local")
    with warnings.catch_warnings(action="ignore"), suppress(RuntimeError), graph:  # it warns of having recorded nothing
        pass


def tensors_of(inputs: Iterable[Any]) -> list[Tensor]:
    """The tensors of some inputs, in order."""
    found: list[Tensor] = []
    for part in inputs:
        if isinstance(part, Tensor):
            found.append(part)
        else:
            part.mapped(lambda tensor: found.append(tensor) or tensor)  # type: ignore[func-returns-value]
    return found


class Recorder:
    """Does the pieces of a training step: in the first step of some shapes as they are, recorded from then on.

    The first step is what a recording needs before it: kernels are loaded, code is compiled, the state of the
    optimizer is made.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], warn: Callable[[str], object] = str) -> None:
        """Begin with nothing recorded.

        Args:
            parameters: Whose gradients the pieces may make or change.
            warn: Told when the pieces cannot be recorded: they are done as they are from then on.
        """
        self._parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self._warn = warn
        self._has_failed = False
        self.lacked_room = False
        """Whether the memory of the GPU is too small for a recording, so that nothing is recorded any more."""
        self.forget()

    def forget(self) -> None:
        """Begin anew, since what is done has changed."""
        self._shapes: Hashable = None
        self._recordings: dict[Hashable, Recording] = {}
        self._done: set[Hashable] = set()
        self._ready: set[Hashable] = set()
        self._pool: Any = None

    def begin_step(self, inputs: Iterable[Any] = ()) -> None:
        """Say what the step will be given; with other shapes than those of the step before all begins anew."""
        shapes = tuple(tensor.shape for tensor in tensors_of(inputs))
        if shapes != self._shapes:
            self.forget()
            self._shapes = shapes
        self._ready = set(self._done)

    def __call__(self, key: Hashable, work: Work, *inputs: Any) -> Any:
        """Do a piece of the step.

        Args:
            key: The same for the same work on inputs of the same shapes.
            work: What to do.
            inputs: What with.

        Raises:
            UserError: It could not be recorded, and after that not be done as it is either.
        """
        if self._has_failed or key not in self._ready:
            self._done.add(key)
            return work(*inputs)
        if key not in self._recordings:
            problem = self._record(key, work, inputs)
            if problem is not None:
                return self._do_without(problem, work, inputs)
        return self._recordings[key].replay(inputs)

    def _record(self, key: Hashable, work: Work, inputs: tuple[Any, ...]) -> str | None:
        """Make a recording; why that failed, in one line, with all of it forgotten and the gradients as they were."""
        gradients = [parameter.grad for parameter in self._parameters]
        problem: str | None = None
        try:
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            self._recordings[key] = Recording(work, inputs, self._parameters, self._pool)
        except torch.OutOfMemoryError:
            problem, self.lacked_room = "its memory is too small", True
        except Exception as error:  # of many kinds; the error itself would keep what was recorded
            problem = first_line(error)
        if problem is not None:
            self.forget()
            self._has_failed = True
            for parameter, gradient in zip(self._parameters, gradients, strict=True):
                parameter.grad = gradient
        return problem

    def _do_without(self, problem: str, work: Work, inputs: tuple[Any, ...]) -> Any:
        self._warn(
            "the steps cannot be recorded for the GPU, so Python asks for each of their parts, which is slower for "
            f"small models: {problem}"
        )
        try:
            return work(*inputs)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # PyTorch may not have recovered from what failed
            raise UserError(
                f"the steps could not be recorded for the GPU ({problem}), nor go on after that "
                f"({first_line(error)}); give --cuda-graphs no"
            ) from error


class _Wish:
    """Of the user."""

    is_to_record = True


def set_recording(wanted: bool) -> None:
    """Say whether steps may be recorded in this process."""
    _Wish.is_to_record = wanted


def recorder_on(
    device: torch.device, parameters: Iterable[nn.Parameter], warn: Callable[[str], object] = str
) -> Recorder | None:
    """A recorder where there is something to gain, and it is wanted: on a GPU of PyTorch's kind "cuda"."""
    return Recorder(parameters, warn) if device.type == "cuda" and _Wish.is_to_record else None


def recorded(work: Work, device: torch.device) -> Work:
    """The same work, without inputs, to be timed as the GPU does it; elsewhere as it is. It is done once or twice."""
    recorder = recorder_on(device, [])
    if recorder is None:
        return work
    for _ in range(2):
        recorder.begin_step()
        recorder("work", work)
    return lambda: recorder("work", work)
