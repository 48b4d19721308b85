"""The architecture, read off the source: no import goes up a floor or round, and nobody knows a stranger by name."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
# The floors from the ground up, each with its rooms. A room imports from its own floor and from those below.
FLOORS = (
    ("xlt_kernels",),
    # `xlt` itself has the version.
    (
        *("xlt", "xlt.errors", "xlt.escapes", "xlt.console", "xlt.languages", "xlt.language_codes", "xlt.files"),
        *("xlt.source_code", "xlt.tracebacks", "xlt.writers", "xlt.python_names", "xlt.repositories", "xlt.plug_ins"),
        "xlt.code_state",
    ),
    ("xlt.config",),
    ("xlt.models", "xlt.data", "xlt.modules"),
    ("xlt.tasks", "xlt.methods"),
    ("xlt.engine", "xlt.compose"),
    ("xlt.plan",),
    ("xlt.execution", "xlt.tables", "xlt.findings", "xlt.tracking", "xlt.use"),
    ("xlt.commands", "xlt.__main__"),
    ("scripts",),
)
ROOMS = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
# Rooms that must not know each other, though their floors allow it.
STRANGERS = [
    ("xlt.methods", "xlt.tasks"),
    ("xlt.tasks", "xlt.methods"),
    ("xlt.modules", "xlt.models"),
    ("xlt.modules", "xlt.data"),
    ("xlt.models", "xlt.data"),
    ("xlt.models", "xlt.modules"),
    ("xlt.data", "xlt.models"),
    ("xlt.data", "xlt.modules"),
    ("xlt.engine", "xlt.compose"),
    ("xlt.compose", "xlt.engine"),
    ("xlt.compose", "xlt.methods"),  # it finds methods and tasks by walking their packages
    ("xlt.compose", "xlt.tasks"),
]
# What methods and tasks may import of the data room: not a data set, only what an example or a language is.
OF_DATA = {
    "xlt.methods": {"xlt.data.typology"},
    "xlt.tasks": {"xlt.data.encoding", "xlt.data.entities", "xlt.data.examples", "xlt.data.mix", "xlt.data.words"},
}
# The engine knows what a method and a task is, and none by name.
INTERFACES = {"xlt.methods.method", "xlt.tasks.task"}
# Rooms that every method, task and kind of module passes through: they know none of them by name, not even in a string.
NAMELESS = ("xlt_kernels", "xlt.models", "xlt.engine", "xlt.plan", "xlt.execution", "xlt.tracking",
            "xlt.tables", "xlt.findings")  # fmt: skip
ONLY_WHERE_USED = {
    "triton",
    "wandb",
    "wandb_workspaces",
    "tensorboard",
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


def room_of(name: str) -> str:
    parts = name.split(".")
    room = name if name == "xlt" else ".".join(parts[:2]) if parts[0] == "xlt" else parts[0]
    assert room in ROOMS, f"{name}: its room is on no floor; give it a place in FLOORS"
    return room


def in_room(name: str, room: str) -> bool:
    return name == room or name.startswith(room + ".")


def faults(imports: Iterable[Import]) -> list[str]:
    """Imports that go up, or into a room that the importer must not know."""
    lines = []
    for one in imports:
        if one.imported.partition(".")[0] not in ("xlt", "xlt_kernels", "scripts"):
            continue
        importer, imported = room_of(one.importer), room_of(one.imported)
        what = f"{one.importer}:{one.line} imports {one.imported}"
        if ROOMS[imported] > ROOMS[importer]:
            lines.append(f"{what}, which is above it")
        if (importer, imported) in STRANGERS:
            lines.append(f"{what}, which {importer} must not know")
        if imported == "xlt.data" and importer in OF_DATA and one.imported not in OF_DATA[importer]:
            lines.append(f"{what}, but {importer} knows no data set")
        if importer == "xlt.engine" and imported in ("xlt.methods", "xlt.tasks") and one.imported not in INTERFACES:
            lines.append(f"{what}: the engine knows none by name")
    return lines


def circles(arrows: Mapping[str, set[str]]) -> list[tuple[str, ...]]:
    """The sets of nodes, sorted, from each of which every other one can be reached along the arrows."""
    reach: dict[str, set[str]] = {}
    for start in arrows:
        seen: set[str] = set()
        waiting = list(arrows[start])
        while waiting:
            if (node := waiting.pop()) not in seen:
                seen.add(node)
                waiting += arrows.get(node, ())
        reach[start] = seen
    round_trips = (node for node in arrows if node in reach[node])
    return sorted({tuple(sorted(n for n in reach[m] if m in reach.get(n, ()))) for m in round_trips})


def arrows_between(imports: Iterable[Import], *, rooms: bool) -> dict[str, set[str]]:
    """Importer -> what it imports of ours, file by file or room by room."""
    arrows: dict[str, set[str]] = {}
    for one in imports:
        if one.imported in KNOWN and one.importer != one.imported:
            importer, imported = (room_of(name) if rooms else name for name in (one.importer, one.imported))
            if importer != imported:
                arrows.setdefault(importer, set()).add(imported)
    return arrows


def test_every_file_has_a_floor() -> None:
    assert {room_of(name) for name in KNOWN} <= set(ROOMS)


def test_no_import_goes_up_and_no_room_knows_what_it_must_not() -> None:
    assert faults(IMPORTS) == []


@pytest.mark.parametrize("rooms", [False, True], ids=["files", "rooms"])
def test_no_import_goes_round(rooms: bool) -> None:
    """Also not where the import is carried out late, inside of a function."""
    assert circles(arrows_between(IMPORTS, rooms=rooms)) == []


def test_a_circle_is_found_however_long() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "e": set()}) == [("a", "b", "c")]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
    late = imports_of("def f():\n    import xlt.commands.cli", "xlt.plan.store")
    assert arrows_between(late, rooms=True) == {"xlt.plan": {"xlt.commands"}}


@pytest.mark.parametrize(
    ("importer", "statement"),
    [
        ("xlt_kernels.select", "import xlt.config"),
        ("xlt.errors", "import xlt.config"),
        ("xlt.config", "def f():\n    from xlt.data.sources import read_source"),
        ("xlt.models.loading", "from xlt.data.encoding import Encoder"),
        ("xlt.models.loading", "from xlt.data.streams import stream"),
        ("xlt.methods.full", "from xlt.tasks import mlm"),
        ("xlt.methods.full", "from xlt.data.streams import stream"),
        ("xlt.methods.full", "import xlt.engine.run"),
        ("xlt.tasks.mlm", "from xlt.data.readers.conllu import read"),
        ("xlt.tasks.mlm", "from xlt.data.transforms import transform_of"),
        ("xlt.tasks.mlm", "from xlt.methods.method import Method"),
        ("xlt.engine.run", "from xlt.methods.lt_sft import LtSft"),
        ("xlt.engine.run", "from xlt.plan.store import RunStore"),
        ("xlt.engine.run", "from xlt.compose import compose"),
        ("xlt.plan.store", "import xlt.tables.table"),
        ("xlt.plan.store", "import xlt.commands.cli"),
        ("xlt.tables.table", "from xlt.commands.usage import usage"),
    ],
)
def test_an_import_that_goes_up_is_found(importer: str, statement: str) -> None:
    assert len(faults(list(imports_of(statement, importer)))) >= 1


def _names_of_classes(room: str, attribute: str) -> dict[str, str]:
    """Name that a class of a room gives itself in an attribute -> its file."""
    return {
        str(node.value.value): module_name(file)
        for file in FILES
        if in_room(module_name(file), room)
        for part in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(part, ast.ClassDef)
        for node in part.body
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
        and attribute in [t.id for t in (node.targets if isinstance(node, ast.Assign) else [node.target])
                          if isinstance(t, ast.Name)]
    }  # fmt: skip


def names_of_strangers() -> set[str]:
    """How methods, tasks and kinds of modules are called: in `conf/` and in their classes."""
    options = {file.stem for group in ("method", "task") for file in (ROOT / "conf" / group).glob("[!_]*.yaml")}
    classes = [("xlt.methods", "name"), ("xlt.tasks", "name"), ("xlt.modules", "kind")]
    return options.union(*(_names_of_classes(room, attribute) for room, attribute in classes))


def names_in_strings(source: str, names: set[str]) -> list[tuple[int, str]]:
    """Line and value of every string that is one of the names; docstrings do not count."""
    tree = ast.parse(source)
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return [
        (node.lineno, node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in names
        and id(node) not in docstrings
    ]  # fmt: skip


def test_what_serves_every_method_and_task_knows_none_by_name() -> None:
    names = names_of_strangers()
    assert {"lt_sft", "spiel_ag", "mlm", "instruct", "pretrain", "sparse_delta", "generator"} <= names
    known = [
        f"{module_name(file)}:{line}: {name!r}"
        for file in FILES
        if room_of(module_name(file)) in NAMELESS
        for line, name in names_in_strings(file.read_text(encoding="utf-8"), names)
    ]
    assert known == []


def test_a_name_in_a_string_is_found() -> None:
    found = names_in_strings(
        '"""mlm"""\nif task.name in ("causal_lm", "x"):\n    f(kind="mlm")\n', {"mlm", "causal_lm"}
    )
    assert found == [(2, "causal_lm"), (3, "mlm")]


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
