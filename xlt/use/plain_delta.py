"""Writes a sparse delta as a plain safetensors file of indices and values, which docs/module_file.md describes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from xlt.files import atomic_path
from xlt.modules import SparseDelta

PLAIN_FORMAT = 1


def write_plain(module: SparseDelta, file: Path) -> None:
    """Writes the entries of a module as `indices:NAME` (int64) and `values:NAME`, and whole tensors as `whole:NAME`.

    Args:
        module: the sparse delta.
        file: whose folder must exist.
    """
    tensors: dict[str, Tensor] = {f"whole:{name}": tensor.contiguous() for name, tensor in module.tensors.items()}
    shapes: dict[str, Any] = {}
    for name, entries in module.entries.items():
        indices = torch.arange(entries.total) if entries.indices is None else entries.indices
        tensors[f"indices:{name}"], tensors[f"values:{name}"] = indices.to(torch.int64), entries.values.contiguous()
        shapes[name] = list(entries.shape)
    header = {key: value for key, value in dataclasses.asdict(module.header).items() if key != "format_version"}
    metadata = {
        "format": f"plain sparse delta {PLAIN_FORMAT}",
        "shapes": json.dumps(shapes),
        "header": json.dumps(header),
    }
    with atomic_path(file) as temporary:
        safetensors.torch.save_file(tensors, temporary, metadata=metadata)
