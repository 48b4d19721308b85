"""Faults in sweeps: each job says its own, and what all jobs share is said once."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from tests.runs.conftest import Ended
from tests.runs.refusals import RIGHT, filled, refused


def test_every_job_of_a_sweep_says_its_own_faults_and_nothing_is_left(
    input_files: dict[str, Path], command: Callable[..., Ended]
) -> None:
    ended = command("-m", *filled(RIGHT, input_files), "train.batch_size=0,-1")
    refused(ended, [["job 0", "train.batch_size=0: must be"], ["job 1", "train.batch_size=-1: must be"]])


def test_a_typo_in_a_sweep_is_said_once(input_files: dict[str, Path], command: Callable[..., Ended]) -> None:
    refused(command("-m", *filled(RIGHT, input_files), "seed=1,2", "seeed=1"), [["seeed=1: no such key"]])
    refused(command("-m", *filled(RIGHT, input_files), "seed=1,b"), [["seed=1,b", "'b' of type 'str'"]])
    refused(
        command("-m", *filled(RIGHT, input_files), "seed=interval(1,3)"), [["seed=interval(1,3)", "list or a range"]]
    )


def test_a_faulty_job_does_not_stop_the_others_of_its_sweep(
    input_files: dict[str, Path], command: Callable[..., Ended]
) -> None:
    ended = command("-m", *filled(RIGHT, input_files), "train.batch_size=0,4")
    assert ended.code == 2
    assert [line for line in ended.lines if line.startswith("xlt: ")] == [
        "xlt: job 0 (" + _dirname(ended.lines[0]) + "): train.batch_size=0: must be at least 1"
    ]
    assert sum(path.endswith("module.safetensors") for path in ended.left) == 1
    assert sum(path.endswith("multirun.yaml") for path in ended.left) == 1


def test_a_folder_in_which_no_sweep_can_be_written_is_one_line(
    input_files: dict[str, Path], command: Callable[..., Ended], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    for folder, said in ((tmp_path / "file" / "x", "is not a folder"), (tmp_path / ("x" * 300), "File name too long")):
        words = [word for word in filled(RIGHT, input_files) if not word.startswith("output_dir=")]
        refused(command("-m", *words, f"output_dir={folder}", "seed=1,2"), [[str(folder), said, "output_dir"]])


def _dirname(line: str) -> str:
    found = re.search(r"job 0 \((.*?)\): train", line)
    assert found is not None, line
    return found.group(1)
