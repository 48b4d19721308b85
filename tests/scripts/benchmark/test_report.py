"""Command line and record of a benchmark."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from benchmark.report import CommandLine, machine, settings, write_record


def command_line() -> CommandLine:
    line = CommandLine("What it measures.", rounds=3, threads=1)
    line.add_count("list-entries", 0, "entries", least=0)
    line.add_precision()
    return line


def test_options_have_their_defaults_and_the_record_leaves_the_output_out(tmp_path: Path) -> None:
    options = command_line().parse_args(["--rounds", "5", "--output", str(tmp_path / "record.json")])
    assert options.output == tmp_path / "record.json"
    assert settings(options) == {"rounds": 5, "threads": 1, "list_entries": 0, "precision": "fp32"}
    assert settings(options, "rounds", "precision") == {"threads": 1, "list_entries": 0}


@pytest.mark.parametrize(
    ("words", "facts"),
    [
        (["--rounds", "0"], ["--rounds", "0", "1 or more"]),
        (["--rounds", "many"], ["--rounds", "many", "1 or more"]),
        (["--list-entries", "-1"], ["--list-entries", "-1", "0 or more"]),
        (["--precision", "fp8"], ["--precision", "fp8", "bf16"]),
        (["--output", "FOLDER"], ["--output", "is a folder", "FOLDER/record.json"]),
        (["--speed"], ["--speed"]),
    ],
)
def test_wrong_words_are_refused_in_one_line(
    words: list[str], facts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        command_line().parse_args([word.replace("FOLDER", str(tmp_path)) for word in words])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert all(fact.replace("FOLDER", str(tmp_path)) in line for fact in facts)


def test_help_shows_the_docstring_and_the_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command_line().parse_args(["--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert "What it measures." in out and "--rounds N" in out and "default: 3" in out


def test_a_record_is_written_into_a_folder_that_does_not_exist_yet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = {**machine(), "rows": [1.5]}
    assert set(record) == {"device", "torch", "threads", "rows"} and record["torch"] == torch.__version__
    write_record(record, tmp_path / "new" / "record.json")
    assert json.loads((tmp_path / "new" / "record.json").read_text(encoding="utf-8")) == record
    assert capsys.readouterr().out == ""
    write_record(record, None, prints=True)
    assert json.loads(capsys.readouterr().out) == record
