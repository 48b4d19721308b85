"""Whole commands on a store of which one file is damaged: the right numbers or a line, never a traceback or others.

A small store is made: an encoder, language modules, task modules of LT-SFT and of an adapter, their evaluations, a
table with its page, a picture, a sweep, and a run that was stopped. A case is a file of it, a damage and a command. The
suite has 30 cases of a smaller store; the slow test draws cases for `XLT_DAMAGE_SECONDS` (60), by `XLT_DAMAGE_SEED`.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import itertools
import json
import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from xlt import files
from xlt.commands import cli, plot, reproduce, state
from xlt.data import where
from xlt.engine import run_data
from xlt.engine.training import Trainer
from xlt.plan import checked_data

_EXPORT = Path(__file__).parents[2] / "scripts" / "convert_module.py"
_TABLE_WORDS = ("table=", "seeds=", "~table", "table.", "output_dir=")
_STUDENTS = ("scratch_2", "bistil_st_2", "bistil_tf_2")
_BITS = 8
_OWN = ("xlt.compose", "xlt.source_code", "xlt.plan.code", "xlt.tables.catalogue", "xlt.tables.config", "xlt.config")
_JSON = {"list": "[]", "number": "3", "null": "null", "object": "{}", "other keys": '{"a": 1}', "text": '"a"'}
_FEW = 30


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code and what it wrote on standard error; `raised`: an exception that got out."""

    code: int
    err: str
    raised: str = ""


@dataclass(frozen=True)
class Case:
    """A damage: the file's path in the store, what is done to it, and the command that is given afterwards."""

    file: str
    damage: str
    command: str


def forget_what_was_read() -> None:
    """Empties the caches of what earlier cases read from files of the same names, as each new process begins.

    What was read of xlt's own code and configs stays, because no case damages it.
    """
    for module in [module for name, module in sys.modules.items() if name.startswith("xlt.")]:
        for value in list(vars(module).values()):
            if isinstance(value, functools._lru_cache_wrapper) and not value.__module__.startswith(_OWN):
                value.cache_clear()
    for kept in (run_data._CHECKED, run_data._APART, checked_data._FOUND, where._COUNTS, files._REPORTED):
        kept.clear()


def call(main: Callable[[], object], *words: object) -> Ended:
    """Calls the `main` of a command in this process."""
    code: object = 0
    raised, err = "", io.StringIO()
    before = sys.argv
    sys.argv = ["xlt", *map(str, words)]
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(err):
            main()
    except SystemExit as stop:
        code = stop.code or 0
    except BaseException as error:
        raised = f"{type(error).__name__}: {error}"
    finally:
        sys.argv = before
    assert isinstance(code, int)
    return Ended(code, err.getvalue(), raised)


