"""Words of a command without effect on its run, or with less effect than they seem to have."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from xlt.compose import compose, hydra_ready
from xlt.config import RunConfig
from xlt.plan.planner import Plan
from xlt.plan.store import RunStore
from xlt.plan.unheeded import unheeded, unheeded_by_all


@pytest.fixture(autouse=True)
def _hydra() -> Iterator[None]:
    with hydra_ready():
        yield


def said(tmp_path: Path, *words: str, of: tuple[str, ...] = ()) -> list[str]:
    """What is said of words after those in `of`."""
    composed = compose(["experiment=nano_fields", "language_modules=none", *of, *words, f"output_dir={tmp_path}"])
    run, _ = Plan(RunStore(tmp_path)).ask(composed)
    return unheeded(run.config, words, composed)


def config(tmp_path: Path, *words: str) -> RunConfig:
    return (
        Plan(RunStore(tmp_path))
        .ask(compose(["experiment=nano_fields", "language_modules=none", *words, f"output_dir={tmp_path}"]))[0]
        .config
    )


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("train.ema_decay=0.5", "the other settings of the run leave it unused"),
        ("language_modules.cap_words=100", "the run has no language modules"),
        ("language_modules.among=[fao]", "the run has no language modules"),
        ("language_modules.evaluate_without=true", "the run has no language modules"),
        ("data.sampling.by=size", "there is one training source"),
        ("launcher.gpus=2", "runs are executed on this machine"),
        ("tracker.project=mine", "tracker.wandb=off"),
        ("target=fao", "no data mix and no student of this run is for a target language"),
    ],
)
def test_a_word_without_effect_is_said_with_the_reason(word: str, why: str, tmp_path: Path) -> None:
    (line,) = said(tmp_path, word, of=("method=full",))
    assert line.startswith(f"{word}: has no effect here: {why}")


@pytest.mark.parametrize(
    "words",
    [
        ("method=full", "seed=2", "train.batch_size=8", "threads=1", "tracker.csv=true", "data.sources.eng.cap=100"),
        ("method=full", "train.averaging=none", "train.evaluation_batch_size=3", "data.sampling.mixed_batches=false"),
        ("method=full", "train.averaging=ema", "train.ema_decay=0.5"),
        ("method=full", "data=locale_fs_single", "target=fao"),
        ("method=full", "train.epochs=3", "train.max_steps=null"),
        ("method=full", "train.max_steps=3", "train.learning_rate=0.01"),
        ("method=lt_sft", "train.max_steps=3", "method.dense_max_steps=3"),
        ("method=lt_sft", "method.density=0.1", "language_modules=nano", "language_modules.cap_words=100"),
    ],
)
def test_nothing_is_said_of_words_with_an_effect(words: tuple[str, ...], tmp_path: Path) -> None:
    assert said(tmp_path, *words) == []


def test_what_limits_the_length_and_the_rate_that_were_asked_for_is_said(tmp_path: Path) -> None:
    (line,) = said(tmp_path, "train.epochs=20", of=("method=full",))
    assert line.startswith("train.epochs=20: the recipe's train.max_steps=150 ends the training if")
    steps, rate = said(tmp_path, "train.max_steps=1000", "train.learning_rate=0.01", of=("method=lt_sft",))
    assert steps == "train.max_steps=1000: the dense phase has method.dense_max_steps=100; null: as train.max_steps"
    assert rate.startswith("train.learning_rate=0.01: the dense phase has method.dense_learning_rate=0.001")


def test_of_several_runs_only_what_is_true_of_all_is_said(tmp_path: Path) -> None:
    words = ["train.max_steps=1000", "train.ema_decay=0.5"]
    full, sparse = (config(tmp_path, f"method={method}", *words) for method in ("full", "lt_sft"))
    assert [len(unheeded_by_all(configs, words)) for configs in ((), (full,), (sparse,), (full, sparse))] == [
        0,
        1,
        2,
        1,
    ]
