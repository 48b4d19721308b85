"""Modules of other libraries as language modules of a run, by the name of a repository or folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.hub_cache import HubCache
from xlt.compose import compose
from xlt.engine import published
from xlt.engine.published import read_published
from xlt.errors import UsageError
from xlt.methods.method import Budget, Setting
from xlt.models.loading import load_pretrained
from xlt.models.sublayers import find_blocks
from xlt.modules import LowRankDelta, ModuleHeader, SparseDelta, load_module, write_adapter_hub
from xlt.modules.adapter import Adapter
from xlt.plan.planner import Plan, Run
from xlt.plan.store import RunStore
from xlt.repositories import forget_versions

PATH = "+language_modules.paths.eng"
WEIGHT = "bert.encoder.layer.0.output.dense.bias"


def sft(file: Path, *values: float, name: str = WEIGHT) -> Path:
    """A file of composable-sft."""
    coded = {"size": (32,), "index_steps": [3, 4], "values": torch.tensor(values)}
    torch.save({"diffs": {name: coded}, "abs": {}}, file)
    return file


@pytest.fixture
def planned(words: tuple[str, ...], tmp_path: Path) -> Callable[..., Run]:
    """`planned("org/name")`: the run with this module of English, in a plan of its own."""

    def plan(name: object, *more: str) -> Run:
        forget_versions()
        out = f"output_dir={tmp_path / 'outputs'}"
        return Plan(RunStore(tmp_path / "outputs")).add(
            compose([*words, "~data.evaluation.fao", f"{PATH}={name}", out, *more])
        )

    return plan


def test_a_published_sparse_fine_tuning_is_a_language_module_of_a_run(
    planned: Callable[..., Run], hub_cache: HubCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = hub_cache.add("org/sft", {"pytorch_diff.bin": sft(tmp_path / "a.bin", 0.5, -1.0)}, "v1")
    run = planned("org/sft@v1")
    file = run.standing.language_modules["eng"]
    module = file.load()
    assert isinstance(module, SparseDelta) and module.header.language == "eng"
    (entries,) = module.entries.values()
    assert entries.indices.tolist() == [3, 7] and entries.values.tolist() == [0.5, -1.0]
    assert run.hub_modules == {"eng": f"org/sft@{commit}"}
    assert module.header.provenance["repository"] == f"org/sft@{commit}"

    def refuse(*_: Any) -> None:
        raise AssertionError("the base model is loaded again")

    hub_cache.add("org/sft", {"pytorch_diff.bin": sft(tmp_path / "b.bin", 0.5, 2.0)})
    assert planned("org/sft").fingerprint != run.fingerprint
    monkeypatch.setattr(published, "load_pretrained", refuse)
    assert planned("org/sft@v1").fingerprint == run.fingerprint


def test_a_local_folder_is_used_in_the_same_way(planned: Callable[..., Run], tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    file = sft(tmp_path / "folder" / "pytorch_diff.bin", 0.5, -1.0)
    run = planned(tmp_path / "folder")
    assert planned(file).fingerprint == run.fingerprint and run.hub_modules == {}
    sft(file, 0.5, 3.0)
    assert planned(tmp_path / "folder").fingerprint != run.fingerprint


@pytest.mark.parametrize(
    ("name", "more", "facts"),
    [
        ("bert.no.such.weight", (), ["no.such.weight"]),
        (WEIGHT, ("model=nano", "model.path=null"), ["model.path"]),
    ],
)
def test_what_does_not_fit_is_refused_with_its_key(
    planned: Callable[..., Run], hub_cache: HubCache, tmp_path: Path, name: str, more: tuple[str, ...], facts: list[str]
) -> None:
    hub_cache.add("org/sft", {"pytorch_diff.bin": sft(tmp_path / "a.bin", 0.5, -1.0, name=name)})
    with pytest.raises(UsageError) as refused:
        planned("org/sft", *more)
    (line,) = refused.value.lines
    assert line.startswith("language_modules.paths.eng=org/sft: ") and all(fact in line for fact in facts)
    assert not [*(tmp_path / "outputs").rglob("*.safetensors")]


def test_adapters_and_loras_of_a_repository_are_read(
    planned: Callable[..., Run], hub_cache: HubCache, tiny_bert: Path, make_method: Callable[..., Any], tmp_path: Path
) -> None:
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForMaskedLM

    config = peft.LoraConfig(r=2, target_modules=["query"], init_lora_weights=False)
    torch.manual_seed(1)
    plain = AutoModelForMaskedLM.from_pretrained(tiny_bert)
    peft.get_peft_model(plain, config).save_pretrained(tmp_path / "lora")
    model, method = load_pretrained(str(tiny_bert)), make_method("mad_x", "method.initialisation=normal")
    generator = torch.Generator().manual_seed(1)
    method.attach(model, method.phases(Budget(1, 1, None, 1, 1.0))[0], Setting(True, lambda *name: generator))
    header = ModuleHeader(kind="adapter", method="mad_x", base_model="tiny", base_hash=model.base_hash, language="eng")
    made, base = method.export(model, header), load_pretrained(str(tiny_bert))
    write_adapter_hub(made, tmp_path / "hub", name="eng", model=base, blocks=find_blocks(base))
    for name, kind in (("lora", LowRankDelta), ("hub", Adapter)):
        files = {file.name: file for file in (tmp_path / name).iterdir() if file.suffix != ".md"}
        hub_cache.add(f"org/{name}", files)
        used = planned(f"org/{name}").standing.language_modules["eng"]
        assert isinstance(used.load(), kind)
        found = load_module(used.path).to_tensors(None)[1]
        wanted = read_published(tmp_path / name, base, language="eng").to_tensors(None)[1]
        assert found.keys() == wanted.keys() and all(torch.equal(found[part], wanted[part]) for part in wanted)