def _export_main() -> Callable[[], object]:
    spec = importlib.util.spec_from_file_location("convert_module", _EXPORT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda: module.main(sys.argv[1:])


class Store:
    """The small store, and the commands that are given in copies of it.

    Args:
        root: folder for the store and its copies.
        nano_table: of the tests of this folder.
        made_by: the commands that make the store, in order.
    """

    def __init__(self, root: Path, nano_table: Callable[[Path], list[str]], made_by: Sequence[str]) -> None:
        self.root, self.whole = root, root / "whole" / "outputs"
        self._table = [word for word in nano_table(self.whole) if not word.startswith("output_dir=")]
        own = [word for word in self._table if not word.startswith(_TABLE_WORDS)]
        self._run = ["experiment=nano_fields", "tracker=silent", "train.save_every_seconds=0", *own]
        self._figure = [word for word in self._table if not word.startswith(("table=", "~table", "table."))]
        self._figure += ["table.columns=[fao]", *(f"~table.parts.fields.systems.{name}" for name in _STUDENTS)]
        self._convert = _export_main()
        self._evaluations: dict[str, str] = {}  # command -> file with the evaluations that it leaves
        for name in made_by:
            if name == "resume":  # not part of the store: what the stopped run would give
                shutil.copytree(self.whole, root / "resumed" / "outputs")
            folder = root / ("resumed" if name == "resume" else "whole")
            before = {*folder.rglob("evaluation.json")}
            ended = self.give(name, folder)
            assert ended.code in ((143,) if name == "stopped" else (0,)), (name, ended)
            if name in ("table", "adapter", "resume"):
                (file,) = {*folder.rglob("evaluation.json")} - before
                self._evaluations[name] = str(file.relative_to(folder / "outputs"))
        for again, first in (("run", "table"), ("evaluate", "table"), ("evaluate adapter", "adapter")):
            if first in made_by:
                self._evaluations[again] = self._evaluations[first]
        self.files = sorted(str(path.relative_to(self.whole)) for path in self.whole.rglob("*") if path.is_file())
        self.numbers = {
            **self.numbers_in(root / "whole"),
            **self.numbers_in(root / "resumed"),
            "hub": self._exported(),
        }

    def give(self, name: str, folder: Path) -> Ended:
        """Gives a command in a folder that has the store in `outputs`."""
        out = "output_dir=outputs"  # the same words in each copy, which are composed once
        with pytest.MonkeyPatch.context() as patch:
            folder.mkdir(parents=True, exist_ok=True)
            patch.chdir(folder)
            if name == "stopped":
                patch.setattr(Trainer, "_stop_asked", lambda self: 15)
            if name.startswith("evaluate"):
                for file in (folder / "outputs" / "runs").glob("*/evaluation.json"):
                    file.unlink()
            words: dict[str, tuple[Callable[[], object], list[object]]] = {
                "run": (cli.main, [*self._run, "method=lt_sft", out]),
                "evaluate": (cli.main, [*self._run, "method=lt_sft", out]),
                "adapter": (cli.main, [*self._run, "method=pfeiffer", "language_modules=none", out]),
                "evaluate adapter": (cli.main, [*self._run, "method=pfeiffer", "language_modules=none", out]),
                "stopped": (cli.main, [*self._run, "method=lt_sft", "seed=2", out]),
                "resume": (cli.main, [*self._run, "method=lt_sft", "seed=2", out]),
                "sweep": (cli.main, ["-m", *self._run, "method=lt_sft,pfeiffer", "language_modules=none", out]),
                "table": (reproduce.main, [*self._table, out]),
                "plan": (reproduce.main, [*self._table, out, "--plan"]),
                "show": (reproduce.main, [*self._table, out, "--show"]),
                "figure": (plot.main, ["figure=bistil_nano", *self._figure, out]),
                "state": (state.main, [out]),
                "remove": (state.main, [out, "--remove"]),
            }
            main, given = words[name] if name != "export" else (self._convert, self._export(folder))
            return call(main, *given)

    def _export(self, folder: Path) -> list[object]:
        """Returns the words that export the adapter's module; the base model is read from the copy, too."""
        runs = folder / "outputs" / "runs"
        module = runs / Path(self._evaluations["adapter"]).parent.name / "module.safetensors"
        (model,) = (path.name for path in (self.whole / "runs").iterdir() if (path / "checkpoint").exists())
        return [
            module,
            "--model",
            runs / model / "checkpoint",
            "--name",
            "x",
            "--without-head",
            "--output",
            folder / "hub",
        ]

    def _exported(self) -> dict[str, bytes]:
        ended = self.give("export", self.root / "whole")
        assert ended.code == 0, ended
        hub = self.root / "whole" / "hub"
        return {path.name: path.read_bytes() for path in hub.iterdir()}

    def left_by(self, command: str) -> list[str]:
        """Returns the names of what a command must leave with all of its numbers, as `numbers_in` has them."""
        evaluations = [self._evaluations[command]] if command in self._evaluations else []
        tables = [name for name in self.numbers if name.startswith("tables/quickstart")] if command == "table" else []
        return [*evaluations, *tables, *(["hub"] if command == "export" else [])]

    def numbers_in(self, folder: Path) -> dict[str, Any]:
        """Returns all numbers that the store and the exports in a folder show: file -> key -> numbers."""
        found: dict[str, Any] = {}
        out = folder / "outputs"
        for file in out.rglob("*"):
            name = str(file.relative_to(out))
            with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError):
                if file.name == "evaluation.json":
                    content = json.loads(file.read_text(encoding="utf-8"))
                    found[name] = {key: record["metrics"] for key, record in content.items()}
                elif file.name == "summary.json" and "sweeps" in file.parts:
                    rows = json.loads(file.read_text(encoding="utf-8"))
                    found.setdefault("sweeps", {}).update({row["overrides"]: row["scores"] for row in rows})
                elif file.parent.name == "tables" and file.suffix == ".json":
                    record = json.loads(file.read_text(encoding="utf-8"))
                    table = name.replace(".incomplete", "")
                    cells = record.get("cells") or {"": {"": {"values": record["numbers"]}}}
                    shown = {f"{s}/{c}": cell["values"] for s, row in cells.items() for c, cell in row.items()}
                    found.setdefault(table, {}).update({key: values for key, values in shown.items() if values})
        hub = folder / "hub"
        if hub.is_dir():
            found["hub"] = {path.name: path.read_bytes() for path in hub.iterdir()}
        return found


MADE_BY = ("table", "adapter", "stopped", "sweep", "figure", "resume")
COMMANDS = (
    *("run", "evaluate", "adapter", "evaluate adapter", "resume", "sweep", "table", "plan", "show", "figure"),
    *("state", "remove", "export"),
)
QUICK = ("adapter", "evaluate adapter", "state", "remove", "export")
"""Commands of the sample in the suite, on a store that the first of them makes."""
MAY_REFUSE = {"export": "the file", "figure": "nothing to draw"}
"""Commands that may end with 2 and a line: they make nothing again, so that there may be nothing to show."""


