"""Reads and writes sparse fine-tunings in the format of cambridgeltl/composable-sft (`pytorch_diff.bin`).

The file is a zip archive written by `torch.save`: a pickle (`data.pkl`) and one raw file per tensor storage. It holds

    {"diffs": {name: {"size": shape, "index_steps": [first index, step, step, ...], "values": tensor}},
     "abs":   {name: tensor}}                       (earlier versions name them "body" and "head")

The flat index of coordinate c is sum_d c[d] * prod(size[:d]), so the first dimension is the fastest. The reference's
decoder (`src/sft/sft.py: decode_sparse_tensor`) reduces dimension d modulo prod(size[:d + 1]) in int32, which is wrong
for three or more dimensions and for more than 2^31 entries. This decoder reduces modulo size[d], in int64.

Because of that, only tensors are written which the reference reads rightly.

A pickle is a program; `torch_archive` reads it without running it. What is written has plain tensors, lists and numbers
only, so that `torch.load` reads it with `weights_only=True`.
"""

import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xlt.files import atomic_path
from xlt.modules.artefact import ModuleHeader
from xlt.modules.module_file import ModuleFileError, read_whole_file
from xlt.modules.sparse_delta import LM_HEAD_PREFIX, Entries, SparseDelta
from xlt.modules.torch_archive import StoredTensor, read_archive

_DIFF_KEYS = ("diffs", "body")
_WHOLE_KEYS = ("abs", "head")
_LM_HEAD_PREFIXES = ("cls.", "lm_head.")
_CLASSIFIER, _SPANS = "classifier.", "qa_outputs."  # the only layer of a head, at ours and in transformers' QA classes
_LARGEST_INT32 = 2**31 - 1
_EXPECTATION = "expected a pytorch_diff.bin of composable-sft"


