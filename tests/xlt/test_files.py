"""Files and folders that are written as a whole: who may read them, and what is left when writing fails."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch

from xlt.files import atomic_folder, atomic_path, write_json
from xlt.modules import Entries, ModuleHeader, SparseDelta


@pytest.fixture(params=[0o022, 0o077, 0o002])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_files_are_as_readable_as_the_umask_says(umask: int, tmp_path: Path) -> None:
    entries = {"w": Entries(torch.tensor([0]), torch.tensor([1.0]), torch.Size([2]))}
    header = ModuleHeader(kind="sparse_delta", method="lt_sft", base_model="b", base_hash="h")
    SparseDelta(header, entries).save(tmp_path / "module.safetensors")
    write_json(tmp_path / "value.json", {"a": 1})
    with atomic_path(tmp_path / "closed") as temporary:
        temporary.write_bytes(b"x")
        temporary.chmod(0o600)
    with atomic_folder(tmp_path / "folder") as temporary:
        (temporary / "inner").mkdir()
        safetensors.torch.save_file({"a": torch.ones(2)}, temporary / "inner" / "model.safetensors")
    files = ("module.safetensors", "value.json", "closed", "folder/inner/model.safetensors")
    assert {name: mode(tmp_path / name) for name in files} == dict.fromkeys(files, 0o666 & ~umask)
    assert mode(tmp_path / "folder") == 0o777 & ~umask


def test_nothing_is_left_of_a_folder_that_could_not_be_written(tmp_path: Path) -> None:
    with pytest.raises(KeyError), atomic_folder(tmp_path / "folder") as temporary:
        (temporary / "file").write_text("x")
        raise KeyError
    assert list(tmp_path.iterdir()) == []
