"""Makes objects of a composed config: the dataclasses that its schemas are, or plain values, faster than OmegaConf."""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf, SCMode

from xlt.config.schema import fields_of

_MISSING = "???"


def instantiated(config: DictConfig) -> Any:
    """Returns what `OmegaConf.to_container` makes of a config whose root has a schema, in a tenth of the time.

    OmegaConf checks each value again as often as it passes it on. Here the nodes are read as they are. Whatever is not
    as it should be goes to OmegaConf itself, which says what it is.

    Raises:
        OmegaConfBaseException: a value is missing, or an interpolation cannot be resolved.
    """
    try:
        return _object(config)
    except Exception:
        return OmegaConf.to_container(
            config, resolve=True, throw_on_missing=False, structured_config_mode=SCMode.INSTANTIATE
        )


def unresolved(node: Any) -> Any:
    """Returns what `OmegaConf.to_container` makes of a node of a config: plain values, with `${...}` as they are."""
    content = node._value() if hasattr(node, "_metadata") else node
    if isinstance(node, DictConfig) and type(content) is dict:
        return {name: unresolved(part) for name, part in content.items()}
    if isinstance(node, ListConfig) and type(content) is list:
        return [unresolved(part) for part in content]
    return unresolved(content) if hasattr(content, "_metadata") else content  # the value of a union is a node


class _Unusual(Exception):
    """The config has something that OmegaConf itself has to look at."""


def _object(node: Any) -> Any:
    """Returns the object for a node of a config."""
    content = node._value()
    if type(content) is str:
        if "${" in content and node._is_interpolation():
            node = node._dereference_node()
            content = node._value()
        if content == _MISSING:
            raise _Unusual
    if isinstance(node, DictConfig):
        if content is None:
            return None
        if type(content) is not dict:
            raise _Unusual
        values = {name: _object(part) for name, part in content.items()}
        kind = node._metadata.object_type
        return values if kind is dict or kind is None else _instance(kind, values)
    if isinstance(node, ListConfig):
        if content is None:
            return None
        if type(content) is not list:
            raise _Unusual
        return [_object(part) for part in content]
    return _object(content) if hasattr(content, "_metadata") else content  # the value of a union is a node


def _instance(kind: Any, values: dict[str, Any]) -> Any:
    names = _arguments(kind)
    if names is None:
        raise _Unusual
    result = kind(**{name: value for name, value in values.items() if name in names})
    for name, value in values.items():
        if name not in names:
            setattr(result, name, value)
    return result


@lru_cache(maxsize=1024)
def names_of(schema: Any) -> frozenset[str] | None:
    """Returns the names of the fields of a dataclass; None if it is another class."""
    names = frozenset(item.name for item in fields_of(schema))
    return names if dataclasses.is_dataclass(schema) else None


@lru_cache(maxsize=1024)
def _arguments(schema: Any) -> frozenset[str] | None:
    """Returns the names of the arguments of a dataclass; None if it is another class."""
    names = frozenset(item.name for item in fields_of(schema) if item.init)
    return names if dataclasses.is_dataclass(schema) else None
