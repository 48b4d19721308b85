"""Checks a composed config: the result is a typed config, or an error that lists all faults."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from xlt.compose.environment import (
    count_asked,
    refuse_environment,
    remember_references,
    written_down,
)
from xlt.compose.instantiating import instantiated, names_of, unresolved
from xlt.compose.messages import one_line
from xlt.compose.suggestions import suggestion
from xlt.compose.trusted import permission_faults
from xlt.config import ALL_PARTS, RunConfig, faults, frozen
from xlt.config.schema import fields_of
from xlt.errors import UsageError

# Last parts of the keys whose values are paths.
_PATH_KEYS = frozenset({"output_dir", "data_dir", "path", "paths", "folder", "files", "typology", "id"})
_LONGEST_NAME = 255  # bytes, on all usual file systems
_LONGEST_PATH = 4000  # bytes; Linux allows 4096, of which file names below need some


def checked(config: DictConfig) -> RunConfig:
    """Returns the config as a typed object, frozen so that no code can change it afterwards.

    Raises:
        UsageError: the config has faults; one line for each.
    """
    _refuse_absent_data_dir(config)
    before = count_asked()
    try:
        result = instantiated(config)
    except OmegaConfBaseException as error:
        raise UsageError(_interpolation_fault(error)) from error
    references = refuse_environment(config, before)
    unusable = list(_unusable_texts(plain(result)))
    if any(line.startswith("data_dir=") for line in unusable):  # then the paths that begin with it are only echoes
        unusable = [line for line in unusable if line.startswith("data_dir=") or f"={result.data_dir}/" not in line]
    lines = [*strangers(config), *(unusable or faults(result)), *permission_faults(result)]
    if lines:
        raise UsageError(*_without_echoes(lines, config))
    assert isinstance(result, RunConfig)
    remember_references(result, references)
    frozen(result)
    return result


def strangers(config: DictConfig, prefix: str = "") -> Iterator[str]:
    """Yields a line for each key that is in no schema. Hydra's `+` adds such keys anywhere, but no code reads them."""
    schema: Any = config._metadata.object_type
    known = names_of(schema)
    content = config.__dict__["_content"]  # there may be thousands of nodes, and OmegaConf's own loop takes longer
    for name, node in content.items() if isinstance(content, dict) else ():
        if known is not None and name not in known:
            near = suggestion(str(name), sorted(known - {"_target_"}))
            yield f"{prefix}{name}={node}: no such key in {schema.__name__}{near}"
        elif isinstance(node, DictConfig) and not node._is_none() and not node._is_interpolation():
            yield from strangers(node, f"{prefix}{name}.")


def _unusable_texts(value: Any, name: str = "") -> Iterator[str]:
    """Yields a line for each text of a config, as JSON values, that could not be written down or be a path.

    Module headers and manifests are UTF-8, so that bytes of another encoding on the command line would make a run fail
    when it is finished.
    """
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _unusable_texts(part, f"{name}.{key}" if name else key)
    elif isinstance(value, list):
        for part in value:
            yield from _unusable_texts(part, name)
    elif isinstance(value, str):
        try:
            f"{name}{value}".encode()
        except UnicodeEncodeError:
            yield f"{name}={value!a}: has bytes that are not UTF-8; give the text in UTF-8"
            return
        if not _PATH_KEYS.isdisjoint(name.split(".")[-2:]) and (fault := _path_fault(value)) is not None:
            yield f"{name}={value[:_LONGEST_NAME]}{'...' if len(value) > _LONGEST_NAME else ''}: {fault}"


def _path_fault(path: str) -> str | None:
    """Returns why a text can be no path on this machine; None if it can be one."""
    if "\0" in path:
        return "has a zero byte, which no path can have"
    longest = max(len(os.fsencode(part)) for part in path.split("/"))
    if longest > _LONGEST_NAME:
        return f"has a name of {longest} bytes (File name too long); the name of a file has at most {_LONGEST_NAME}"
    if len(os.fsencode(path)) > _LONGEST_PATH:
        return f"has {len(os.fsencode(path))} bytes (File name too long); a path has at most {_LONGEST_PATH}"
    if path.startswith("~"):
        try:
            Path(path).expanduser()
        except RuntimeError:
            return "this machine has no such user, whose home ~ stands for"
    return None


def _refuse_absent_data_dir(config: DictConfig) -> None:
    if config.data_dir is not None:
        return
    raw = unresolved(config._get_node("data"))
    starting = [
        f"data.{part}.{name}.path={source['path']}"
        for part in ALL_PARTS
        for name, source in (raw.get(part) or {}).items()
        if "${data_dir}" in str(source.get("path"))
        or ("${data:" in str(source.get("path")) and source.get("hub") is None)
    ]
    if starting:
        others = f" and {len(starting) - 1} more" if len(starting) > 1 else ""
        raise UsageError(f"data_dir=null: {starting[0]}{others} start from it; give data_dir=FOLDER")


def _interpolation_fault(error: OmegaConfBaseException) -> str:
    where = f"{error.full_key}: " if getattr(error, "full_key", None) else ""
    null = re.search(r"dereferencing interpolation '\$\{(.*?)\}'.*Incompatible value 'None'", str(error), re.DOTALL)
    if null is not None:
        return f"{where}takes the value of {null.group(1)}, which is null; give {null.group(1)}=..."
    return where + one_line(error)


def _without_echoes(lines: Sequence[str], config: DictConfig) -> list[str]:
    """Returns the lines, without those of keys that only copy the value of another key whose fault is reported."""
    reported = {line.partition("=")[0] for line in lines}

    def echoes(line: str) -> bool:
        name, given, _ = line.partition("=")
        parent, _, last = name.rpartition(".")
        node = OmegaConf.select(config, parent) if parent else config
        raw = node._get_node(last)._value() if given and isinstance(node, DictConfig) and last in node else None
        return isinstance(raw, str) and raw.startswith("${") and raw[2:-1] in reported

    return [line for line in lines if not echoes(line)]


def plain(config: Any) -> Any:
    """Converts a config object to JSON values, with keys in order."""
    if config is None or type(config) in (str, int, float, bool):
        return config
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {item.name: plain(getattr(config, item.name)) for item in fields_of(type(config))}
    if isinstance(config, dict):
        return {str(name): plain(value) for name, value in config.items()}
    if isinstance(config, (list, tuple)):
        return [plain(value) for value in config]
    return str(config) if isinstance(config, Path) else config


def recorded(config: RunConfig) -> Any:
    """Converts a run's config to JSON values that may be written down: `${oc.env:NAME}` is not resolved in them."""
    return written_down(config, plain(config))
