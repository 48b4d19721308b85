"""Reads files of `torch.save` without running them.

Since torch 1.6 such a file is a zip archive: a pickle (`data.pkl`) and one raw file per tensor storage. Before, it was
a sequence of pickles (a magic number, the protocol, the machine, the content, the storages' keys) followed by the
storages, each as its number of entries (int64) and its bytes.

A pickle is a program. The unpickler here builds lists, dicts, numbers and strings. Besides these it knows the few names
in `_ADMITTED`, each replaced by a harmless function; it stops at any other name.
"""

import dataclasses
import io
import math
import pickle
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch

_LEGACY_START = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
_LEGACY_PROTOCOL = 1001
_STORAGE_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "BoolStorage": torch.bool,
}


def read_archive(data: bytes) -> object:
    """Reads a zip archive of `torch.save`; the result has a `StoredTensor` in place of each tensor.

    Args:
        data: the bytes of the file.
    Raises:
        ValueError: the file is damaged or no such archive.
        pickle.UnpicklingError: it asks for more than tensors and integers; nothing has been run.
        Exception: of other types from `pickle` and `zipfile`, for damaged files.
    """
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except zipfile.BadZipFile as error:
        raise ValueError("is truncated or not a zip archive of torch.save") from error
    with archive:
        pickles = [info.filename for info in archive.infolist() if info.filename.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError("is a zip archive, but not one of torch.save")
        folder = pickles[0].removesuffix("data.pkl")
        files: dict[str, bytes] = {}
        for info in archive.infolist():
            if info.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"has a compressed member {info.filename!r}, which torch.save never writes")
            files[info.filename.removeprefix(folder)] = archive.read(info)
    if files.get("byteorder", b"little") != b"little":
        raise ValueError("was written on a big-endian machine")
    storages = {name.removeprefix("data/"): stored for name, stored in files.items() if name.startswith("data/")}
    return _Unpickler(io.BytesIO(files["data.pkl"]), storages).load()


def read_legacy_archive(data: bytes) -> object:
    """Reads a file that `torch.save` wrote before torch 1.6; arguments and results are those of `read_archive`."""
    if not data.startswith(_LEGACY_START):
        raise ValueError("is truncated or not a file of torch.save")
    stream = io.BytesIO(data)
    stream.seek(len(_LEGACY_START))
    storages: dict[str, bytes] = {}
    protocol, machine = (_Unpickler(stream, storages).load() for _ in range(2))
    if protocol != _LEGACY_PROTOCOL or not isinstance(machine, dict):
        raise ValueError(f"has protocol {protocol!r} of torch.save; only {_LEGACY_PROTOCOL} is supported")
    if not machine.get("little_endian", True):
        raise ValueError("was written on a big-endian machine")
    unpickler = _Unpickler(stream, storages)
    content = unpickler.load()
    keys: Any = _Unpickler(stream, storages).load()
    for key in keys:
        if key not in unpickler.dtypes:
            raise ValueError(f"has a storage {key!r} that no tensor uses")
        count = stream.read(8)
        size_bytes = int.from_bytes(count, "little") * unpickler.dtypes[key].itemsize
        storages[key] = stream.read(size_bytes)
        if len(count) < 8 or len(storages[key]) < size_bytes:
            raise ValueError("is truncated")
    return content


@dataclasses.dataclass(frozen=True, slots=True)
class _Storage:
    """A reference to a storage by its key; `storages` may be filled after the pickle has been read."""

    dtype: torch.dtype
    key: str
    storages: Mapping[str, bytes] = dataclasses.field(repr=False)

    @property
    def data(self) -> bytes:
        if self.key not in self.storages:
            raise ValueError(f"lacks the tensor storage {self.key!r}")
        return self.storages[self.key]


