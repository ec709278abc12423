"""Checkpoints: everything a run needs to go on exactly, in files that cannot run code.

    checkpoints/step-00001000/
      model.safetensors       parameters by name
      optimizer.safetensors   exp_avg.NAME, exp_avg_sq.NAME, step.NAME, momentum_buffer.NAME
      average.safetensors     averaged parameters by name, where they are averaged
      state.json              step, tokens, seconds, skipped steps; of a run its settings, too
      manifest.json           size and hash of each file, written last

A checkpoint is written under another name and renamed when it is on the disk.
It knows nothing of ranks or devices: tensors are whole and on the CPU.
"""

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bertsmith import atomic
from bertsmith.averaging import WeightAverage
from bertsmith.checkpoint_folders import MANIFEST, checkpoint_name, list_checkpoints
from bertsmith.errors import UserError
from bertsmith.optim import AnyOptimizer

AVERAGE = "average.safetensors"


def save_checkpoint(
    folder: Path,
    model: nn.Module,
    optimizer: AnyOptimizer | None,
    state: dict[str, Any],
    *,
    keep: int,
    average: WeightAverage | None = None,
) -> Path:
    """Write a checkpoint, then remove the oldest ones beyond `keep`.

    Args:
        folder: RUN/checkpoints.
        model: Its parameters are saved by name.
        optimizer: Its state is saved by the name of the parameter. None: the weights alone are to be kept.
        state: What else the run needs, as JSON; `state["step"]` names the checkpoint.
        average: Its tensors are saved too.
        keep: Checkpoints that stay. Older ones are removed only when the new one is on the disk.

    Raises:
        OSError: The disk is full or not writable. Earlier checkpoints are untouched.
    """
    final = folder / checkpoint_name(state["step"])
    if not final.exists():
        staging = final.with_name(final.name + atomic.TEMPORARY_SUFFIX)
        folder.mkdir(parents=True, exist_ok=True)
        atomic.remove_leftovers(folder)
        staging.mkdir()
        try:
            _save_tensors(staging / "model.safetensors", dict(model.named_parameters()))
            if optimizer is not None:
                _save_tensors(staging / "optimizer.safetensors", optimizer_tensors(model, optimizer))
            if average is not None:
                _save_tensors(staging / AVERAGE, average.tensors)
            atomic.write_json(staging / "state.json", state)
            files = {
                path.name: {"size": path.stat().st_size, "sha256": atomic.sha256(path)}
                for path in sorted(staging.iterdir())
            }
            atomic.write_json(staging / MANIFEST, {"files": files})
            atomic.publish(staging, final)
        except OSError:
            shutil.rmtree(staging, ignore_errors=True)
            raise
    for old in list_checkpoints(folder)[:-keep]:
        _remove(old)
    return final


def _remove(checkpoint: Path) -> None:
    """Remove a superseded checkpoint; renamed first, so that a kill leaves no half of it under its name."""
    doomed = checkpoint.with_name(checkpoint.name + atomic.TEMPORARY_SUFFIX)
    checkpoint.rename(doomed)
    shutil.rmtree(doomed)


def load_checkpoint(
    checkpoint: Path,
    model: nn.Module,
    optimizer: AnyOptimizer | None = None,
    average: WeightAverage | None = None,
) -> None:
    """Copy a checkpoint into a model, its optimizer and its averaged weights.

    Tensors are copied into the parameters that exist: memory mapped from a file
    may be aligned differently, and sums could then round differently.

    Raises:
        UserError: The checkpoint is of a model with other tensors.
    """
    parameters = dict(model.named_parameters())
    stored = load_file(checkpoint / "model.safetensors")
    if {n: t.shape for n, t in stored.items()} != {n: p.shape for n, p in parameters.items()}:
        raise UserError(f"{checkpoint} holds a model of another shape; give the run a new folder with -o")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(stored[name])
    if average is not None:
        average.load(load_file(checkpoint / AVERAGE))
    if optimizer is None:
        return
    moments = load_file(checkpoint / "optimizer.safetensors")
    for name, parameter in parameters.items():
        keys = [key for key in moments if key.partition(".")[2] == name]
        if keys:
            optimizer.state[parameter] = {
                key.partition(".")[0]: _like_state(key, moments[key], parameter) for key in keys
            }


def _like_state(key: str, stored: Tensor, parameter: nn.Parameter) -> Tensor:
    """A fresh tensor with a stored state, where the optimizer keeps it."""
    device = "cpu" if key.startswith("step.") and parameter.device.type == "mps" else parameter.device
    return torch.empty(stored.shape, dtype=stored.dtype, device=device).copy_(stored)


def optimizer_tensors(model: nn.Module, optimizer: AnyOptimizer) -> dict[str, Tensor]:
    """State of the optimizer as `kind.NAME` for each parameter it has updated."""
    return {
        f"{kind}.{name}": value
        for name, parameter in model.named_parameters()
        for kind, value in optimizer.state.get(parameter, {}).items()
    }


def _save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors to a safetensors file.

    Raises:
        OSError: The disk is full or not writable.
    """
    try:
        save_file({name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:  # its way to report what the disk said
        raise OSError(f"cannot write {path.name}: {error}") from error
