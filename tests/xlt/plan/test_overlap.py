"""A run whose entries are chosen by those of a language's module stands on this module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from xlt.engine.watching import Silence
from xlt.errors import UsageError
from xlt.execution.execution import carry_out
from xlt.modules import SparseDelta, load_module
from xlt.plan.planner import Plan, Run

WITH_FAROESE = ("method.overlap_with=fao",)


def silent(*_: Any) -> Silence:
    return Silence()


def test_the_module_is_planned_and_part_of_the_identity(
    plan: Plan, planned: Callable[..., Run], adapted: tuple[str, ...]
) -> None:
    free = planned(*adapted)
    languages = {one.config.language: one for one in plan.runs.values() if one.config.language}
    half = planned(*adapted, *WITH_FAROESE, "method.overlap=0.5")
    assert {one.config.language: one for one in plan.runs.values() if one.config.language} == languages
    assert half.depends_on == {**free.depends_on, "overlap": languages["fao"].fingerprint}
    assert half.identity["overlap"] == languages["fao"].fingerprint
    assert "overlap" not in free.identity
    english = planned(*adapted, "method.overlap_with=eng", "method.overlap=0.5")
    none = planned(*adapted, *WITH_FAROESE, "method.overlap=0")
    assert len({run.fingerprint for run in (free, half, english, none)}) == 4
    order = list(plan.runs)
    assert order.index(languages["fao"].fingerprint) < order.index(half.fingerprint)
    fewer_words = planned(*adapted, *WITH_FAROESE, "method.overlap=0.5", "language_modules.cap_words=10")
    assert fewer_words.fingerprint != half.fingerprint


def test_masks_have_the_overlap_that_is_asked_for(
    plan: Plan, planned: Callable[..., Run], adapted: tuple[str, ...]
) -> None:
    runs = {share: planned(*adapted, *WITH_FAROESE, f"method.overlap={share}") for share in (0.0, 0.5)}
    assert carry_out(plan, None, silent).failures == {}
    (faroese,) = {run.depends_on["overlap"] for run in runs.values()}
    others = load_module(plan.store.module_file(faroese))
    assert isinstance(others, SparseDelta)
    for share, run in runs.items():
        module = load_module(plan.store.module_file(run.fingerprint))
        assert isinstance(module, SparseDelta)
        both = module.entries.keys() & others.entries.keys()
        shared = sum(int(torch.isin(module.entries[n].indices, others.entries[n].indices).sum()) for n in both)
        assert shared == round(share * module.num_entries)
        report = plan.store.result(run.fingerprint)["module"]
        assert (report["tuned_entries"], report["shared_entries"]) == (module.num_entries, shared)


def test_what_has_no_such_module_is_refused(
    planned: Callable[..., Run], adapted: tuple[str, ...], words: tuple[str, ...]
) -> None:
    def line(*more: str) -> str:
        with pytest.raises(UsageError) as fault:
            planned(*more)
        (one,) = fault.value.lines
        return one

    half = (*WITH_FAROESE, "method.overlap=0.5")
    assert line(*words, *half).startswith("method.overlap_with=fao: language_modules: no module for fao; give")
    assert line(*adapted, *WITH_FAROESE) == "method.overlap_with=fao: needs method.overlap; give both or neither"
    assert line(*adapted, "method.overlap=0.5") == "method.overlap=0.5: needs method.overlap_with; give both or neither"
    assert line(*adapted, "method.overlap=0.5", "method.overlap_with=xx").startswith("method.overlap_with=xx: ")
    without = line(*adapted, *half, "+language_modules.stand_in.fao=none")
    assert without == "method.overlap_with=fao: language_modules.stand_in says that it has no module"


def test_patterns_of_no_tensor_are_refused_before_the_training(
    plan: Plan, planned: Callable[..., Run], words: tuple[str, ...]
) -> None:
    planned(*words, "method.among=['*.layer.9.*']")
    with pytest.raises(UsageError, match=r"method.among: \*.layer.9.\* is the name of no tensor"):
        plan.preflight()
