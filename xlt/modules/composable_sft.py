"""Import of sparse fine-tunings published by cambridgeltl/composable-sft (`pytorch_diff.bin`), without running them.

The file is a zip archive written by `torch.save`: a pickle (`data.pkl`) and one raw file per tensor storage. It holds

    {"diffs": {name: {"size": shape, "index_steps": [first index, step, step, ...], "values": tensor}},
     "abs":   {name: tensor}}                       ("body" and "head" in files of an earlier version)

where the flat index of coordinate c is sum_d c[d] * prod(size[:d]), the first dimension fastest. The reference's own
decoder (`src/sft/sft.py: decode_sparse_tensor`) reduces dimension d modulo prod(size[:d + 1]) in int32: wrong from
three dimensions on and above 2^31 entries. Here it is modulo size[d], in int64.

A pickle is a program. This one is read by an unpickler that builds lists, dicts, numbers and strings and knows seven
names besides, each replaced by an inert stand-in; any other name stops it.
"""

import dataclasses
import hashlib
import io
import math
import os
import pickle
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from xlt.modules.artefact import ModuleHeader
from xlt.modules.module_file import ModuleFileError
from xlt.modules.sparse_delta import LM_HEAD_PREFIX, Entries, SparseDelta

_DIFF_KEYS = ("diffs", "body")
_WHOLE_KEYS = ("abs", "head")
_LM_HEAD_PREFIXES = ("cls.", "lm_head.")
_STORAGE_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "BoolStorage": torch.bool,
}
_WANTED = "expected a pytorch_diff.bin of composable-sft"


def read_composable_sft(
    path: str | os.PathLike[str],
    *,
    base_model: str,
    base_hash: str,
    base_prefix: str,
    language: str | None = None,
    task: str | None = None,
) -> SparseDelta:
    """Reads a sparse fine-tuning published by composable-sft.

    Args:
        path: the file, or the folder that holds `pytorch_diff.bin`.
        base_model, base_hash: the base model it was trained on. The file does not say: the caller vouches for it.
        base_prefix: what the base model's tensors are called in the file, transformers' `base_model_prefix` ("bert",
            "roberta"). It becomes `backbone.`; `cls.` and `lm_head.` become `lm_head.`; anything else goes below
            `head.`.
        language: ISO 639-3 code of a language module.
        task: name of the task of a task module.
    Returns:
        A module of method "lt_sft"; its provenance names the file and its blake2b digest.
    Raises:
        ModuleFileError: not such a file, damaged, or a pickle that asks for anything but tensors.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "pytorch_diff.bin"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModuleFileError(path, f"cannot be read ({error.strerror}); {_WANTED}") from error
    try:
        content = _read_archive(data)
        diffs, whole = _part(content, _DIFF_KEYS), _part(content, _WHOLE_KEYS)
        if not diffs and not whole:
            raise ValueError("it holds neither differences nor tensors")
        if diffs and not any(name.startswith(f"{base_prefix}.") for name in diffs):
            raise ValueError(f"no name begins with {base_prefix!r} but with {next(iter(diffs))!r}; check base_prefix")
        entries = {_renamed(name, base_prefix): _decoded(name, coded) for name, coded in diffs.items()}
        tensors = {_renamed(name, base_prefix): _tensor(name, tensor) for name, tensor in whole.items()}
        header = ModuleHeader(
            kind=SparseDelta.kind,
            method="lt_sft",
            base_model=base_model,
            base_hash=base_hash,
            language=language,
            task=task,
            provenance={
                "imported_from": "cambridgeltl/composable-sft",
                "file": path.name,
                "blake2b": hashlib.blake2b(data, digest_size=32).hexdigest(),
            },
        )
        return SparseDelta(header, entries, tensors)
    except Exception as error:  # the unpickler, zipfile and the checks below raise a dozen types between them
        raise ModuleFileError(path, f"{error or type(error).__name__}; {_WANTED}") from error


def _part(content: object, keys: Sequence[str]) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ValueError("it does not hold a dict")
    part: object = next((content[key] for key in keys if content.get(key) is not None), {})
    if not isinstance(part, dict) or not all(isinstance(name, str) for name in part):
        raise ValueError(f"{keys[0]!r} is not a dict of names")
    return part


def _renamed(name: str, base_prefix: str) -> str:
    if name.startswith(f"{base_prefix}."):
        return f"backbone.{name.removeprefix(base_prefix + '.')}"
    for prefix in _LM_HEAD_PREFIXES:
        if name.startswith(prefix):
            return LM_HEAD_PREFIX + name.removeprefix(prefix)
    return f"head.{name}"


def _tensor(name: str, stored: object) -> torch.Tensor:
    if not isinstance(stored, _StoredTensor):
        raise ValueError(f"{name!r} is not a tensor")
    return stored.read()


def _decoded(name: str, coded: object) -> Entries:
    if not isinstance(coded, Mapping) or not {"size", "index_steps", "values"} <= coded.keys():
        raise ValueError(f"{name!r} is not coded as size, index_steps and values")
    shape = tuple(int(side) for side in coded["size"])
    if any(side < 0 for side in shape):
        raise ValueError(f"{name!r} has size {shape}")
    flat = np.cumsum(np.asarray(coded["index_steps"], dtype=np.int64))
    if flat.size and (flat[0] < 0 or (np.diff(flat) <= 0).any() or flat[-1] >= math.prod(shape)):
        raise ValueError(f"{name!r} has indices that are not ascending or out of range")
    values = _tensor(name, coded["values"])
    if tuple(values.shape) != flat.shape:
        raise ValueError(f"{name!r} has {flat.size} indices but values of shape {tuple(values.shape)}")
    indices = _row_major(flat, shape)
    order = np.argsort(indices, kind="stable")
    return Entries(torch.from_numpy(indices[order]), values[torch.from_numpy(order)], shape)


def _row_major(flat: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Indices with the first dimension fastest -> indices with the last dimension fastest, both (N,) int64."""
    indices = np.zeros_like(flat)
    stride = math.prod(shape)
    for side in shape:
        stride //= max(side, 1)
        indices += flat % side * stride
        flat = flat // side
    return indices


