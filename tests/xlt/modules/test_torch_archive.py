"""Files of `torch.save`, in its format of today and in that before torch 1.6."""

import io
import os
import pickle
import subprocess
import sys
import warnings
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


def _zipped(pickled: bytes, *members: tuple[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile warns of equal names
        for name, content in [("data.pkl", pickled), *members]:
            archive.writestr(f"archive/{name}", content)
    return stream.getvalue()


def _nested_tuple(depth: int) -> bytes:
    """Opcodes of a tuple of two equal tuples, and so on; its hash takes 2 ** depth steps."""
    return b")" + b"2\x86" * depth


def _listed_often(count: int, size_bytes: int) -> bytes:
    """A zip archive whose list of contents has one member many times, each time under another name."""
    data = _zipped(b"\x80\x02}.", ("data/0", bytes(size_bytes)))
    at = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 1)
    end = data.index(b"PK\x05\x06")
    entry, ending = data[at:end], bytearray(data[end:])
    place = entry.index(b"data/0") + 5
    entries = b"".join(entry[:place] + bytes([65 + number]) + entry[place + 1 :] for number in range(count))
    begin = data.index(b"PK\x01\x02")
    ending[8:12] = (count + 1).to_bytes(2, "little") * 2
    ending[12:16] = (at - begin + len(entries)).to_bytes(4, "little")
    return data[:at] + entries + bytes(ending)


def _shared_storage(count: int, entries: int) -> bytes:
    """Many tensors, each a view of the whole of one storage."""
    whole = torch.zeros(entries)
    return _saved({str(number): whole.view(1, -1) for number in range(count)}, zipped=True)


BOMBS: dict[str, Callable[[], bytes]] = {
    "memo index": lambda: _zipped(b"\x80\x02}r\x00\x00\x00\x10."),
    "memo index as text": lambda: _zipped(b"\x80\x02}p268435456\n."),
    "nested tuple as a key": lambda: _zipped(b"\x80\x02}" + _nested_tuple(40) + b"K\x01s."),
    "nested tuple as one of the keys": lambda: _zipped(b"\x80\x02}(" + _nested_tuple(40) + b"K\x01u."),
    "nested tuple in a message": lambda: _zipped(b"\x80\x02cnumpy\ndtype\n" + _nested_tuple(40) + b"\x85R."),
    "dict of pairs": lambda: _zipped(b"\x80\x02ccollections\nOrderedDict\n]" + _nested_tuple(40) + b"K\x01\x86a\x85R."),
    "set": lambda: _zipped(b"\x80\x04\x8f(" + _nested_tuple(40) + b"\x90."),
    "bytes that are not there": lambda: _zipped(b"\x80\x05\x96\x00\x00\x00\x00\x10\x00\x00\x00."),
    "member listed 50 times": lambda: _listed_often(50, 10 << 20),
    "decimal number": lambda: _zipped(b"\x80\x02L" + b"9" * (1 << 20) + b"L\n."),
}
_READ = """
import resource, sys, time
from xlt.modules import ModuleFileError, read_composable_sft
from xlt.modules.torch_archive import read_archive
used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    began = time.process_time()
    try:
        read_composable_sft(path, base_model="b", base_hash="h", base_prefix="bert")
    except ModuleFileError as error:
        assert len(str(error).splitlines()) == 1, error
    else:
        raise SystemExit(f"{path} was read")
    seconds = time.process_time() - began
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used) / 1e3
    assert seconds < 2 and more < 500, (path, seconds, more)
"""


@pytest.mark.slow
def test_a_file_that_would_take_much_time_or_memory_is_refused_in_a_line(tmp_path: Path) -> None:
    """In a process of its own, whose memory is measured: at most 2 s and 500 MB each."""
    files = []
    for name, make in BOMBS.items():
        files.append(tmp_path / f"{name}.bin")
        files[-1].write_bytes(make())
    whole = torch.zeros(2 << 20)
    torch.save({"diffs": {}, "abs": {str(n): whole.view(1, -1) for n in range(200)}}, tmp_path / "views.bin")
    indices = {"size": [1 << 40], "index_steps": [1] * 1000, "values": torch.zeros(1000)}
    torch.save({"diffs": {f"bert.{n}": indices for n in range(10_000)}}, tmp_path / "shared indices.bin")
    tower: list[Any] = [1, 2]
    for _ in range(40):
        tower = [tower, tower]
    torch.save({"diffs": {"bert.a": {**indices, "index_steps": tower}}}, tmp_path / "tower.bin")
    files += [tmp_path / "views.bin", tmp_path / "shared indices.bin", tmp_path / "tower.bin"]
    os.mkfifo(tmp_path / "pipe.bin")
    command = [sys.executable, "-c", _READ, *map(str, files), str(tmp_path / "pipe.bin")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_dicts_with_other_keys_and_unknown_opcodes_are_refused() -> None:
    faults = {"nested tuple as a key": "keys of tuple", "set": "opcode", "memo index as text": "opcode"}
    for name, fault in faults.items():
        with pytest.raises(pickle.UnpicklingError, match=fault):
            read_archive(BOMBS[name]())
    assert read_archive(BOMBS["memo index"]()) == {}  # harmless where the memo is a dict
    with pytest.raises(ValueError, match="larger than the file"):
        read_archive(BOMBS["member listed 50 times"]())


def test_tensors_that_share_storages_may_be_read_some_times() -> None:
    found: Any = read_archive(_shared_storage(200, 2 << 20))
    kept = [found[str(number)].read() for number in range(8)]
    assert all(tensor.shape == (1, 2 << 20) for tensor in kept)
    with pytest.raises(ValueError, match="much larger than what is stored"):
        [found[str(number)].read() for number in range(200)]
