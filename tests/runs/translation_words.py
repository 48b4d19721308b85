"""Commands of tiny runs that translate, over `tests.translators.write_shelf`."""

from __future__ import annotations

from pathlib import Path

RECIPE = ["train.max_steps=2", "train.evaluate_every_steps=2", "train.batch_size=4", "train.precision=fp32"]
RANDOM = ["model.random.hidden_size=32", "model.random.intermediate_size=64", "model.random.vocabulary=400"]
# Javanese from nothing; Madurese has no token before it is adapted to.
PRETRAIN = ["data=nmt_nusax", "target=jav", "task.max_length=24", *RANDOM, *RECIPE]
ADAPT = ["target={target}", "+model.new_languages.{target}=jav", "task.max_length=24", *RECIPE]
BACK = [
    "target={source}",
    "+model.new_languages.{source}=jav",
    "data=nmt_nusax_into_ind",
    "task.max_length=24",
    *RECIPE,
]


def quoted(words: list[str], quote: str = "'") -> str:
    """A list as Hydra reads it."""
    return "[" + ",".join(f"{quote}{word}{quote}" for word in words) + "]"


def sentiment(data: Path, model: Path, out: Path) -> list[str]:
    """Sentiment from Indonesian, evaluated on Madurese."""
    return [
        "experiment=sentiment", "data=empty", "language_modules=none", "method=full", "task.max_length=40",
        "+source@data.sources.ind=smsa", "+source@data.validation.ind=smsa", "data.validation.ind.split=dev",
        f"data_dir={data}", f"model.path={model}", f"output_dir={out}", "device=cpu", "threads=1", "tracker=silent",
        "data.leaks=refuse", *RECIPE,
    ]  # fmt: skip


def _overrides(words: list[str]) -> str:
    """Those of a translator's run, on the model from nothing."""
    return quoted([*words, f"model.run.overrides={quoted(PRETRAIN, chr(34))}"])


def translate_train(language: str = "mad") -> list[str]:
    """Also learns from Indonesian translated into Madurese."""
    return [
        "+source@data.sources.t=translated_smsa", f"data.sources.t.language={language}",
        f"data.sources.t.translation.run.overrides={_overrides(ADAPT)}",
        "+source@data.evaluation.x=nusax_senti", "data.evaluation.x.split=test", "data.evaluation.x.language=mad",
    ]  # fmt: skip


def translate_test() -> list[str]:
    """Is evaluated on Madurese translated into Indonesian."""
    return [
        "+source@data.evaluation.x=nusax_senti_ttest", "data.evaluation.x.translation.source_language=mad",
        f"data.evaluation.x.translation.run.overrides={_overrides(BACK)}",
    ]  # fmt: skip