def damages(file: str) -> Iterator[str]:
    """Yields the names of all damages of a file."""
    yield "empty"
    yield from (f"cut at {tenth}0%" for tenth in range(1, 10))
    yield from (f"bit {number}" for number in range(_BITS))
    yield "another's"
    if file.endswith((".json", ".jsonl")):
        yield from (f"JSON {name}" for name in _JSON)


def damage(store: Store, case: Case, folder: Path) -> None:
    """Damages the file of a case in a copy of the store."""
    path = folder / "outputs" / case.file
    raw = path.read_bytes()
    kind, _, what = case.damage.partition(" ")
    draw = random.Random(f"{case.file} {case.damage}")
    if kind == "cut":
        raw = raw[: len(raw) * int(case.damage[7:-1]) // 100]
    elif kind == "bit" and raw:
        at = draw.randrange(len(raw))
        raw = raw[:at] + bytes([raw[at] ^ 1 << draw.randrange(8)]) + raw[at + 1 :]
    elif kind == "JSON":
        raw = f"{_JSON[what]}\n".encode()
    elif kind == "another's":
        alike = [name for name in store.files if name != case.file and Path(name).suffix == path.suffix]
        same = [name for name in alike if Path(name).name == path.name]
        raw = (store.whole / draw.choice(same or alike)).read_bytes() if alike else b""
    else:
        raw = b""
    path.write_bytes(raw)


def faults_of(store: Store, case: Case) -> list[str]:
    """Carries out a case in a copy of the store; returns what is wrong with its end, a line each."""
    folder = store.root / "case"
    forget_what_was_read()
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(store.whole, folder / "outputs")
    damage(store, case, folder)
    before = store.numbers_in(folder)
    ended = store.give(case.command, folder)
    lines = []
    if ended.raised:
        lines.append(f"raised {ended.raised}")
    if "Traceback" in ended.err or (folder / "outputs" / "tracebacks").exists():
        lines.append(f"a traceback: {ended.err[-500:]}")
    refused = ended.code == 2 and case.command in MAY_REFUSE and 1 <= len(ended.err.strip().splitlines()) <= 3
    if ended.code != 0 and not refused:
        lines.append(f"ended with {ended.code}: {ended.err[-500:]}")
    after = store.numbers_in(folder)
    for name, numbers in after.items():
        right = store.numbers.get(name, {})
        changed = {key: value for key, value in numbers.items() if before.get(name, {}).get(key) != value}
        lines += [
            f"{name}: {key} is {_short(value)}, not {_short(right.get(key))}"
            for key, value in changed.items()
            if right.get(key) != value
        ]
    if ended.code == 0:
        lines += [
            f"{name}: is not as it was"
            for name in store.left_by(case.command)
            if after.get(name) != store.numbers[name]
        ]
    return lines


def _short(value: object) -> str:
    return str(value)[:80]


def cases_of(store: Store, commands: Sequence[str]) -> list[Case]:
    """Returns all cases, in an order drawn at random."""
    cases = [Case(file, how, command) for file in store.files for how in damages(file) for command in commands]
    random.Random(os.environ.get("XLT_DAMAGE_SEED", "1")).shuffle(cases)
    return cases


def check(store: Store, cases: Iterable[Case]) -> None:
    wrong = [f"{case}: {line}" for case in cases for line in faults_of(store, case)]
    assert not wrong, "\n".join(wrong)


@pytest.fixture
def make_store(tmp_path: Path, nano_table: Callable[[Path], list[str]]) -> Callable[..., Store]:
    """`make_store("table", ...)`: the store that these commands make."""
    return lambda *made_by: Store(tmp_path, nano_table, made_by)


def test_a_damaged_file_of_a_run_leads_to_the_same_numbers_or_a_line(make_store: Callable[..., Store]) -> None:
    store = make_store(QUICK[0])
    check(store, cases_of(store, QUICK)[:_FEW])


@pytest.mark.slow
def test_a_damaged_file_of_any_store_leads_to_the_same_numbers_or_a_line(make_store: Callable[..., Store]) -> None:
    store = make_store(*MADE_BY)
    cases, done = cases_of(store, COMMANDS), 0
    until = time.monotonic() + float(os.environ.get("XLT_DAMAGE_SECONDS", "60"))
    wrong = []
    for case in itertools.takewhile(lambda _: time.monotonic() < until, cases):
        faults = faults_of(store, case)
        done += 1
        wrong += [f"{case}: {line}" for line in faults]
        for line in faults:
            print(f"{case}: {line}", flush=True)
    print(f"{done} of {len(cases)} cases, {len(wrong)} faults")
    assert not wrong, "\n".join(wrong)