def read_composable_sft(
    path: str | os.PathLike[str],
    *,
    base_model: str,
    base_hash: str,
    base_prefix: str,
    names: Mapping[str, str] | None = None,
    language: str | None = None,
    task: str | None = None,
) -> SparseDelta:
    """Reads a sparse fine-tuning published by composable-sft.

    Args:
        path: the file, or the folder that holds `pytorch_diff.bin`.
        base_model, base_hash: the base model on which it was trained. The file does not name it, so the caller is
            responsible.
        base_prefix: prefix of the base model's tensors in the file, transformers' `base_model_prefix` ("bert",
            "roberta"). It becomes `backbone.`; `cls.` and `lm_head.` become `lm_head.`; all other names get the prefix
            `head.`, with `classifier.` for `qa_outputs.`. Empty: the file is of a body alone.
        names: name in the file -> in the module, where it does not follow from this.
        language: ISO 639-3 code of a language module.
        task: name of the task of a task module.
    Returns:
        A module of method "lt_sft". Its provenance has the file's name and blake2b digest.
    Raises:
        ModuleFileError: the file is missing, damaged or of another kind, or its pickle asks for more than tensors.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "pytorch_diff.bin"
    data = read_whole_file(path, _EXPECTATION)
    try:
        content = read_archive(data)
        diffs, whole = _part(content, _DIFF_KEYS), _part(content, _WHOLE_KEYS)
        if not diffs and not whole:
            raise ValueError("contains neither differences nor tensors")
        if base_prefix and diffs and not any(name.startswith(f"{base_prefix}.") for name in diffs):
            raise ValueError(f"no name begins with {base_prefix!r}, one is {next(iter(diffs))!r}; check base_prefix")
        _check_size(diffs, len(data))
        entries = {
            _convert_name(name, base_prefix, names or {}): _decode(name, encoding) for name, encoding in diffs.items()
        }
        tensors = {
            _convert_name(name, base_prefix, names or {}): _tensor(name, tensor) for name, tensor in whole.items()
        }
        if not any(values.numel() for values in (*(one.values for one in entries.values()), *tensors.values())):
            raise ValueError("is empty, so that it would change nothing")
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
    except Exception as error:  # the unpickler, zipfile and the checks below raise a dozen types
        raise ModuleFileError(path, f"{error or type(error).__name__}; {_EXPECTATION}") from error


def write_composable_sft(module: SparseDelta, path: str | os.PathLike[str], prefixes: Mapping[str, str]) -> None:
    """Writes a sparse delta as composable-sft does, atomically.

    Args:
        module: the sparse delta. If its embeddings were untied in training, a model with tied ones gets the change of
            the input embeddings in its output embeddings, too: the format cannot say that they are not tied.
        path: of the file; its folder must exist.
        prefixes: beginning of a name in the module -> the same in the file, such as `backbone.` -> `bert.`.
    Raises:
        ValueError: there is no prefix for a name; or the reference would decode a tensor wrongly, because it has more
            than two dimensions or more than 2^31 - 1 entries.
        OSError: the file cannot be written.
    """

    def renamed(name: str) -> str:
        ours = next((prefix for prefix in prefixes if name.startswith(prefix)), None)
        if ours is None:
            raise ValueError(f"{module.header}: the format has no name for the tensor {name!r}")
        return prefixes[ours] + name.removeprefix(ours)

    content = {
        "diffs": {renamed(name): _encode(name, entries) for name, entries in module.entries.items()},
        "abs": {renamed(name): tensor.detach().cpu().clone() for name, tensor in module.tensors.items()},
    }
    with atomic_path(Path(path)) as temporary:
        torch.save(content, temporary)


def _encode(name: str, entries: Entries) -> dict[str, Any]:
    """Encodes the entries of a tensor; the inverse of `_decode`."""
    shape = tuple(entries.shape)
    if len(shape) > 2 or entries.total > _LARGEST_INT32:
        raise ValueError(
            f"{name!r} has the shape {shape}; composable-sft decodes at most two dimensions and 2^31 - 1 entries"
        )
    indices = torch.arange(entries.total) if entries.indices is None else entries.indices.to(torch.int64)
    flat = indices
    if len(shape) == 2:  # from row-major to an order in which the first dimension is the fastest
        flat = indices % shape[1] * shape[0] + indices // shape[1]
    flat, order = flat.sort()
    steps = torch.diff(flat, prepend=flat.new_zeros(1)) if flat.numel() else flat
    return {"size": shape, "index_steps": steps.tolist(), "values": entries.values.detach().cpu()[order].clone()}


def _part(content: object, keys: Sequence[str]) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ValueError("does not contain a dict")
    part: object = next((content[key] for key in keys if content.get(key) is not None), {})
    if not isinstance(part, dict) or not all(isinstance(name, str) for name in part):
        raise ValueError(f"{keys[0]!r} is not a dict of names")
    return part


def _convert_name(name: str, base_prefix: str, names: Mapping[str, str]) -> str:
    if name in names:
        return names[name]
    if not base_prefix:
        return f"backbone.{name}"
    if name.startswith(f"{base_prefix}."):
        return f"backbone.{name.removeprefix(base_prefix + '.')}"
    for prefix in _LM_HEAD_PREFIXES:
        if name.startswith(prefix):
            return LM_HEAD_PREFIX + name.removeprefix(prefix)
    return f"head.{_CLASSIFIER}{name.removeprefix(_SPANS)}" if name.startswith(_SPANS) else f"head.{name}"


def _tensor(name: str, stored: object) -> torch.Tensor:
    if not isinstance(stored, StoredTensor):
        raise ValueError(f"{name!r} is not a tensor")
    return stored.read()


def _check_size(diffs: Mapping[str, Any], size_bytes: int) -> None:
    """Refuses lists of indices that are used for many tensors, so that a small file costs much memory."""
    lists = [of["index_steps"] for of in diffs.values() if isinstance(of, Mapping) and "index_steps" in of]
    if sum(len(steps) for steps in lists if isinstance(steps, list | tuple)) > size_bytes:
        raise ValueError("has more indices than the file has bytes")


def _decode(name: str, encoding: object) -> Entries:
    if not isinstance(encoding, Mapping) or not {"size", "index_steps", "values"} <= encoding.keys():
        raise ValueError(f"{name!r} is not encoded as size, index_steps and values")
    steps, sides = encoding["index_steps"], encoding["size"]
    if not all(isinstance(part, list | tuple) and all(type(n) is int for n in part) for part in (steps, sides)):
        raise ValueError(f"{name!r} has a size or index_steps that are not lists of integers")
    shape = tuple(sides)
    if any(side < 0 for side in shape):
        raise ValueError(f"{name!r} has size {shape}, which is negative")
    flat = np.cumsum(np.asarray(steps, dtype=np.int64))
    if flat.size and (flat[0] < 0 or (np.diff(flat) <= 0).any() or flat[-1] >= math.prod(shape)):
        raise ValueError(f"{name!r} has indices that are not ascending or out of range")
    values = _tensor(name, encoding["values"])
    if tuple(values.shape) != flat.shape:
        raise ValueError(f"{name!r} has {flat.size} indices but values of shape {tuple(values.shape)}")
    indices = _row_major(flat, shape)
    order = np.argsort(indices, kind="stable")
    return Entries(torch.from_numpy(indices[order]), values[torch.from_numpy(order)], shape)


def _row_major(flat: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Converts flat indices whose first dimension is fastest to row-major ones, whose last is; both (N,) int64."""
    indices = np.zeros_like(flat)
    stride = math.prod(shape)
    for side in shape:
        stride //= max(side, 1)
        indices += flat % side * stride
        flat = flat // side
    return indices
