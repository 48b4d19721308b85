"""Every key of every schema: another value makes another run, or the schema says why it cannot.

The keys are walked, so a new one is looked at without being listed. One whose change cannot be made up from its type
has a line in `CASES`, and so has one that a run uses only under a condition.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import pickle
import pkgutil
import shutil
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import DictConfig, OmegaConf

import xlt.methods
import xlt.tasks
from xlt.compose import command_line, compose
from xlt.config import (
    BenchmarkConfig,
    HubConfig,
    InstructionConfig,
    RandomModelConfig,
    RunConfig,
    RunReference,
    TranslationConfig,
)
from xlt.plan.planner import Plan
from xlt.plan.store import RunStore
from xlt.tasks.classification import ClassificationConfig
from xlt.tasks.tagging import TaggingConfig
from xlt.tasks.text_to_text import TextToTextConfig


@dataclass(frozen=True)
class Key:
    """A key of a schema.

    Attributes:
        path: dotted, in the config of a run; a source is called `eng`.
        owner: name of the method or task whose key it is; empty for one that all runs have.
        hint: its type.
        rules: its metadata.
        no_module: why it changes no module, said by itself or by a key above it.
    """

    path: str
    owner: str
    hint: Any
    rules: Mapping[str, Any]
    no_module: str


@dataclass(frozen=True)
class Case:
    """How a key is changed.

    Attributes:
        words: overrides of a run that uses it.
        values: key -> value, set in that run before.
        value: the other value; `None` is null, `MADE_UP` one that is made up from the key's type.
    """

    words: tuple[str, ...] = ()
    values: Mapping[str, Any] = field(default_factory=dict)
    value: Any = "made up"


MADE_UP = "made up"
LANGUAGE_RUN = ("task=mlm_mini", "train.evaluate_every_steps=1")
REPLACING = ("train.max_steps=60",)  # with fewer steps SpIEL would replace no entry
STUDENT = ("student=general", "method=pretrain", *LANGUAGE_RUN)
HUB = {
    "data.sources.eng.path": None,
    "data.sources.eng.hub": HubConfig("owner/name", "{code}", None, {}, {"text": "text"}, {}),
}
CSV = {
    "data.sources.eng.reader": "csv",
    "data.sources.eng.path": "{places}/{code}",
    "data.sources.eng.files": {},
    "data.sources.eng.codes": {},
    "data.sources.eng.fields": {"text": "text"},
    "data.select_on_targets": True,
}
TRANSLATOR = [
    "target={target}",
    "data=empty",
    "+source@data.sources.eng=ud_eng",
    "model.run=null",
    "model.random=null",
    "method=full",
]
TRANSLATED = {
    **CSV,
    "data.sources.eng.language": "fao",
    "data.sources.eng.origin": "translated",
    "data.sources.eng.translation": TranslationConfig(
        "eng", RunReference("translation", [*TRANSLATOR, "model.path={places}/model"]), [], ["text"], 4, 512, None
    ),
}
RANDOM = {
    "model.path": None,
    "model.random": RandomModelConfig("bert", 2, 32, 2, 64, 64, 300, 0.1),
}
GENERATOR = ["data=empty", "+source@data.sources.eng=mono", "data.sources.eng.language=eng", "method.typology=null"]
ALONE = ["method=pretrain", "language_modules=none"]
SEVERAL_TASKS = (
    *("~data.sources.eng", "~data.validation.eng", "~data.evaluation.eng", "~data.evaluation.fao"),
    "data=joint_locale",
)


def written(scored_as: str) -> dict[str, TextToTextConfig]:
    """The settings of two tasks as text to text."""
    part = TextToTextConfig(name="written", scored_as=scored_as, max_length=64, max_new_tokens=8, template="tulu")
    return {"fields": part, "kind": part}


TEXTS = {"task.tasks": written("label")}
WITH_MODEL = ["model.path={places}/model"]
MODEL_RUN = {"model.path": None, "model.run": RunReference("generator", [*GENERATOR[:3], *WITH_MODEL, *ALONE])}
STUDENT_RUN = {"model.student.run": RunReference("generator", [*GENERATOR[:3], "method=pretrain"])}
SEVERAL = [*GENERATOR, "+source@data.sources.fao=mono", "data.sources.fao.language=fao"]
MADE = {"method.typology": None, "language_modules.generator": RunReference("generator", SEVERAL)}
OVERLAP = {"method.overlap": 0.5, "method.overlap_with": "eng"}
START = {"start.run": RunReference("generator", [*GENERATOR[:3], "method=mad_x"])}

# By key, or by the longest key above it.
CASES: dict[str, Case] = {
    "experiment_name": Case(value="other"),
    "choices": Case(value={"method": "mine", "model": "mine"}),
    "model.path": Case(value="{places}/model"),
    "model.revision": Case(values={"model.path": "owner/name"}, value="abc"),
    "model.run.experiment": Case(
        values={"model.path": None, "model.run": RunReference("generator", [*GENERATOR[:3], *WITH_MODEL, *ALONE])},
        value="parsing",
    ),
    "model.run.overrides": Case(values=MODEL_RUN, value=[*GENERATOR[:3], *WITH_MODEL, *ALONE, "train.max_steps=7"]),
    "model.random": Case(values=RANDOM),
    "model.dropout": Case(value=0.3),
    "model.student": Case(STUDENT),
    "model.student.hidden_size": Case(STUDENT, value=16),
    "model.student.run.experiment": Case(STUDENT, STUDENT_RUN, "translation_pretrain"),
    "model.student.run.overrides": Case(STUDENT, STUDENT_RUN, [*GENERATOR[:3], "method=pretrain", "train.max_steps=7"]),
    "model.new_languages": Case(value={"fao": None}),
    "data.sources.eng": Case(values=CSV),
    "data.sources.eng.reader": Case(values=CSV | {"data.sources.eng.path": "{places}/eng/train.csv"}, value="tsv"),
    "data.sources.eng.language": Case(values=CSV | {"data.sources.eng.path": "{places}/eng"}, value="fao"),
    "data.sources.eng.languages": Case(values=CSV, value=["eng", "fao"]),
    "data.sources.eng.path": Case(values=CSV, value="{places}/fao"),
    "data.sources.eng.files": Case(values=CSV, value={"train": "other.csv"}),
    "data.sources.eng.hub": Case(values=HUB),
    "data.sources.eng.hub.id": Case(values=HUB, value="owner/other"),
    "data.sources.eng.hub.subset": Case(values=HUB, value="all"),
    "data.sources.eng.hub.revision": Case(values=HUB, value="abc"),
    "data.sources.eng.hub.splits": Case(values=HUB, value={"train": "training"}),
    "data.sources.eng.hub.fields": Case(values=HUB, value={"text": "sentence"}),
    "data.sources.eng.hub.codes": Case(values=HUB, value={"eng": "en"}),
    "data.sources.eng.fields": Case(values=CSV, value={"text": "label"}),
    "data.sources.eng.codes": Case(values=CSV, value={"eng": "fao"}),
    "data.sources.eng.labels": Case(values=CSV, value={"NOUN": "VERB"}),
    "data.sources.eng.scheme": Case(values=CSV, value="IOB1"),
    "data.sources.eng.word_prefix": Case(values=CSV, value="{code}:"),
    "data.sources.eng.delimiter": Case(values=CSV, value=";"),
    "data.sources.eng.quoting": Case(
        values=CSV | {"data.sources.eng.reader": "tsv", "data.sources.eng.path": "{places}/eng/train.csv"}, value="rfc"
    ),
    "data.sources.eng.licence": Case(values=CSV, value="none"),
    "data.sources.eng.split": Case(values=CSV, value="dev"),
    "data.sources.eng.origin": Case(("~data.validation.eng",), CSV, "few-shot"),
    "data.sources.eng.cap": Case(values=CSV, value=3),
    "data.sources.eng.cap_words": Case(values=CSV, value=30),
    "data.sources.eng.features": Case(values=CSV, value={"domain": "news"}),
    "data.sources.eng.where": Case(values=CSV, value={"label": "NOUN"}),
    "data.sources.eng.instruction": Case(
        values=CSV | {"data.sources.eng.instruction": InstructionConfig("{text}", "{label}")}, value="{pair}"
    ),
    "data.sources.eng.text_language": Case(values=CSV, value="fao"),
    "data.sources.eng.pair_language": Case(values=CSV, value="fao"),
    "data.sources.eng.translation": Case(values=TRANSLATED),
    "data.sources.eng.translation.source_language": Case(values=TRANSLATED, value="deu"),
    "data.sources.eng.translation.run.experiment": Case(
        values=TRANSLATED | {"data.sources.eng.translation.adapt": ["fao"]}, value="translation_pretrain"
    ),
    "data.sources.eng.translation.run.overrides": Case(
        values=TRANSLATED, value=[*TRANSLATOR, "model.path={places}/tiny"]
    ),
    "data.sources.eng.translation.adapt": Case(values=TRANSLATED, value=["fao"]),
    "data.sources.eng.translation.fields": Case(values=TRANSLATED, value=["text", "pair"]),
    "data.sources.eng.translation.cap": Case(values=TRANSLATED, value=3),
    "data.validation": Case(value={}),
    "data.cap": Case(value=90),
    "data.evaluation": Case(value={}),
    "data.benchmarks": Case(value={"gsm": BenchmarkConfig(["gsm"], "acc", None, 0, None, None, False, None, False)}),
    "data.excluded": Case(("+source@data.excluded.fao=ud_fao",), value={}),
    "data.search": Case(("+source@data.search.fao=ud_fao",), value={}),
    "data.sampling.exponent": Case(("data.sampling.by=size",)),
    "data.sampling.ceiling": Case(("data.sampling.by=size",)),
    "data.sampling.task_exponent": Case(("data.sampling.by=size",), value=0.25),
    "data.sampling.weights": Case(("data.sampling.by=given",), value={"language": {"eng": 2.0}}),
    "data.held_out_fraction": Case(("~data.validation.eng",)),
    "data.held_out_fractions": Case(("~data.validation.eng",), value={"eng": 0.2}),
    "train.epochs": Case(value=2.0),
    "train.evaluate_every_epochs": Case(
        values={"train.evaluate_every_steps": None, "train.evaluate_every_epochs": 1.0}, value=0.5
    ),
    "train.micro_batch_size": Case(value=2),
    "train.head_learning_rate": Case(value=0.5),
    "train.clip_norm": Case(value=0.5),
    "train.evaluation_batch_size": Case(LANGUAGE_RUN),
    "train.averaging": Case(value="ema"),
    "train.average_last": Case(("train.averaging=checkpoints",), value=3),
    "train.ema_decay": Case(("train.averaging=ema",), value=0.5),
    "language": Case(LANGUAGE_RUN, {"language": "eng"}, None),
    "language_modules": Case(("language_modules=mono",)),
    "language_modules.experiment": Case(
        ("language_modules=mono",),
        {"language_modules.experiment": "generator", "language_modules.overrides": GENERATOR[:3]},
        "language",
    ),
    "language_modules.overrides": Case(("language_modules=mono",), value=["train.max_steps=7"]),
    "language_modules.paths": Case(value={"eng": "{places}/a.safetensors"}),
    "language_modules.texts": Case(("language_modules=mono",), value={"eng": "{places}/shelf/mono/fo.txt"}),
    "language_modules.generator.experiment": Case(
        ("method=mad_x", "language_modules=mad_g"),
        {"language_modules.generator": RunReference("generator", [*SEVERAL, "method=mad_g"])},
        "translation_pretrain",
    ),
    "language_modules.generator.overrides": Case(
        ("method=mad_g", "language_modules=mad_g"), MADE, [*SEVERAL, "train.max_steps=7"]
    ),
    "language_modules.start_from_generator": Case(
        ("method=mad_g", "language_modules=mad_g_ft"),
        MADE | {"language_modules.overrides": ["method=pfeiffer"], "language_modules.stand_in": {"eng": "fao"}},
    ),
    "language_modules.cap_words": Case(("language_modules=mono",), value=10),
    "language_modules.learned_from": Case(("language_modules=mono",), value={"eng": ["eng", "fao"]}),
    "language_modules.stand_in": Case(("language_modules=mono",), value={"eng": "fao"}),
    "language_modules.among": Case(
        ("language_modules=mono",), {"language_modules.typology": "{places}/a.npz"}, ["fao", "bxr"]
    ),
    "language_modules.typology": Case(
        ("language_modules=mono",),
        {"language_modules.typology": "{places}/a.npz", "language_modules.among": ["fao", "bxr"]},
        "{places}/b.npz",
    ),
    "task_modules.runs": Case(value={"x": ["data=empty"]}),
    "task_modules.paths": Case(value={"x": "{places}/a.safetensors"}),
    "compositions": Case(value={"alone": "task"}),
    "evaluation.paths": Case(value={"x": "{places}/a.safetensors"}),
    "evaluation.runs": Case(value={"x": ["seed=2"]}),
    "start.path": Case(("method=mad_x",), {"start.path": "{places}/a.safetensors"}, "{places}/b.safetensors"),
    "start.run.experiment": Case(("method=mad_x",), START, "translation_pretrain"),
    "start.run.overrides": Case(("method=mad_x",), START, [*GENERATOR[:3], "method=mad_x", "train.max_steps=7"]),
    "teacher": Case(STUDENT),
    "teacher.losses": Case(STUDENT, value=["hidden"]),
    "teacher.path": Case(
        STUDENT,
        {"teacher.knows_task": True, "teacher.path": "{places}/a.safetensors"},
        "{places}/b.safetensors",
    ),
    "tracker.project": Case(value="other"),
    "tracker.entity": Case(value="us"),
    "tracker.group": Case(value="table"),
    "launcher.cluster": Case(value="local"),
    "launcher.partition": Case(value="long"),
    "launcher.account": Case(value="us"),
    "launcher.setup": Case(value=["source .venv/bin/activate"]),
    "launcher.sbatch": Case(value={"qos": "low"}),
    "translator": Case(value="translator_small"),
    "target": Case(value="fao"),
    "data_dir": Case(value="{places}/shelf"),
    "output_dir": Case(value="{places}/elsewhere"),
    "device": Case(value="auto"),
    "threads": Case(value=2),
    # Of methods and tasks.
    "mad_x/method.name": Case(value="other"),
    "mad_x/method.invertible": Case(LANGUAGE_RUN),
    "mad_x/method.invertible_reduction_factor": Case(LANGUAGE_RUN, {"method.invertible": True}),
    "lt_sft/method.dense_epochs": Case(value=2.0),
    "lt_sft/method.dense_max_steps": Case(value=3),
    "lt_sft/method.dense_learning_rate": Case(value=0.5),
    "lt_sft/method.among": Case(value=["*.layer.0.*"]),
    "lt_sft/method.overlap": Case(("language_modules=mono",), OVERLAP, 0.25),
    "lt_sft/method.overlap_with": Case(("language_modules=mono",), OVERLAP, "fao"),
    "flix/method.ranks": Case(value={"task": 2, "language": 4}),
    "flix/method.layers": Case(value=["query"]),
    "lora/method.layers": Case(value=["query"]),
    "full/method.untie_embeddings": Case(LANGUAGE_RUN),
    "mad_g": Case(LANGUAGE_RUN, {"method.typology": "{places}/a.npz"}),
    "mad_g/method.layer_size": Case(LANGUAGE_RUN, {"method.typology": "{places}/a.npz"}, 8),
    "mad_g/method.typology": Case(LANGUAGE_RUN, {"method.typology": "{places}/a.npz"}, "{places}/b.npz"),
    "spiel_ag": Case(REPLACING),
    "spiel_ag/method.density": Case(REPLACING, value=0.3),
    "spiel_ag/method.rank": Case(REPLACING, {"method.density": None, "method.rank": 4}, value=8),
    "spiel_ag/method.adam_betas": Case(REPLACING, value=[0.8, 0.9]),
    "spiel_ag/method.sm3_momentum": Case(REPLACING, {"method.growth": "momentum"}, value=0.5),
    "spiel_ag/method.sm3_epsilon": Case(REPLACING, {"method.growth": "momentum"}),
    "spiel_ag/method.sm3_variant": Case(REPLACING, {"method.growth": "momentum"}),
    "spiel_ag/method.candidates": Case(REPLACING, value=2.0),
    "spiel_ag/method.candidates_from": Case(REPLACING, value="micro_batch"),
    "pos/task.name": Case(value="other"),
    "pos/task.column": Case(value="xpos"),
    "pos/task.labels": Case(value=["NOUN", "VERB"]),
    "pos/task.metric": Case(values={"task.labels": ["O", "B-PER"]}),
    "sentiment/task.name": Case(value="other"),
    "multiple_choice/task.name": Case(value="other"),
    "sentiment/task.labels": Case(value=["good", "bad"]),
    "qa": Case(values={"task.max_length": 400}),
    "qa/task.name": Case(values={"task.max_length": 400}, value="other"),
    "parsing/task.relations": Case(value=["nsubj"]),
    "translation/task.tokens": Case(value={"fao": "fao_Latn"}),
    "translation/task.bleu_tokenizer": Case(value="13a"),
    "text_to_text/task.name": Case(value="other"),
    "text_to_text/task.max_new_tokens": Case(value=16),
    "xtreme_up_swahili": Case(SEVERAL_TASKS, TEXTS),
    "xtreme_up_swahili/task.name": Case(SEVERAL_TASKS, TEXTS, value="other"),
    "xtreme_up_swahili/task.tasks": Case(SEVERAL_TASKS, TEXTS, written("text")),
    "xtreme_up_swahili/task.select_by": Case(SEVERAL_TASKS, TEXTS, ["kind"]),
    "joint_locale/task.select_by": Case(SEVERAL_TASKS, value=["kind"]),
    "joint_locale/task.name": Case(SEVERAL_TASKS, value="other"),
    "joint_locale/task.tasks": Case(
        SEVERAL_TASKS,
        value={
            "fields": TaggingConfig(name="other", column="field", labels=["O"], max_length=9, dropout=0, metric="f1"),
            "kind": ClassificationConfig(
                name="kind", labels=["a", "b"], pair=False, max_length=9, dropout=0, metric="accuracy"
            ),
        },
    ),
}
# The option of `conf/method` or `conf/task` that a schema is tried with, where it has another name.
OPTIONS = {
    "bottleneck": "mad_x",
    "spiel": "spiel_ag",
    "tagging": "pos",
    "classification": "sentiment",
    "question_answering": "qa",
    "mlm": "mlm_mini",
    "joint": "joint_locale",
    "joint_texts": "xtreme_up_swahili",
}


def walk(schema: Any, prefix: str = "", owner: str = "", reason: str = "") -> Iterator[Key]:
    """The keys of a schema and of those below it; of sources by name, those of one training source."""
    hints = typing.get_type_hints(schema)
    for item in dataclasses.fields(schema):
        hint = hints[item.name]
        hint = typing.get_args(hint)[0] if isinstance(hint, types.UnionType) else hint
        path = f"{prefix}{item.name}"
        no_module = item.metadata.get("no_module") or reason
        if dataclasses.is_dataclass(hint):
            yield from walk(hint, f"{path}.", owner, no_module)
        elif path == "data.sources":
            yield from walk(typing.get_args(hint)[1], f"{path}.eng.", owner, no_module)
        elif item.metadata and path not in ("method", "task"):  # those have schemas of their own
            yield Key(path, owner, hint, item.metadata, no_module)


def all_keys() -> Iterator[Key]:
    yield from walk(RunConfig)
    for package, group in ((xlt.methods, "method"), (xlt.tasks, "task")):
        for found in pkgutil.iter_modules(package.__path__):
            schema = getattr(importlib.import_module(f"{package.__name__}.{found.name}"), "SCHEMA", None)
            if schema is not None:
                yield from walk(schema, f"{group}.", OPTIONS.get(found.name, found.name))


KEYS = list(all_keys())


@pytest.fixture(autouse=True)
def _extras_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that needs an extra is looked at with and without it."""
    there = importlib.util.find_spec

    def find_spec(name: str, package: str | None = None) -> Any:
        return there("json") if name == "tensorboard" else there(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path, shelf: Path) -> Path:
    """A folder of all that keys may name: data, models, modules and typological vectors, each in two versions."""
    folder = tmp_path_factory.mktemp("places")
    shutil.copytree(shelf, folder / "shelf")
    (shelf / "mono" / "bxr.txt").write_text("Сайн байна\n", encoding="utf-8")
    shutil.copytree(tiny_bert, folder / "tiny")
    shutil.copytree(tiny_bert, folder / "model")
    with (folder / "model" / "config.json").open("a", encoding="utf-8") as file:
        file.write(" ")
    for language in ("eng", "fao", "deu"):
        (folder / language).mkdir()
        for name in ("train", "dev", "other"):
            (folder / language / f"{name}.csv").write_text(f"text,label\n{language} {name},NOUN\n", encoding="utf-8")
    for name, near in (("a", [1, 0]), ("b", [0, 1])):
        (folder / f"{name}.safetensors").write_bytes(name.encode())
        table = {"langs": ["eng", "fao", "bxr"], "features": ["S_SVO", "S_SOV"]}
        np.savez(folder / f"{name}.npz", data=np.array([near, [1, 0], [0, 1]], dtype=np.uint8), **table)
    (folder / "elsewhere").mkdir()
    return folder


