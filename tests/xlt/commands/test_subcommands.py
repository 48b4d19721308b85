"""The subcommands of `xlt`: each is found, its help fits a terminal, and a wrong word gets one line."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest
from hydra._internal.utils import get_args_parser

from xlt.commands.entry import main
from xlt.commands.fitting import fitted
from xlt.commands.options import Options
from xlt.commands.subcommands import (
    _BEFORE_VALUES,
    SUBCOMMANDS,
    carry_out_subcommand,
    near_subcommand,
    wrong_command,
)


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_the_help_of_a_subcommand_fits_80_columns_and_names_it(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        assert carry_out_subcommand([name, "--help"])
    except SystemExit as stop:
        assert stop.code in (0, None)
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: xlt {name}")
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_the_help_of_a_subcommand_fits_a_narrow_terminal_and_says_the_same(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = []
    for columns in ("80", "60"):
        monkeypatch.setenv("COLUMNS", columns)
        with contextlib.suppress(SystemExit):
            carry_out_subcommand([name, "--help"])
        shown.append(capsys.readouterr().out)
        assert max(map(len, shown[-1].splitlines())) <= int(columns)
    wide, narrow = (sorted("".join(text.split())) for text in shown)
    assert wide == narrow


def test_the_help_of_all_fits_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["xlt", "--help"])
    shown = []
    for columns in ("80", "60"):
        monkeypatch.setenv("COLUMNS", columns)
        main()
        shown.append(capsys.readouterr().out)
        assert max(map(len, shown[-1].splitlines())) <= int(columns)
    assert shown[0].split() == shown[1].split()


def test_a_help_text_is_wrapped_by_rows_paragraphs_and_commands() -> None:
    text = """\
usage: xlt table table=NAME [seeds=[1,2]] [launcher=NAME here]
                 [override ...]
       xlt table --list

A paragraph of two lines that are
joined.

    xlt runs remove FINGERPRINT ... [output_dir=outputs]
    xlt runs list
  table=4.2        a table of the thesis by
                   its number
  other            rest"""
    assert fitted(text, 40).splitlines() == [
        "usage: xlt table table=NAME",
        "    [seeds=[1,2]] [launcher=NAME here]",
        "    [override ...]",
        "       xlt table --list",
        "",
        "A paragraph of two lines that are",
        "joined.",
        "",
        "    xlt runs remove FINGERPRINT ...",
        "        [output_dir=outputs]",
        "    xlt runs list",
        "  table=4.2        a table of the thesis",
        "                   by its number",
        "  other            rest",
    ]
    assert fitted(text, 79) == text


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


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("tabel table=quickstart", "tabel: no such command; did you mean xlt table?"),
        ("--plan tabel table=4.2", "tabel: no such command; did you mean xlt table?"),
        ("tabel --help", "tabel: no such command; did you mean xlt table?"),
        ("-m Runs list", "Runs: no such command; did you mean xlt runs?"),
        ("--config-dir table tables", "tables: no such command; did you mean xlt table?"),
        ("--config-name table tables", "tables: no such command; did you mean xlt table?"),
        ("eval a.safetensors", "eval: no such command; did you mean xlt evaluate?"),
        ("new_method ffn", "new_method: no such command; did you mean xlt new-method?"),
        ("help", "help: no such command; write xlt --help"),
        ("train experiment=pos", "train: no such command; write xlt experiment=NAME ..., without a command"),
        (
            "experiment=pos table",
            "table: not an override; did you mean the command xlt table? It stands before all overrides",
        ),
        (
            "table=quickstart seeds=[1]",
            "table=quickstart: table belongs to the command xlt table; write xlt table table=quickstart",
        ),
        ("", "give what to run, for instance: xlt experiment=nano_fields; xlt --help has the rest"),
    ],
)
def test_a_wrong_command_is_one_line_and_nothing_is_composed_for_it(
    words: str, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["xlt", *words.split()])
    monkeypatch.setattr("xlt.commands.without_torch.complete", None)  # whoever calls it fails
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2 and capsys.readouterr().err == f"xlt: {line}\n"


@pytest.mark.parametrize(
    "words",
    ["experiment=pos", "--cfg job experiment=pos", "--info table", "~data.sources.et", "foo", "-m seed=1,2"],
)
def test_what_is_no_command_is_left_to_the_run(words: str) -> None:
    assert wrong_command(words.split()) is None


def test_the_options_with_a_value_are_those_of_hydra() -> None:
    actions = [one for one in get_args_parser()._actions if one.nargs in (None, "?") and one.option_strings]
    with_value = {name for action in actions for name in action.option_strings}
    assert with_value | {"--plugins"} == {*_BEFORE_VALUES}
