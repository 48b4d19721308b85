"""Every kernel compiles for GPUs, without a GPU, and needs no more than it should."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import xlt_kernels

pytest.importorskip("triton", reason="triton is not installed")

ROOT = Path(__file__).parents[2]
KERNELS = Path(xlt_kernels.__path__[0])
USUAL, OTHERS = (90,), (80, 86, 89, 100)


def compiled(architectures: tuple[int, ...], folder: Path) -> list[dict[str, Any]]:
    """Compiles in a process of its own, because Triton decides at its import whether it interprets kernels."""
    file = folder / "record.json"
    words = [str(ROOT / "scripts" / "compile_kernels.py"), "--architectures", *map(str, architectures)]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(folder / "cache")
    done = subprocess.run(
        [sys.executable, *words, "--output", str(file)], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rows = json.loads(file.read_text())["kernels"]
    assert isinstance(rows, list)
    return rows


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return compiled(USUAL, tmp_path_factory.mktemp("usual"))


def launched_kernels() -> set[str]:
    """The kernels that a function of the package launches: the NAME of each NAME[grid](...)."""
    return {
        node.func.value.id
        for file in KERNELS.glob("*_triton.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Subscript) and isinstance(node.func.value, ast.Name)
    }


def check(rows: list[dict[str, Any]], architectures: tuple[int, ...]) -> None:
    for architecture in architectures:
        assert {row["kernel"] for row in rows if row["architecture"] == architecture} == launched_kernels()
    for row in rows:
        about = f"{row['kernel']} on sm_{row['architecture']}: {row['signature']}"
        assert row["spilled_bytes"] == 0, about
        assert row["registers"] * row["warps"] * 32 <= 65_536, about
        assert row["shared_bytes"] <= 99 * 1024, about  # what every one of these GPUs has


def test_every_kernel_compiles_without_spilling_registers(usual: list[dict[str, Any]]) -> None:
    check(usual, USUAL)


def test_kernels_that_only_move_bytes_load_16_at_a_time(usual: list[dict[str, Any]]) -> None:
    names = ("_write_kernel", "_swap_kernel", "_count_kernel", "_dot_kernel")
    moving = [row for row in usual if row["kernel"] in names]
    assert {row["kernel"] for row in moving} == {*names} and all(row["loads_of_16_bytes"] for row in moving)


@pytest.mark.slow
def test_every_kernel_compiles_for_the_other_architectures(tmp_path: Path) -> None:
    check(compiled(OTHERS, tmp_path), OTHERS)
