"""A model that was found fit is not built again to look, unless it, the run or the code is another."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xlt.compose import compose
from xlt.data.source_report import SourceReport
from xlt.errors import UsageError
from xlt.plan import checked_models, model_checks, runs
from xlt.plan.planner import Plan
from xlt.plan.store import RunStore


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The methods for which a model was looked at."""
    methods: list[str] = []
    original = runs.model_faults

    def counted(config: Any, *others: Any) -> list[str]:
        methods.append(type(config.method).__name__)
        return original(config, *others)

    monkeypatch.setattr(runs, "model_faults", counted)
    return methods


@pytest.fixture
def preflight(words: tuple[str, ...], tiny_bert: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """Plans and checks one run, as a new command does; the model is a copy in the folder of the test."""
    shutil.copytree(tiny_bert, tmp_path / "model")
    (tmp_path / "outputs" / "cache").mkdir(parents=True)

    def new(*more: str) -> list[str]:
        plan = Plan(RunStore(tmp_path / "outputs"))
        plan.add(compose([*words, f"model.path={tmp_path}/model", f"output_dir={tmp_path}/outputs", *more]))
        return plan.preflight()

    return new


def test_a_fit_model_is_looked_at_once_for_all_commands_until_something_changes(
    preflight: Callable[..., list[str]], looked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preflight()
    preflight("seed=2")
    assert len(looked) == 1
    preflight("method=bitfit")
    assert len(looked) == 2
    os.utime(tmp_path / "model" / "tokenizer.json", ns=(1, 1))
    preflight()
    assert len(looked) == 3
    preflight()
    monkeypatch.setattr(checked_models, "_CHECKS", ("xlt.plan.model_checks.model_faults",))
    preflight()
    assert len(looked) == 4  # other code may find what this did not


def test_a_model_that_is_not_fit_is_refused_each_time(preflight: Callable[..., list[str]], looked: list[str]) -> None:
    for _ in range(2):
        with pytest.raises(UsageError, match="positions"):
            preflight("task.max_length=4000")
    assert len(looked) == 2


def test_notes_about_a_model_are_told_each_time(
    preflight: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "model_notes", lambda _: ["a note"])
    assert preflight() == preflight() == ["a note"]


def test_a_plan_without_operations_on_blocks_does_not_load_the_config_of_a_local_model(
    preflight: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    preflight()

    def refuse(*_: Any) -> Any:
        raise AssertionError("the config was loaded")

    monkeypatch.setattr(model_checks, "_pretrained_config", refuse)
    preflight()


def test_whether_unicode_forms_matter_is_found_out_once_for_a_model_and_its_samples(
    words: tuple[str, ...], tmp_path: Path
) -> None:
    model, asked = compose([*words]).model, []
    (tmp_path / "cache").mkdir()

    def look() -> bool:
        asked.append(None)
        return False

    for sample, count in (("e\u0301", 1), ("e\u0301", 1), ("a\u0301", 2)):
        assert not checked_models.forms_matter(tmp_path, model, [SourceReport(sample=sample)], look)
        assert len(asked) == count
    model.path = None  # nobody knows what has changed
    for count in (3, 4):
        assert not checked_models.forms_matter(tmp_path, model, [SourceReport(sample="e\u0301")], look)
        assert len(asked) == count
