"""The schemas of methods, tasks and operators without the libraries that these themselves need.

A file of `xlt/methods` has the schema beside the method, and importing it imports torch, which takes one to two
seconds. Completion and the message about a wrong key need the schema only. Here the statements that make the schema
are taken out of the file, with those that they need, and executed in a module of another name. The classes are equal
in all that composing looks at, but they are others than those of the imported file: what is composed with them is only
looked at, and never becomes a run.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import pkgutil
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from hydra.core.config_store import ConfigNode
from omegaconf import OmegaConf

import xlt

_PACKAGES = ("xlt.methods.", "xlt.tasks.", "xlt.modules.", "xlt.models.")
_HEAVY = ("torch", "transformers", "triton", "xlt_kernels", "peft")
_PREFIX = "xlt_light_schemas:"
_SCHEMA = "SCHEMA"

COMPOSITION = "composition"
"""The group of expressions, the values of which are not checked here."""

_HAS_SCHEMA = re.compile(r"^SCHEMA\b|^from .* import .*\bSCHEMA\b", re.MULTILINE)


def light_schema(module: str) -> Any:
    """Returns the `SCHEMA` of a module of methods, tasks or operators; None if it has none."""
    made = _module(module)
    return getattr(made, _SCHEMA) if made.take(_SCHEMA) else None


class _Absent:
    """Stands for a library that is not imported, and for all that is in it, in tables such as that of activations."""

    def __getattr__(self, name: str) -> _Absent:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *_: Any, **__: Any) -> _Absent:
        return self

    def __mro_entries__(self, _: Any) -> tuple[()]:
        return ()  # a class whose base is absent has none


class _Light(ModuleType):
    """Some of the definitions of a module, executed when they are asked for."""

    def __init__(self, name: str, file: Path) -> None:
        super().__init__(_PREFIX + name.replace(".", "_"))  # no dots, because pickle would import what is before one
        self.__file__ = str(file)
        self._package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        self._statements: dict[str, list[ast.stmt]] = {}
        for statement in ast.parse(file.read_text(encoding="utf-8")).body:
            for defined in _defined(statement):
                self._statements.setdefault(defined, []).append(statement)

    def take(self, name: str) -> bool:
        """Executes what defines a name, and before it what that needs; returns whether the module defines it."""
        for statement in self._statements.pop(name, ()):
            if isinstance(statement, ast.ImportFrom) and (source := self._source(statement)).startswith(_PACKAGES):
                light = _module(source)
                for alias in statement.names:
                    if name == (alias.asname or alias.name) and light.take(alias.name):
                        setattr(self, name, getattr(light, alias.name))
                continue
            if any(source.partition(".")[0] in _HEAVY for source in self._sources(statement)):
                setattr(self, name, _Absent())
                continue
            for needed in _needed(statement):
                self.take(needed)
            future = ast.parse("from __future__ import annotations").body
            code = compile(ast.Module([*future, statement], []), str(self.__file__), "exec")
            exec(code, self.__dict__)
        return name in self.__dict__

    def _sources(self, statement: ast.stmt) -> list[str]:
        if isinstance(statement, ast.Import):
            return [alias.name for alias in statement.names]
        return [self._source(statement)] if isinstance(statement, ast.ImportFrom) else []

    def _source(self, statement: ast.ImportFrom) -> str:
        name = "." * statement.level + (statement.module or "")
        return importlib.util.resolve_name(name, self._package) if statement.level else name


@cache
def _module(name: str) -> _Light:
    made = _Light(name, _file(name))
    sys.modules[made.__name__] = made  # where type hints and pickle look for it
    return made


def _file(name: str) -> Path:
    """Returns the file of a module, which is not imported."""
    package, _, last = name.rpartition(".")
    places = [(folder / f"{last}.py", folder / last / "__init__.py") for folder in _folders(package)]
    return next(file for pair in places for file in pair if file.is_file())


def _folders(package: str) -> list[Path]:
    """Returns the folders of a package of xlt; those of plug-ins are known once it is imported."""
    if package in sys.modules:
        return [Path(folder) for folder in sys.modules[package].__path__]
    return [Path(xlt.__file__).parents[1].joinpath(*package.split("."))]


def _defined(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, (ast.ClassDef, ast.FunctionDef)):
        yield statement.name
    elif isinstance(statement, (ast.Import, ast.ImportFrom)):
        yield from (alias.asname or alias.name.partition(".")[0] for alias in statement.names)
    elif isinstance(statement, (ast.Assign, ast.AnnAssign)):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        yield from (part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name))


def _needed(statement: ast.AST) -> Iterator[str]:
    """Yields the names that a statement uses when it is executed; the bodies of methods are not."""
    for part in ast.iter_child_nodes(statement):
        if isinstance(part, ast.FunctionDef) and isinstance(statement, ast.ClassDef):
            outer = [*part.decorator_list, *part.args.defaults, *filter(None, part.args.kw_defaults)]
            yield from (name for one in outer for name in _needed(ast.Expr(one)))
        elif isinstance(part, ast.Name):
            yield part.id
        elif isinstance(part, ast.Constant) and isinstance(part.value, str) and part.value.isidentifier():
            yield part.value  # a type hint in quotes
        else:
            yield from _needed(part)


def _no_faults(config: Any, prefix: str) -> Iterator[str]:
    """Stands for the check of an expression, which needs its operators, and so torch."""
    return iter(())


class LightGroup(dict[str, Any]):
    """A group in Hydra's store whose schemas are made when Hydra asks for them: file name -> Python module, or node.

    Args:
        package: such as `xlt.methods`; each file with a schema becomes an entry.
        group: the name of the group.
    """

    def __init__(self, package: str, group: str) -> None:
        super().__init__()
        self.group = group
        for info in pkgutil.iter_modules([str(folder) for folder in _folders(package)]):
            name = f"{package}.{info.name}"
            if _HAS_SCHEMA.search(_file(name).read_text(encoding="utf-8")):
                self[f"base_{info.name}.yaml"] = name

    def __getitem__(self, name: str) -> Any:
        entry = super().__getitem__(name)
        if isinstance(entry, str):
            schema = light_schema(entry)
            if self.group == COMPOSITION:
                schema.faults = _no_faults
            entry = ConfigNode(name, OmegaConf.structured(schema), self.group, None, None)
            super().__setitem__(name, entry)
        return entry

    def __deepcopy__(self, memo: dict[int, Any]) -> LightGroup:
        return self
