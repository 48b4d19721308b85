"""Writes a composed config, with the schemas of its nodes, as JSON values, and makes the same config of them again.

A pickle of such a config must not be read from a file, since it runs what the file says. Here the file has values and
names of schemas; a name stands for a dataclass of a module that is loaded already, and nothing of it is called.
"""

from __future__ import annotations

import dataclasses
import sys
import types
import typing
from collections import defaultdict
from typing import Any

from omegaconf import AnyNode, BooleanNode, DictConfig, FloatNode, IntegerNode, ListConfig, StringNode
from omegaconf.base import ContainerMetadata, Metadata

_VALUES = {kind.__name__: kind for kind in (AnyNode, BooleanNode, FloatNode, IntegerNode, StringNode)}
_CONTAINERS = {kind.__name__: kind for kind in (DictConfig, ListConfig)}
_PLAIN = {"str": str, "int": int, "float": float, "bool": bool, "dict": dict, "list": list, "Any": Any}
# typing.Optional[str] and str | None are equal, so that typing's own cache may give either one for the other.
_GENERIC = {
    dict: ("Dict", typing.Dict),  # noqa: UP006
    list: ("List", typing.List),  # noqa: UP006
    typing.Union: ("Union", typing.Union),
    types.UnionType: ("Union", typing.Union),
}
_OF_NAME: dict[str, Any] = {name: kind for name, kind in _GENERIC.values()}
_ABOUT_VALUE = ("ref_type", "object_type", "optional", "flags", "flags_root")
_ABOUT_CONTAINER = (*_ABOUT_VALUE, "key_type", "element_type")
_TYPES = {"ref_type", "object_type", "key_type", "element_type"}
_OWN_PACKAGE = "xlt."


class CannotBeWrittenError(ValueError):
    """A config has something that JSON values cannot hold, or values are no config."""


def written(config: DictConfig) -> dict[str, Any]:
    """Returns a config as JSON values, from which `read_again` makes an equal one.

    What resolvers such as `now` have remembered in the config is left out.

    Raises:
        CannotBeWrittenError: the config has other nodes, types or values than those of configs usually.
    """
    kinds: dict[str, int] = {}
    rows: list[Any] = []
    content = _written_node(config, kinds, rows)
    value = {"kinds": rows, "root": content}
    if not _are_alike(config, read_again(value)):
        raise CannotBeWrittenError("the config is not the same when it is read")
    return value


def _written_node(node: Any, kinds: dict[str, int], rows: list[Any]) -> list[Any]:
    name = type(node).__name__
    if _VALUES.get(name) is not type(node) and _CONTAINERS.get(name) is not type(node):
        raise CannotBeWrittenError(f"a node of {type(node)}")
    about = node._metadata
    is_container = name in _CONTAINERS
    kind = [name, *(_written_about(about, part) for part in (_ABOUT_CONTAINER if is_container else _ABOUT_VALUE))]
    number = kinds.setdefault(repr(kind), len(rows))
    if number == len(rows):
        rows.append(kind)
    value = node.__dict__["_content" if is_container else "_val"]
    if isinstance(value, dict) and all(type(key) is str for key in value):
        return [number, {key: _written_node(part, kinds, rows) for key, part in value.items()}]
    if isinstance(value, list) and is_container:
        return [number, [_written_node(part, kinds, rows) for part in value]]
    if value is not None and (type(value) not in (str, int, float, bool) or value != value):
        raise CannotBeWrittenError(f"a value of {type(value)}")
    return [number, value]


def _written_about(about: Metadata, part: str) -> Any:
    value = getattr(about, part)
    return _written_type(value) if part in _TYPES else value


