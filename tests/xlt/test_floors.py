"""The architecture, read off the imports: an import never goes up a floor (DESIGN, "Floors")."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
# Longest prefix wins. A file may import from its own floor and from those below.
FLOORS = {
    "xlt_kernels": 0,
    "xlt": 1,  # the version
    "xlt.config": 1,
    "xlt.languages": 1,
    "xlt.data.streams": 1,
    "xlt.data.typology": 1,
    "xlt.data": 2,
    "xlt.models": 2,
    "xlt.modules": 2,
    "xlt.tasks": 3,
    "xlt.methods": 3,
    "xlt.engine": 4,
    "xlt.compose": 5,  # finds the schemas of methods and tasks by walking their packages
    "xlt.results": 6,
    "xlt.tracking": 7,  # watches the runs of a plan
    "xlt.commands.usage": 8,
    "xlt.commands.sweeps": 8,
    "xlt.commands.cli": 9,
    "xlt.__main__": 10,
    "xlt.commands.reproduce": 10,  # the other command
    "xlt.commands.plot": 10,  # these stand on it
    "xlt.commands.claims": 10,
    "xlt.commands.dashboard": 11,
    "scripts": 12,
}
# Rooms on one floor that must not know each other.
STRANGERS = [
    ("xlt.methods", "xlt.tasks"),
    ("xlt.methods", "xlt.data"),
    ("xlt.tasks", "xlt.methods"),
    ("xlt.tasks", "xlt.data.readers"),
    ("xlt.tasks", "xlt.data.sources"),
    ("xlt.modules", "xlt.models"),
    ("xlt.modules", "xlt.data"),
    ("xlt.models", "xlt.data"),
    ("xlt.models", "xlt.modules"),
    ("xlt.data", "xlt.models"),
    ("xlt.data", "xlt.modules"),
]
# The engine knows what a method and a task is, and none by name.
INTERFACES = {"xlt.methods.method", "xlt.tasks.task"}
ONLY_WHERE_USED = {
    "triton",
    "wandb",
    "wandb_workspaces",
    "huggingface_hub",
    "transformers",
    "bitsandbytes",
    "peft",
    "datasets",
}


@dataclass(frozen=True)
class Import:
    """One import statement: who, what, where, and whether it is carried out when the file is imported."""

    importer: str
    imported: str
    line: int
    at_once: bool


def module_name(file: Path) -> str:
    parts = list(file.relative_to(ROOT).with_suffix("").parts)
    if parts[0] == "kernels":
        parts[0] = "xlt_kernels"
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(source: str, importer: str) -> Iterator[Import]:
    def walk(node: ast.AST, at_once: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from (Import(importer, name.name, child.lineno, at_once) for name in child.names)
            elif isinstance(child, ast.ImportFrom):
                above = importer.split(".")[: -child.level] if child.level else []
                module = ".".join([*above, *([child.module] if child.module else [])])
                for name in child.names:
                    whole = f"{module}.{name.name}"
                    yield Import(importer, whole if whole in KNOWN else module, child.lineno, at_once)
            else:
                inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
                yield from walk(child, at_once and not inside)

    yield from walk(ast.parse(source), True)


FILES = [file for folder in ("kernels", "xlt", "scripts") for file in sorted((ROOT / folder).rglob("*.py"))]
KNOWN = {module_name(file) for file in FILES}
IMPORTS = [found for file in FILES for found in imports_of(file.read_text(encoding="utf-8"), module_name(file))]


def floor_of(name: str) -> int:
    parts = name.split(".")
    for prefix in (".".join(parts[:n]) for n in range(len(parts), 0, -1)):
        if prefix in FLOORS and (prefix != "xlt" or name == "xlt"):
            return FLOORS[prefix]
    raise AssertionError(f"{name}: on no floor; give its room a line in FLOORS")


def in_room(name: str, room: str) -> bool:
    return name == room or name.startswith(room + ".")


def faults(found: list[Import]) -> list[str]:
    """Imports that go up, or into a room that the importer must not know."""
    lines = []
    for one in found:
        if not in_room(one.imported, "xlt") and not in_room(one.imported, "xlt_kernels"):
            continue
        if floor_of(one.imported) > floor_of(one.importer):
            lines.append(f"{one.importer}:{one.line} imports {one.imported}, which is above it")
        for room, stranger in STRANGERS:
            shared = floor_of(one.imported) == 1  # what is at the bottom, all may know
            if in_room(one.importer, room) and in_room(one.imported, stranger) and not shared:
                lines.append(f"{one.importer}:{one.line} imports {one.imported}, which {room} must not know")
        if in_room(one.importer, "xlt.engine"):
            concrete = in_room(one.imported, "xlt.methods") or in_room(one.imported, "xlt.tasks")
            if concrete and one.imported not in INTERFACES:
                lines.append(f"{one.importer}:{one.line} imports {one.imported}: the engine knows none by name")
    return lines


def test_every_file_has_a_floor() -> None:
    assert all(floor_of(name) >= 0 for name in KNOWN)


def test_no_import_goes_up_and_no_room_knows_what_it_must_not() -> None:
    assert faults(IMPORTS) == []


@pytest.mark.parametrize(
    ("importer", "statement"),
    [
        ("xlt_kernels.select", "import xlt.config"),
        ("xlt.config", "def f():\n    from xlt.data.sources import read_source"),
        ("xlt.models.loading", "from xlt.data.encoding import Encoder"),
        ("xlt.methods.full", "from xlt.tasks import mlm"),
        ("xlt.methods.full", "import xlt.engine.run"),
        ("xlt.tasks.mlm", "from xlt.data.readers.conllu import read"),
        ("xlt.tasks.mlm", "from xlt.methods.method import Method"),
        ("xlt.engine.run", "from xlt.methods.lt_sft import LtSft"),
        ("xlt.engine.run", "from xlt.plan.store import RunStore"),
        ("xlt.plan.store", "import xlt.commands.cli"),
    ],
)
def test_an_import_that_goes_up_is_found(importer: str, statement: str) -> None:
    assert len(faults(list(imports_of(statement, importer)))) >= 1


def test_kernels_stand_on_torch_alone() -> None:
    allowed = {"torch", "xlt_kernels", "triton"}
    for one in IMPORTS:
        top = one.imported.partition(".")[0]
        if in_room(one.importer, "xlt_kernels") and top not in sys.stdlib_module_names:
            assert top in allowed, f"{one.importer}:{one.line} imports {one.imported}"


def test_what_is_heavy_or_optional_is_imported_only_where_it_is_used() -> None:
    """A kernel's file `OP_triton` is such a place, and is itself imported only where the kernel is launched."""
    early = [
        one
        for one in IMPORTS
        if one.at_once
        and (one.imported.partition(".")[0] in ONLY_WHERE_USED or "_triton" in one.imported)
        and not (one.imported.startswith("triton") and one.importer.endswith("_triton"))
    ]
    assert [f"{one.importer}:{one.line}: {one.imported}" for one in early if not in_room(one.importer, "scripts")] == []


def test_no_file_is_named_after_nothing() -> None:
    nothing = re.compile(r"^_?(utils?|helpers?|misc|common|tools|stuff|base_utils)$")
    assert [str(file) for file in FILES if nothing.match(file.stem)] == []


def test_kernels_have_no_init_and_conf_has_one() -> None:
    assert not (ROOT / "kernels" / "__init__.py").exists()
    assert (ROOT / "conf" / "__init__.py").exists()


def test_every_package_is_installed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    found = {module_name(file / "__init__.py") for file in (ROOT / "xlt").rglob("*") if any(file.glob("*.py"))}
    assert {"xlt", *found} == set(listed) - {"xlt_kernels", "xlt_conf"}


def test_init_files_only_re_export() -> None:
    for file in FILES:
        if file.name == "__init__.py":
            for node in ast.parse(file.read_text(encoding="utf-8")).body:
                allowed = (ast.ImportFrom, ast.Assign, ast.Expr)
                assert isinstance(node, allowed), f"{file}:{node.lineno}: more than a re-export"
