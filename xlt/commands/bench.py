"""Runs a benchmark of the checkout.

    xlt bench                          # which benchmarks there are
    xlt bench loader --help            # the options of one
    xlt bench loader --output loader.json

A benchmark is a script, scripts/bench_NAME.py. They are in a checkout and in the source distribution, and not in an
installed wheel.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import xlt
from xlt.commands.ending import guarded
from xlt.commands.options import Options
from xlt.compose.suggestions import suggestion
from xlt.errors import UsageError

_PREFIX = "bench_"


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0].startswith("-"):
        parser = Options("bench", str(__doc__))
        parser.add_argument("name", nargs="?", metavar="NAME", help="of the benchmark; then its own words follow")
        parser.parse(words)
        guarded(show_benchmarks)
        return
    guarded(lambda: run_benchmark(words[0], words[1:]))


def show_benchmarks() -> int:
    """Prints the benchmarks, each with what it measures; returns the exit code.

    Raises:
        UsageError: this is no checkout.
    """
    from xlt.console import Terminal

    console = Terminal()
    for name, file in benchmarks().items():
        about = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        console.print(f"{name:16} {' '.join(about.partition(chr(10) * 2)[0].split())}")
    return 0


def run_benchmark(name: str, words: Sequence[str]) -> int:
    """Runs a benchmark in a process of its own, because it starts further ones; returns its exit code.

    Raises:
        UsageError: there is no such benchmark.
    """
    there = benchmarks()
    if name not in there:
        raise UsageError(f"{name}: no such benchmark{suggestion(name, sorted(there))}; xlt bench lists them")
    return subprocess.run([sys.executable, str(there[name]), *words], check=False).returncode


def benchmarks() -> dict[str, Path]:
    """Returns name -> script of each benchmark.

    Raises:
        UsageError: this is no checkout.
    """
    folder = Path(xlt.__file__).parent.parent / "scripts"
    files = sorted(folder.glob(f"{_PREFIX}*.py"))
    if not files:
        raise UsageError(
            f"xlt bench: there is no folder {folder}; the benchmarks are in the checkout and in the source "
            "distribution, not in an installed wheel"
        )
    return {file.stem.removeprefix(_PREFIX): file for file in files}
