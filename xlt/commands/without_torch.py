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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from xlt.commands.ending import refuse
from xlt.commands.subcommands import is_stray
from xlt.compose import (
    COMPOSITION_ERRORS,
    CONFIG_MODULE,
    VERSION_BASE,
    command_line,
    hydra_ready,
    is_composition_error,
    override_faults,
    register_schemas,
    word_faults,
)
from xlt.compose.composing import light_schemas
from xlt.compose.light_schemas import COMPOSITION
from xlt.compose.recipes import register_recipes
from xlt.config import RunConfig
from xlt.errors import UsageError
from xlt.plug_ins import config_folders

_COMPLETION = ("-sc", "--shell-completion", "--shell_completion")


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
    if any(word.startswith("-") or is_stray(word) for word in words) or os.environ.get("XLT_TRACEBACK"):
        return
    if any(COMPOSITION in word for word in words):  # nothing here can check expressions
        return
    try:
        if config_folders() or not any(map(_is_unknown, words)) or word_faults(words):
            return
        with command_line(words), light_schemas(), hydra_ready():
            lines = _faults(words)
    except Exception:  # the command itself says what it is
        return
    if lines:
        refuse(lines)


def _faults(words: Sequence[str]) -> list[str]:
    try:
        loader = GlobalHydra.instance().config_loader()
        loader.load_configuration("config", list(words), RunMode.RUN)
    except COMPOSITION_ERRORS as error:
        return override_faults(words) if is_composition_error(error) else []
    return []


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