def _written_type(kind: Any) -> Any:
    """Returns a type as JSON values: the name of a plain one or of a schema, or a list for a generic one."""
    for name, plain in _PLAIN.items():
        if kind is plain:
            return name
    if kind is None:
        return None
    if kind is type(None):
        return "None"
    if isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind.__module__.startswith(_OWN_PACKAGE):
        return f"{kind.__module__}:{kind.__qualname__}"
    origin = typing.get_origin(kind)
    if origin in _GENERIC:
        return [_GENERIC[origin][0], *map(_written_type, typing.get_args(kind))]
    raise CannotBeWrittenError(f"the type {kind}")


def read_again(value: Any) -> DictConfig:
    """Makes a config of what `written` returned.

    Raises:
        CannotBeWrittenError: the values are no config, or name a schema that is not loaded.
    """
    try:
        kinds = [_kind(*row) for row in value["kinds"]]
        config = _node(value["root"], None, None, kinds)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise CannotBeWrittenError(f"no config: {error}") from error
    if not isinstance(config, DictConfig):
        raise CannotBeWrittenError("no config: it has no keys")
    return config


def _kind(name: str, *values: Any) -> tuple[type, bool, dict[str, Any]]:
    """Returns the class of a node, whether it is a container, and what its metadata have."""
    is_container = name in _CONTAINERS
    parts = _ABOUT_CONTAINER if is_container else _ABOUT_VALUE
    about = {part: _type(value) if part in _TYPES else value for part, value in zip(parts, values, strict=True)}
    return (_CONTAINERS if is_container else _VALUES)[name], is_container, about


def _type(value: Any) -> Any:
    if value is None:
        return None
    if value == "None":
        return type(None)
    if isinstance(value, list):
        first, *parts = value
        parts = [_type(part) for part in parts]
        return _OF_NAME[first][tuple(parts) if len(parts) > 1 else parts[0]]
    if value in _PLAIN:
        return _PLAIN[value]
    module, _, name = value.partition(":")
    found = getattr(sys.modules[module], name) if module.startswith(_OWN_PACKAGE) else None
    if not (isinstance(found, type) and dataclasses.is_dataclass(found)):
        raise CannotBeWrittenError(f"{value} is no schema")
    return found


def _node(value: Any, parent: Any, key: Any, kinds: list[tuple[type, bool, dict[str, Any]]]) -> Any:
    number, content = value
    kind, is_container, about = kinds[number]
    metadata: Any = object.__new__(ContainerMetadata if is_container else Metadata)
    flags = about["flags"]
    metadata.__dict__.update(about, key=key, flags=None if flags is None else dict(flags))
    metadata.resolver_cache = defaultdict(dict)
    node: Any = object.__new__(kind)
    own = node.__dict__
    own["_metadata"], own["_parent"], own["_flags_cache"] = metadata, parent, None
    if not is_container:
        own["_val"] = content
    elif isinstance(content, dict):
        own["_content"] = {name: _node(part, node, name, kinds) for name, part in content.items()}
    elif isinstance(content, list):
        own["_content"] = [_node(part, node, place, kinds) for place, part in enumerate(content)]
    else:
        own["_content"] = content
    return node


def _are_alike(one: Any, other: Any) -> bool:
    """Returns whether two nodes have equal classes, types, flags, keys and values, in the same order."""
    if type(one) is not type(other) or one.__dict__.keys() != other.__dict__.keys():
        return False
    about, same = one._metadata, other._metadata
    names = about.__dict__.keys() - {"resolver_cache"}
    if type(about) is not type(same) or any(getattr(about, name) != getattr(same, name) for name in names):
        return False
    name = "_content" if isinstance(one, (DictConfig, ListConfig)) else "_val"
    values = one.__dict__[name], other.__dict__[name]
    if type(values[0]) is not type(values[1]):
        return False
    if isinstance(values[0], dict):
        return [*values[0]] == [*values[1]] and all(map(_are_alike, values[0].values(), values[1].values()))
    if isinstance(values[0], list):
        return len(values[0]) == len(values[1]) and all(map(_are_alike, *values))
    return bool(values[0] == values[1])
