"""The plain file of a sparse delta is what docs/module_file.md says: the page's own code reads it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xlt.models.loading import load_pretrained
from xlt.modules import Entries, ModuleHeader, SparseDelta, load_module
from xlt.use.export import ExportSettings, export
from xlt.use.plain_delta import write_plain

PAGE = Path(__file__).parents[3] / "docs" / "module_file.md"


def reader() -> dict[str, Any]:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    return names


def test_the_code_of_the_page_applies_a_module_as_we_do(
    modules: Mapping[str, Path], tiny_bert: Path, tmp_path: Path
) -> None:
    export(ExportSettings([str(modules["pos"])], str(tmp_path / "plain.safetensors"), to="plain"))
    page = reader()
    header, shapes, tensors = page["read_plain"](tmp_path / "plain.safetensors")
    module = load_module(modules["pos"])
    assert isinstance(module, SparseDelta)
    assert (header["task"], header["base_hash"]) == ("pos", module.header.base_hash)
    model = load_pretrained(str(tiny_bert))
    model.lm_head = None
    weights = dict(model.named_parameters())
    by_hand = {name: weights[name].detach().numpy().copy() for name in shapes}
    for name, shape in shapes.items():
        assert tuple(shape) == by_hand[name].shape
        page["apply"](by_hand[name], tensors[f"indices:{name}"], tensors[f"values:{name}"])
    SparseDelta(module.header, module.entries).apply(model)
    for name, array in by_hand.items():
        np.testing.assert_array_equal(array, weights[name].detach().numpy())
    for name, tensor in module.tensors.items():
        np.testing.assert_array_equal(tensors[f"whole:{name}"], tensor.numpy())


def test_every_dtype_and_a_delta_of_all_entries_are_read_as_the_page_says(tmp_path: Path) -> None:
    header = ModuleHeader(kind="sparse_delta", method="bitfit", base_model="b", base_hash="h", language="fao")
    values = torch.tensor([1.5, -2.25, 0.125])
    entries = {
        str(dtype): Entries(None, values.to(dtype), [3]) for dtype in (torch.float32, torch.float16, torch.bfloat16)
    }
    write_plain(SparseDelta(header, entries), tmp_path / "plain")
    _, _, tensors = reader()["read_plain"](tmp_path / "plain")
    for name in entries:
        assert tensors[f"indices:{name}"].tolist() == [0, 1, 2]
        assert tensors[f"values:{name}"].astype("f4").tolist() == values.tolist()


def test_the_gaps_of_a_module_file_are_read_as_the_page_says(tmp_path: Path) -> None:
    import safetensors.torch

    header = ModuleHeader(kind="sparse_delta", method="lt_sft", base_model="b", base_hash="h", language="fao")
    indices = torch.tensor([3, 4, 400, 700])
    SparseDelta(header, {"w": Entries(indices, torch.ones(4), [1000])}).save(tmp_path / "m")
    tensors = safetensors.torch.load_file(tmp_path / "m")
    gaps, escapes = tensors["gaps:w"].numpy().astype("i8"), iter(tensors.get("escapes:w", torch.empty(0)).tolist())
    mark = torch.iinfo(tensors["gaps:w"].dtype).max
    assert (np.cumsum([(next(escapes) if gap == mark else gap) + 1 for gap in gaps]) - 1).tolist() == indices.tolist()
