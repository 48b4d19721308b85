"""Reads files of `torch.save` without running them.

Since torch 1.6 such a file is a zip archive: a pickle (`data.pkl`) and one raw file per tensor storage. Before, it was
a sequence of pickles (a magic number, the protocol, the machine, the content, the storages' keys) followed by the
storages, each as its number of entries (int64) and its bytes.

A pickle is a program. The unpickler here builds lists, dicts, numbers and strings. Besides these it knows the few names
in `_ADMITTED`, each replaced by a harmless function; it stops at any other name.

A small file must not cost much memory or time either. So it is Python's own unpickler in Python that is extended here:
its memo is a dict, where that of the one in C is an array as long as the largest index in the file. It knows only the
opcodes that `torch.save` writes, keys of dicts are strings or integers, because the hash of a nested tuple can take for
ever, the members of a zip archive together are no larger than the file, and tensors are not much larger than what is
stored of them. `torch.load(weights_only=True)` has none of the last three limits.
"""

import dataclasses
import io
import math
import pickle
import reprlib
import zipfile
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch

_LEGACY_START = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
_LEGACY_PROTOCOL = 1001
# Tensors that share a storage may together be this much larger than all storages, or have this many bytes.
_MOST_COPIES, _FREE_BYTES = 4, 1 << 26
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
        members = archive.infolist()
        names = {info.filename for info in members}
        if sum(info.file_size for info in members) > len(data) or len(names) < len(members):
            raise ValueError("lists members that overlap or are larger than the file, which torch.save never writes")
        files: dict[str, bytes] = {}
        for info in members:
            if info.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"has a compressed member {info.filename!r}, which torch.save never writes")
            files[info.filename.removeprefix(folder)] = archive.read(info)
    if files.get("byteorder", b"little") != b"little":
        raise ValueError("was written on a big-endian machine")
    storages = _Storages({name[5:]: bytearray(of) for name, of in files.items() if name.startswith("data/")})
    return _Unpickler(io.BytesIO(files["data.pkl"]), storages).load()


def read_legacy_archive(data: bytes) -> object:
    """Reads a file that `torch.save` wrote before torch 1.6; arguments and results are those of `read_archive`."""
    if not data.startswith(_LEGACY_START):
        raise ValueError("is truncated or not a file of torch.save")
    stream = io.BytesIO(data)
    stream.seek(len(_LEGACY_START))
    storages = _Storages({})
    protocol, machine = (_Unpickler(stream, storages).load() for _ in range(2))
    if protocol != _LEGACY_PROTOCOL or not isinstance(machine, dict):
        raise ValueError(f"has protocol {_shown(protocol)} of torch.save; only {_LEGACY_PROTOCOL} is supported")
    if not machine.get("little_endian", True):
        raise ValueError("was written on a big-endian machine")
    unpickler = _Unpickler(stream, storages)
    content = unpickler.load()
    keys: Any = _Unpickler(stream, storages).load()
    for key in keys:
        if not isinstance(key, str) or key not in unpickler.dtypes:
            raise ValueError(f"has a storage {_shown(key)} that no tensor uses")
        count = stream.read(8)
        size_bytes = int.from_bytes(count, "little") * unpickler.dtypes[key].itemsize
        storages.stored[key] = bytearray(stream.read(size_bytes))
        if len(count) < 8 or len(storages.stored[key]) < size_bytes:
            raise ValueError("is truncated")
    return content


@dataclasses.dataclass(slots=True)
class _Storages:
    """The storages of a file by their keys, and how many bytes of tensors were made of them."""

    stored: dict[str, bytearray]
    taken_bytes: int = 0

    def take(self, size_bytes: int) -> None:
        """Counts a tensor; raises a ValueError if all tensors together are too large for what is stored."""
        self.taken_bytes += size_bytes
        if self.taken_bytes > max(_FREE_BYTES, _MOST_COPIES * sum(map(len, self.stored.values()))):
            raise ValueError("has tensors that are together much larger than what is stored of them")


@dataclasses.dataclass(frozen=True, slots=True)
class _Storage:
    """A reference to a storage by its key; `storages` may be filled after the pickle has been read."""

    dtype: torch.dtype
    key: str
    storages: _Storages = dataclasses.field(repr=False)

    @property
    def data(self) -> bytearray:
        if self.key not in self.storages.stored:
            raise ValueError(f"lacks the tensor storage {self.key!r}")
        return self.storages.stored[self.key]


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
        self.storage.storages.take(math.prod(self.shape) * self.storage.dtype.itemsize)
        flat = torch.frombuffer(data, dtype=self.storage.dtype)
        return flat.as_strided(self.shape, self.strides, self.offset).clone(memory_format=torch.contiguous_format)


