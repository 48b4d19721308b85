"""Expressions over modules: operators, each a file of this folder, on names of modules and on other expressions.

In a config an operation is a mapping, and so are its parts that are operations themselves:

    operator: ties
    of: [language, {operator: average, of: [task, second]}]
    density: 0.2

Its text, which labels its scores, is `ties(language, average(task, second); density=0.2)`. Modules that are applied one
after the other are a `stack`, and written with the last one first: `task+language`. A stack of nothing is the base.

A new operator is a file `NAME.py` with a dataclass `SCHEMA`, a subclass of `OperatorConfig`, and a function `compute`,
which takes modules and the schema's own keys; a key `seed` arrives as the argument `random`, a function that returns
the generator of a named stream.

An operator whose weights are found on labelled data has, in place of `compute`, a function `learn`, which calls a loss
with weights and returns the best, and a function `resolved`, which returns the operation that the found weights make
of it.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar, TypeAlias

import torch
from omegaconf import OmegaConf, SCMode
from omegaconf.errors import OmegaConfBaseException

from xlt.config.run import BASE
from xlt.config.schema import faults, key
from xlt.errors import UsageError
from xlt.modules.adapter import Adapter
from xlt.modules.artefact import ModuleArtefact
from xlt.modules.low_rank import LowRankDelta
from xlt.modules.sparse_delta import SparseDelta

STACK = "stack"

DELTAS = (SparseDelta, LowRankDelta)
LINEAR = (SparseDelta, LowRankDelta, Adapter)
"""Kinds of modules that operators take: those with a difference from the base, and those with an average."""


@dataclass
class OperatorConfig:
    """The keys that all operations have; the schema of an operator adds its own.

    Attributes:
        takes: classes of the modules that the operator takes; empty: all.
        count: how many parts it has; None: one or more, and for a stack any number.
        heads: how many of the parts keep their fully trained tensors, such as heads; None: all.
    """

    takes: ClassVar[tuple[type[ModuleArtefact], ...]] = ()
    count: ClassVar[int | None] = None
    heads: ClassVar[int | None] = None

    operator: str = key("name of the operator")
    of: list[Any] = key("names of modules, or further operations: {operator: NAME, of: [...]}")

    @staticmethod
    def model_fault(settings: Mapping[str, Any], blocks: int) -> str | None:
        """Returns why the operation is none for modules of a model with so many blocks; None if it is one."""
        return None

    @staticmethod
    def kind_fault(settings: Mapping[str, Any], count: int, kind: type[ModuleArtefact]) -> str | None:
        """Returns why the operation is none for so many modules of a kind that it takes; None if it is one."""
        return None

    def faults(self, prefix: str) -> Iterator[str]:
        own = operators()[self.operator].SCHEMA if self.operator in operators() else None
        if own is not type(self):
            yield f"{prefix}.operator={self.operator}: choose another file of conf/composition for another operator"
            return
        if self.count not in (None, len(self.of)) or not (self.of or self.operator == STACK):
            needed = "at least one module" if self.count is None else f"{self.count} modules"
            yield f"{prefix}.of: {self.operator} takes {needed}, but {len(self.of)} are given"
        for number, part in enumerate(self.of):
            where = f"{prefix}.of[{number}]"
            if part == BASE and self.operator != STACK:
                yield f"{where}=base: the base is no module, so {self.operator} cannot take it; leave it out"
            elif isinstance(part, Mapping):
                try:
                    config = _typed(part, where)
                except UsageError as error:
                    yield from error.lines
                    continue
                yield from faults(config, where)
                if config.operator == STACK and self.operator != STACK:
                    yield f"{where}: a stack is no single module, so {self.operator} cannot take it; take sum"
            elif not isinstance(part, str):
                yield f"{where}={part}: must be the name of a module, or {{operator: NAME, of: [...]}}"


@dataclass(frozen=True)
class Operation:
    """An operator with its parts; str() gives the text that labels its scores.

    Attributes:
        operator: its name.
        parts: names of modules, and operations.
        settings: the operator's own keys.
    """

    operator: str
    parts: tuple[Expression, ...]
    settings: Mapping[str, Any]

    def __str__(self) -> str:
        parts = list(map(str, self.parts))
        if self.operator == STACK:
            return "+".join(reversed(parts)) or BASE
        keys = dataclasses.fields(operators()[self.operator].SCHEMA)
        usual = {one.name: one.default_factory() for one in keys if one.default_factory is not dataclasses.MISSING}
        nothing = object()
        changed = [f"{name}={value}" for name, value in self.settings.items() if value != usual.get(name, nothing)]
        return f"{self.operator}({', '.join(parts)}{'; ' if changed else ''}{', '.join(changed)})"

    def identity(self) -> dict[str, Any]:
        """Returns all that determines the value of given modules, as JSON values."""
        parts = [part if isinstance(part, str) else part.identity() for part in self.parts]
        return {"operator": self.operator, "of": parts, **self.settings}


Expression: TypeAlias = str | Operation
"""The name of a module, or an operation."""


def operators() -> dict[str, ModuleType]:
    """Returns name -> file of each operator; plug-ins extend the folder."""
    package = importlib.import_module(__package__)
    return _operators(tuple(package.__path__))


@functools.cache
def _operators(folders: tuple[str, ...]) -> dict[str, ModuleType]:
    files = {info.name: f"{__package__}.{info.name}" for info in pkgutil.iter_modules(folders)}
    modules = {name: importlib.import_module(file) for name, file in sorted(files.items())}
    return {name: module for name, module in modules.items() if hasattr(module, "SCHEMA")}


def operation(value: Any, where: str) -> Operation:
    """Reads an expression.

    Args:
        value: as in a checked config: an instance of an operator's schema, a mapping, or the name of a module, which
            is a stack of one.
        where: its key, for messages.
    Raises:
        UsageError: it has faults; a line for each.
    """
    if isinstance(value, str):
        value = {"operator": STACK, "of": [value]}
    config = value if isinstance(value, OperatorConfig) else _typed(value, where)
    if lines := list(faults(config, where)):
        raise UsageError(*lines)
    return _built(config)


def leaves(expression: Expression) -> list[str]:
    """Returns the names of modules in an expression, each once, in their order."""
    if isinstance(expression, str):
        return [expression]
    return list(dict.fromkeys(name for part in expression.parts for name in leaves(part)))


def operations(expression: Expression) -> Iterator[Operation]:
    """Yields the operations in an expression, itself first."""
    if isinstance(expression, Operation):
        yield expression
        for part in expression.parts:
            yield from operations(part)


def searches(expression: Expression) -> list[Operation]:
    """Returns the operations in an expression whose weights are found on data."""
    return [one for one in operations(expression) if hasattr(operators()[one.operator], "learn")]


def with_weights(expression: Expression, weights: Sequence[float]) -> Expression:
    """Returns an expression with the operation that given weights make of the one whose weights are searched for."""
    if isinstance(expression, str):
        return expression
    file = operators()[expression.operator]
    if hasattr(file, "learn"):
        found: Operation = file.resolved(expression, weights)
        return found
    return dataclasses.replace(expression, parts=tuple(with_weights(part, weights) for part in expression.parts))


def computed(
    expression: Expression, modules: Mapping[str, ModuleArtefact], random: Callable[..., torch.Generator]
) -> ModuleArtefact:
    """Computes the module that an expression without stacks stands for.

    Args:
        expression: its names are those of `modules`.
        modules: name -> module; they do not change.
        random: seed and name of a stream -> the stream's generator.
    Raises:
        ValueError: the modules do not fit together, or are of a kind that an operator does not take.
    """
    if isinstance(expression, str):
        return modules[expression]
    parts = [computed(part, modules, random) for part in expression.parts]
    file = operators()[expression.operator]
    for part in parts:
        if not isinstance(part, file.SCHEMA.takes):
            raise ValueError(f"{expression}: {part.header}: {kinds_fault(expression.operator)}")
    settings = dict(expression.settings)
    if "seed" in settings:
        settings["random"] = functools.partial(random, settings.pop("seed"))
    try:
        value: ModuleArtefact = file.compute(parts, **settings)
    except ValueError as error:
        raise ValueError(f"{expression}: {error}") from error
    return value


def kinds_fault(operator: str) -> str:
    """Returns the reason for which an operator refuses a module of another kind than those that it takes."""
    return f"{operator} takes only {', '.join(kind.kind for kind in operators()[operator].SCHEMA.takes)}"


def _built(config: OperatorConfig) -> Operation:
    parts: list[Expression] = []
    for part in config.of:
        inner = part if isinstance(part, str) else _built(_typed(part, ""))
        if config.operator == STACK and isinstance(inner, Operation) and inner.operator == STACK:
            parts += inner.parts  # a stack in a stack is one
        elif inner != BASE:
            parts.append(inner)
    own = [item.name for item in dataclasses.fields(config) if item.name not in ("operator", "of")]
    return Operation(config.operator, tuple(parts), {name: _plain(getattr(config, name)) for name in own})


def _typed(value: Any, where: str) -> OperatorConfig:
    """Returns the object of an operator's schema that a mapping describes.

    Raises:
        UsageError: there is no such operator, or a key is not its own or of a wrong type.
    """
    name = value.get("operator") if isinstance(value, Mapping) else None
    if name not in operators():
        raise UsageError(f"{where}: no operator {name}; there are {', '.join(operators())}")
    schema = operators()[name].SCHEMA
    known = [item.name for item in dataclasses.fields(schema)]
    if strange := [f"{where}.{one}: no key of {name}, which has {', '.join(known)}" for one in value.keys() - {*known}]:
        raise UsageError(*sorted(strange))
    try:
        merged = OmegaConf.merge(OmegaConf.structured(schema), OmegaConf.create(_plain(value)))
        if absent := [one for one in known if OmegaConf.is_missing(merged, one)]:
            raise UsageError(*(f"{where}.{one}: a value is required" for one in absent))
        config = OmegaConf.to_container(merged, structured_config_mode=SCMode.INSTANTIATE)
    except OmegaConfBaseException as error:
        raise UsageError(f"{where}: {str(error).splitlines()[0]}") from error
    assert isinstance(config, OperatorConfig)
    return config


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, (list, tuple)) else value
