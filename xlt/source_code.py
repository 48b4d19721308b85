"""Computes digests of the code that a run executes, from the source files and without importing them.

The unit is a top-level definition: a function, a class or an assignment. The search starts at definitions that the
caller gives, and follows the names that they use through all files of the package, also through re-exports of
`__init__` files and imports inside functions. A definition that is not reached does not count, even if its file is
imported.

Code that cannot change a result does not count either: comments, docstrings, formatting, type annotations, the
arguments of `raise` (error messages), the message of an `assert`, the keys that a schema declares (their values are in
the settings of a run), and the methods `faults` and `unused` of a schema.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
import sysconfig
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path

from xlt.errors import UsageError

_PACKAGES = ("xlt", "xlt_kernels")
_DIGITS = 16
# Methods of schemas that only check or describe a config.
_ABOUT_CONFIGS = ("faults", "unused")

Definition = tuple[str, str]
"""The module and the name of a top-level definition."""


class SourceCode:
    """The definitions of `xlt`, of its kernels and of plug-ins.

    Args:
        read: a function that returns the source text of a module by its dotted name, or None if there is no such
            module. Tests give their own.
    """

    def __init__(self, read: Callable[[str], str | None] | None = None) -> None:
        self._read = read or read_source
        self._modules: dict[str, _Module | None] = {}
        self._digests: dict[tuple[frozenset[str], frozenset[str]], dict[str, str]] = {}

    def digests(self, roots: Iterable[str], without: Collection[str] = ()) -> dict[str, str]:
        """Returns module -> digest of those of its definitions that are reached from the roots.

        Args:
            roots: dotted names of definitions, or of modules, of which all definitions count. A module of a plug-in
                counts as a whole if any of its names is used.
            without: dotted names of definitions, modules or packages that are not followed.
        Raises:
            UsageError: the source of a root is missing, or a file is not valid Python.
        """
        request = frozenset(roots), frozenset(without)
        if request not in self._digests:
            self._digests[request] = _Walk(self, *request).digests()
        return self._digests[request]

    def has(self, name: str) -> bool:
        """Returns whether a module or a definition of this dotted name exists."""
        if self.module(name) is not None:
            return True
        module, _, last = name.rpartition(".")
        parsed = self.module(module) if module else None
        return parsed is not None and last in parsed.definitions

    def module(self, name: str) -> _Module | None:
        """Returns the parsed module; None if there is no module of this name."""
        if name not in self._modules:
            text = self._read(name)
            try:
                self._modules[name] = None if text is None else _parsed(name, text)
            except (SyntaxError, ValueError) as error:
                line = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
                raise UsageError(f"{name}{line}: the source is no valid Python: {error}") from error
        return self._modules[name]


@cache
def installed() -> SourceCode:
    """Returns the installed code; the object is shared within the process."""
    return SourceCode()


def read_source(module: str) -> str | None:
    """Returns the source text of an installed module; None if there is no such module.

    A folder without `__init__.py` counts as an empty module.

    Raises:
        UsageError: the module exists without its source, for example as compiled files or in a zip archive.
    """
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        return None
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    bases = [folder.joinpath(*rest) for folder in folders]
    if not rest and not folders:
        bases = [Path(spec.origin or "").with_suffix("")]
    if rest:  # a package that is extended by folders of others
        package = sys.modules.get(".".join((top, *rest[:-1])))
        bases += [Path(folder) / rest[-1] for folder in getattr(package, "__path__", ())]
    for base in bases:
        for file in (base / "__init__.py", base.with_name(f"{base.name}.py")):
            if file.is_file():
                return file.read_text(encoding="utf-8")
    if any(folder.is_file() for base in folders for folder in base.parents) or any(map(_is_compiled, bases)):
        raise UsageError(
            f"{module}: its source file is not there (a zip archive, or compiled files alone); a run is known by the "
            "code that it executes, so install the package with its sources, in a folder"
        )
    return "" if any(base.is_dir() for base in bases) else None


def _is_compiled(base: Path) -> bool:
    return any(base.parent.glob(f"{base.name}.*pyc")) or any((base / "__init__").parent.glob("__init__.*pyc"))


@dataclass
class _Definition:
    """The content of a definition that counts.

    Attributes:
        digest: of its normalised text.
        names: chains of names that it uses; `a.b.c` is ("a", "b", "c").
        imports: imports inside it: (module, name in the module), or (module, None).
    """

    digest: str
    names: set[tuple[str, ...]]
    imports: set[tuple[str, str | None]]


class _Module:
    """A parsed file, with its definitions and imports.

    Attributes:
        definitions: name -> the statements that define it.
        imports: imported name -> (module, name in the module), or (module, None) for a module itself.
        stars: modules of which all names are imported (`from module import *`).
        effects: all other statements, which are executed when the file is imported.
    """

    def __init__(self, name: str, tree: ast.Module) -> None:
        self.name = name
        self.definitions: dict[str, list[ast.stmt]] = {}
        self.imports: dict[str, tuple[str, str | None]] = {}
        self.stars: list[str] = []
        self.effects: list[ast.stmt] = []
        self._analysed: dict[str, _Definition] = {}
        for statement in tree.body:
            self._take(statement)

    def definition(self, name: str) -> _Definition:
        """Returns the content of a definition; it is computed at the first call."""
        if name not in self._analysed:
            self._analysed[name] = _analysed(self.definitions[name], self.name)
        return self._analysed[name]

    def effect(self) -> _Definition:
        """Returns the common content of all `effects`; it is computed at the first call."""
        if "" not in self._analysed:
            self._analysed[""] = _analysed(self.effects, self.name)
        return self._analysed[""]

    def _take(self, statement: ast.stmt) -> None:
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            self.definitions.setdefault(statement.name, []).append(statement)
        elif isinstance(statement, (ast.Import, ast.ImportFrom)):
            self._import(statement)
        elif isinstance(statement, (ast.Assign, ast.AnnAssign, ast.AugAssign)) and (names := _assigned(statement)):
            for name in names:
                self.definitions.setdefault(name, []).append(statement)
        elif isinstance(statement, ast.If) and _is_for_type_checkers(statement.test):
            for inner in statement.body:
                self._take(inner)
        elif not _is_text(statement):
            self.effects.append(statement)
            for part in ast.walk(statement):  # finds definitions inside a `try` or an `if`
                if isinstance(part, (ast.Import, ast.ImportFrom)):
                    self._import(part)
                elif isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                    self.definitions.setdefault(part.name, []).append(statement)
                elif isinstance(part, (ast.Assign, ast.AnnAssign)):
                    for name in _assigned(part):
                        self.definitions.setdefault(name, []).append(statement)

    def _import(self, statement: ast.Import | ast.ImportFrom) -> None:
        for name, target in _imported(statement, self.name):
            if name == "*":
                self.stars.append(target[0])
            else:
                self.imports[name] = target


@lru_cache(maxsize=2048)
def _parsed(name: str, text: str) -> _Module:
    """Parses a module once in a process, as long as its text stays the same."""
    return _Module(name, ast.parse(text))


@dataclass
class _Walk:
    """One search through the definitions, which starts at the roots."""

    code: SourceCode
    roots: frozenset[str]
    without: frozenset[str]
    reached: dict[str, dict[str, str]] = field(default_factory=dict)

    def digests(self) -> dict[str, str]:
        tops = {root.partition(".")[0] for root in self.roots}
        self._followed = {*_PACKAGES, *tops}
        self._beside = {folder for top in tops - {*_PACKAGES} if (folder := _folder_of_plug_in(top)) is not None}
        self._waiting: list[Definition] = []
        for root in sorted(self.roots):
            module, _, name = root.rpartition(".")
            if self.code.module(root) is not None:
                self._reach_module(root)
            elif not module or not self._reach_name(module, name):
                raise UsageError(f"{root}: there is no source file that defines it; a run is known by its code")
        while self._waiting:
            self._follow(*self._waiting.pop())
        return {
            module: _digest("".join(f"{name} {text}\n" for name, text in sorted(definitions.items())))
            for module, definitions in sorted(self.reached.items())
            if definitions
        }

    def _follow(self, module: str, name: str) -> None:
        """Records a reached definition and follows the names that it uses."""
        parsed = self.code.module(module)
        assert parsed is not None
        definition = parsed.definition(name) if name else parsed.effect()
        elsewhere = set()
        for chain in sorted(definition.names):
            elsewhere |= self._reach_chain(parsed, chain)
        for imported, inner in sorted(definition.imports, key=str):
            if inner is not None:
                self._reach_name(imported, inner)
            elif self._is_followed(imported):
                self._reach_module(imported)
        self.reached[module][name] = _digest(" ".join([definition.digest, *sorted(elsewhere)]))

    def _reach_chain(self, module: _Module, chain: tuple[str, ...]) -> set[str]:
        """Follows a chain of names to its definition; returns the origins of names that are defined elsewhere."""
        first, *rest = chain
        if first in module.definitions:
            self._reach(module.name, first)
            return set()
        if first not in module.imports:
            for star in module.stars:
                self._reach_name(star, first)
            return set()
        target, name = module.imports[first]
        if name is not None and self._submodule(target, name) is None:
            if not self._is_followed(target):
                return {f"{first}={target}.{name}"}
            self._reach_name(target, name)
            return set()
        inner = target if name is None else f"{target}.{name}"
        if not self._is_followed(inner):
            return {f"{first}={inner}"}
        while rest and (deeper := self._submodule(inner, rest[0])) is not None:
            inner, rest = deeper, rest[1:]
        if rest:
            self._reach_name(inner, rest[0])
        else:
            self._reach_module(inner)
        return set()

    def _submodule(self, package: str, name: str) -> str | None:
        """Returns the submodule of this name in a package; None if the package defines the name itself."""
        if not self._is_followed(package):
            return None
        parsed = self.code.module(package)
        if parsed is None or name in parsed.definitions or name in parsed.imports:
            return None
        whole = f"{package}.{name}"
        return whole if self.code.module(whole) is not None else None

    def _reach_name(self, module: str, name: str) -> bool:
        """Follows a name of a module to its definition, which may be in another module; False if there is none."""
        if not self._is_followed(module):
            return False
        parsed = self.code.module(module)
        if parsed is None:
            return False
        if name in parsed.definitions:
            self._reach(module, name)
            return True
        if name in parsed.imports:
            target, inner = parsed.imports[name]
            if inner is None or self._submodule(target, inner) is not None:
                whole = target if inner is None else f"{target}.{inner}"
                if self._is_followed(whole):
                    self._reach_module(whole)
                return True
            return self._reach_name(target, inner) or not self._is_followed(target)
        if (inner_module := self._submodule(module, name)) is not None:
            self._reach_module(inner_module)
            return True
        return any(self._reach_name(star, name) for star in parsed.stars)

    def _reach_module(self, module: str) -> None:
        parsed = self.code.module(module)
        for name in parsed.definitions if parsed is not None else ():
            self._reach(module, name)

    def _reach(self, module: str, name: str) -> None:
        if self._is_left_out(f"{module}.{name}"):
            return
        known = self.reached.setdefault(module, {})
        if name in known:
            return
        parsed = self.code.module(module)
        assert parsed is not None
        known[name] = ""
        self._waiting.append((module, name))
        if parsed.effects and "" not in known:
            known[""] = ""
            self._waiting.append((module, ""))
        if not module.startswith(tuple(f"{package}." for package in _PACKAGES)):
            self._reach_module(module)  # a plug-in's file counts as a whole

    def _is_left_out(self, name: str) -> bool:
        parts = name.split(".")
        return any(".".join(parts[:length]) in self.without for length in range(1, len(parts) + 1))

    def _is_followed(self, module: str) -> bool:
        top = module.partition(".")[0]
        if top not in self._followed and self._beside and _folder_of_plug_in(top) in self._beside:
            self._followed.add(top)
        return top in self._followed


@cache
def _folder_of_plug_in(top: str) -> Path | None:
    """Returns the folder with a plug-in's top-level module; None for an installed module or one of Python."""
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    places = list(spec.submodule_search_locations or ()) or [spec.origin or ""]
    folder = Path(places[0]).parent
    shared = {Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return None if folder in shared or not folder.is_dir() or not places[0] else folder


def _analysed(statements: Iterable[ast.stmt], module: str) -> _Definition:
    text: list[str] = []
    definition = _Definition("", set(), set())
    for statement in statements:
        _normalise(statement, module, text, definition)
    definition.digest = _digest("\0".join(text))
    return definition


def _normalise(node: ast.AST, module: str, text: list[str], definition: _Definition, in_class: bool = False) -> None:
    """Appends the content of a syntax tree that counts to `text`, and the names that it uses to `definition`.

    `ast.dump` is not used, because its output differs between versions of Python.
    """
    if _is_text(node):
        return
    if isinstance(node, ast.AnnAssign):
        _annotation(node.annotation, definition)
        if in_class and node.value is None:
            text.append(ast.unparse(node.target))
        if node.value is None or (in_class and _is_call_of(node.value, "key")):
            return
        text.append("Assign")
        children: list[ast.AST] = [node.target, node.value]
    elif isinstance(node, (ast.Import, ast.ImportFrom)):
        for name, target in _imported(node, module):
            text.append(f"import {name} {target[0]} {target[1]}")
            definition.imports.add((target[0], None if name == "*" else target[1]))
        return
    elif isinstance(node, ast.Raise):
        text.append("Raise")
        children = [node.exc.func if isinstance(node.exc, ast.Call) else node.exc] if node.exc is not None else []
    elif isinstance(node, ast.Assert):
        text.append("Assert")
        children = [node.test]
    elif isinstance(node, ast.arg):
        text.append(f"arg {node.arg}")
        _annotation(node.annotation, definition)
        children = []
    elif isinstance(node, ast.Constant):
        text.append(f"{type(node.value).__name__} {node.value!r}")
        children = []
    elif isinstance(node, (ast.Name, ast.Attribute)) and (chain := _chain(node)) is not None:
        definition.names.add(chain)
        text.append(".".join(chain))
        children = []
    else:
        text.append(f"({type(node).__name__}")
        is_schema = isinstance(node, ast.ClassDef) and any(_is_dataclass(one) for one in node.decorator_list)
        for name, value in ast.iter_fields(node):
            if name == "returns" and value is not None:
                _annotation(value, definition)
            elif isinstance(value, ast.AST):
                if not isinstance(value, ast.expr_context):
                    text.append(name)
                    _normalise(value, module, text, definition)
            elif isinstance(value, list):
                if value:
                    text.append(f"{name}[")
                for item in value:
                    if isinstance(item, ast.AST):
                        about = is_schema and isinstance(item, ast.FunctionDef) and item.name in _ABOUT_CONFIGS
                        if not about:
                            _normalise(item, module, text, definition, isinstance(node, ast.ClassDef))
                    elif item is not None:
                        text.append(str(item))
            elif value is not None and name not in ("type_comment", "kind"):
                text.append(f"{name} {value}")
        text.append(")")
        return
    for child in children:
        _normalise(child, module, text, definition)


def _annotation(node: ast.AST | None, definition: _Definition) -> None:
    """Adds the names in an annotation to `definition`, because methods of these classes can be called on its values."""
    for inner in ast.walk(node) if node is not None else ():
        if isinstance(inner, ast.Constant) and isinstance(inner.value, str):
            try:
                _annotation(ast.parse(inner.value, mode="eval"), definition)
            except SyntaxError:
                continue
        elif isinstance(inner, (ast.Name, ast.Attribute)) and (chain := _chain(inner)) is not None:
            definition.names.add(chain)


def _chain(node: ast.expr) -> tuple[str, ...] | None:
    """Returns the names in an expression `a.b.c`; None if it does not start with a name."""
    names = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return (node.id, *reversed(names)) if isinstance(node, ast.Name) else None


def _imported(statement: ast.Import | ast.ImportFrom, importer: str) -> Iterator[tuple[str, tuple[str, str | None]]]:
    """Yields each name that an import binds, with (module, name in the module), or (module, None)."""
    if isinstance(statement, ast.Import):
        for alias in statement.names:
            whole = alias.name if alias.asname else alias.name.partition(".")[0]
            yield alias.asname or whole, (whole, None)
        return
    above = importer.split(".")[: -statement.level] if statement.level else []
    module = ".".join([*above, *([statement.module] if statement.module else [])])
    for alias in statement.names:
        yield alias.asname or alias.name, (module, alias.name)


def _assigned(statement: ast.Assign | ast.AnnAssign | ast.AugAssign) -> list[str]:
    """Returns the names that an assignment binds; attributes and items that it sets are left out."""
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    names: list[str] = []
    for target in targets:
        parts = target.elts if isinstance(target, (ast.Tuple, ast.List)) else [target]
        names += [part.id for part in parts if isinstance(part, ast.Name)]
    return names


def _is_text(node: ast.AST) -> bool:
    """Returns whether a statement is only a string: a docstring, or a comment in this form."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _is_call_of(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name


def _is_dataclass(decorator: ast.expr) -> bool:
    named = decorator.func if isinstance(decorator, ast.Call) else decorator
    return (_chain(named) or ("",))[-1] == "dataclass"


def _is_for_type_checkers(test: ast.expr) -> bool:
    return (_chain(test) or ("",))[-1] == "TYPE_CHECKING"


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=_DIGITS // 2).hexdigest()
