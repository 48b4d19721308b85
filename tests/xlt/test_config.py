from __future__ import annotations

import dataclasses
import importlib
import inspect
import math
import pkgutil
from pathlib import Path
from typing import Any

import pytest
from omegaconf import MISSING, OmegaConf

import xlt
import xlt.data.readers
import xlt.methods
import xlt.tasks
from xlt import config as shared
from xlt.compose import checked, compose, hydra_ready
from xlt.config import RunConfig, faults
from xlt.errors import UsageError
from xlt.findings.claims import ClaimConfig, ClaimsConfig, ComparisonConfig, StoreConfig
from xlt.modules.composition.expression import operation, operators
from xlt.tables.config import (
    EntryConfig,
    FigureConfig,
    PartConfig,
    PublishedConfig,
    ReproductionConfig,
    SearchConfig,
    ShownConfig,
    SystemConfig,
    TableConfig,
)

CONF = Path(xlt.__file__).parent.parent / "conf"
TABLE_SCHEMAS = [
    TableConfig,
    PartConfig,
    EntryConfig,
    ShownConfig,
    SystemConfig,
    SearchConfig,
    PublishedConfig,
    FigureConfig,
]
SCHEMAS = [
    *(value for name, value in vars(shared).items() if dataclasses.is_dataclass(value) and name.endswith("Config")),
    *(
        module.SCHEMA
        for package in (xlt.methods, xlt.tasks)
        for found in pkgutil.iter_modules(package.__path__)
        if hasattr(module := importlib.import_module(f"{package.__name__}.{found.name}"), "SCHEMA")
    ),
    ReproductionConfig,
    *TABLE_SCHEMAS,
    ClaimsConfig,
    ClaimConfig,
    ComparisonConfig,
    StoreConfig,
]


@pytest.fixture(scope="module", autouse=True)
def _hydra() -> Any:
    with hydra_ready():
        yield


def options(group: str) -> list[str]:
    return sorted(file.stem for file in (CONF / group).glob("*.yaml") if not file.stem.startswith("_"))


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: schema.__name__)
def test_every_field_has_a_line_of_help_and_no_default(schema: Any) -> None:
    for field in dataclasses.fields(schema):
        if field.name == "_target_":
            module, _, name = str(field.default).rpartition(".")
            assert hasattr(importlib.import_module(module), name)
            continue
        if schema not in TABLE_SCHEMAS:  # a table file says only what it needs
            assert field.default == MISSING, f"{field.name}: its value belongs in conf/"
            assert field.default_factory is dataclasses.MISSING
        assert 3 < len(field.metadata["help"]) <= 100 and "\n" not in field.metadata["help"], field.name


@pytest.mark.parametrize("schema", [s for s in SCHEMAS if s.__name__ != "RunConfig"], ids=lambda s: s.__name__)
def test_what_a_schemas_class_takes_is_what_its_fields_are(schema: Any) -> None:
    targets = [field.default for field in dataclasses.fields(schema) if field.name == "_target_"]
    for target in targets:
        module, _, name = str(target).rpartition(".")
        built = getattr(importlib.import_module(module), name)
        given = {field.name for field in dataclasses.fields(schema)} - {"_target_"}
        assert given == set(inspect.signature(built).parameters)


