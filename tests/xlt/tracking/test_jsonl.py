from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from xlt.tracking.jsonl import MetricsFile


def _read(folder: Path) -> list[dict[str, object]]:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert all(len(record.pop("checksum")) == 32 for record in records)
    return records


def test_a_record_is_a_line_with_phase_step_and_values(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "run")
    assert not (tmp_path / "run").exists()  # nothing before the first record
    file.metrics("dense", 1, {"loss": 1 / 3})
    file.metrics("sparse", 2, {"validation/accuracy": 50.0})
    assert _read(tmp_path / "run") == [
        {"phase": "dense", "step": 1, "loss": 0.3333333},
        {"phase": "sparse", "step": 2, "validation/accuracy": 50.0},
    ]
    assert file.written() == 2


def test_a_resumed_run_goes_back_to_where_its_state_was_saved(tmp_path: Path) -> None:
    killed = MetricsFile(tmp_path)
    for step in range(1, 6):
        killed.metrics("train", step, {"loss": 1.0})
    resumed = MetricsFile(tmp_path)
    resumed.rewind(3)
    assert resumed.written() == 3
    resumed.metrics("train", 4, {"loss": 2.0})
    assert [record["step"] for record in _read(tmp_path)] == [1, 2, 3, 4]
    assert _read(tmp_path)[3]["loss"] == 2.0
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_half_a_line_from_a_kill_is_gone_after_the_rewind(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path)
    file.metrics("train", 1, {"loss": 1.0})
    with (tmp_path / "metrics.jsonl").open("a", encoding="utf-8") as opened:
        opened.write('{"phase": "tra')
    again = MetricsFile(tmp_path)
    again.rewind(1)
    again.metrics("train", 2, {"loss": 1.0})
    assert [record["step"] for record in _read(tmp_path)] == [1, 2]


def test_a_new_run_begins_an_old_folders_file_anew(tmp_path: Path) -> None:
    MetricsFile(tmp_path).metrics("train", 1, {"loss": 1.0})
    new = MetricsFile(tmp_path)
    new.rewind(0)
    assert (new.written(), _read(tmp_path)) == (0, [])


def test_what_is_not_finite_is_null_so_that_every_line_is_json(tmp_path: Path) -> None:
    MetricsFile(tmp_path).metrics("train", 1, {"gradient_norm": math.inf, "loss": math.nan})
    text = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=lambda _: 1 / 0)["loss"] is None


def test_a_resumed_run_leaves_out_records_that_are_damaged_and_keeps_a_copy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    killed = MetricsFile(tmp_path)
    for step in range(1, 6):
        killed.metrics("train", step, {"loss": float(step)})
    file = tmp_path / "metrics.jsonl"
    damaged = file.read_bytes().replace(b'"loss": 2.0', b'"loss": 3.0')
    file.write_bytes(damaged)
    resumed = MetricsFile(tmp_path)
    resumed.rewind(3)
    assert resumed.written() == 2
    assert [record["step"] for record in _read(tmp_path)] == [1, 3]
    assert (tmp_path / "metrics.jsonl.damaged").read_bytes() == damaged
    (line,) = capsys.readouterr().err.splitlines()
    assert str(file) in line and "line 2" in line and "metrics.jsonl.damaged" in line


def test_records_of_another_run_are_not_continued(tmp_path: Path) -> None:
    MetricsFile(tmp_path / "other").metrics("train", 1, {"loss": 1.0})
    (tmp_path / "other").rename(tmp_path / "run")
    resumed = MetricsFile(tmp_path / "run")
    resumed.rewind(1)
    assert (resumed.written(), _read(tmp_path / "run")) == (0, [])
