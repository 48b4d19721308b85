"""Features of examples and batches of several languages in a plan: what is refused, and what makes another run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from xlt.compose import checked, compose
from xlt.errors import UsageError
from xlt.modules import Feature, FeatureMixture
from xlt.plan.checks import user_file_faults
from xlt.plan.planner import Run

TWO_LANGUAGES = ("+source@data.sources.fao=ud_fao", "data.sampling.mixed_batches=true")
FLIX = ("method=flix",)


@pytest.mark.parametrize(
    ("overrides", "facts"),
    [
        ((*FLIX, "+data.evaluation.fao.features.task=ner"), ["data.evaluation.fao", "task=ner", "pos"]),
        ((*FLIX, "+data.evaluation.fao.features.domain=news"), ["data.evaluation.fao", "domain=news", "language"]),
        ((*FLIX, "+method.ranks.domain=2"), ["method.ranks.domain", "language, task"]),
        ((*FLIX, "method.ranks.task=-1"), ["method.ranks.task=-1", "at least 0"]),
        ((*FLIX, "method.feature_dropout=1"), ["method.feature_dropout=1", "keep_one=true"]),
        ((*FLIX, "method.layers=[q_proj]"), ["method.layers=q_proj", "query, key, value, dense"]),
        (
            (*TWO_LANGUAGES, "language_modules=mono"),
            ["data.sampling.mixed_batches=true", "language modules"],
        ),
        ((*TWO_LANGUAGES, "student=general", "method=pretrain", "task=mlm_mini"), ["mixed_batches=true", "teacher"]),
    ],
)
def test_what_is_wrong_with_features_or_mixed_batches_is_refused(
    overrides: tuple[str, ...], facts: list[str], planned: Callable[..., Run], words: tuple[str, ...], plan: object
) -> None:
    with pytest.raises(UsageError) as raised:
        planned(*words, *overrides)
        plan.preflight()
    assert any(all(fact in line for fact in facts) for line in raised.value.lines), raised.value.lines


def test_a_method_of_one_language_at_a_time_gets_no_mixed_batches(
    planned: Callable[..., Run], words: tuple[str, ...]
) -> None:
    with pytest.raises(UsageError, match=r"mixed_batches=true: method mad_g"):
        planned(*words, *TWO_LANGUAGES, "method=mad_g", "method.typology=null")


def test_the_features_of_a_source_and_the_mixing_of_batches_make_another_run(
    planned: Callable[..., Run], words: tuple[str, ...]
) -> None:
    two = (*words, "+source@data.sources.fao=ud_fao")
    runs = [
        planned(*two),
        planned(*two, "data.sampling.mixed_batches=true"),
        planned(*two, "+data.sources.fao.features.domain=news"),
        planned(*two, "data.sampling.mixed_batches=false"),
    ]
    prints = [run.fingerprint for run in runs]
    assert len(set(prints[:3])) == 3 and prints[3] == prints[0]
    assert "mixed_batches" not in str(runs[0].identity) and "features" not in str(runs[0].identity["data"])
    assert "xlt.data.mixed_batches" in runs[1].identity["code"]


def test_a_teacher_whose_module_has_parts_for_some_examples_only_is_refused(
    planned: Callable[..., Run], words: tuple[str, ...]
) -> None:
    two = (*words, "+source@data.sources.fao=ud_fao", "student=bistil_tf", "target=fao", "teacher=mini")
    with pytest.raises(UsageError, match=r"teacher\.knows_task=true: method flix: .*language: eng, fao"):
        planned(*two, *FLIX, "teacher.knows_task=true")


def test_a_module_of_features_for_other_tasks_cannot_be_added(
    module_header: Callable[..., Any], tmp_path: Path, words: tuple[str, ...]
) -> None:
    features = [Feature("language", 0, ("eng", "fao")), Feature("task", 1, ("ner", "topic"))]
    factors = {"backbone.a": {"task": (torch.zeros(2, 1, 4), torch.zeros(2, 4, 1))}}
    FeatureMixture(module_header(kind="feature_mixture", task="ner"), features, factors).save(
        tmp_path / "m.safetensors"
    )
    config = checked(compose([*words, f"+task_modules.paths.other={tmp_path / 'm.safetensors'}"]))
    (line,) = user_file_faults(config)
    assert all(fact in line for fact in ("task_modules.paths.other", "data.evaluation.eng", "task=pos", "ner, topic"))
    config = checked(
        compose(
            [
                *words,
                "student=bistil_tf",
                "teacher=mini",
                "target=fao",
                "teacher.knows_task=true",
                f"teacher.path={tmp_path / 'm.safetensors'}",
            ]
        )
    )
    assert any("teacher.path" in line and "ner, topic" in line for line in user_file_faults(config))
