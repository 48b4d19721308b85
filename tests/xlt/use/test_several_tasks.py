"""`xlt predict` with a module of several tasks: which of them it does."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.xlt.use.conftest import ENTITIES
from tests.xlt.use.test_predict import TREEBANK, columns, refusal
from xlt.modules import SparseDelta, load_module
from xlt.tasks.joint import JointConfig
from xlt.use.predict import PredictSettings, predict


@pytest.fixture
def several(modules: Mapping[str, Path], tmp_path: Path) -> Path:
    """A module of pos and ner at once: the entries of the one of pos, and the heads of both."""
    parts = {name: load_module(modules[name]) for name in ("pos", "ner")}
    assert all(isinstance(module, SparseDelta) for module in parts.values())
    facts = {name: module.header.provenance for name, module in parts.items()}
    heads = {
        f"head.{name}.{tensor.removeprefix('head.')}": value
        for name, module in parts.items()
        for tensor, value in module.tensors.items()
    }
    tasks = {name: one["task"] for name, one in facts.items()}
    provenance = facts["pos"] | {
        "task": {"_target_": JointConfig._target_, "name": "two", "tasks": tasks},  # as an earlier version wrote it
        "labels": [f"{name}:{label}" for name, one in facts.items() for label in one["labels"]],
    }
    header = dataclasses.replace(parts["pos"].header, task="two", provenance=provenance)
    SparseDelta(header, parts["pos"].entries, heads).save(tmp_path / "several.safetensors")
    return tmp_path / "several.safetensors"


def test_of_a_module_of_several_tasks_one_is_chosen(several: Path, predicted: Callable[..., str]) -> None:
    alone = predicted("pos", "in.conllu", TREEBANK)
    settings = PredictSettings(
        [str(several)], str(several.parent / "in.conllu"), str(several.parent / "two"), task="pos",
        quiet=True, device="cpu",
    )  # fmt: skip
    predict(settings)
    assert (several.parent / "two").read_bytes().decode() == alone
    predict(dataclasses.replace(settings, task="ner", output=str(several.parent / "entities")))
    found = (several.parent / "entities").read_text()
    assert any(misc.strip().removeprefix("NER=") in ENTITIES for misc in columns(found, 9)) and found != alone


def test_the_one_task_of_a_module_of_several_needs_no_name(several: Path, predicted: Callable[..., str]) -> None:
    """A run of several tasks of which all but one were left out, for instance."""
    alone = predicted("pos", "in.conllu", TREEBANK)
    module = load_module(several)
    facts = module.header.provenance
    task = facts["task"] | {"tasks": {"pos": facts["task"]["tasks"]["pos"]}}
    labels = [label for label in facts["labels"] if label.startswith("pos:")]
    header = dataclasses.replace(module.header, provenance=facts | {"task": task, "labels": labels})
    heads = {name: head for name, head in module.tensors.items() if "ner" not in name}
    SparseDelta(header, module.entries, heads).save(several.parent / "one.safetensors")
    predict(PredictSettings([str(several.parent / "one.safetensors")], str(several.parent / "in.conllu"),
                            str(several.parent / "one"), quiet=True, device="cpu"))  # fmt: skip
    assert (several.parent / "one").read_bytes().decode() == alone


@pytest.mark.parametrize(("task", "facts"), [(None, []), ("parsing", ["--task=parsing"])])
def test_of_a_module_of_several_tasks_one_must_be_named(task: str | None, facts: list[str], several: Path) -> None:
    (several.parent / "in.txt").write_text("ban kon\n")
    settings = PredictSettings(
        [str(several)], str(several.parent / "in.txt"), str(several.parent / "out"), task=task, quiet=True
    )
    line = refusal(lambda: predict(settings))
    assert all(fact in line for fact in [*facts, "--task=NAME, one of ner, pos", str(several)])
    assert not (several.parent / "out").exists()
