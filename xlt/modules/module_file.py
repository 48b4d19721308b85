"""The file of a module: a safetensors file with a JSON header and a checksum. Nothing in it is ever executed.

Layout: a plain safetensors file whose `__metadata__` has the single key `xlt`, a JSON object. Its key `checksum` is
a blake2b digest of everything else: the rest of that object and the name, dtype, shape and bytes of every tensor. A
file that was truncated or in which a bit changed is therefore refused, unless its content is still the same.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from xlt.files import atomic_path, kind_fault, open_without_waiting

_METADATA_KEY = "xlt"
_CHECKSUM_KEY = "checksum"
_DIGEST_BYTES = 32
_EXPECTATION = "expected a module file written by xlt"


class ModuleFileError(ValueError):
    """A module file cannot be used. The message is one line with the file, the fault and what would be right.

    Attributes:
        fault: the message without the file.
    """

    def __init__(self, path: str | os.PathLike[str], fault: str) -> None:
        self.fault = " ".join(fault.split())
        super().__init__(f"{os.fspath(path)}: {self.fault}")


def write_module_file(
    path: str | os.PathLike[str], header: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]
) -> None:
    """Writes a module file atomically: a reader sees the old file or the new one, never a part.

    The bytes go to a temporary file in the same folder, which is renamed when they have reached the disk. If anything
    fails, the temporary file is removed, and an older file of that name stays as it was.

    Args:
        path: the file to write; its folder must exist.
        header: JSON values, without the key `checksum`.
        tensors: name -> tensor of any shape, dtype and device.
    Raises:
        ValueError: the header is not JSON.
        OSError: the file cannot be written.
    """
    path = Path(path)
    stored = _to_safetensors_input(tensors)
    text = _json_text({**header, _CHECKSUM_KEY: _checksum(header, stored)})
    try:
        with atomic_path(path) as temporary:
            safetensors.torch.save_file(stored, temporary, metadata={_METADATA_KEY: text})
    except (safetensors.SafetensorError, FileNotFoundError) as error:  # the former for a full disk, too
        raise OSError(f"{path}: cannot be written ({error})") from error


def check_header(header: Mapping[str, Any]) -> None:
    """Refuses a header that `write_module_file` could not write.

    Raises:
        ValueError: the header is not JSON, or has text that is not Unicode.
    """
    try:
        _json_text(header).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{error.object!a} cannot be written as UTF-8") from error


def read_module_file(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Reads a module file and checks every byte of it.

    Returns:
        The header, without its checksum, and name -> tensor on the CPU, owned by the caller. Names are sorted:
        safetensors gives them in an order that differs between processes.
    Raises:
        ModuleFileError: the file is missing, empty, a folder, a pickle, truncated, changed, or no module of xlt.
    """
    data = read_whole_file(path, _EXPECTATION)
    if not data:
        raise ModuleFileError(path, f"is empty; {_EXPECTATION}")
    try:
        tensors = dict(sorted(safetensors.torch.load(data).items()))
        metadata = _metadata(data)
    except Exception as error:  # safetensors raises its own type, and a dozen others for unusual headers
        raise ModuleFileError(path, _diagnose(data, error)) from error
    if not isinstance(metadata, dict) or _METADATA_KEY not in metadata:
        raise ModuleFileError(path, f"is a safetensors file without the header of a module; {_EXPECTATION}")
    try:
        header = json.loads(metadata[_METADATA_KEY])
        checksum = header.pop(_CHECKSUM_KEY)
        expected = _checksum(header, tensors)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModuleFileError(path, "its module header is damaged; copy or train the module again") from error
    if checksum != expected:
        raise ModuleFileError(
            path, "its checksum does not match, so the file was changed; copy or train the module again"
        )
    return header, tensors


def read_whole_file(path: str | os.PathLike[str], expectation: str) -> bytes:
    """Returns the bytes of a file from elsewhere.

    Args:
        path: of the file.
        expectation: what the file should be, for the message.
    Raises:
        ModuleFileError: there is no such file, or it is a folder, a pipe or a device, which could be without an end.
    """
    if Path(path).is_dir():
        raise ModuleFileError(path, f"is a folder; {expectation}: give the file in the folder")
    try:
        with open(path, "rb", opener=open_without_waiting) as file:
            if (fault := kind_fault(os.fstat(file.fileno()))) is not None:
                raise ModuleFileError(path, f"{fault}; {expectation}")
            return file.read()
    except FileNotFoundError as error:
        raise ModuleFileError(path, f"there is no such file; {expectation}") from error
    except OSError as error:
        raise ModuleFileError(path, f"cannot be read ({error.strerror}); {expectation}") from error


def content_digest(path: str | os.PathLike[str]) -> str:
    """Returns the content hash of a file of the user, which is part of the identity of what uses it.

    Raises:
        ModuleFileError: it cannot be read.
    """
    return hashlib.blake2b(read_whole_file(Path(path).expanduser(), "expected a file"), digest_size=16).hexdigest()


def _metadata(data: bytes) -> Any:
    """Returns the `__metadata__` of bytes that safetensors has accepted."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]).get("__metadata__")


def _diagnose(data: bytes, error: Exception) -> str:
    """Says what a file that is no safetensors file most likely is.

    It must be called only after parsing has failed, because a valid file's length field may begin like a pickle.
    """
    is_zip = data[:4] == b"PK\x03\x04"
    is_pickle = data[:1] == b"\x80" and data[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
    if is_zip or is_pickle:
        kind = "a zip archive as torch.save writes it" if is_zip else "a pickle"
        return f"is {kind}, which is never unpickled; {_EXPECTATION}, or import a composable-sft file first"
    return f"is truncated, damaged, or not a safetensors file ({error}); {_EXPECTATION}"


def _to_safetensors_input(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copies tensors to what safetensors requires: contiguous, on the CPU, and without shared memory."""
    stored: dict[str, torch.Tensor] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        if tensor.untyped_storage().data_ptr() in storages:
            tensor = tensor.clone()
        storages.add(tensor.untyped_storage().data_ptr())
        stored[name] = tensor
    return stored


def _checksum(header: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    digest.update(_json_text(header).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(_json_text([name, str(tensor.dtype), list(tensor.shape)]).encode())
        if tensor.numel():
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _json_text(value: Any) -> str:
    """Returns canonical JSON, in which equal values have the same text."""
    try:
        return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise ValueError(f"a module header must hold JSON values only: {error}") from error
