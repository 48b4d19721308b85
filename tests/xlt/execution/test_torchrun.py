"""Two processes that `torchrun` starts, as a user starts them: what they leave, and what is left if one is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from xlt.modules import load_module

pytestmark = pytest.mark.slow
_TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
_LONG = [
    "train.max_steps=60",
    "train.evaluate_every_steps=30",
    "train.micro_batch_size=1",
    "train.save_every_seconds=0",
]


def _start(words: list[str], output: Path) -> subprocess.Popen[str]:
    command = [sys.executable, *_TORCHRUN, "-m", "xlt", *words, f"output_dir={output}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment)


def _ends(words: list[str], output: Path) -> dict[str, torch.Tensor]:
    process = _start(words, output)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    (file,) = output.glob("runs/*/module.safetensors")
    return load_module(file).to_tensors(None)[1]


def _second(process: subprocess.Popen[str]) -> int:
    """The id of the process with rank 1 (Linux)."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == process.pid and b"\0RANK=1\0" in b"\0" + (folder / "environ").read_bytes():
                return int(folder.name)
        except OSError:
            continue
    raise AssertionError("there is no second process")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("method", ["spiel_ag", "spiel_ma", "lt_sft", "lora"])
def test_one_of_two_killed_stops_the_other_and_resumed_they_end_in_the_same_bits(
    method: str, words: tuple[str, ...], tmp_path: Path
) -> None:
    grows = ["method.update_interval=5"]
    own = {"spiel_ag": grows, "spiel_ma": grows, "lora": ["method.rank=4"]}
    given = [*words, *_LONG, f"method={method}", *own.get(method, [])]
    whole, killed = _ends(given, tmp_path / "whole"), tmp_path / "killed"
    process = _start(given, killed)
    while process.poll() is None and not list(killed.glob("runs/*/state.safetensors")):
        time.sleep(0.05)
    os.kill(_second(process), signal.SIGKILL)
    _, errors = process.communicate(timeout=300)
    assert process.returncode != 0
    assert not list(killed.glob("runs/*/module.safetensors"))
    ours = [line for line in errors.splitlines() if line.startswith("xlt: ")]
    noticed = ours == ["xlt: process 0: another process has ended; give the same command again"]
    assert noticed or "stopped by SIGTERM" in errors, errors  # torchrun may be faster
    resumed = _ends(given, killed)
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())
