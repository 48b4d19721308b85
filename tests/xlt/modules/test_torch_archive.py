"""Files of `torch.save`, in its format of today and in that before torch 1.6."""

import io
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from xlt.modules.torch_archive import StoredTensor, read_archive, read_legacy_archive

READERS = {True: read_archive, False: read_legacy_archive}
both_formats = pytest.mark.parametrize("zipped", [True, False])


def _saved(content: object, zipped: bool) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


def _read(content: object, zipped: bool) -> Any:
    return READERS[zipped](_saved(content, zipped))


@both_formats
@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.bool]
)
def test_tensors_come_back_whatever_view_of_a_storage_they_are(zipped: bool, dtype: torch.dtype) -> None:
    whole = (torch.arange(24) % 5).to(dtype).view(4, 6)
    content = OrderedDict(whole=whole, turned=whole.t(), part=whole[1:3, ::2], one=whole[3, 5], none=whole[:0])
    found = _read(content, zipped)
    assert list(found) == list(content)
    for name, tensor in content.items():
        assert torch.equal(found[name].read(), tensor) and found[name].read().dtype == dtype


@both_formats
def test_what_is_no_tensor_comes_back_as_it_is(zipped: bool) -> None:
    content = {"a": [1, 2.5, None, "x"], "b": (True, {"c": b"bytes"}), "size": torch.Size([2, 3])}
    assert _read(content, zipped) == {**content, "size": (2, 3)}


class _Call:
    """Pickles as a call of `function`."""

    def __init__(self, function: Callable, *args: object) -> None:
        self._call = (function, args)

    def __reduce__(self) -> tuple:
        return self._call


@both_formats
def test_a_malicious_pickle_is_refused_and_never_run(tmp_path: Path, zipped: bool) -> None:
    exploded = tmp_path / "exploded"
    with pytest.raises(pickle.UnpicklingError, match=r"asks for posix\.mkdir"):
        _read({"a": torch.ones(2), "b": _Call(os.mkdir, str(exploded))}, zipped)
    assert not exploded.exists()


def test_every_pickle_of_the_old_format_is_read_with_the_same_care(tmp_path: Path) -> None:
    bomb = pickle.dumps(_Call(os.mkdir, str(tmp_path / "exploded")), protocol=2)
    magic, protocol = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2), pickle.dumps(1001, protocol=2)
    machine, content = pickle.dumps({"little_endian": True}, protocol=2), pickle.dumps({}, protocol=2)
    for before in ([magic], [magic, protocol], [magic, protocol, machine], [magic, protocol, machine, content]):
        with pytest.raises(pickle.UnpicklingError, match=r"asks for posix\.mkdir"):
            read_legacy_archive(b"".join([*before, bomb]))
    with pytest.raises(ValueError, match=r"not a file of torch\.save"):
        read_legacy_archive(bomb)
    big = pickle.dumps({"little_endian": False}, protocol=2)
    with pytest.raises(ValueError, match="big-endian"):
        read_legacy_archive(magic + protocol + big + content)
    with pytest.raises(ValueError, match="has protocol 7"):
        read_legacy_archive(magic + pickle.dumps(7, protocol=2) + machine + content)
    with pytest.raises(ValueError, match="no tensor uses"):
        read_legacy_archive(magic + protocol + machine + content + pickle.dumps(["0"], protocol=2))
    assert not (tmp_path / "exploded").exists()


def test_a_truncated_file_of_the_old_format_is_refused() -> None:
    data = _saved({"a": torch.ones(3), "b": torch.ones(50)}, zipped=False)
    for length in range(0, len(data), 7):
        with pytest.raises((ValueError, pickle.UnpicklingError, EOFError)):
            read_legacy_archive(data[:length])


def test_a_tensor_is_not_larger_than_what_is_stored_of_it() -> None:
    repeated = _read({"a": torch.ones(1).expand(1 << 40)}, zipped=True)["a"]
    assert isinstance(repeated, StoredTensor)
    with pytest.raises(ValueError, match="more entries than its storage of 1"):
        repeated.read()


def test_a_lost_storage_is_missed() -> None:
    data = _saved({"a": torch.ones(3)}, zipped=True)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        files = {info.filename: archive.read(info) for info in archive.infolist()}
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            if not name.endswith("/data/0"):
                archive.writestr(name, content)
    found: Any = read_archive(stream.getvalue())
    with pytest.raises(ValueError, match="lacks the tensor storage '0'"):
        found["a"].read()
