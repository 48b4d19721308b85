from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from xlt.compose import compose
from xlt.config import RunConfig
from xlt.engine import run_data
from xlt.engine.build import build_task
from xlt.engine.run_data import RunData
from xlt.plan import code, kept_digests
from xlt.plan.planner import Plan, Run
from xlt.plan.store import RunStore
from xlt.source_code import SourceCode, installed, read_source

Planned = Callable[..., Run]


@pytest.fixture
def edited(words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Planned:
    """`edited(module, before, after, *overrides)`: the run as it is planned where a source file has other text."""

    def make(module: str, before: str, after: str, *overrides: str) -> Run:
        def read(name: str) -> str | None:
            text = read_source(name)
            if name != module or text is None:
                return text
            assert before in text, f"{module} has no {before!r}"
            return text.replace(before, after)

        with monkeypatch.context() as patch:
            sources = SourceCode(read)
            patch.setattr(kept_digests, "installed", lambda: sources)
            patch.setattr(run_data, "installed", lambda: sources)
            return Plan(RunStore(tmp_path / "outputs")).add(compose([*words, *overrides]))

    return make


@pytest.fixture
def unedited(edited: Planned) -> Run:
    return edited("xlt", "", "")


@pytest.mark.parametrize(
    ("module", "before", "after"),
    [
        ("xlt.methods.lt_sft", "self._dense.restore()", "pass"),
        ("xlt.methods.lt_sft", "keep_start=True", "keep_start=False"),
        ("xlt.methods.sparse", "def add_l1(", "def add_l2("),
        ("xlt.methods.random_sft", "round(density * model.pretrained_parameters)", "1"),
        ("xlt.engine.training", "last = position.step == phase.steps", "last = False"),
        ("xlt.engine.evaluation", "reverse=True", "reverse=False"),
        (
            "xlt.data.readers.conllu",
            "_UPOS, _HEAD, _RELATION, _MISC = 3, 6, 7, 9",
            "_UPOS, _HEAD, _RELATION, _MISC = 4, 6, 7, 9",
        ),
        ("xlt.data.mix", "_GROUP_BATCHES = 50", "_GROUP_BATCHES = 60"),
        ("xlt.modules.sparse_delta", "def write_into(", "def write_upon("),
        ("xlt.tasks.tagging", 'reduction="sum"', 'reduction="mean"'),
        ("xlt_kernels.select", "_BINS_HIGH", "_BINS_ABOVE"),
        ("xlt_kernels.delta_write_triton", "_BLOCK = ", "_BLOCK = 2 * "),
    ],
)
def test_an_edit_of_what_a_run_executes_is_another_run(
    module: str, before: str, after: str, edited: Planned, unedited: Run
) -> None:
    assert edited(module, before, after).fingerprint != unedited.fingerprint


@pytest.mark.parametrize(
    ("module", "before", "after"),
    [
        ("xlt.methods.lt_sft", "    def attach(", "    # a comment\n\n    def attach("),
        ("xlt.methods.lt_sft", "A method of two phases:", "A method of some phases:"),
        (
            "xlt.methods.lt_sft",
            "        density: float,\n        l1: float,",
            "        density: object,\n        l1: object,",
        ),
        ("xlt.methods.lt_sft", "tuned share of the model's parameters", "share"),
        ("xlt.methods.bitfit", "self._total = model.pretrained_parameters", "self._total = 1"),
        ("xlt.methods.random_sft", "self._sparse.write(base)", "pass"),
        ("xlt.methods.spiel.method", "self._step = 0", "self._step = 1"),
        ("xlt.tasks.parsing", "def features(", "def rows("),
        ("xlt.data.readers.csv", "strict=True", "strict=False"),
        ("xlt.data.records", "is empty; remove", "is missing; remove"),
        ("xlt.engine.benchmarks", "bootstrap_iters=0", "bootstrap_iters=1"),
        ("xlt.engine.cost", "def inference_cost(", "def cost("),
        ("xlt.engine.translate", "def _batches(", "def _groups("),
        ("xlt.engine.distillation", "def attention_loss(", "def loss_of_attention("),
        ("xlt.engine.watching", "class Silence", "class Quiet"),
        ("xlt.models.student", "def kept_blocks(", "def blocks_kept("),
        ("xlt.tables.figures.curves", "def ", "def _"),
        ("xlt.tables.page.page", "def ", "def _"),
        ("xlt.tables.terminal", "def ", "def _"),
        ("xlt.tracking.wandb", "def ", "def _"),
        ("xlt.findings.claims", "def ", "def _"),
        ("xlt.config.run", "class TrackerConfig:\n", "class TrackerConfig:\n    silent: bool = key('no word')\n"),
        ("xlt.engine.training", "the loss is {mean}; lower", "the loss is {mean}, so lower"),
        ("xlt", '__version__ = "', '__version__ = "9.'),
    ],
)
def test_an_edit_of_what_changes_no_result_of_the_run_is_the_same_run(
    module: str, before: str, after: str, edited: Planned, unedited: Run
) -> None:
    assert edited(module, before, after).fingerprint == unedited.fingerprint


def test_an_edit_of_what_only_evaluates_is_another_evaluation_of_the_same_run(edited: Planned, unedited: Run) -> None:
    other = edited("xlt.engine.cost", "def inference_cost(", "def inference_cost(extra=None, *, ")
    assert other.fingerprint == unedited.fingerprint
    assert not set(other.evaluations) & set(unedited.evaluations)


@pytest.mark.parametrize(
    ("module", "before", "after", "overrides"),
    [
        ("xlt.engine.distillation", "def attention_loss(", "def attention_loss(extra=None, *, ", "student=general"),
        ("xlt.models.student", "_SPECIAL_IDS", "_IDS", "student=general"),
        ("xlt.models.quantised", "def _bitsandbytes(", "def _library(", "model.quantise=nf4"),
    ],
)
def test_what_is_executed_only_under_a_condition_counts_where_it_holds(
    module: str, before: str, after: str, overrides: str, edited: Planned
) -> None:
    words = (overrides, *(["method=pretrain", "task=mlm_mini"] if "student" in overrides else []))
    assert edited(module, before, after, *words).fingerprint != edited("xlt", "", "", *words).fingerprint
    assert edited(module, before, after).fingerprint == edited("xlt", "", "").fingerprint


def test_features_are_made_anew_after_an_edit_of_the_task_and_not_of_the_method(
    edited: Planned, unedited: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def key(module: str, before: str, after: str) -> object:
        sources = SourceCode(lambda name: (text := read_source(name)) and text.replace(*replaced(name)))

        def replaced(name: str) -> tuple[str, str]:
            return (before, after) if name == module else ("", "")

        monkeypatch.setattr(run_data, "installed", lambda: sources)
        config: RunConfig = unedited.config
        return RunData(config, build_task(config.task))._identity("sources", "eng")

    same = key("xlt.methods.lt_sft", "self._dense.restore()", "pass")
    assert same == key("xlt", "", "")
    assert same != key("xlt.tasks.tagging", "def features(", "def features_of(")
    assert same != key("xlt.data.readers.conllu", "_COLUMNS = 10", "_COLUMNS = 11")


def test_what_is_said_to_change_no_result_or_only_sometimes_is_there() -> None:
    for name in (*code.NO_RESULT, *code.ONLY_IF):
        assert installed().has(name), name


def test_no_statement_of_ours_does_something_when_its_file_is_imported() -> None:
    """Files that are only imported are not followed, so they must do nothing but define."""
    assert list(_statements_with_effects()) == []


def _statements_with_effects() -> Iterator[str]:
    root = Path(code.__file__).parent.parent
    for folder, package in ((root, "xlt"), (root.parent / "kernels", "xlt_kernels")):
        for file in sorted(folder.rglob("*.py")):
            parts = file.relative_to(folder).with_suffix("").parts
            name = ".".join([package, *(part for part in parts if part != "__init__")])
            module = installed().module(name)
            assert module is not None, name
            if module.effects and name != "xlt.__main__":
                yield f"{name}:{module.effects[0].lineno}"
