"""Learned compositions: weights are found on few-shot data before the evaluation, and stand in its record."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.xlt.conftest import LANGUAGE_RECIPE
from xlt.compose import compose
from xlt.engine.watching import Silence
from xlt.errors import UsageError
from xlt.execution.execution import carry_out
from xlt.plan.planner import Plan, Run
from xlt.plan.store import RunStore

MIX = "+composition@compositions.mix="
FEW = ("+source@data.search.few=ud_fao", "data.search.few.split=train", "data.search.few.cap=5")


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """Faroese text, the last two lines of which are evaluated, too."""
    lines = [f"some other words of number {number}" for number in range(6)]
    file = tmp_path / "few.txt"
    file.write_text("\n".join([*lines, "The fo cat sat 3!", "the fo cat sat 11"]) + "\n", encoding="utf-8")
    return file


@pytest.fixture
def mixed(shelf: Path, tiny_bert: Path, few: Path) -> tuple[str, ...]:
    """Overrides of a run without a head, with a learned sum of its module and that of another seed."""
    return (
        "experiment=language", "language=eng", "method=bitfit", "+source@data.evaluation.fao=mono",
        "data.evaluation.fao.language=fao", f"data_dir={shelf}", f"model.path={tiny_bert}", "tracker=silent",
        "device=cpu", "threads=1", *LANGUAGE_RECIPE, "train.learning_rate=0.03", "+evaluation.runs.second=['seed=2']",
        f"{MIX}learned", "compositions.mix.of=[task,second]", "compositions.mix.tries=20",
        "+source@data.search.few=mono",
        "data.search.few.language=fao", f"data.search.few.path={few}",
    )  # fmt: skip


def planned_in(store: RunStore, *words: str) -> tuple[Plan, Run]:
    plan = Plan(store)
    return plan, plan.add(compose([*words, f"output_dir={store.root}"]))


def silent(*_: Any) -> Silence:
    return Silence()


def unmixed(words: tuple[str, ...]) -> list[str]:
    return [word for word in words if ".mix" not in word and "data.search" not in word]


def weights_of(found: dict[str, Any]) -> list[float]:
    return [found["weights"][name] for name in ("task", "second")]


def records(store: RunStore, run: Run) -> dict[str, Any]:
    return {record["composition"]: record for record in store.evaluations(run.fingerprint).values()}


def test_weights_are_found_once_and_the_score_is_that_of_the_sum_with_them(
    mixed: tuple[str, ...], few: Path, tmp_path: Path
) -> None:
    store = RunStore(tmp_path / "outputs")
    plan, run = planned_in(store, *mixed)
    assert any(step.endswith("evaluate 2 (weights from data.search.few)") for _, step, _ in plan.rows())
    plan.preflight()
    assert carry_out(plan, None, silent).failures == {}
    label = "learned(task, second; tries=20)"
    record = records(store, run)[label]
    found = record["learned"]
    assert found["weights"].keys() == {"task", "second"}
    assert (found["data"], found["tried"]) == (["data.search.few"], 20)
    assert found["examples"] == 6  # without the two that are evaluated, one of them in other letters
    weights = weights_of(found)
    assert weights != [1, 1]
    again, _ = planned_in(store, *mixed)
    assert again.to_do() == []  # the search is not repeated

    words = [*unmixed(mixed), f"{MIX}sum", "compositions.mix.of=[task,second]", f"compositions.mix.weights={weights}"]
    given, _ = planned_in(store, *words)
    assert carry_out(given, None, silent).failures == {}
    summed = records(store, run)[f"sum(task, second; weights={weights})"]
    assert summed["metrics"] == record["metrics"] != records(store, run)["task"]["metrics"]

    elsewhere = RunStore(tmp_path / "elsewhere")
    plan, twin = planned_in(elsewhere, *mixed)
    assert carry_out(plan, None, silent).failures == {}
    assert records(elsewhere, twin)[label]["learned"] == found
    few.write_text("now the text is another one\n" * 4, encoding="utf-8")
    changed, same = planned_in(store, *mixed)
    assert [one.label for one in changed.missing_evaluations(same).values()] == [label]


def test_the_weights_have_a_lower_loss_on_the_few_examples_than_the_sum(
    mixed: tuple[str, ...], few: Path, tmp_path: Path
) -> None:
    """The few examples are evaluated themselves here, in a config of their own; a loss is the task's metric."""
    store = RunStore(tmp_path / "outputs")
    plan, run = planned_in(store, *mixed, "compositions.mix.penalty=0")
    assert carry_out(plan, None, silent).failures == {}
    (found,) = (one["learned"] for label, one in records(store, run).items() if "learned" in label)
    text = tmp_path / "only.txt"
    text.write_text("".join(few.read_text(encoding="utf-8").splitlines(keepends=True)[:6]), encoding="utf-8")
    losses = {}
    for name, weights in {"sum": [1.0, 1.0], "found": weights_of(found)}.items():
        words = [f"{MIX}sum", "compositions.mix.of=[task,second]", f"compositions.mix.weights={weights}"]
        other, _ = planned_in(store, *unmixed(mixed), *words, f"data.evaluation.fao.path={text}")
        assert carry_out(other, None, silent).failures == {}
        asked = [one for one in other.runs[run.fingerprint].evaluations if "sum" in _label(other, run, one)]
        losses[name] = store.evaluations(run.fingerprint)[asked[0]]["metrics"]["loss"]
    assert losses["found"] < losses["sum"]


