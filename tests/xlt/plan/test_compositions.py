"""Compositions of a config: which are planned, with which modules and keys, and what is refused before any training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.xlt.conftest import LANGUAGE_RECIPE
from xlt.compose import compose
from xlt.data.sources import digest
from xlt.engine.composed import ComposedModule, files_of
from xlt.errors import UsageError
from xlt.execution.execution import carry_out
from xlt.modules import Entries, ModuleHeader, SparseDelta, load_module
from xlt.modules.composition.average import average
from xlt.plan.earlier import evaluation_key
from xlt.plan.planner import Plan, Run
from xlt.tables.config import GridConfig, SystemConfig
from xlt.tables.table import Table

MIX = "+composition@compositions.mix="
SECOND = "+evaluation.runs.second=['seed=2']"


@pytest.fixture
def headless(shelf: Path, tiny_bert: Path) -> tuple[str, ...]:
    """Overrides of a run whose task has no head."""
    return (
        "experiment=language", "language=eng", "method=bitfit", "+source@data.evaluation.fao=mono",
        "data.evaluation.fao.language=fao", f"data_dir={shelf}", f"model.path={tiny_bert}", "tracker=silent",
        "device=cpu", "threads=1", *LANGUAGE_RECIPE, "train.learning_rate=0.01",
    )  # fmt: skip


def labels(run: Run) -> dict[str, list[str]]:
    """Label of a composition -> the sources that it is evaluated on."""
    found: dict[str, list[str]] = {}
    for wanted in run.evaluations.values():
        found.setdefault(wanted.label, []).append(wanted.source)
    return found


def refused(planned: Callable[..., Run], *words: str) -> list[str]:
    with pytest.raises(UsageError) as fault:
        planned(*words)
    return fault.value.lines


def test_a_composition_is_evaluated_beside_the_usual_ones_and_changes_no_key_of_theirs(
    plan: Plan, planned: Callable[..., Run], adapted: tuple[str, ...]
) -> None:
    usual = set(planned(*adapted).evaluations)
    run = planned(*adapted, f"{MIX}sum", "compositions.mix.weights=[1,0.5]")
    label = "sum(language, task; weights=[1.0, 0.5])"
    assert labels(run) == {name: ["eng", "fao"] for name in ("task+language", "task", label)}
    assert usual < set(run.evaluations)  # what the store has of them is found
    mixed = next(one for one in run.evaluations.values() if (one.source, one.label) == ("fao", label))
    (module,) = mixed.modules
    assert isinstance(module, ComposedModule) and str(module.path) == label
    (faroese,) = (one for one in plan.runs.values() if one.config.language == "fao")
    assert [file.path for file in files_of(mixed.modules)] == [
        plan.store.module_file(one.fingerprint) for one in (faroese, run)
    ]
    assert faroese.fingerprint in run.evaluation_needs
    before = set(run.evaluations)
    again = planned(*adapted, f"{MIX}sum", "compositions.mix.weights=[1,0.25]")
    assert again is run and len(set(run.evaluations) - before) == 2  # another weight is another evaluation


def test_what_was_always_evaluated_is_a_file_of_conf_and_can_be_another(
    planned: Callable[..., Run], adapted: tuple[str, ...]
) -> None:
    usual = planned(*adapted).evaluations
    assert all("composition" not in one.identity for one in usual.values())
    own = planned(*adapted, "composition@compositions.with_language=ties", f"{MIX}task+language")
    assert labels(own).keys() == {"ties(language, task; density=0.2)", "task+language", "task"}
    assert set(usual) <= set(own.evaluations)  # asked for by another key, it is the same evaluation


def test_every_operator_of_conf_is_planned(planned: Callable[..., Run], adapted: tuple[str, ...]) -> None:
    options = ("sum", "weighted", "minus", "layers", "ties", "dare", "stack", "task+language", "task")
    run = planned(*adapted, *(f"+composition@compositions.c{n}={option}" for n, option in enumerate(options)), *(
        "compositions.c3.first=0", "compositions.c3.last=1"
    ))  # fmt: skip
    names = {label.partition("(")[0] for label in labels(run)}
    assert names == {"sum", "weighted", "minus", "layers", "ties", "dare", "task+language", "task"}


def test_operations_are_nested_and_name_other_languages(
    plan: Plan, planned: Callable[..., Run], adapted: tuple[str, ...]
) -> None:
    near = "{operator:average,of:[language.eng,language.fao]}"
    run = planned(*adapted, f"{MIX}stack", f"compositions.mix.of=[{near},task]", "~data.evaluation.fao")
    (mixed,) = (one for one in run.evaluations.values() if "average" in one.label)
    assert mixed.label == "task+average(language.eng, language.fao)"
    assert [str(module.path) for module in mixed.modules[:1]] == ["average(language.eng, language.fao)"]
    assert mixed.identity["modules"].keys() == {"language.eng", "language.fao", "task"}
    assert len(plan.runs) == 3  # with a run for each language


def test_faults_are_lines_before_anything_is_trained(
    planned: Callable[..., Run], adapted: tuple[str, ...], words: tuple[str, ...], tmp_path: Path
) -> None:
    def lines(*more: str) -> str:
        return "\n".join(refused(planned, *adapted, *more))

    assert "compositions.mix: no module languag; there are language, task, base, language.CODE" in lines(
        f"{MIX}sum", "compositions.mix.of=[languag,task]"
    )
    assert "compositions.mix.of: minus takes 2 modules, but 1 are given" in lines(
        f"{MIX}minus", "compositions.mix.of=[task]"
    )
    assert "compositions.mix.density=2.0: must be in (0, 1]" in lines(f"{MIX}ties", "compositions.mix.density=2")
    assert "compositions.mix.of[0]: no operator tie; there are average, dare" in lines(
        f"{MIX}sum", "compositions.mix.of=[{operator:tie,of:[task]},language]"
    )
    assert "compositions.mix.of[0].drop: a value is required" in lines(
        f"{MIX}sum", "compositions.mix.of=[{operator:dare,of:[task]},language]"
    )
    assert "compositions.mix.of[0].dorp: no key of dare" in lines(
        f"{MIX}sum", "compositions.mix.of=[{operator:dare,of:[task],dorp:1},language]"
    )
    assert "a stack is no single module" in lines(f"{MIX}sum", "compositions.mix.of=[{operator:stack,of:[task]}]")
    assert "compositions.mix.weights.*=[1.0]: must be a list of 2 numbers" in lines(
        f"{MIX}weighted", "compositions.mix.weights={*:[1.0]}"
    )
    assert "last=9: the model has blocks 0 to 1" in lines(f"{MIX}layers", "compositions.mix.last=9")
    assert "first=1: larger than last=0" in lines(f"{MIX}layers", "compositions.mix.first=1", "compositions.mix.last=0")
    assert "the heads of task, second are drawn independently" in lines(
        f"{MIX}average", "compositions.mix.of=[task,second]", SECOND
    )
    assert "no module with a head of task pos" in lines(f"{MIX}stack", "compositions.mix.of=[language]")
    assert "language is of kind adapter; ties takes only sparse_delta, low_rank" in lines(
        f"{MIX}ties", "method=pfeiffer"
    )
    assert "needs one module as language, but there is no module for fao" in lines(
        f"{MIX}sum", "+language_modules.stand_in.fao=none"
    )
    assert "compositions.mix: names the language's module, but the run has none" in "\n".join(
        refused(planned, *words, f"{MIX}sum")
    )
    assert "evaluation.paths.other=nowhere: no such file" in lines("+evaluation.paths.other=nowhere")
    assert "evaluation.paths.task: must be a name" in lines(f"+evaluation.paths.task={tmp_path}")
    assert "evaluation.runs.second: method=lora: chooses a file of a group" in lines(
        f"{MIX}sum", "compositions.mix.of=[language,second]", "+evaluation.runs.second=['method=lora']"
    )
    assert "task and second are the same module" in lines(
        f"{MIX}minus", "compositions.mix.of=[task,second]", "+evaluation.runs.second=['seed=1']"
    )


@pytest.mark.parametrize("operator", ["sum", "dare"])
def test_weights_are_counted_before_anything_is_trained(
    planned: Callable[..., Run], words: tuple[str, ...], operator: str
) -> None:
    drop = ["compositions.mix.drop=0.5"] if operator == "dare" else []
    for weights, said in (("[1]", "1 weights for 2 modules"), ("[0,0]", "nothing would be left")):
        (line,) = refused(planned, *words, f"{MIX}{operator}", *drop, f"compositions.mix.weights={weights}")
        assert line.startswith("compositions.mix.weights=[") and said in line


def test_adapters_are_averaged_only_which_is_said_before_anything_is_trained(
    planned: Callable[..., Run], adapted: tuple[str, ...]
) -> None:
    adapters = (*adapted, "method=mad_x", "language_modules.overrides=['method=mad_x']", f"{MIX}sum")
    for more in ([], ["compositions.mix.weights=[1,0.5]"]):
        (line,) = refused(planned, *adapters, *more)
        assert "adapters are not linear" in line and line.startswith("compositions.mix: sum(language, task")
    assert planned(*adapters, "compositions.mix.weights=[0.5,0.5]")


def test_what_is_to_be_added_is_said_in_the_words_that_add_it(
    planned: Callable[..., Run], words: tuple[str, ...]
) -> None:
    expected = {
        "compositions.mix.weights=[1]": "no compositions.mix; add it with +composition@compositions.mix=...",
        "compositions.mix=sum": "no compositions.mix; add it with +composition@compositions.mix=...",
        "evaluation.paths.x=file": "write +evaluation.paths.x=FILE",
        "evaluation.runs.x=['seed=2']": "write +evaluation.runs.x=['seed=2']",
        f"{MIX}tie": "no composition/tie in conf/; did you mean ties?",
    }
    for word, said in expected.items():
        (line,) = refused(planned, *words, word)
        assert said in line


def test_a_file_of_another_base_or_kind_is_refused(
    plan: Plan, planned: Callable[..., Run], headless: tuple[str, ...], tmp_path: Path
) -> None:
    header = ModuleHeader(kind="sparse_delta", method="m", base_model="b", base_hash="other")
    SparseDelta(header, {"w": Entries(torch.tensor([1]), torch.tensor([1.0]), (4,))}).save(tmp_path / "a.st")
    run = planned(
        *headless, f"{MIX}sum", "compositions.mix.of=[task,given]", f"+evaluation.paths.given={tmp_path}/a.st"
    )
    assert "sum(task, given)" in labels(run)
    outcome = carry_out(plan, None, _silent)
    assert any("belongs to base model" in reason for reason in outcome.failures.values())


def test_a_composition_is_evaluated_as_the_module_that_it_computes(
    plan: Plan, planned: Callable[..., Run], headless: tuple[str, ...], tiny_bert: Path, tmp_path: Path
) -> None:
    mean = ("+composition@compositions.mean=average", "compositions.mean.of=[task,second]", SECOND)
    run = planned(*headless, *mean)
    (second,) = (one for one in plan.runs.values() if one.config.seed == 2)
    assert second.fingerprint in run.evaluation_needs
    assert carry_out(plan, None, _silent).failures == {}
    files = [plan.store.module_file(one.fingerprint) for one in (run, second)]
    average([load_module(file) for file in files]).save(tmp_path / "mean.st")
    written = ("+composition@compositions.file=stack", "compositions.file.of=[file]")
    again = Plan(plan.store)
    words = (*headless, *mean, *written, f"+evaluation.paths.file={tmp_path}/mean.st")
    added = again.add(compose([*words, f"output_dir={plan.store.root}"]))
    assert [one.label for one in again.missing_evaluations(added).values()] == ["file"]  # the others are found
    assert again.to_train() == []
    assert carry_out(again, None, _silent).failures == {}
    losses = {record["composition"]: record["metrics"] for record in plan.store.evaluations(run.fingerprint).values()}
    assert losses["average(task, second)"] == losses["file"] != losses["task"]
    record = next(one for one in plan.store.evaluations(run.fingerprint).values() if "average" in one["composition"])
    assert record["identity"]["composition"] == {"operator": "average", "of": ["task", "second"]}


def test_a_table_shows_a_composition_of_conf(plan: Plan, adapted: tuple[str, ...], tmp_path: Path) -> None:
    experiment = "pos"
    words = [word for word in adapted if not word.startswith("+source")]
    weights = "compositions.shown.weights=[1,0.5]"
    grid = GridConfig(
        "t", "accuracy", {
            "usual": SystemConfig("usual", experiment, ["data=empty", *_sources(adapted)]),
            "mixed": SystemConfig("mixed", experiment, ["data=empty", *_sources(adapted), weights], "sum"),
        }, columns=["eng", "fao"], overrides=[],
    )  # fmt: skip
    table = Table("t", grid, [1], [*words, f"output_dir={tmp_path / 'outputs'}"], plan)
    shown = {name: table.composition(name, 1, "fao") for name in ("usual", "mixed")}
    assert {name: one and one.label for name, one in shown.items()} == {
        "usual": "task+language",
        "mixed": "sum(language, task; weights=[1.0, 0.5])",
    }
    assert {one.label for one in table.run("usual", 1, "fao").evaluations.values()} == {
        one.label for one in shown.values() if one
    }


def test_the_code_of_an_operator_is_known_by_the_evaluations_that_use_it(
    planned: Callable[..., Run], adapted: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    from xlt.plan import code

    planned(*adapted)
    run = planned(*adapted, f"{MIX}ties")
    by_label = {one.label.partition("(")[0]: one for one in run.evaluations.values() if one.source == "fao"}
    digests = code.evaluation_code(run.config, run.planned_data, "fao", by_label["ties"].modules)
    plain = code.evaluation_code(run.config, run.planned_data, "fao")
    assert {"xlt.modules.composition.ties", "xlt.modules.composition.merging"} <= digests.keys()
    assert not any(name.startswith("xlt.modules.composition") for name in plain)
    assert digest(plain) == by_label["task"].identity["code"] == by_label["task+language"].identity["code"]
    assert digest(digests) == by_label["ties"].identity["code"]


def test_an_evaluation_of_the_first_version_is_not_taken_for_another_composition(
    plan: Plan, planned: Callable[..., Run], adapted: tuple[str, ...]
) -> None:
    """It was stored under its modules alone."""
    run = planned(*adapted, f"{MIX}ties")
    asked = {one.label.partition("(")[0]: one.identity for one in run.evaluations.values() if one.source == "fao"}
    source = run.planned_data.evaluation["fao"].config
    keys = {label: evaluation_key(identity, source, identity["modules"]) for label, identity in asked.items()}
    assert keys["ties"] == keys["task+language"] != keys["task"]
    plan.store.folder(run.fingerprint).mkdir(parents=True)
    plan.store.add_evaluations(run.fingerprint, {keys["ties"]: {"source": "fao", "metrics": {"accuracy": 50.0}}})
    found = {label: plan.other_code.evaluation_like(run.fingerprint, one, source) for label, one in asked.items()}
    assert found == {"task+language": keys["task+language"], "task": None, "ties": None}


def _sources(words: tuple[str, ...]) -> Iterator[str]:
    return (word for word in words if word.startswith("+source"))


def _silent(*_: Any) -> Any:
    from xlt.engine.watching import Silence

    return Silence()
