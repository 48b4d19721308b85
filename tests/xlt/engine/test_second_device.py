"""What goes wrong only on a second device, found without one: the GPU's tests on a device that stands in for it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.second_device import NAME

# A run of each method; languages, a teacher, a module of each kind, a resumed run. The rest of tests/gpu passes too,
# and shows no more of devices: XLT_GPU_DEVICE=second_device pytest -m gpu tests/gpu
_CHOSEN = (
    "crossing or a_run_is_that_of_the_cpu or spread or a_student or (two_languages and lt_sft and tagging)"
    " or (a_module_saved and (flix or lora or mad_x)) or (killed and spiel_ma)"
)


def test_a_run_of_each_method_passes_on_a_second_device(tmp_path: Path) -> None:
    """In a process of its own: autograd knows only the devices that there were at its first backward."""
    tests = ["tests/gpu/test_crossing.py", "tests/gpu/test_training.py"]
    command = [sys.executable, "-m", "pytest", *tests, "-m", "gpu", "-k", _CHOSEN, "--tb=short"]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider", f"--basetemp={tmp_path / 'gpu'}", "-o", "addopts=--import-mode=importlib"],
        cwd=Path(__file__).parents[3],
        env={**os.environ, "XLT_GPU_DEVICE": NAME},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert re.search(r"=+ \d+ passed", done.stdout) and " skipped" not in done.stdout, done.stdout[-500:]
