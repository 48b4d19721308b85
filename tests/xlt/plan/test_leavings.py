"""What a run leaves must be what the run that needs it takes; this is said when they are planned."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.xlt.conftest import LANGUAGE_RECIPE
from xlt.errors import UsageError
from xlt.plan.leavings import check_leaves_start
from xlt.plan.planner import Plan, Run


def _listed(words: Sequence[str]) -> str:
    return "[" + ",".join(f"'{word}'" for word in words) + "]"


def _refused(planned: Callable[..., Run], *words: str) -> str:
    with pytest.raises(UsageError) as refused:
        planned(*words)
    (line,) = refused.value.lines
    return line


def test_a_model_run_that_leaves_no_checkpoint_is_refused(planned: Callable[..., Run]) -> None:
    nano = ("experiment=nano_fields", "language_modules=none", "~data.evaluation.fao")
    assert planned(*nano).depends_on.keys() == {"model"}
    line = _refused(planned, *nano, "model.run.overrides=['method=lt_sft']")
    assert line.startswith("model.run: nano_pretrain has method lt_sft") and "method=pretrain" in line


@pytest.fixture
def texts(words: tuple[str, ...]) -> tuple[str, ...]:
    """Overrides of the run of a generator, of English and Faroese text."""
    sources = ("data=text", "+source@data.sources.eng=mono", "+source@data.sources.fao=mono")
    return (*sources, "data.sources.eng.language=eng", "data.sources.fao.language=fao", *LANGUAGE_RECIPE)


def test_a_generator_run_that_leaves_no_generator_is_refused(
    planned: Callable[..., Run], words: tuple[str, ...], texts: tuple[str, ...]
) -> None:
    task = (*words, "language_modules=mad_g", "language_modules.evaluate_without=false", "method=pfeiffer")
    own = "language_modules.generator.overrides="
    planned(*task, own + _listed([*texts, "method.typology=null"]))
    line = _refused(planned, *task, own + _listed([*texts, "method=pfeiffer"]))
    assert line.startswith("language_modules.generator: ") and "method pfeiffer" in line and "mad_g" in line
    alone = [word for word in texts if "data.sources.fao" not in word]
    line = _refused(planned, *task, own + _listed([*alone, "method.typology=null"]))
    assert line.startswith("language_modules.generator: ") and "eng only" in line


def test_a_run_whose_module_is_no_adapter_is_none_to_start_from(
    planned: Callable[..., Run], words: tuple[str, ...]
) -> None:
    adapter, sparse = (planned(*words, f"method={method}").config for method in ("pfeiffer", "lt_sft"))
    check_leaves_start("start.run", adapter, adapter)
    with pytest.raises(UsageError, match=r"start\.run: run has method lt_sft, which leaves no adapter"):
        check_leaves_start("start.run", sparse, adapter)


@pytest.mark.parametrize(
    ("package", "choice", "expected"),
    [
        (
            "peft",
            ("method=lora", "method.rank=2", "language_modules=none"),
            ["method=lora: the package peft", "xlt[peft]"],
        ),
        ("peft", ("method=ia3",), ["method=ia3: the package peft", "xlt[peft]"]),
        ("bitsandbytes", ("model.quantise=nf4",), ["model.quantise=nf4: the package bitsandbytes", "xlt[4bit]"]),
    ],
)
def test_a_missing_package_is_found_before_any_run_of_the_plan(
    package: str,
    choice: tuple[str, ...],
    expected: list[str],
    adapted: tuple[str, ...],
    plan: Plan,
    planned: Callable[..., Run],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    planned(*adapted, *choice)
    original = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == package else original(name, *more)
    )
    with pytest.raises(UsageError) as refused:
        plan.preflight()
    (line,) = refused.value.lines
    assert all(part in line for part in expected), line


def test_a_file_where_the_store_needs_a_folder_is_found_before_any_run(
    plan: Plan, planned: Callable[..., Run], words: tuple[str, ...], tmp_path: Path
) -> None:
    folder = plan.store.folder(planned(*words).fingerprint)
    folder.parent.mkdir(parents=True)
    folder.write_text("no folder")
    with pytest.raises(UsageError, match="is no folder") as refused:
        plan.preflight()
    (line,) = refused.value.lines
    assert str(folder) in line and "move it away" in line
    folder.unlink()
    plan.preflight()
    (tmp_path / "outputs" / "cache").write_text("no folder")
    with pytest.raises(UsageError, match="cache: is no folder"):
        plan.preflight()
