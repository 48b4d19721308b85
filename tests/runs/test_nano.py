"""The whole way at the smallest size: encoder, language modules, two systems, a table; then nothing is left to do."""

from __future__ import annotations

import json
import re
import shlex
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.pages import README, blocks
from xlt.commands.reproduce import reproduce
from xlt.commands.runs import list_runs
from xlt.commands.subcommands import carry_out_subcommand
from xlt.engine.training import Interrupted
from xlt.errors import UsageError


@pytest.fixture(scope="module")
def table(nano_table: Callable[[Path], list[str]], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return nano_table(tmp_path_factory.mktemp("nano") / "outputs")


def test_a_table_is_made_from_nothing_and_a_second_call_does_nothing(
    table: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert reproduce(table) == 0
    said = capsys.readouterr()
    assert "LT-SFT TA-only" in said.out and "hole" not in said.out
    # the encoder, two language modules, one task module; the two systems share all of them
    assert "4 runs: 0 exist, 4 to do" in said.err
    assert "[0/4 runs] " in said.err and "[4/4 runs, " in said.err and "\n4 runs in " in said.err
    out = Path(next(word for word in table if word.startswith("output_dir=")).partition("=")[2])
    (file,) = (path for path in (out / "tables").glob("quickstart-*.json") if ".figure" not in path.name)
    saved = json.loads(file.read_text(encoding="utf-8"))
    assert set(saved["cells"]) == {"lt_sft", "lt_sft_ta"}
    for row in saved["cells"].values():
        for column in ("eng", "fao", "avg"):
            assert len(row[column]["values"]) == 1 and row[column]["missing"] is None
            (run,) = row[column]["runs"]
            manifest = json.loads((out / "runs" / run[:12] / "manifest.json").read_text(encoding="utf-8"))
            assert set(manifest["depends_on"]) == {"model", "eng"}
    before = {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*")}

    monkeypatch.setattr("xlt.execution.execution._do", None)  # whoever calls it fails
    assert reproduce(table) == 0
    again = capsys.readouterr()
    assert again.out == said.out
    assert "nothing to do" in again.err
    assert {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*")} == before


def test_the_modules_of_the_quickstart_are_used_as_the_readme_says(
    table: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reproduce(table) == 0
    (block,) = [block.text for block in blocks(README) if "xlt predict" in block.text]
    out = Path(next(word for word in table if word.startswith("output_dir=")).partition("=")[2])
    assert out.name == "outputs"
    monkeypatch.chdir(out.parent)
    variables: dict[str, str] = {}
    for line in block.splitlines():
        words = [variables.get(word, word) for word in shlex.split(line, comments=True)]
        if said := re.fullmatch(r'echo "(.*)" > (\S+)', line):
            Path(said[2]).write_text(f"{said[1]}\n", encoding="utf-8")
        elif folder := re.fullmatch(r"(\w+)=(\S+)\$\(xlt runs list (.*) \| head -n 1 \| cut -c 1-12\)", line):
            variables[f"${folder[1]}"] = folder[2] + next(list_runs(folder[3].split()))[:12]
        else:
            capsys.readouterr()
            assert words[0] == "xlt" and carry_out_subcommand(words[1:])
            if words[1] == "evaluate":
                assert re.search(r"2000 examples  accuracy \d", capsys.readouterr().out)
    assert len(variables) == 2 and all((Path(folder) / "module.safetensors").is_file() for folder in variables.values())
    annotated = Path("dates.conllu").read_text(encoding="utf-8")
    assert annotated.startswith("# text = 3. mai 2021") and "Field=" in annotated
    assert (Path("faroese-tagger") / "model.safetensors").is_file()


def test_the_plan_of_a_table_is_shown_without_doing_anything(
    table: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = [word for word in table if not word.startswith("output_dir=")]
    assert reproduce([*words, f"output_dir={tmp_path / 'elsewhere'}", "--plan"]) == 0
    assert "4 runs: 0 exist, 4 to do" in capsys.readouterr().out
    assert not (tmp_path / "elsewhere").exists()


def test_an_interrupted_table_is_shown_as_it_stands_and_so_it_is_to_who_asks(
    table: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert reproduce(table) == 0
    complete = capsys.readouterr().out
    two_seeds = ["seeds=[1,2]" if word.startswith("seeds=") else word for word in table]

    def interrupted(*_: object) -> None:
        raise Interrupted(signal.SIGTERM)

    monkeypatch.setattr("xlt.execution.execution._do", interrupted)
    with pytest.raises(Interrupted, match="SIGTERM; 0 of 1 runs finished, 1 begun; all that was done is saved"):
        reproduce(two_seeds)
    at_the_signal = capsys.readouterr().out
    assert "hole: all systems, seed 2: not run" in at_the_signal and "seed 1" not in at_the_signal
    assert reproduce([*two_seeds, "--show"]) == 0
    asked = capsys.readouterr()
    assert asked.out == at_the_signal and "\n1 run to do" in asked.err
    assert reproduce([*table, "--show"]) == 0
    assert capsys.readouterr().out == complete


def test_a_table_that_is_interrupted_before_its_first_number_is_not_shown(
    table: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupted(*_: object) -> None:
        raise Interrupted(signal.SIGINT)

    monkeypatch.setattr("xlt.execution.execution._do", interrupted)
    words = [word for word in table if not word.startswith("output_dir=")]
    with pytest.raises(Interrupted, match="0 of 4 runs finished, 1 begun"):
        reproduce([*words, f"output_dir={tmp_path / 'elsewhere'}"])
    assert capsys.readouterr().out == "" and not (tmp_path / "elsewhere" / "tables").exists()


def test_a_plan_and_a_table_are_not_asked_for_at_once() -> None:
    with pytest.raises(UsageError, match="--plan --show: give one of them"):
        reproduce(["table=quickstart", "--plan", "--show"])
