"""The subcommands of `xlt`: each is found, its help fits a terminal, and a wrong word gets one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from xlt.commands.options import Options
from xlt.commands.subcommands import SUBCOMMANDS, carry_out_subcommand, near_subcommand


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_the_help_of_a_subcommand_fits_80_columns_and_names_it(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        assert carry_out_subcommand([name, "--help"])
    except SystemExit as stop:
        assert stop.code in (0, None)
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: xlt {name}")
    assert max(map(len, shown.splitlines())) <= 80


def test_a_run_is_no_subcommand_and_options_before_the_name_are_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not carry_out_subcommand(["experiment=pos", "table"])
    assert not carry_out_subcommand(["--config-dir", "table"])
    seen: list[list[str]] = []
    monkeypatch.setattr("xlt.commands.state.main", seen.append)
    assert carry_out_subcommand(["--remove", "state", "output_dir=outputs"])
    assert seen == [["--remove", "output_dir=outputs"]]


def test_a_misspelt_subcommand_is_told_from_an_override() -> None:
    assert near_subcommand("claim") == "claims"
    assert near_subcommand("experiment") is None


def test_options_stand_before_between_and_after_words_and_a_wrong_one_gets_a_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    parser = Options("state", "About.")
    parser.add_argument("words", nargs="*")
    parser.add_argument("--model")
    for words in (["--model", "m", "a", "b"], ["a", "--model", "m", "b"], ["a", "b", "--model", "m"]):
        given = parser.parse(words)
        assert (given.words, given.model) == (["a", "b"], "m")
    with pytest.raises(SystemExit) as stop:
        parser.parse(["--modle", "m"])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--modle" in line and "--model" in line


ROOT = Path(__file__).parents[3]
RUN = "import sys\nfrom xlt.commands.entry import main\nmain()\n"
HEAVY = ("torch", "transformers", "triton")


@pytest.mark.parametrize("words", [["--version"], ["--help"], ["table", "--help"], ["--help", "import"]], ids=" ".join)
def test_neither_version_nor_help_imports_heavy_libraries(words: list[str]) -> None:
    code = "from xlt.commands.entry import main\ntry: main()\nfinally: "
    code = f"import sys\n{code}assert not [name for name in {HEAVY} if name in sys.modules]"
    ended = subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "") and ended.stdout


def test_the_help_that_is_shown_without_composing_is_the_one_that_hydra_makes() -> None:
    shown = [
        subprocess.run([sys.executable, "-c", RUN, *words], check=True, cwd=ROOT, capture_output=True, text=True).stdout
        for words in (["--help"], ["--help", "--help"])  # the second form is left to Hydra
    ]
    assert shown[0].rstrip() == shown[1].rstrip()
