"""Makes a checked config read-only, so that no code can change it afterwards."""

from __future__ import annotations

import dataclasses
from typing import Any, NoReturn

from xlt.config.schema import fields_of

_MARK = "_frozen"


class FrozenConfigError(TypeError):
    """Error that is raised if code tries to change a frozen config."""


def frozen(config: Any) -> Any:
    """Freezes a config object and everything in it.

    Setting or deleting an attribute of it, an entry of its mappings or an item of its lists raises a FrozenConfigError.
    `copy.deepcopy` and pickling give a frozen copy; `dataclasses.replace` gives a new object that is not frozen itself.

    Args:
        config: an instance of a schema dataclass, or a dict, list or plain value in one.
    Returns:
        The same dataclass instance; for a dict or a list, a read-only copy that compares equal to it.
    """
    if config is None or type(config) in (str, int, float, bool):
        return config
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        _guard(type(config))
        if not is_frozen(config):
            for item in fields_of(type(config)):
                setattr(config, item.name, frozen(getattr(config, item.name)))
            config.__dict__[_MARK] = True
        return config
    if isinstance(config, dict):
        return FrozenDict((name, frozen(value)) for name, value in config.items())
    if isinstance(config, list):
        return FrozenList(map(frozen, config))
    return config


def is_frozen(config: Any) -> bool:
    """Returns whether a config object, mapping or list is frozen."""
    return isinstance(config, (FrozenDict, FrozenList)) or _MARK in getattr(config, "__dict__", {})


def _refuse(self: Any, *_: Any, **__: Any) -> NoReturn:
    raise FrozenConfigError("a checked config does not change; make another one with dataclasses.replace")


class FrozenDict(dict[str, Any]):
    """A read-only dict."""

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenDict, (dict(self),)


class FrozenList(list[Any]):
    """A read-only list."""

    __setitem__ = __delitem__ = __iadd__ = __imul__ = _refuse
    append = clear = extend = insert = pop = remove = reverse = sort = _refuse

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenList, (list(self),)


def _guard(schema: type) -> None:
    """Changes a schema class so that frozen instances refuse changes. A plug-in's schema needs no code for this."""
    if "_guarded" in schema.__dict__:
        return

    def set_attribute(self: Any, name: str, value: Any) -> None:
        if _MARK in self.__dict__:
            _refuse(self)
        object.__setattr__(self, name, value)

    def delete_attribute(self: Any, name: str) -> None:
        if _MARK in self.__dict__:
            _refuse(self)
        object.__delattr__(self, name)

    def reduce(self: Any) -> tuple[Any, ...]:  # so that the process that unpickles guards the schema, too
        return _new, (type(self),), self.__dict__

    members = {"__setattr__": set_attribute, "__delattr__": delete_attribute, "__reduce__": reduce, "_guarded": True}
    for name, value in members.items():
        setattr(schema, name, value)


def _new(schema: type) -> Any:
    _guard(schema)
    return object.__new__(schema)
