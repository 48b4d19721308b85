"""Sparse deltas as composable-sft's file: a reader written after its published code computes what we compute."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.model_families import save_family
from tests.xlt.use.conftest import CONFIGS, save_module
from xlt.engine.published import read_published
from xlt.errors import UsageError
from xlt.models.loading import load_pretrained, whole_pretrained
from xlt.modules import Entries, ModuleHeader, SparseDelta, load_module, read_composable_sft, write_composable_sft
from xlt.use.export import ExportSettings, export
from xlt.use.loading import load_model, read_modules, task_of

IDS = torch.arange(60, 80).view(2, 10)
MASK = torch.ones_like(IDS)


@torch.no_grad()
def apply_as_published(file: Path, model: Any) -> None:
    """Adds the differences and replaces the other tensors, as composable-sft's `SFT(...).apply(model)` documents it.

    Its decoder, with 32-bit integers and with products of sides as modulos, is the one that counts.
    """
    content = torch.load(file, weights_only=True)
    for name, coded in content["diffs"].items():
        sides = np.cumprod(list(coded["size"]), dtype=np.int32)
        strides = np.concatenate([[1], sides[:-1]]).astype(np.int32)
        flat = np.cumsum(coded["index_steps"], dtype=np.int32)
        places = torch.from_numpy(flat[None] // strides[:, None] % sides[:, None]).long()
        weight = model.get_parameter(name)
        weight += torch.sparse_coo_tensor(places, coded["values"], size=tuple(coded["size"])).coalesce().to_dense()
    for name, tensor in content["abs"].items():
        model.get_parameter(name).copy_(tensor)


@pytest.fixture
def exported(modules: Mapping[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    def run(name: str) -> Path:
        said = export(ExportSettings([str(modules[name])], str(tmp_path / "pytorch_diff.bin"), to="composable-sft"))
        assert "without its head" not in said
        return tmp_path / "pytorch_diff.bin"

    return run


@pytest.mark.parametrize(
    ("name", "kind"), [("ner", "AutoModelForTokenClassification"), ("qa", "AutoModelForQuestionAnswering")]
)
@torch.no_grad()
def test_the_published_reader_computes_what_we_compute(
    exported: Callable[[str], Path], modules: Mapping[str, Path], tiny_bert: Path, name: str, kind: str
) -> None:
    import transformers

    used = read_modules([str(modules[name])], {})
    loaded = load_model(used, task_of(used.main), device="cpu")
    loaded.speak(None)
    head: Any = loaded.model.head
    expected = head(loaded.model.encode(IDS, MASK))
    theirs = getattr(transformers, kind).from_pretrained(tiny_bert, num_labels=expected.shape[-1]).eval()
    apply_as_published(exported(name), theirs)
    output = theirs(input_ids=IDS, attention_mask=MASK)
    logits = torch.stack([output.start_logits, output.end_logits], -1) if name == "qa" else output.logits
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["ner", "qa"])
def test_our_reader_reads_what_was_written(
    exported: Callable[[str], Path], modules: Mapping[str, Path], name: str
) -> None:
    first = load_module(modules[name])
    about = {"base_model": "tiny", "base_hash": first.header.base_hash}
    second = read_composable_sft(exported(name), base_prefix="bert", task=name, **about)
    assert isinstance(first, SparseDelta)
    assert first.entries.keys() == second.entries.keys() and first.tensors.keys() == second.tensors.keys()
    for part, one in first.entries.items():
        assert torch.equal(one.indices, second.entries[part].indices)
        assert torch.equal(one.values, second.entries[part].values) and one.shape == second.entries[part].shape
    assert all(torch.equal(tensor, second.tensors[part]) for part, tensor in first.tensors.items())


@torch.no_grad()
def test_a_language_module_with_embeddings_and_language_model_head_comes_out_right(
    tiny_bert: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForMaskedLM

    model = load_pretrained(str(tiny_bert)).eval()
    facts = {"model": {"path": str(tiny_bert)}}
    header = ModuleHeader(
        kind="sparse_delta", method="lt_sft", base_model="tiny", base_hash=model.base_hash, language="fao",
        provenance=facts,
    )  # fmt: skip
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    torch.manual_seed(1)
    embeddings = "backbone.embeddings.word_embeddings.weight"
    places = torch.randperm(shapes[embeddings].numel())[:400].sort().values
    bias = "backbone.encoder.layer.1.attention.self.key.bias"
    entries = {
        embeddings: Entries(places, torch.randn(400), shapes[embeddings]),
        bias: Entries(None, torch.randn(shapes[bias].numel()), shapes[bias]),
    }
    (name,) = (name for name in shapes if name.startswith("lm_head.") and name.endswith("dense.bias"))
    made = SparseDelta(header, entries, {name: torch.randn(shapes[name])})
    made.save(tmp_path / "fao.safetensors")
    file = tmp_path / "pytorch_diff.bin"
    export(ExportSettings([str(tmp_path / "fao.safetensors")], str(file), to="composable-sft"))
    theirs = AutoModelForMaskedLM.from_pretrained(tiny_bert).eval()
    apply_as_published(file, theirs)
    made.apply(model)
    expected = model.language_model_logits(model.encode(IDS, MASK))
    torch.testing.assert_close(theirs(input_ids=IDS, attention_mask=MASK).logits, expected, atol=1e-5, rtol=1e-5)
    untied = SparseDelta(dataclasses.replace(header, untied=True), entries)
    untied.save(tmp_path / "untied.safetensors")
    settings = ExportSettings([str(tmp_path / "untied.safetensors")], str(file), to="composable-sft", replace=True)
    assert "untied" in export(settings)


def test_a_head_of_other_layers_is_left_out_and_another_kind_is_refused(
    modules: Mapping[str, Path], tmp_path: Path
) -> None:
    file = tmp_path / "pytorch_diff.bin"
    said = export(ExportSettings([str(modules["topic"])], str(file), to="composable-sft"))
    assert "without its head (4 tensors)" in said and not torch.load(file, weights_only=True)["abs"]
    with pytest.raises(UsageError, match="give a file"):
        export(ExportSettings([str(modules["topic"])], str(tmp_path), to="composable-sft"))


def test_what_the_published_reader_would_decode_wrongly_is_refused(tmp_path: Path) -> None:
    header = ModuleHeader(kind="sparse_delta", method="lt_sft", base_model="b", base_hash="h", language="fao")
    for shape in ([2, 3, 4], [2**16, 2**15]):
        module = SparseDelta(header, {"backbone.w": Entries(torch.tensor([1]), torch.ones(1), shape)})
        with pytest.raises(ValueError, match="two dimensions"):
            write_composable_sft(module, tmp_path / "x", {"backbone.": "bert."})
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("family", ["DistilBERT", "ELECTRA", "ALBERT", "ModernBERT", "XLM", "mT5"])
@torch.no_grad()
def test_every_name_is_that_of_the_class_of_transformers(tmp_path: Path, family: str) -> None:
    save_family(family, tmp_path / "base")
    model = load_pretrained(str(tmp_path / "base")).eval()
    header = ModuleHeader(
        kind="sparse_delta", method="lt_sft", base_model="tiny", base_hash=model.base_hash, language="fao",
        provenance={"model": {"path": str(tmp_path / "base")}},
    )  # fmt: skip
    torch.manual_seed(1)
    entries = {
        name: Entries(None, torch.randn(parameter.numel()) / 4, parameter.shape)
        for name, parameter in model.named_parameters()
    }
    made = SparseDelta(header, entries)
    made.save(tmp_path / "fao.safetensors")
    file = tmp_path / "pytorch_diff.bin"
    export(ExportSettings([str(tmp_path / "fao.safetensors")], str(file), to="composable-sft"))
    whole = whole_pretrained(model)
    theirs = type(whole).from_pretrained(tmp_path / "base").eval()
    apply_as_published(file, theirs)
    inputs = {"input_ids": IDS, "attention_mask": MASK}
    inputs |= {"decoder_input_ids": IDS} if whole.config.is_encoder_decoder else {}
    expected = theirs(**inputs)[0]
    for module in (made, read_published(file, model, language="fao")):
        module.apply(model)
        torch.testing.assert_close(whole(**inputs)[0], expected, atol=1e-5, rtol=1e-5)
        module.remove(model)


def test_a_head_that_the_class_of_transformers_computes_otherwise_is_left_out(tmp_path: Path) -> None:
    save_family("ModernBERT", tmp_path / "base")
    weight = "backbone.layers.0.mlp.Wo.weight"
    file = save_module(tmp_path / "base", CONFIGS["pos"], "pos", weight, tmp_path / "pos.safetensors")
    said = export(ExportSettings([str(file)], str(tmp_path / "pytorch_diff.bin"), to="composable-sft"))
    assert "without its head (2 tensors)" in said
    assert torch.load(tmp_path / "pytorch_diff.bin", weights_only=True)["abs"] == {}
