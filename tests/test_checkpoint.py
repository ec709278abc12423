"""Checkpoints: whole or not there, the newest good one is used, nothing in them runs."""

import os
import pickletools
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bertsmith import atomic, checkpoint
from bertsmith.adamw import AdamW
from bertsmith.checkpoint import load_checkpoint, save_checkpoint
from bertsmith.checkpoint_folders import list_checkpoints, newest_checkpoint, read_state


def trained(steps: int = 2) -> tuple[nn.Module, AdamW]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    optimizer = AdamW([{"params": list(model.parameters()), "lr": 0.1, "weight_decay": 0.01}], beta2=0.99)
    for _ in range(steps):
        model(torch.ones(2, 4)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def save(folder: Path, step: int, keep: int = 2) -> Path:
    return save_checkpoint(folder, *trained(step), {"step": step}, keep=keep)


def test_a_loaded_checkpoint_goes_on_bit_for_bit(tmp_path: Path) -> None:
    path = save(tmp_path, 2)
    model, optimizer = trained(0)
    load_checkpoint(path, model, optimizer)
    model(torch.ones(2, 4)).square().sum().backward()
    optimizer.step()
    straight, _ = trained(3)
    for one, other in zip(model.parameters(), straight.parameters(), strict=True):
        assert torch.equal(one, other)
    assert read_state(path) == {"step": 2}


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["cut", "flip", "gone", "empty"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path: Path, file: str, damage: str) -> None:
    good, bad = save(tmp_path, 1), save(tmp_path, 2)
    path = bad / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    {
        "cut": lambda: path.write_bytes(path.read_bytes()[:-3]),
        "flip": lambda: path.write_bytes(bytes(content)),
        "gone": path.unlink,
        "empty": lambda: path.write_bytes(b""),
    }[damage]()
    found = newest_checkpoint(tmp_path)
    assert found.folder == good
    assert len(found.damaged) == 1
    assert bad.name in found.damaged[bad]


def test_a_copy_that_a_user_made_is_neither_used_nor_removed(tmp_path: Path) -> None:
    shutil.copytree(save(tmp_path, 1), tmp_path / "step-1-best")
    for step in (2, 3):
        save(tmp_path, step, keep=1)
    assert (tmp_path / "step-1-best").is_dir()
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000003"]


def test_only_superseded_checkpoints_are_removed(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000002", "step-00000003"]


def test_the_old_one_stays_until_the_new_one_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1, keep=1)

    def full_disk(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic, "publish", full_disk)
    with pytest.raises(OSError, match="No space"):
        save(tmp_path, 2, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


class Killed(BaseException):
    """Stands for kill -9: nothing after it happens, no handler of errors catches it."""


def test_a_kill_between_any_two_writes_leaves_a_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call that changes the disk is in turn the last one that happens."""
    left = [0]

    def count(original: Any) -> Any:
        def counted(*args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return original(*args, **kwargs)

        return counted

    for name in ("replace", "rename", "fsync", "mkdir", "unlink", "rmdir"):
        monkeypatch.setattr(os, name, count(getattr(os, name)))
    for limit in range(60):
        left[0] = 1000
        folder = tmp_path / str(limit)
        save(folder, 1)
        save(folder, 2)
        left[0] = limit
        try:
            save(folder, 3)
            finished = True
        except Killed:
            finished = False
        left[0] = 1000
        found = newest_checkpoint(folder)
        assert found.damaged == {}
        assert found.folder is not None
        assert read_state(found.folder)["step"] in ({3} if finished else {2, 3})
        assert read_state(save(folder, 4))["step"] == 4
        if finished:
            assert limit > 10
            return
    pytest.fail("the save never finished")


def test_no_file_of_a_checkpoint_is_a_pickle(tmp_path: Path) -> None:
    for file in save(tmp_path, 1).iterdir():
        assert file.suffix in {".safetensors", ".json"}
        with pytest.raises(ValueError):  # noqa: PT011
            list(pickletools.genops(file.read_bytes()))


def test_names_sort_like_steps() -> None:
    names = [checkpoint.checkpoint_name(step) for step in (9, 10, 99_999_999)]
    assert names == sorted(names)
