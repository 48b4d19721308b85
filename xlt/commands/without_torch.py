"""What `xlt` can answer without importing torch, transformers and triton: completion, and keys that do not exist.

Both need the configs and the schemas, but no method, task or model.
"""

from __future__ import annotations

import dataclasses
import importlib.resources
import os
import re
import types
import typing
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from xlt.commands.ending import refuse
from xlt.commands.subcommands import PLAN, is_stray
from xlt.compose import (
    COMPOSITION_ERRORS,
    CONFIG_MODULE,
    VERSION_BASE,
    checked,
    command_line,
    hydra_ready,
    is_composition_error,
    one_source_per_language,
    override_faults,
    register_schemas,
    word_faults,
)
from xlt.compose.composing import composed, light_schemas
from xlt.compose.light_schemas import COMPOSITION
from xlt.compose.recipes import register_recipes
from xlt.config import RunConfig
from xlt.errors import UsageError
from xlt.plug_ins import config_folders

_COMPLETION = ("-sc", "--shell-completion", "--shell_completion")
_SWEEP = ("-m", "--multirun")
_OF_SEARCHES = ("hydra", "search")  # first words of keys by which another sweeper may be chosen
_STRANGE = ": no such key in "


def complete(words: Sequence[str]) -> bool:
    """Answers a shell that completes a command line; returns False if the words ask for something else."""
    if not words or words[0] not in _COMPLETION:
        return False
    try:
        with light_schemas():
            register_schemas()
            register_recipes(CONFIG_MODULE)
            warnings.filterwarnings("ignore", category=UserWarning, module="hydra")
            hydra.main(config_path=f"pkg://{CONFIG_MODULE}", config_name="config", version_base=VERSION_BASE)(
                _nothing
            )()
    except UsageError as error:
        refuse(error.lines)
    return True


def _nothing(_: Any) -> None: ...


def refuse_unknown_keys(words: Sequence[str]) -> None:
    """Refuses a command line with a key that no schema has, as the command itself does, but sooner.

    Nothing happens if there is no such key, or if it is not sure. Then `xlt` goes on as if it had not been called.
    """
    overrides = [word for word in words if word not in (*_SWEEP, PLAN)]
    sweep = any(word in _SWEEP for word in words)
    if any(word.startswith("-") or is_stray(word) for word in overrides) or os.environ.get("XLT_TRACEBACK"):
        return
    if any(COMPOSITION in word for word in overrides):  # nothing here can check expressions
        return
    if sweep and any(word.lstrip("+").startswith(_OF_SEARCHES) for word in overrides):
        return
    try:
        added = not sweep and any(map(_adds_unknown, overrides))  # each job of a sweep is checked by itself
        unknown = any(_is_unknown(word) or _names_nothing(word, overrides) for word in overrides)
        if config_folders() or not (added or unknown) or word_faults(overrides):
            return
        with command_line(overrides), light_schemas(), hydra_ready():
            lines = override_faults(overrides, sweep=True) if sweep else _faults(overrides, added=added)
    except Exception:  # the command itself says what it is
        return
    if lines:
        refuse(lines)


def _faults(words: Sequence[str], *, added: bool) -> list[str]:
    """Returns why the words do not compose, or, with `added`, what is wrong with what they compose."""
    try:
        loader = GlobalHydra.instance().config_loader()
        loader.load_configuration("config", list(words), RunMode.RUN)
        if added:
            checked(one_source_per_language(composed("config", words)))
    except UsageError as error:
        return error.lines if any(_STRANGE in line for line in error.lines) else []
    except COMPOSITION_ERRORS as error:
        return override_faults(words) if is_composition_error(error) else []
    return []


def _adds_unknown(word: str) -> bool:
    """Returns whether a word adds a key that is surely in no schema. This composes, but is refused afterwards."""
    return word.startswith("+") and _is_unknown(word.lstrip("+"))


def _names_nothing(word: str, words: Sequence[str]) -> bool:
    """Returns whether a word sets a part of a mapping's entry whose name no config file has, and no other word."""
    steps = word.partition("=")[0].split(".")
    schema: Any = RunConfig
    for step in steps:
        if typing.get_origin(schema) is dict:
            others = (other for other in words if other is not word)
            key = re.compile(rf"(?<![\w-]){re.escape(step)}[\"']?:")
            return not any(step in other for other in others) and not any(map(key.search, _config_texts()))
        if not dataclasses.is_dataclass(schema) or step not in {item.name for item in dataclasses.fields(schema)}:
            return False
        schema = _plain_type(typing.get_type_hints(schema)[step])
    return False


def _config_texts() -> Iterator[str]:
    folder = Path(str(importlib.resources.files(CONFIG_MODULE)))
    return (file.read_text(encoding="utf-8") for file in folder.rglob("*.yaml"))


def _is_unknown(word: str) -> bool:
    """Returns whether a word sets a key that is surely in no schema; False if only composing could tell."""
    steps = word.partition("=")[0].split(".")
    if not all(step.isidentifier() for step in steps) or steps[0] == "hydra":
        return False
    if len(steps) == 1 and _is_group(steps[0]):
        return _has_no_such_file(*word.split("=", 1))
    schema: Any = RunConfig
    for number, step in enumerate(steps):
        if schema is Any and number == 1 and len(steps) == 2:  # of a method or task, of a class that configs name
            return not _any_schema_has(steps[0], step)
        if typing.get_origin(schema) is dict:  # any name is a key
            schema = _plain_type(typing.get_args(schema)[1])
            continue
        if not dataclasses.is_dataclass(schema):
            return False
        if step not in {item.name for item in dataclasses.fields(schema)}:
            return True
        schema = _plain_type(typing.get_type_hints(schema)[step])
    return False


def _is_group(name: str) -> bool:
    folder = Path(str(importlib.resources.files(CONFIG_MODULE))) / name
    return folder.is_dir() or name.startswith(("recipe", "debug"))


def _has_no_such_file(group: str, value: str = "") -> bool:
    """Returns whether a word chooses a file that a config group does not have."""
    folder = Path(str(importlib.resources.files(CONFIG_MODULE))) / group
    return folder.is_dir() and value.isidentifier() and not (folder / f"{value}.yaml").is_file()


def _any_schema_has(group: str, name: str) -> bool:
    """Returns whether a dataclass of the package that holds the classes of a group, or of one below, has a key."""
    package = Path(__file__).parent.parent / f"{group}s"
    key = re.compile(rf"^ +{name}: ", re.MULTILINE)
    return not package.is_dir() or any(key.search(file.read_text(encoding="utf-8")) for file in package.rglob("*.py"))


def _plain_type(hint: Any) -> Any:
    """Returns X for a type hint X or X | None."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
        return kinds[0] if len(kinds) == 1 else None
    return hint
