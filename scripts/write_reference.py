"""Writes the pages that are made from the code: keys.md, commands.md, tables.md and python.md of docs/reference.

    python scripts/write_reference.py            # `make reference` is the same
    python scripts/write_reference.py --check    # write nothing; exit code 1 if a page is older than the code

Keys come from the schema (the dataclasses that every config is checked against), commands from their --help, tables
from the files of conf/table and conf/claims.yaml, functions and classes from their docstrings.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import dataclasses
import importlib
import inspect
import io
import os
import pkgutil
import re
import sys
import textwrap
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

FOLDER = Path(__file__).parents[1] / "docs" / "reference"
CONF = Path(__file__).parents[1] / "conf"
MADE = "<!-- Made by `make reference` from the code; do not edit. -->\n\n"
GROUPS = (
    ("Methods", "xlt.methods", "method"),
    ("Tasks", "xlt.tasks", "task"),
    ("Composition operators", "xlt.modules.composition", "compositions.NAME"),
)
OF_PYTHON = {
    "Functions": [
        f"xlt.use.python.{name}"
        for name in ("train", "compose_config", "load_model", "load_module", "predict", "evaluate")
    ],
    "What they return": [
        *(f"xlt.use.python.{name}" for name in ("TrainedRun", "LoadedModel", "Scores")),
        "xlt.tasks.task.Annotation",
    ],
    "Modules on a model": ["xlt.modules.ModuleStack"],
    "What a method and a task can do": ["xlt.methods.method.Method", "xlt.tasks.task.Task"],
}
"""Title of a section of the page about Python -> the functions and classes in it."""
SAME_MODULE = "no"
"""What stands in the column "new run" of a key whose value changes no module."""


def keys() -> str:
    """The page of all config keys."""
    from xlt.config import RunConfig
    from xlt.findings.claims import ClaimsConfig
    from xlt.tables.config import PublishedConfig, SystemConfig, TableConfig
    from xlt.tables.request import ReproductionConfig

    seen: set[type] = set()
    parts = [
        "# Config keys\n",
        "Every key can be set on the command line, `xlt experiment=pos train.max_steps=100`, or in a file of `conf`.",
        "The values that an experiment has are shown by `xlt experiment=NAME --cfg job`. NAME is a name of yours.",
        "\n**New run** is *no* where another value makes no other [run](../concepts/identity.md).\n",
        "## A run\n",
        *_section(RunConfig, "", seen),
    ]
    for title, package, prefix in GROUPS:
        parts.append(f"## {title}\n")
        for name in _schemas(package):
            schema = importlib.import_module(f"{package}.{name}").SCHEMA
            files = ", ".join(f"`{file}`" for file in _files_with(schema, prefix.partition(".")[0]))
            parts.append(f"### {name}\n")
            if files:
                parts.append(f"Files of `conf/{_group(prefix)}`: {files}.\n")
            parts += _table(schema, prefix, same=prefix.startswith("compositions")) or ["It has no keys.\n"]
    parts.append("## Tables, systems and findings\n")
    named = (
        ("conf/table/NAME.yaml", TableConfig, "table"),
        ("conf/system/NAME.yaml", SystemConfig, "system"),
        ("conf/published/NAME.yaml", PublishedConfig, "published"),
        ("xlt table", ReproductionConfig, ""),
        ("xlt claims and conf/claims.yaml", ClaimsConfig, ""),
    )
    for title, schema, prefix in named:
        parts += [f"### {title}\n", *_section(schema, prefix, seen, heading="####", runs=False)]
    return MADE + "\n".join(parts).rstrip() + "\n"


def _schemas(package: str) -> list[str]:
    modules = sorted(info.name for info in pkgutil.iter_modules(importlib.import_module(package).__path__))
    return [name for name in modules if hasattr(importlib.import_module(f"{package}.{name}"), "SCHEMA")]


def _group(prefix: str) -> str:
    return {"compositions": "composition"}.get(prefix.partition(".")[0], prefix.partition(".")[0])


def _files_with(schema: type, prefix: str) -> list[str]:
    """Names of the files of a config group whose settings have this schema."""
    folder = CONF / _group(prefix)
    name = schema.__module__.rpartition(".")[2]
    bases = {file.stem: file.read_text(encoding="utf-8") for file in sorted(folder.glob("*.yaml"))}

    def stands_on(stem: str) -> bool:
        found = re.search(r"^defaults:(.*(?:\n +-.*)*)", bases.get(stem, ""), re.MULTILINE)
        words = re.findall(r"[\w+]+", found[1]) if found else []
        return f"base_{name}" in words or any(stands_on(word) for word in words if word in bases and word != stem)

    return [stem for stem in bases if stands_on(stem)]


def _section(
    schema: type, prefix: str, seen: set[type], *, heading: str = "###", runs: bool = True, same: bool = False
) -> Iterator[str]:
    """The keys of a schema, and then, each under a heading, those of the schemas in it.

    Args:
        prefix: key of the section.
        seen: schemas that are already on the page; they are not repeated.
        runs: whether these are keys of a run, for which the page says whether they make another one.
        same: whether a key above these makes no other run.
    """
    yield from _table(schema, prefix, runs=runs, same=same)
    seen.add(schema)
    for item in dataclasses.fields(schema):
        inner, many = _inner(typing.get_type_hints(schema)[item.name])
        if inner is None or inner in seen:
            continue
        path = ".".join(filter(None, [prefix, item.name, "NAME" if many else ""]))
        yield f"{heading} {path}\n"
        changes_none = same or bool(item.metadata.get("no_module"))
        yield from _section(inner, path, seen, heading=heading, runs=runs, same=changes_none)


def _inner(hint: Any) -> tuple[type | None, bool]:
    """The schema that a type contains, and whether it is in a mapping; (None, False) if there is none."""
    if dataclasses.is_dataclass(hint):
        return typing.cast(type, hint), False
    for argument in typing.get_args(hint):
        inner, _ = _inner(argument)
        if inner is not None:
            return inner, typing.get_origin(hint) is dict
    return None, False


def _table(schema: type, prefix: str, *, runs: bool = True, same: bool = False) -> list[str]:
    """The rows of a schema as a table of Markdown, with an empty line at its end; see `_section`."""
    hints = typing.get_type_hints(schema)
    rows = []
    for item in dataclasses.fields(schema):
        rules = item.metadata
        if item.name == "_target_" or not rules.get("help"):
            continue
        path = f"{prefix}.{item.name}" if prefix else item.name
        new = f" {SAME_MODULE if same or rules.get('no_module') else ''} |" if runs else ""
        rows.append(f"| `{path}` | {_type(hints[item.name])} | {_text(rules['help'])}{_allowed(rules)} |{new}")
    head = ["| key | type | meaning |" + " new run |" * runs, "|---|---|---|" + "---|" * runs]
    return [*head, *rows, ""] if rows else []


def _type(hint: Any) -> str:
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return " or ".join("null" if part is type(None) else _type(part) for part in typing.get_args(hint))
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (list, tuple):
        return f"list of {_type(arguments[0])}"
    if origin is dict:
        return f"mapping to {_type(arguments[1])}"
    plain = {str: "text", int: "integer", float: "number", bool: "true/false", typing.Any: "any"}
    return plain.get(hint, "section" if dataclasses.is_dataclass(hint) else str(getattr(hint, "__name__", hint)))


def _allowed(rules: Mapping[str, Any]) -> str:
    if rules["choices"] is not None:
        return f" ({', '.join(f'`{choice}`' for choice in rules['choices'])})"
    bounds = [
        f"{sign} {rules[name]:g}"
        for name, sign in (("low", "≥"), ("above", ">"), ("high", "≤"))
        if rules[name] is not None
    ]
    return f" ({', '.join(bounds)})" if bounds else ""


def _text(help: str) -> str:
    return re.sub(r"([|<*])", r"\\\1", help)


def commands() -> str:
    """The page of all commands, from their help."""
    from xlt.commands.subcommands import SUBCOMMANDS, carry_out_subcommand
    from xlt.commands.usage import plain_help

    def shown(call: Callable[[], object]) -> str:
        said = io.StringIO()
        environment = mock.patch.dict(os.environ, {"COLUMNS": "80"})
        program = mock.patch.object(sys, "argv", ["xlt"])
        with environment, program, contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
            call()
        return "```text\n" + said.getvalue().rstrip() + "\n```\n"

    parts = [
        "# Commands\n",
        "`xlt` trains a run, with no further word; `xlt -m` a sweep. The other commands are words after it. Those of",
        "`scripts` with the same purpose are the same. `xlt COMMAND --help` shows these texts.\n",
        "| command | what it does |",
        "|---|---|",
        *(f"| [`xlt {name}`](#xlt-{name}) | {command.purpose} |" for name, command in SUBCOMMANDS.items()),
        "",
        "## xlt\n",
        shown(lambda: print(plain_help())),
    ]
    for name in SUBCOMMANDS:
        parts += [f"## xlt {name}\n", shown(lambda name=name: carry_out_subcommand([name, "--help"]))]  # type: ignore[misc]
    return MADE + "\n".join(parts).rstrip() + "\n"


def python() -> str:
    """The page of the functions and classes of Python: their source, of which only the docstrings are left.

    Between the comments of an object the site has what mkdocstrings makes of it; see `scripts/site_hook.py`.
    """
    parts = [
        "# Python\n",
        "`import xlt` offers these names; `help(xlt.train)` shows the same text.",
        "[From Python](../how-to/python.md) shows them at work.\n",
    ]
    for title, names in OF_PYTHON.items():
        parts.append(f"## {title}\n")
        for name in names:
            module, _, last = name.rpartition(".")
            shown = _stub(getattr(importlib.import_module(module), last))
            parts += [f"<!-- ::: {name} -->", f"### {last}\n", f"```py\n{shown}\n```", "<!-- end -->\n"]
    return MADE + "\n".join(parts).rstrip() + "\n"


def _stub(thing: Any) -> str:
    """Returns the source of a function or class up to its docstring, with the fields and public methods of a class."""
    text = textwrap.dedent(inspect.getsource(thing))
    (node,) = ast.parse(text).body
    assert isinstance(node, ast.FunctionDef | ast.ClassDef)
    lines = text.splitlines()
    return "\n".join(_shown_lines(node, lines))


def _shown_lines(node: ast.FunctionDef | ast.ClassDef, lines: list[str]) -> Iterator[str]:
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    has_docstring = ast.get_docstring(node) is not None
    last = node.body[0].end_lineno if has_docstring else node.body[0].lineno - 1
    yield from lines[first - 1 : last]
    if isinstance(node, ast.FunctionDef):
        return
    for part in node.body[has_docstring:]:
        if isinstance(part, ast.AnnAssign):
            yield from ("", *lines[part.lineno - 1 : part.end_lineno])
        elif isinstance(part, ast.FunctionDef) and not part.name.startswith("_") and ast.get_docstring(part):
            yield from ("", *_shown_lines(part, lines))


def tables() -> str:
    """The page of all tables and findings, from their files."""
    from xlt.commands.claims import compose_claims
    from xlt.compose import hydra_ready
    from xlt.tables.catalogue import catalogue

    with hydra_ready():
        entries, claims = catalogue(), compose_claims([])
    parts = [
        "# Tables and findings\n",
        "`xlt table table=NAME` trains what is missing of a table and shows it; `xlt table --list` prints this list.",
        "The number of a published table or figure is a name, too: `table=4.2`, `figure=4.2`. Tables with * have a",
        "picture, which `xlt plot figure=NAME` draws.\n",
        "| `table=` | title | stands for |",
        "|---|---|---|",
    ]
    for entry in entries:
        picture = " *" if entry.has_figure else ""
        parts.append(f"| `{entry.name}`{picture} | {_text(entry.title)} | {', '.join(entry.stands_for)} |")
    parts += [
        "\n## Findings\n",
        "`xlt claims` tests these on finished runs ([how](../how-to/own_table.md)).\n",
        "| `only=` | finding | where |",
        "|---|---|---|",
        *(f"| `{name}` | {_text(claim.says)} | {_text(claim.where)} |" for name, claim in claims.claims.items()),
    ]
    return MADE + "\n".join(parts) + "\n"


PAGES: dict[str, Callable[[], str]] = {
    "keys.md": keys,
    "commands.md": commands,
    "tables.md": tables,
    "python.md": python,
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only say which pages are older than the code")
    given = parser.parse_args(arguments)
    old = [name for name, page in PAGES.items() if (made := page()) != _written(name, made, given.check)]
    for name in old:
        print(f"docs/reference/{name}: older than the code; make reference writes it")
    return int(bool(old))


def _written(name: str, made: str, check: bool) -> str:
    """The content of a page; without `check` it is written first."""
    from xlt.files import atomic_text

    file = FOLDER / name
    if not check:
        with atomic_text(file) as opened:
            opened.write(made)
    return file.read_text(encoding="utf-8") if file.is_file() else ""


if __name__ == "__main__":
    sys.exit(main())