@dataclasses.dataclass(frozen=True, slots=True)
class StoredTensor:
    """A view of a storage, checked against its bounds before anything is read."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def read(self) -> torch.Tensor:
        """Returns the tensor, on the CPU, contiguous, in memory of its own.

        Raises:
            ValueError: the tensor has more entries than its storage, or reaches beyond it.
        """
        data = self.storage.data
        numel = len(data) // self.storage.dtype.itemsize
        numbers = (self.offset, *self.shape, *self.strides)
        if len(self.shape) != len(self.strides) or not all(isinstance(n, int) and n >= 0 for n in numbers):
            raise ValueError("a tensor has an impossible shape")
        if 0 in self.shape:
            return torch.empty(self.shape, dtype=self.storage.dtype)
        last = self.offset + sum((side - 1) * stride for side, stride in zip(self.shape, self.strides, strict=True))
        if last >= numel:
            raise ValueError(f"a tensor reaches to entry {last} of a storage of {numel}")
        if math.prod(self.shape) > numel:  # with strides of 0 a few bytes could fill the memory
            raise ValueError(f"a tensor of shape {self.shape} has more entries than its storage of {numel}")
        flat = torch.frombuffer(bytearray(data), dtype=self.storage.dtype)
        return flat.as_strided(self.shape, self.strides, self.offset).contiguous()


class _Integer:
    """Stand-in for a numpy integer dtype: `numpy.dtype("i8", ...)`, whose byte order a pickle sets afterwards."""

    __slots__ = ("_bytes", "_order")

    def __init__(self, code: object, *_: object) -> None:
        if code not in ("i4", "i8"):
            raise pickle.UnpicklingError(f"asks for numpy dtype {code!r}, which such a file does not need")
        self._bytes = int(str(code)[1:])
        self._order: Literal["little", "big"] = "little"

    def __setstate__(self, state: object) -> None:
        mark = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if mark not in ("<", ">"):
            raise pickle.UnpicklingError("has a numpy dtype of unknown byte order")
        self._order = "little" if mark == "<" else "big"

    def read(self, data: bytes) -> int:
        if len(data) != self._bytes:
            raise pickle.UnpicklingError("has a numpy scalar of the wrong length")
        return int.from_bytes(data, self._order, signed=True)


class _StandIn:
    """The object that the unpickler returns for an admitted name: it can be called, but not changed."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., object]) -> None:
        self._function = function

    def __call__(self, *args: object) -> object:
        return self._function(*args)

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("changes a function, which such a file does not need")


def _rebuild_tensor(storage: object, offset: Any, size: Any, stride: Any, *_: object) -> StoredTensor:
    if not isinstance(storage, _Storage):
        raise pickle.UnpicklingError("has a tensor without a storage")
    return StoredTensor(storage, offset, tuple(size), tuple(stride))


def _scalar(dtype: object, data: object) -> int:
    if not isinstance(dtype, _Integer) or not isinstance(data, bytes):
        raise pickle.UnpicklingError("has a numpy scalar that is not an integer")
    return dtype.read(data)


def _latin1(text: object, encoding: object = "latin1") -> bytes:
    """Decodes the bytes of a pickle of protocol 2, which stores them as text."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("has bytes in an unknown coding")
    return text.encode("latin1")


_ADMITTED: dict[tuple[str, str], Callable[..., object]] = {
    ("collections", "OrderedDict"): dict,
    ("torch", "Size"): tuple,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
    ("numpy", "dtype"): _Integer,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("_codecs", "encode"): _latin1,
}


class _Unpickler(pickle.Unpickler):
    """Reads one pickle of a stream.

    Attributes:
        dtypes: key -> dtype of the storages to which the pickle refers.
    """

    def __init__(self, stream: io.BytesIO, storages: Mapping[str, bytes]) -> None:
        super().__init__(stream)
        self.dtypes: dict[str, torch.dtype] = {}
        self._storages = storages

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _STORAGE_DTYPES:
            return _STORAGE_DTYPES[name]
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"asks for {module}.{name}, which such a file does not need")
        return _StandIn(_ADMITTED[module, name])

    def persistent_load(self, pid: Any) -> _Storage:
        match pid:
            # the legacy format has a sixth part, which is empty unless the storage is a view of another
            case ("storage", torch.dtype() as dtype, str(key), _, int(), *view) if view in ([], [None]):
                self.dtypes[key] = dtype
                return _Storage(dtype, key, self._storages)
        raise pickle.UnpicklingError("refers to something other than a tensor's storage")