@pytest.mark.parametrize(
    ("rules", "value", "fault"),
    [
        ({"low": 1}, 1, None),
        ({"low": 1}, 0, "x=0: must be at least 1"),
        ({"above": 0}, 1e-9, None),
        ({"above": 0}, 0, "x=0: must be above 0"),
        ({"above": 0, "high": 1}, 1.0, None),
        ({"above": 0, "high": 1, "hint": "often 0.1"}, 1.5, "x=1.5: must be in (0, 1]; often 0.1"),
        ({"low": 0, "high": 0.5}, -0.1, "x=-0.1: must be in [0, 0.5]"),
        ({"high": 3}, 4, "x=4: must be at most 3"),
        ({"low": 0}, math.nan, "x=nan: must be at least 0"),
        ({"low": 0, "high": 1}, math.inf, "x=inf: must be in [0, 1]"),
        ({"low": 0}, math.inf, "x=inf: must be a finite number"),
        ({}, math.nan, "x=nan: must be a finite number"),
        ({"name": True}, "pos", None),
        ({"name": True}, "۱ می\u200cرود", None),
        ({"name": True}, "", "x=: empty; give a name"),
        ({"name": True}, " pos", "x= pos: must have no blanks at its ends"),
        ({"name": True}, "p\nos", "x=p\nos: must have no line breaks or other control characters"),
        ({"name": True}, ["O", "B-PER"], None),
        ({"name": True}, [], "x=[]: empty; give at least one"),
        ({"name": True}, ["A", ""], "x=['A', '']: '' empty; give a name"),
        ({"name": True}, ["A", "B", "A"], "x=['A', 'B', 'A']: 'A' more than once; each must be another one"),
        ({"name": True}, [-1, 0, 1], None),
        ({"name": True}, [1, "1"], "x=[1, '1']: '1' more than once; each must be another one"),
        ({"choices": ("a", "b")}, "b", None),
        ({"choices": ("a", "b")}, "c", "x=c: must be one of a, b"),
        ({"low": 5}, None, None),
        ({"low": 5}, True, None),
        ({"file": True}, "/no/such/file", "x=/no/such/file: no such file"),
        ({}, MISSING, "x: a value is required (help); give x=..."),
    ],
)
def test_ranges(rules: dict[str, Any], value: Any, fault: str | None) -> None:
    schema = dataclasses.make_dataclass("Schema", [("x", Any, shared.key("help", **rules))])
    assert list(faults(schema(value))) == ([] if fault is None else [fault])


def test_faults_of_nested_configs_carry_their_whole_key_and_come_all_together() -> None:
    inner = dataclasses.make_dataclass("Inner", [("n", int, shared.key("help", low=1))])
    outer = dataclasses.make_dataclass(
        "Outer", [("by_name", dict, shared.key("help")), ("own", Any, shared.key("help"))]
    )
    found = list(faults(outer({"a": inner(0), "b": inner(1), "c": inner(-1)}, inner(0))))
    assert [line.partition("=")[0] for line in found] == ["by_name.a.n", "by_name.c.n", "own.n"]


def test_a_usage_error_has_one_line_a_fault_and_says_none_twice() -> None:
    error = UsageError("a\n  b", "c", "a b")
    assert error.lines == ["a b", "c"]


WITH_TESTS_OF_THEIR_OWN = {
    *("source", "benchmark", "composition", "experiment", "table", "system", "published", "recipes", "__pycache__"),
    "debug_by_method",  # what a debug option sets beside one method
}


_GROUPS = {
    folder.name: options(folder.name)
    for folder in sorted(CONF.iterdir())
    if folder.is_dir() and folder.name not in {*WITH_TESTS_OF_THEIR_OWN, "data"}
}


@pytest.mark.parametrize("turn", range(max(map(len, _GROUPS.values()))))
def test_every_option_of_every_group_composes(turn: int) -> None:
    """In each turn one option of each group is composed, all of them together: to compose one costs as much."""
    words = [f"{group}={names[turn]}" for group, names in _GROUPS.items() if turn < len(names)]
    composed = compose(words)
    for word in words:
        group, _, option = word.partition("=")
        if group == "student":
            assert (composed.model.student is None) == (option == "none")
        elif group not in ("scale", "search", "high_resource", "debug"):
            assert composed[group] is not None, word


@pytest.mark.parametrize(
    "option",
    [
        # A mix of the thesis has up to a hundred sources, which Hydra composes in seconds.
        pytest.param(option, marks=pytest.mark.slow if option.endswith("_thesis") else ())
        for option in options("data")
    ],
)
def test_every_mix_composes(option: str) -> None:
    assert compose([], f"data/{option}").data is not None


@pytest.mark.parametrize("option", options("composition"))
def test_every_composition_composes_and_every_operator_has_a_file_of_its_name(option: str) -> None:
    words = [f"+composition@compositions.x={option}", "+source@data.sources.eng=ud_eng", "model.path=x"]
    composed = checked(compose([*words, "+source@data.validation.eng=ud_eng", "data.validation.eng.split=dev"]))
    assert str(operation(composed.compositions["x"], "x"))
    assert operators().keys() <= {*options("composition")}


