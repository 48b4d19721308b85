"""Several tasks in a planned run: the names of their sources, their identity, and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from xlt.compose import checked, compose
from xlt.errors import UsageError
from xlt.plan.planner import Run

JOINT = ("experiment=nano_joint", "model=nano_random", "tracker=silent")


@pytest.mark.parametrize(
    ("overrides", "facts"),
    [
        (("~data.sources.fields.features.task",), ["data.sources.eng.features.task", "fields, kind"]),
        (("data.evaluation.kind.features.task=ner",), ["data.evaluation.ner_eng.features.task", "ner", "fields, kind"]),
        (("~data.sources.kind", "data.select_on_targets=true"), ["task.tasks.kind", "data.sources"]),
        (("~data.validation.kind",), ["task.tasks.kind", "data.validation"]),
        (("+task@task.tasks.mlm=mlm_mini",), ["task.tasks.mlm", "no head", "joint_texts"]),
        (("+task@task.tasks.again=joint_african",), ["task.tasks.again", "several tasks"]),
        (("+task@task.tasks.items=ner",), ["task.tasks.items", "'items'"]),
        (("+task.tasks.ner=3",), ["task.tasks.ner", "no schema"]),
        (("task.tasks.kind.max_length=4",), ["task.tasks.kind.max_length=4"]),
        (("task.tasks.kind.max_length=4000",), ["max_length=4000"]),
        (
            ("data.sampling.by=given", "+data.sampling.weights.task.ner=2"),
            ["data.sampling.weights.task.ner", "fields, kind"],
        ),
        (("data.sampling.by=given", "+data.sampling.weights.age.old=2"), ["data.sampling.weights.age.old", "age"]),
        (("+data.sampling.weights.task.kind=0",), ["data.sampling.weights.task.kind=0", "above 0"]),
        (("data.sampling.task_exponent=2",), ["data.sampling.task_exponent=2"]),
        (("+data.evaluation.kind.features.domain=news",), ["data.evaluation.kind_eng", "domain=news"]),
        (
            (
                "~data.sources.fields.features.task",
                "~data.sources.kind.features.task",
            ),
            ["data.sources.kind.languages", "eng", "data.sources.fields.languages", "features.task"],
        ),
        (("task.tasks.kind._target_=os.system",), ["task.tasks.kind._target_=os.system", "Classification"]),
    ],
)
def test_what_several_tasks_cannot_be_is_refused(
    overrides: tuple[str, ...], facts: list[str], planned: Callable[..., Run], plan: object
) -> None:
    with pytest.raises(UsageError) as raised:
        planned(*JOINT, *overrides)
        plan.preflight()  # type: ignore[attr-defined]
    assert any(all(fact in line for fact in facts) for line in raised.value.lines), raised.value.lines


def test_a_label_that_a_task_does_not_know_is_refused_by_the_whole_key(
    planned: Callable[..., Run], plan: object
) -> None:
    with pytest.raises(UsageError, match=r"'date' is not in task\.tasks\.kind\.labels") as raised:
        planned(*JOINT, "task.tasks.kind.labels=[amount,time]")
        plan.preflight()  # type: ignore[attr-defined]
    assert all(" task.labels" not in line for line in raised.value.lines)


def test_sources_are_named_by_task_and_language_and_each_tasks_settings_and_code_make_the_run(
    planned: Callable[..., Run],
) -> None:
    run = planned(*JOINT)
    assert [*run.config.data.sources][:2] == ["fields_eng", "fields_deu"] and "kind_eus" in run.config.data.sources
    assert "fields_fra" not in run.config.data.sources and "fields_fra" in run.config.data.evaluation
    assert {"xlt.tasks.joint", "xlt.tasks.tagging", "xlt.tasks.classification"} <= run.identity["code"].keys()
    others = [
        planned(*JOINT, "task.tasks.kind.dropout=0.2"),
        planned(*JOINT, "data.sampling.by=size"),
        planned(*JOINT, "data.sampling.by=size", "data.sampling.task_exponent=0.5"),
        planned(*JOINT, "data.sampling.by=given"),
        planned(*JOINT, "data.sampling.by=given", "+data.sampling.weights.task.kind=2"),
    ]
    assert len({run.fingerprint, *(one.fingerprint for one in others)}) == 6
    assert planned(*JOINT, "data.sampling.task_exponent=0.5").fingerprint == run.fingerprint
    evaluations = {one.source: one for one in run.evaluations.values()}
    assert evaluations.keys() == run.config.data.evaluation.keys() and len(evaluations) == 20


def test_a_source_whose_language_has_its_own_entry_is_left_out_of_the_list() -> None:
    words = ("+source@data.sources.kind_deu=locale_expressions", "data.sources.kind_deu.language=deu")
    config = checked(
        compose([*JOINT, *words, "+data.sources.kind_deu.features.task=kind", "data.sources.kind_deu.cap=7"])
    )
    assert config.data.sources["kind_deu"].cap == 7
