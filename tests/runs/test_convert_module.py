"""Published modules become ours, and our adapters AdapterHub's, from the command line."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.hub_cache import HubCache
from xlt.methods.method import Budget, Setting
from xlt.models.loading import load_pretrained
from xlt.modules import ModuleHeader, SparseDelta, load_module
from xlt.modules.adapter import Adapter

SCRIPT = Path(__file__).parents[2] / "scripts" / "convert_module.py"


@pytest.fixture(scope="module")
def convert() -> Callable[..., int]:
    """`convert(*words)`: the script's exit code."""
    spec = importlib.util.spec_from_file_location("convert_module", SCRIPT)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    def run(*words: object) -> int:
        try:
            script.main([str(word) for word in words])
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    return run


@pytest.fixture
def adapter(make_method: Callable, tiny_bert: Path, tmp_path: Path) -> Path:
    """A language adapter of the tiny BERT, invertible one included, in a file."""
    model, method = load_pretrained(str(tiny_bert)), make_method("mad_x", "method.initialisation=normal")
    generator = torch.Generator().manual_seed(1)
    method.attach(model, method.phases(Budget(1, 1, None, 1, 1.0))[0], Setting(True, lambda *name: generator))
    header = ModuleHeader(kind="adapter", method="mad_x", base_model="tiny", base_hash=model.base_hash, language="fao")
    method.export(model, header).save(tmp_path / "fao.safetensors")
    return tmp_path / "fao.safetensors"


def test_an_adapter_goes_to_adapter_hub_and_back(
    convert: Callable[..., int], adapter: Path, tiny_bert: Path, tmp_path: Path
) -> None:
    hub, back = tmp_path / "hub", tmp_path / "back.safetensors"
    assert convert(adapter, "--model", tiny_bert, "--name", "fao", "--output", hub) == 0
    assert sorted(file.name for file in hub.iterdir()) == ["adapter.safetensors", "adapter_config.json"]
    assert convert(hub, "--model", tiny_bert, "--language", "fao", "--output", back) == 0
    first, second = load_module(adapter), load_module(back)
    assert isinstance(first, Adapter) and isinstance(second, Adapter)
    assert second.header.base_hash == first.header.base_hash and second.ends == first.ends
    found, wanted = second.to_tensors(None)[1], first.to_tensors(None)[1]
    assert found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_sparse_fine_tuning_of_composable_sft_becomes_a_module(
    convert: Callable[..., int], tiny_bert: Path, tmp_path: Path
) -> None:
    name, shape = "bert.encoder.layer.0.output.dense.bias", (32,)
    coded = {"size": torch.tensor(shape), "index_steps": [3, 4], "values": torch.tensor([0.5, -1.0])}
    torch.save({"diffs": {name: {**coded, "size": shape}}, "abs": {}}, tmp_path / "pytorch_diff.bin")
    words = ("--model", tiny_bert, "--language", "fao", "--output", tmp_path / "sft.safetensors")
    assert convert(tmp_path / "pytorch_diff.bin", *words) == 0
    module = load_module(tmp_path / "sft.safetensors")
    assert isinstance(module, SparseDelta) and module.header.language == "fao"
    (entries,) = module.entries.values()
    assert entries.indices.tolist() == [3, 7] and entries.values.tolist() == [0.5, -1.0]


def test_a_module_is_imported_by_the_name_of_its_repository(
    convert: Callable[..., int], hub_cache: HubCache, adapter: Path, tiny_bert: Path, tmp_path: Path
) -> None:
    name, coded = "bert.encoder.layer.0.output.dense.bias", {"index_steps": [3, 4], "values": torch.tensor([0.5, -1.0])}
    torch.save({"diffs": {name: {**coded, "size": (32,)}}, "abs": {}}, tmp_path / "pytorch_diff.bin")
    assert convert(adapter, "--model", tiny_bert, "--name", "fao", "--output", tmp_path / "hub") == 0
    published = {file.name: file for file in (tmp_path / "hub").iterdir()}
    for repository, files, kind in (
        ("org/sft", {"pytorch_diff.bin": tmp_path / "pytorch_diff.bin"}, SparseDelta),
        ("org/adapter", published, Adapter),
    ):
        commit = hub_cache.add(repository, files, "v1")
        out = tmp_path / f"{kind.__name__}.safetensors"
        assert convert(f"{repository}@v1", "--model", tiny_bert, "--language", "fao", "--output", out) == 0
        module = load_module(out)
        assert isinstance(module, kind) and module.header.provenance["repository"] == f"{repository}@{commit}"


def test_wrong_words_are_a_line_each_and_leave_nothing(
    convert: Callable[..., int], adapter: Path, tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, facts in (
        ((tmp_path / "nowhere", "--language", "fao"), ["nowhere", "no such file or folder"]),
        ((adapter,), [str(adapter), "--name"]),
        (("org/nowhere", "--language", "fao"), ["org/nowhere", "no such file or folder", "pytorch_diff.bin"]),
        ((tmp_path,), [str(tmp_path), "--language", "--task"]),
        ((tmp_path, "--language", "fo"), ["--language=fo", "ISO 639-3", "fao"]),
        ((tmp_path, "--language", "fao"), ["pytorch_diff.bin", "no such file"]),
        ((adapter, "--name", "x", "--language", "fao"), ["--language", "no effect"]),
        ((tmp_path, "--language", "fao", "--name", "x"), ["--name", "no effect"]),
        ((tmp_path, "--language", "fao", "--revision", "v1"), ["--revision=v1", "no revisions"]),
        ((tmp_path, "--language", "fao", "--without-head"), ["--without-head", "no effect"]),
    ):
        out = tmp_path / "out.safetensors"
        assert convert(*words, "--model", tiny_bert, "--output", out) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("xlt: ")]
        assert all(fact in line for fact in facts) and not out.exists()