@pytest.mark.parametrize("option", options("benchmark"))
def test_every_benchmark_composes(option: str) -> None:
    composed = compose([f"+benchmark@data.benchmarks.x={option}"])
    assert composed.data.benchmarks.x.tasks
    assert not [name for name in composed.data.benchmarks.x if OmegaConf.is_missing(composed.data.benchmarks.x, name)]


def test_every_source_composes_and_names_a_reader_and_where_its_data_are(tmp_path: Path, tiny_bert: Path) -> None:
    named = [option for option in options("source") if not option.startswith("locale_")]
    for option in named:
        words = [f"+source@data.sources.x={option}", f"data_dir={tmp_path}", f"model.path={tiny_bert}"]
        composed = compose(words)
        missing = OmegaConf.is_missing(composed.data.sources.x, "language")
        if missing or option == "mono" or option.startswith("translated"):
            composed.data.sources.x.language = "fao"
        if option.endswith("_ttest"):
            composed.data.sources.x.translation.source_language = "ace"
        if option.endswith("_ttest") or option == "belebele":  # which are for evaluation, or have a test split alone
            composed.data.sources.x.split = "dev"
        source = checked(composed).data.sources["x"]
        readers = [module.name for module in pkgutil.iter_modules([str(Path(xlt.data.readers.__file__).parent)])]
        assert source.reader in readers, option
        assert source.hub is not None or str(source.path).startswith(str(tmp_path)), option
    assert len(named) > 25


@pytest.mark.parametrize("scale", ["mini", "thesis"])
@pytest.mark.parametrize("experiment", options("experiment"))
def test_every_experiment_composes_at_both_scales_and_passes_the_checks(
    experiment: str, scale: str, tmp_path: Path, tiny_bert: Path
) -> None:
    words = [f"experiment={experiment}", f"scale={scale}", f"data_dir={tmp_path}"]
    if experiment in ("nano_language", "language"):
        words.append("language=fao")
    if "bistil" in experiment or experiment == "translation":
        words.append("target=fao")
    composed = compose(words)
    if all(composed.model[way] is None for way in ("path", "run", "random")):
        composed.model.path = str(tiny_bert)
    run = checked(composed)
    assert isinstance(run, RunConfig)
    assert (run.scale, run.experiment_name) == (scale, experiment)
    assert run.data.sources


def test_the_scale_sets_model_and_recipe(tmp_path: Path) -> None:
    mini, thesis = (compose(["experiment=pos", f"scale={scale}"]) for scale in ("mini", "thesis"))
    assert thesis.model.path == "bert-base-multilingual-cased" and mini.model.path is None
    assert (thesis.train.epochs, thesis.method.dense_epochs, thesis.train.batch_size) == (10, 3, 8)  # thesis §4.4.3
    assert mini.train.epochs is None and mini.train.max_steps < 1000


def _number_keys() -> list[tuple[Any, dataclasses.Field[Any]]]:
    return [
        (schema, field)
        for schema in SCHEMAS
        for field in dataclasses.fields(schema)
        if any(word in str(field.type) for word in ("float", "int"))
    ]


def test_no_key_of_any_schema_takes_a_number_that_torch_cannot_hold() -> None:
    keys = _number_keys()
    assert len(keys) > 60
    for schema, field in keys:
        alone = dataclasses.make_dataclass("Alone", [(field.name, Any, dataclasses.field(metadata=field.metadata))])
        numbers = [math.inf, -math.inf, math.nan, 1e39] if "float" in str(field.type) else []
        for number in [*numbers, 2**63, 10**5000]:
            given: Any = number
            if str(field.type).startswith(("dict", "list")):
                given = {"eng": number} if str(field.type).startswith("dict") else [number]
            lines = list(faults(alone(given)))
            assert len(lines) == 1 and lines[0].startswith(field.name) and len(lines[0]) < 300, (schema, field.name)