def case_of(key: Key) -> Case:
    """The key's own case, or that of the longest key above it; of a method's or a task's key, its owner's."""
    if key.owner:
        case = CASES.get(f"{key.owner}/{key.path}") or CASES.get(key.owner) or Case()
        return dataclasses.replace(case, words=(*case.words, f"{key.path.partition('.')[0]}={key.owner}"))
    parts = key.path.split(".")
    above = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
    return next((CASES[path] for path in above if path in CASES), Case())


def filled(value: Any, places: Path) -> Any:
    """A value of a case with the folder of places in it."""
    if isinstance(value, str):
        return value.replace("{places}", str(places))
    if isinstance(value, list):
        return [filled(item, places) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        values = {item.name: filled(getattr(value, item.name), places) for item in dataclasses.fields(value)}
        return dataclasses.replace(value, **values)
    if isinstance(value, dict):
        return {name: filled(item, places) for name, item in value.items()}
    return value


def made_up(key: Key, value: Any) -> Any:
    """Another value of a key, of its type and in its range.

    Raises:
        AssertionError: none can be made up; the key needs a case.
    """
    if isinstance(value, bool):
        return not value
    if key.rules["choices"] is not None:
        return next(choice for choice in key.rules["choices"] if choice != value)
    if isinstance(value, int):
        return value * 2 if value else 1
    if isinstance(value, float):
        return value / 2 if value else 0.25
    raise AssertionError(f"{key.path}={value}: give it a line in CASES with another value")


# What a config can say only together with the command line.
ASKED_FOR = ("model.trust_remote_code", "launcher.setup", "launcher.sbatch", "output_dir")


def identity(config: DictConfig, folder: Path) -> dict[str, Any]:
    """The identity of a run without its code: some values have other code executed, and must count without that too."""
    with command_line([f"{name}=..." for name in ASKED_FOR]):
        run = Plan(RunStore(folder / "outputs")).add(config, evaluate=False)
    return {name: value for name, value in run.identity.items() if name != "code"}


def configs(key: Key, words: tuple[str, ...], places: Path) -> tuple[DictConfig, DictConfig]:
    """A run that uses the key, and the same with another value."""
    case = case_of(key)
    # Of several tasks each has its own settings.
    of_one_task = [word for word in words if word.startswith("task.") and "data=joint_locale" in case.words]
    config = compose([*(word for word in words if word not in of_one_task), *case.words])
    for name, value in case.values.items():
        OmegaConf.update(config, name, filled(value, places), merge=False)
    other = pickle.loads(pickle.dumps(config))  # a third of the time of OmegaConf's own copy
    before = OmegaConf.select(config, key.path)
    value = made_up(key, before) if case.value == MADE_UP else filled(case.value, places)
    OmegaConf.update(other, key.path, value, merge=False)
    assert OmegaConf.select(other, key.path) != before, f"{key.path}: the case has the value that it is to change"
    return config, other


@pytest.mark.parametrize("key", KEYS, ids=lambda key: f"{key.owner}/{key.path}" if key.owner else key.path)
def test_another_value_is_another_run_unless_the_schema_says_why_not(
    key: Key, words: tuple[str, ...], places: Path
) -> None:
    config, other = configs(key, words, places)
    same = identity(config, places) == identity(other, places)
    if key.no_module:
        assert same, f"{key.path} has no_module={key.no_module!r}, and another value is another run"
    else:
        assert not same, f"{key.path} is no part of the identity; say no_module=... in its schema if that is right"


def test_cases_are_of_keys_that_there_are() -> None:
    known = {key.path for key in KEYS} | {f"{key.owner}/{key.path}" for key in KEYS} | {key.owner for key in KEYS}
    above = {path for key in KEYS for path in (key.path.rsplit(".", length)[0] for length in range(1, 4))}
    assert set(CASES) <= known | above
