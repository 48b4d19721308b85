"""The Makefile: what each target installs, in which order, and when again. A stand-in for Python notes its calls."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.pages import ROOT

NOTES = "calls.txt"
STAND_IN = f"""#!/bin/sh
echo "$@" >> {NOTES}
if [ "$1 $2" = "-m venv" ]; then mkdir -p "$3/bin" && cp "$0" "$3/bin/python"; fi
case "$*" in *"$XLT_TEST_FAILS"*) exit ${{XLT_TEST_FAILS:+1}} ;; esac
"""
PIP = "-m pip install --disable-pip-version-check --constraint constraints.txt"
BASE = [f"{PIP} torch", f"{PIP} --editable ."]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the Makefile, the files that it reads, and a stand-in for Python, which writes down its words."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy2(ROOT / name, tmp_path / name)
        os.utime(tmp_path / name, (1, 1))
    (tmp_path / "stand-in").write_text(STAND_IN, encoding="utf-8")
    (tmp_path / "stand-in").chmod(0o755)
    return tmp_path


def _make(folder: Path, target: str, fails: str = "") -> tuple[list[str], str]:
    """The calls of Python that `make` does for a target, and what it prints; `fails`: words of the call that fails."""
    (folder / NOTES).unlink(missing_ok=True)
    environment = {**os.environ, "XLT_TEST_FAILS": fails}
    environment.pop("MAKEFLAGS", None)
    call = ["make", f"PYTHON={folder / 'stand-in'}", target]
    ended = subprocess.run(call, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert (ended.returncode == 0) is not bool(fails), ended.stderr
    return (folder / NOTES).read_text(encoding="utf-8").splitlines(), ended.stdout


def _installs(calls: list[str]) -> list[str]:
    return [call for call in calls if call.startswith("-m pip")]


def test_the_quickstart_installs_torch_and_then_what_trains(checkout: Path) -> None:
    calls, said = _make(checkout, "quickstart")
    assert calls[0] == "-m venv .venv" and calls[1:-1] == BASE
    assert calls[-1].startswith("scripts/reproduce_table.py table=quickstart")
    lines = said.splitlines()
    steps = [lines.index(line) for line in lines if re.match(r"make: [123] of 3: \w", line)]
    done = [next(at for at, line in enumerate(lines) if line.endswith(call)) for call in calls[:3]]
    assert len(steps) == 3 and all(step < at for step, at in zip(steps, done, strict=True)), said


def test_tests_get_what_they_need_and_linters_come_last(checkout: Path) -> None:
    calls, _ = _make(checkout, "test")
    assert _installs(calls) == [*BASE, f"{PIP} --editable .[test]"] and "pytest" in calls[-1]
    assert not [extra for extra in EXTRAS["test"] if extra.startswith(("ruff", "mypy"))]
    (checkout / ".venv" / "bin" / "ruff").symlink_to("python")
    (checkout / ".venv" / "bin" / "mypy").symlink_to("python")
    calls, _ = _make(checkout, "lint")
    assert _installs(calls) == [f"{PIP} --editable .[dev]"]
    assert {"xlt[test]"} < set(EXTRAS["dev"]) and {"ruff", "mypy"} <= {e.split(">")[0] for e in EXTRAS["dev"]}


def test_it_is_installed_once_and_again_when_what_is_needed_changes(checkout: Path) -> None:
    _make(checkout, "test")
    assert _installs(_make(checkout, "quickstart")[0]) == _installs(_make(checkout, "test")[0]) == []
    later = (checkout / ".venv" / "installed").stat().st_mtime + 100
    os.utime(checkout / "pyproject.toml", (later, later))
    assert _installs(_make(checkout, "quickstart")[0]) == BASE
    os.utime(checkout / "pyproject.toml", (1, 1))
    later = (checkout / ".venv" / "installed-test").stat().st_mtime + 100
    os.utime(checkout / ".venv" / "installed", (later, later))
    assert _installs(_make(checkout, "test")[0]) == [f"{PIP} --editable .[test]"]


@pytest.mark.parametrize("fails", ["-m venv", "install", "--editable"])
def test_what_was_not_installed_is_not_marked(checkout: Path, fails: str) -> None:
    _make(checkout, "quickstart", fails)
    assert not (checkout / ".venv" / "installed").exists()
    assert _installs(_make(checkout, "quickstart")[0]) == BASE


def test_every_part_that_a_target_installs_is_a_part_of_the_package(checkout: Path) -> None:
    text = (checkout / "Makefile").read_text(encoding="utf-8")
    assert {"test", "dev", "docs"} <= set(re.findall(r'--editable "\.\[(\w+)\]"', text)) <= EXTRAS.keys()
    targets = dict(re.findall(r"^([\w-]+): \$\(VENV\)/(installed[\w-]*)$", text, re.MULTILINE))
    recipes = dict(re.findall(r"^([\w-]+):[^\n]*\n((?:\t.*\n)+)", text, re.MULTILINE))
    for tool, part in (("-m pytest", "installed-test"), ("$(BIN)/ruff", "installed-dev"), ("mkdocs", "installed-docs")):
        users = [target for target, recipe in recipes.items() if tool in recipe]
        assert users and {targets[target] for target in users} == {part}, tool