class _Integer:
    """Stand-in for a numpy integer dtype: `numpy.dtype("i8", ...)`, whose byte order a pickle sets afterwards."""

    __slots__ = ("_bytes", "_order")

    def __init__(self, code: object, *_: object) -> None:
        if code not in ("i4", "i8"):
            raise pickle.UnpicklingError(f"asks for numpy dtype {_shown(code)}, which such a file does not need")
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


def _new_dict(*args: object) -> dict[Any, Any]:
    """Returns an empty dict, which the pickle fills by opcodes afterwards."""
    if args:
        raise pickle.UnpicklingError("makes a dict of something else, which such a file does not need")
    return {}


def _shown(value: object) -> str:
    """Returns the representation of a value, of at most a few levels and characters."""
    return reprlib.repr(value)


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
    ("collections", "OrderedDict"): _new_dict,
    ("torch", "Size"): tuple,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
    ("numpy", "dtype"): _Integer,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("_codecs", "encode"): _latin1,
}


_PythonUnpickler: Any = pickle._Unpickler
_OPCODES = (
    *(pickle.PROTO, pickle.STOP, pickle.MARK, pickle.POP, pickle.POP_MARK, pickle.DUP),
    *(pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.LONG1),
    *(pickle.LONG4, pickle.BINFLOAT, pickle.BINUNICODE, pickle.SHORT_BINSTRING, pickle.BINSTRING),
    *(pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3),
    *(pickle.EMPTY_LIST, pickle.APPEND, pickle.APPENDS, pickle.EMPTY_DICT, pickle.SETITEM, pickle.SETITEMS),
    *(pickle.BINPUT, pickle.LONG_BINPUT, pickle.BINGET, pickle.LONG_BINGET),
    *(pickle.GLOBAL, pickle.REDUCE, pickle.BUILD, pickle.BINPERSID),
)
"""What pickles of protocol 2 consist of, without the making of objects of classes."""


class _Unpickler(_PythonUnpickler):
    """Reads one pickle of a stream.

    Attributes:
        dtypes: key -> dtype of the storages to which the pickle refers.
    """

    dispatch = {code[0]: _PythonUnpickler.dispatch[code[0]] for code in _OPCODES}  # noqa: RUF012 - nobody changes it

    def __init__(self, stream: io.BytesIO, storages: _Storages) -> None:
        super().__init__(stream)
        self.dtypes: dict[str, torch.dtype] = {}
        self._storages = storages

    def load(self) -> Any:
        """Reads the next pickle.

        Raises:
            pickle.UnpicklingError, ValueError, EOFError: it is damaged, or asks for more than such a file needs.
        """
        try:
            return super().load()
        except (pickle.UnpicklingError, ValueError, EOFError):
            raise
        except KeyError as error:
            raise pickle.UnpicklingError(f"has the opcode {error}, which such a file does not need") from error
        except Exception as error:  # a stack that is too short, bytes that are missing, arguments of a wrong type
            raise pickle.UnpicklingError(f"has a damaged pickle ({type(error).__name__})") from error

    def load_setitem(self) -> None:
        self._check_keys(self.stack[-2:-1])
        _PythonUnpickler.load_setitem(self)

    def load_setitems(self) -> None:
        self._check_keys(self.stack[::2])  # all since the last mark
        _PythonUnpickler.load_setitems(self)

    def load_build(self) -> None:
        if len(self.stack) < 2 or not isinstance(self.stack[-2], _Integer | _StandIn):
            raise pickle.UnpicklingError("changes an object, which such a file does not need")
        state = self.stack.pop()
        self.stack[-1].__setstate__(state)

    dispatch |= {pickle.SETITEM[0]: load_setitem, pickle.SETITEMS[0]: load_setitems, pickle.BUILD[0]: load_build}

    @staticmethod
    def _check_keys(keys: Sequence[object]) -> None:
        for key in keys:
            if type(key) not in (str, int):
                raise pickle.UnpicklingError(f"has a dict with keys of {type(key).__name__}; such a file has strings")

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
