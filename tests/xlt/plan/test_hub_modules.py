"""Runs with modules from the hub: their content decides the fingerprint, and the commit is written down."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.hub_cache import HubCache
from xlt.compose import checked, compose
from xlt.engine.watching import Silence
from xlt.errors import UsageError
from xlt.execution.execution import carry_out
from xlt.models.loading import load_pretrained
from xlt.modules import Entries, ModuleHeader, SparseDelta
from xlt.plan.planner import Plan, Run
from xlt.plan.store import RunStore
from xlt.repositories import forget_versions

PATH = "+language_modules.paths.eng"


@pytest.fixture
def module(tmp_path: Path, tiny_bert: Path) -> Callable[[float], Path]:
    """`module(value)`: a file of a language module of English, with one changed weight."""
    model = load_pretrained(str(tiny_bert))
    name = next(name for name, _ in model.named_parameters() if name.endswith("layer.0.attention.self.query.weight"))

    def make(value: float) -> Path:
        header = ModuleHeader(
            kind="sparse_delta", method="lt_sft", base_model="b", base_hash=model.base_hash, language="eng"
        )
        delta = Entries(torch.tensor([3]), torch.tensor([value]), torch.Size([32, 32]))
        SparseDelta(header, {name: delta}, {}).save(tmp_path / f"{value}.safetensors")
        return tmp_path / f"{value}.safetensors"

    return make


def test_the_content_decides_the_fingerprint_and_neither_the_name_nor_the_commit(
    words: tuple[str, ...], module: Callable[[float], Path], hub_cache: HubCache, tmp_path: Path
) -> None:
    def planned(path: object) -> Run:
        """The run in a plan of its own, as another command makes it."""
        forget_versions()
        config = compose([*words, "~data.evaluation.fao", f"{PATH}={path}", f"output_dir={tmp_path / 'outputs'}"])
        return Plan(RunStore(tmp_path / "outputs")).add(config)

    hub_cache.add("org/english", {"module.safetensors": module(0.5)})
    first = planned("org/english")
    assert planned(module(0.5)).fingerprint == first.fingerprint
    hub_cache.add("org/english", {"module.safetensors": module(0.5), "README.md": b"a card"})
    assert planned("org/english").fingerprint == first.fingerprint
    old = hub_cache.add("org/english", {"module.safetensors": module(0.25)}, "old")
    hub_cache.add("org/english", {"module.safetensors": module(0.75)})
    later, pinned = planned("org/english"), planned(f"org/english@{old}")
    assert len({first.fingerprint, later.fingerprint, pinned.fingerprint}) == 3
    assert planned("org/english@old").fingerprint == pinned.fingerprint
    assert pinned.hub_modules == {"eng": f"org/english@{old}"}


def test_the_manifest_and_the_evaluations_have_the_commit(
    plan: Plan,
    planned: Callable[..., Run],
    words: tuple[str, ...],
    module: Callable[[float], Path],
    hub_cache: HubCache,
) -> None:
    commit = hub_cache.add("org/english", {"module.safetensors": module(0.5)})
    run = planned(*words, "~data.evaluation.fao", f"{PATH}=org/english")
    plan.preflight()
    assert not carry_out(plan, None, lambda *_: Silence()).failures
    assert plan.store.manifest(run.fingerprint)["hub_modules"] == {"eng": f"org/english@{commit}"}
    records = plan.store.evaluations(run.fingerprint).values()
    of = {record["composition"]: record.get("hub_modules") for record in records}
    assert of == {"task+language": [f"org/english@{commit}"]}


@pytest.mark.parametrize(
    ("key", "more"),
    [
        ("+language_modules.paths.eng", ()),
        ("+task_modules.paths.other", ()),
        ("start.path", ()),
        ("teacher.path", ("student=general", "teacher.knows_task=true")),
    ],
)
def test_every_key_of_a_module_takes_a_repository_and_refuses_an_absent_one_in_a_line(
    key: str, more: tuple[str, ...], words: tuple[str, ...], module: Callable[[float], Path], hub_cache: HubCache
) -> None:
    config = compose([*words, *more, f"{key}=org/there"])
    with pytest.raises(UsageError) as refused:
        checked(config)
    (line,) = refused.value.lines
    assert line.startswith(f"{key.removeprefix('+')}=org/there: ") and "offline" in line
    hub_cache.add("org/there", {"module.safetensors": module(0.5)})
    checked(config)


def test_a_damaged_module_of_the_hub_is_refused(
    planned: Callable[..., Run], words: tuple[str, ...], plan: Plan, hub_cache: HubCache
) -> None:
    hub_cache.add("org/there", {"module.safetensors": b"damaged"})
    planned(*words, "~data.evaluation.fao", f"{PATH}=org/there")
    with pytest.raises(UsageError, match=r"org--there.*not a safetensors file"):
        plan.preflight()


def test_composing_alone_does_not_look_for_a_module(words: tuple[str, ...], hub_cache: HubCache) -> None:
    assert compose([*words, f"{PATH}=org/absent"]).language_modules.paths.eng == "org/absent"
