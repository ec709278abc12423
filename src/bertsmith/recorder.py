"""Work for a GPU that is recorded once and then asked for as a whole (CUDA graphs).

A step of a small model is some hundred kernels of a few microseconds, and Python takes several times as long to ask
for them one by one (docs/log.md, "Steps that a GPU is asked for as a whole"). A recording keeps the shapes and the
places in memory that it was made with: what goes in is copied there, and weights and gradients stay where they are.
"""

from collections.abc import Callable, Hashable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from bertsmith.errors import first_line

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
        # other threads, such as the one that pins batches, may go on meanwhile
        with torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"):
            self._output = work(*copies)
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
        self.has_failed = False
        self.forget()

    def forget(self) -> None:
        """Begin anew, since what is done has changed."""
        self._shapes: Hashable = None
        self._recordings: dict[Hashable, Recording] = {}
        self._done: set[Hashable] = set()
        self._ready: set[Hashable] = set()
        self._pool: Any = None

    def begin_step(self, shapes: Hashable) -> None:
        """Say what shapes the step has; with others than those of the step before all begins anew."""
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
        """
        if self.has_failed or key not in self._ready:
            self._done.add(key)
            return work(*inputs)
        if key not in self._recordings:
            gradients = [parameter.grad for parameter in self._parameters]
            try:
                self._pool = self._pool or torch.cuda.graph_pool_handle()
                self._recordings[key] = Recording(work, inputs, self._parameters, self._pool)
            except Exception as error:  # of many kinds; it can be done as it is
                self.forget()
                self.has_failed = True
                self._warn(
                    "the steps cannot be recorded for the GPU, so Python asks for each of their parts, which is slower "
                    f"for small models: {first_line(error)}"
                )
                for parameter, gradient in zip(self._parameters, gradients, strict=True):
                    parameter.grad = gradient
                return work(*inputs)
        return self._recordings[key].replay(inputs)


def recorded(work: Work, device: torch.device) -> Work:
    """The same work, without inputs, to be timed as the GPU does it; elsewhere as it is. It is done once or twice."""
    if device.type != "cuda":
        return work
    recorder = Recorder([])
    for _ in range(2):
        recorder.begin_step("timed")
        recorder("work", work)
    return lambda: recorder("work", work)
