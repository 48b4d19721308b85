"""Schemas without the libraries of methods and tasks: they are those of the files, and no heavy library is imported."""

from __future__ import annotations

import dataclasses
import importlib
import os
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from omegaconf import OmegaConf

from xlt.commands.without_torch import _is_unknown, _names_nothing
from xlt.compose.light_schemas import LightGroup, light_schema

ROOT = Path(__file__).parents[3]
HEAVY = ("torch", "transformers", "triton")
MAIN = f"""
import sys
from xlt.commands.entry import main
try:
    main()
finally:
    print(*[name for name in {HEAVY} if name in sys.modules], file=sys.stderr)
"""


def schemas(group: str) -> dict[str, Any]:
    """Returns Python module -> its schema, for a group."""
    package = f"xlt.{group}s"
    names = [f"{package}.{info.name}" for info in pkgutil.iter_modules(importlib.import_module(package).__path__)]
    found = {name: getattr(importlib.import_module(name), "SCHEMA", None) for name in names}
    return {name: schema for name, schema in found.items() if schema is not None}


def described(schema: Any) -> Any:
    about = [(item.name, str(item.type), dict(item.metadata)) for item in dataclasses.fields(schema)]
    nested = {name: described(kind) for name, kind in get_type_hints(schema).items() if dataclasses.is_dataclass(kind)}
    return schema.__name__, about, nested, OmegaConf.to_yaml(OmegaConf.structured(schema))


@pytest.mark.parametrize("group", ["method", "task"])
def test_every_schema_is_that_of_its_file(group: str) -> None:
    expected = schemas(group)
    assert set(LightGroup(f"xlt.{group}s", group)) == {f"base_{name.rpartition('.')[2]}.yaml" for name in expected}
    for name, schema in expected.items():
        assert described(light_schema(name)) == described(schema), name


def xlt(*words: str, line: str = "") -> tuple[int, str, list[str]]:
    """Runs the command; returns exit code, output, and the lines on standard error, of which the last has libraries."""
    environment = {**os.environ, "COMP_LINE": line}
    ended = subprocess.run(
        [sys.executable, "-c", MAIN, *words], capture_output=True, text=True, env=environment, cwd=ROOT, check=False
    )
    return ended.returncode, ended.stdout, ended.stderr.splitlines()


def test_a_wrong_key_is_answered_without_heavy_libraries_and_as_the_command_answers_it() -> None:
    code, _, lines = xlt("experiment=nano_fields", "method.density=1.3", "train.bath_size=8", "trian.x=1")
    assert code == 2
    assert lines == [
        "xlt: train.bath_size=8: no such key train.bath_size; did you mean train.batch_size?",
        "xlt: trian.x=1: no such key trian.x; did you mean train?",
        "xlt: method.density=1.3: must be in (0, 1]; thesis range 0.0025 to 0.08",
        "",
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("experiment=nano_fields", "foo=3", "method.densty=1", "data.evaluation.fao.spltt=dev"),
            ["no such key foo", "did you mean method.density?", "did you mean data.evaluation.fao.split?"],
        ),
        (("experiment=nano_feilds",), ["no experiment/nano_feilds in conf/; did you mean nano_fields?"]),
        (
            ("experiment=nano_fields", "+sede=3", "method.density=3"),
            ["sede=3: no such key in RunConfig; did you mean seed?", "method.density=3.0: must be in (0, 1]"],
        ),
        (
            ("experiment=nano_fields", "data.sources.end.cap=3"),
            ["data.sources.end.cap=3: no data.sources.end; did you mean data.sources.eng?"],
        ),
        (("-m", "experiment=nano_fields", "seed=1,2", "seeed=1"), ["seeed=1: no such key seeed; did you mean seed?"]),
    ],
)
def test_unknown_groups_files_and_keys_of_methods_and_sources_need_no_heavy_library(
    words: tuple[str, ...], said: list[str]
) -> None:
    code, _, lines = xlt(*words)
    assert code == 2 and lines[-1] == ""
    assert len(lines) == len(said) + 1 and all(fact in line for fact, line in zip(said, lines, strict=False))


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("xlt train.batch", "train.batch_size="),
        ("xlt method=mad", "method=mad_x"),
        ("xlt method=mad_x method.r", "="),
    ],
)
def test_completion_imports_no_heavy_library(line: str, offered: str) -> None:
    code, shown, lines = xlt("-sc", "query=bash", line=line)
    assert (code, lines) == (0, [""])
    assert offered in shown


def test_a_name_in_a_mapping_is_missing_if_no_config_file_and_no_other_word_has_it() -> None:
    for word, others in (
        ("data.sources.end.cap=3", ()),
        ("compositions.nope.of=[task]", ()),
        ("data.evaluation.foa.cap=3", ("+source@data.sources.fao=ud_fao",)),
    ):
        assert _names_nothing(word, [word, *others]), word
    for word, others in (
        ("data.sources.eng.cap=3", ()),
        ("data.sources.end.cap=3", ("+source@data.sources.end=ud_eng",)),
        ("+data.sources.end.cap=3", ()),
        ("train.bath_size=8", ()),
        ("seed=3", ()),
    ):
        assert not _names_nothing(word, [word, *others]), word


def test_only_what_is_surely_no_key_is_taken_for_one() -> None:
    for word in ("bath=2", "train.bath_size=8", "model.student.layer=2", "seed.x=1", "tracker.projekt=a"):
        assert _is_unknown(word) == (word != "seed.x=1"), word
    for word in ("method.whatever=1", "task.whatever=1", "experiment=posx", "data.sources.eng.capp=3"):
        assert _is_unknown(word), word
    for word in ("train.batch_size=8", "method.density=1", "experiment=pos", "recipe=x", "source@data.sources.a=ud"):
        assert not _is_unknown(word)
    for word in (
        "data.sources.eng.cap=3",
        "+bath=2",
        "~bath",
        "hydra.x=1",
        "search=learning_rate",
        "debug=fast",
        "a/b=c",
        "=",
        "",
    ):
        assert not _is_unknown(word)