def _read_archive(data: bytes) -> object:
    """What `torch.save` wrote, with `_StoredTensor` in place of tensors."""
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
    return _Unpickler(files).load()


@dataclasses.dataclass(frozen=True, slots=True)
class _Storage:
    dtype: torch.dtype
    data: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class _StoredTensor:
    """A view of a storage, checked against its bounds before anything is read."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def read(self) -> torch.Tensor:
        numel = len(self.storage.data) // self.storage.dtype.itemsize
        numbers = (self.offset, *self.shape, *self.strides)
        if len(self.shape) != len(self.strides) or not all(isinstance(n, int) and n >= 0 for n in numbers):
            raise ValueError("a tensor has an impossible shape")
        if 0 in self.shape:
            return torch.empty(self.shape, dtype=self.storage.dtype)
        last = self.offset + sum((side - 1) * stride for side, stride in zip(self.shape, self.strides, strict=True))
        if last >= numel:
            raise ValueError(f"a tensor reaches to entry {last} of a storage of {numel}")
        flat = torch.frombuffer(bytearray(self.storage.data), dtype=self.storage.dtype)
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
    """What the unpickler gives for an admitted name: it can be called, and nothing on it can be set."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., object]) -> None:
        self._function = function

    def __call__(self, *args: object) -> object:
        return self._function(*args)

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("changes a function")


def _rebuilt_tensor(storage: object, offset: Any, size: Any, stride: Any, *_: object) -> _StoredTensor:
    if not isinstance(storage, _Storage):
        raise pickle.UnpicklingError("has a tensor without a storage")
    return _StoredTensor(storage, offset, tuple(size), tuple(stride))


def _scalar(dtype: object, data: object) -> int:
    if not isinstance(dtype, _Integer) or not isinstance(data, bytes):
        raise pickle.UnpicklingError("has a numpy scalar that is not an integer")
    return dtype.read(data)


def _latin1(text: object, encoding: object = "latin1") -> bytes:
    """Bytes in pickle protocol 2 are text, encoded."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("has bytes in an unknown coding")
    return text.encode("latin1")


_ADMITTED: dict[tuple[str, str], Callable[..., object]] = {
    ("collections", "OrderedDict"): dict,
    ("torch", "Size"): tuple,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuilt_tensor,
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
    ("numpy", "dtype"): _Integer,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("_codecs", "encode"): _latin1,
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, files: Mapping[str, bytes]) -> None:
        super().__init__(io.BytesIO(files["data.pkl"]))
        self._files = files

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _STORAGE_DTYPES:
            return _STORAGE_DTYPES[name]
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"asks for {module}.{name}, which such a file does not need")
        return _StandIn(_ADMITTED[module, name])

    def persistent_load(self, pid: Any) -> _Storage:
        match pid:
            case ("storage", torch.dtype() as dtype, str(key), _, int()):
                return _Storage(dtype, self._files[f"data/{key}"])
        raise pickle.UnpicklingError("refers to something other than a tensor's storage")
