"""Further task modules in the model that is evaluated, and the base model alone (thesis §7.5.1)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from xlt.compose import compose
from xlt.engine.run import ModuleFile
from xlt.errors import UsageError
from xlt.models.loading import load_pretrained
from xlt.modules import Entries, ModuleHeader, SparseDelta
from xlt.plan.planner import Plan, Run

FAROESE = "['data=empty','+source@data.sources.fao=ud_fao','data.sources.fao.split=train']"
ADDED = (f"+task_modules.runs.faroese={FAROESE}",)


@pytest.fixture
def headless(words: tuple[str, ...]) -> tuple[str, ...]:
    """Overrides of a run whose task has no head."""
    return (*words, "task=mlm_mini", "task.max_length=40", "method=bitfit")


@pytest.fixture
def module(tmp_path: Path, tiny_bert: Path) -> Callable[..., Path]:
    """`module(name, language=None, value=0.1)`: a file with a module of the tiny model."""
    model = load_pretrained(str(tiny_bert))
    weight = "encoder.layer.0.attention.self.query.weight"
    name = next(name for name, _ in model.named_parameters() if name.endswith(weight))

    def make(file: str, language: str | None = None, value: float = 0.1) -> Path:
        header = ModuleHeader(
            kind="sparse_delta", method="full", base_model="b", base_hash=model.base_hash, language=language
        )
        entries = {name: Entries(torch.tensor([3]), torch.tensor([value]), torch.Size([32, 32]))}
        SparseDelta(header, entries, {}).save(tmp_path / file)
        return tmp_path / file

    return make


def test_another_runs_module_is_in_the_model_below_the_runs_own(
    plan: Plan, planned: Callable[..., Run], headless: tuple[str, ...]
) -> None:
    run = planned(*headless, *ADDED)
    (other,) = (one for one in plan.runs.values() if one is not run)
    files = tuple(ModuleFile(plan.store.module_file(one.fingerprint)) for one in (other, run))
    assert {(wanted.label, wanted.modules) for wanted in run.evaluations.values()} == {("task", files)}
    assert run.evaluation_needs == {other.fingerprint}
    assert not run.depends_on


def test_what_is_added_is_the_run_that_would_be_trained_for_itself(
    plan: Plan, planned: Callable[..., Run], headless: tuple[str, ...]
) -> None:
    recipe = ("train.learning_rate=0.003", "seed=4")
    run = planned(*headless, *recipe, *ADDED)
    kept = [word for word in headless if "@data" not in word and not word.startswith("data.")]
    alone = planned("data=empty", *kept, *recipe, *(
        "language_modules=none", "+source@data.sources.fao=ud_fao", "data.sources.fao.split=train",
    ))  # fmt: skip
    assert run.evaluation_needs == {alone.fingerprint}
    assert len(plan.runs) == 2


def test_adding_changes_the_evaluations_and_not_the_run(
    plan: Plan, planned: Callable[..., Run], headless: tuple[str, ...], module: Callable[..., Path]
) -> None:
    alone = planned(*headless)
    first = set(alone.evaluations)
    assert planned(*headless, f"+task_modules.paths.more={module('a')}") is alone
    second = set(alone.evaluations) - first
    planned(*headless, f"+task_modules.paths.more={module('b', value=0.2)}")
    third = set(alone.evaluations) - first - second
    planned(*headless, f"+task_modules.paths.more={module('same')}")
    assert len(first) == len(second) == len(third) == len(alone.evaluations) / 3
    assert {alone.evaluations[key].name for key in first} == {"task"}
    assert {alone.evaluations[key].name for key in second} == {f"{'task'} (+more)"}


def test_asking_a_run_gives_the_evaluations_of_this_config_alone(
    plan: Plan, planned: Callable[..., Run], headless: tuple[str, ...], module: Callable[..., Path]
) -> None:
    run = planned(*headless)
    words = [*headless, f"+task_modules.paths.more={module('a')}", f"output_dir={plan.store.root}"]
    again, asked = plan.ask(compose(words))
    assert again is run
    assert len(asked) == len(run.evaluations) / 2
    assert {composition.unusual for composition in asked.values()} == {"+more"}


def test_the_base_alone_is_evaluated_besides(planned: Callable[..., Run], headless: tuple[str, ...]) -> None:
    run = planned(*headless, "task_modules.evaluate_base=true")
    found = {(wanted.source, wanted.label, len(wanted.modules)) for wanted in run.evaluations.values()}
    assert found == {(source, *of) for source in ("eng", "fao") for of in (("base", 0), ("task", 1))}


@pytest.mark.parametrize(
    ("words_", "said"),
    [
        (("task=pos", *ADDED), "task_modules.runs: task pos has a head, in each module its own; instruct, "),
        (("task=pos", "task_modules.evaluate_base=true"), "task_modules.evaluate_base: task pos has a head, in each"),
        (("method=pretrain", *ADDED), "task_modules.runs: this method leaves a model of its own, no module of the"),
        (("+task_modules.paths.a=absent",), "task_modules.paths.a=absent: no such file; a module is a .safetensors"),
        (("+task_modules.runs.a=['data=nowhere']",), "task_modules.runs.a: "),
        (("task_modules.runs.a=[]",), "task_modules.runs.a=[]: nothing is there yet to be replaced"),
        (("task_modules.paths.a=FILE",), "task_modules.paths.a=FILE: nothing is there yet to be replaced"),
    ],
)  # fmt: skip
def test_what_cannot_be_added_is_refused(
    words_: tuple[str, ...], said: str, planned: Callable[..., Run], headless: tuple[str, ...]
) -> None:
    with pytest.raises(UsageError) as refused:
        planned(*headless, *words_)
    assert any(line.startswith(said) for line in refused.value.lines), refused.value.lines


def test_a_name_is_a_run_or_a_file(
    planned: Callable[..., Run], headless: tuple[str, ...], module: Callable[..., Path]
) -> None:
    with pytest.raises(UsageError, match="task_modules: faroese is in runs and in paths; give it once"):
        planned(*headless, *ADDED, f"+task_modules.paths.faroese={module('a')}")


def test_a_file_is_looked_at_before_anything_is_trained(
    plan: Plan, planned: Callable[..., Run], headless: tuple[str, ...], module: Callable[..., Path], tmp_path: Path
) -> None:
    planned(*headless)  # that the run is in the plan already spares nobody the look
    with pytest.raises(UsageError, match="a module of language fao, wanted one of a task; see language_modules"):
        planned(*headless, f"+task_modules.paths.more={module('a', language='fao')}")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(module("b").read_bytes()[:-3])
    with pytest.raises(UsageError, match=r"broken\.safetensors"):
        planned(*headless, f"+task_modules.paths.more={broken}")


def test_what_an_added_run_learns_from_may_not_stand_in_the_evaluation(
    plan: Plan, planned: Callable[..., Run], headless: tuple[str, ...], shelf: Path
) -> None:
    def text(part: str, code: str, file: Path) -> list[str]:
        name = f"data.{part}.text"
        return [f"+source@{name}=mono", f"{name}.language={code}", f"{name}.path={file}"]

    lines = (shelf / "mono" / "fo.txt").read_text(encoding="utf-8").splitlines()
    learned, tests = (plan.store.root.parent / f"{name}.txt" for name in ("learned", "tests"))
    learned.write_text("\n".join(lines), encoding="utf-8")
    tests.write_text(f"{lines[3]} and more\n{lines[7]}\n", encoding="utf-8")
    words = (
        *(word for word in headless if "data." not in word),
        *text("sources", "eng", shelf / "mono" / "en.txt"),
        *text("evaluation", "fao", tests),
        "data.leaks=refuse",
    )
    other = ",".join(f"'{word}'" for word in ["data=empty", *text("sources", "fao", learned)])
    planned(*words, f"+task_modules.runs.other=[{other}]")
    with pytest.raises(UsageError, match=r"data.sources.text: .*learned.txt:8: .*tests"):
        plan.preflight()
