"""The benchmarks still run, at a size that says nothing about speed."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.mark.parametrize(
    ("script", "arguments", "rows"),
    [
        ("bench_training.py", "--size tiny --methods full lt_sft lora_8_as_in_peft --steps 1 --rounds 1", 4),
        ("bench_switching.py", "--size tiny --steps 1 --batch 2", 2),
        ("bench_llm.py", "--size tiny --batch 2 --methods spiel_ag --four-bit yes --checkpointing yes", 1),
    ],
)
def test_a_benchmark_writes_its_rows(script: str, arguments: str, rows: int, tmp_path: Path) -> None:
    output = tmp_path / "rows.json"
    command = [sys.executable, str(SCRIPTS / script), *arguments.split(), "--tokens", "8", "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(output.read_text())["rows"]
    assert len(found) == rows
    assert all(math.isfinite(row["seconds_per_step"]) and row["seconds_per_step"] > 0 for row in found.values())