def _label(plan: Plan, run: Run, key: str) -> str:
    return plan.runs[run.fingerprint].evaluations[key].label


def test_weights_are_found_for_languages_that_have_few_shot_data(
    planned: Callable[..., Run], adapted: tuple[str, ...]
) -> None:
    run = planned(*adapted, f"{MIX}learned", *FEW)
    found = [one for one in run.evaluations.values() if "learned" in one.label]
    assert [(one.source, one.label) for one in found] == [("fao", "learned(language, task)")]
    assert found[0].identity["search"][0]["seed"] == 1
    plain = planned(*adapted, f"{MIX}learned", *FEW)
    assert plain.fingerprint == planned(*adapted).fingerprint  # the data of the search make no other module
    several = planned(
        *adapted, f"{MIX}stack", "compositions.mix.of=[{operator:learned,of:[language.eng,language.fao]},task]", *FEW
    )
    assert any("task+learned(language.eng, language.fao)" in one.label for one in several.evaluations.values())


def test_data_that_cannot_serve_are_refused_before_anything_is_trained(
    plan: Plan, planned: Callable[..., Run], adapted: tuple[str, ...], mixed: tuple[str, ...], few: Path
) -> None:
    def line(*words: str) -> str:
        with pytest.raises(UsageError) as fault:
            planned(*adapted, f"{MIX}learned", *words)
        (one,) = fault.value.lines
        return one

    assert "compositions.mix: learned(language, task): its weights are found on labelled examples" in line()
    assert "data.search.few.split=test: weights that are found on a test split are refused" in line(
        *FEW, "data.search.few.split=test"
    )
    dev = ("data.search.few.split=dev", "data.evaluation.fao.split=dev")
    assert "data.search.few: the same split is in data.evaluation" in line(*FEW, *dev)
    twice = "compositions.mix.of=[{operator:learned,of:[language,task]},language.eng]"
    assert "only one can have such" in line(*FEW, twice)
    assert "compositions.mix.tries=0: must be at least 1" in line(*FEW, "compositions.mix.tries=0")
    few.write_text("the fo cat sat 1\nthe fo cat sat 2\n", encoding="utf-8")
    planned(*mixed)
    with pytest.raises(UsageError, match=r"data\.search\.few: split text of .*few\.txt has no examples"):
        plan.preflight()


def test_adapters_are_averaged_with_weights_that_are_found(mixed: tuple[str, ...], tmp_path: Path) -> None:
    store = RunStore(tmp_path / "outputs")
    plan, run = planned_in(store, *mixed, "method=mad_x", "compositions.mix.tries=8")
    assert carry_out(plan, None, silent).failures == {}
    (found,) = (one["learned"] for label, one in records(store, run).items() if "learned" in label)
    assert sum(found["weights"].values()) == pytest.approx(1, abs=2e-4)
