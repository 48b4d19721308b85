"""`--config-dir` holds for every command that composes configs, and is refused by the others."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from xlt.commands.bench import benchmarks
from xlt.commands.subcommands import SUBCOMMANDS, carry_out_subcommand
from xlt.compose import compose, hydra_ready, own_configs
from xlt.use.loading import _named_task

FILES = {
    "experiment/own.yaml": "# @package _global_\ndefaults: [nano_fields, _self_]\nexperiment_name: own_experiment\n",
    "table/own.yaml": (
        "defaults: [base_table, _self_]\ntitle: A table of my own\nparts:\n  fields: {experiment: nano_fields, "
        "metrics: {fields: accuracy}, systems: {full: {}}, columns: [eng]}\n"
    ),
    "task/own.yaml": "defaults: [pos, _self_]\nmax_length: 17\n",
}


@pytest.fixture
def own(tmp_path: Path) -> Path:
    for path, text in FILES.items():
        (tmp_path / "own" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "own" / path).write_text(text, encoding="utf-8")
    return tmp_path / "own"


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """`call(*words)`: exit code and everything printed."""

    def carry_out(*words: object) -> tuple[int, str]:
        capsys.readouterr()
        code: object = 0
        try:
            assert carry_out_subcommand([str(word) for word in words])
        except SystemExit as stop:
            code = stop.code or 0
        said = capsys.readouterr()
        assert isinstance(code, int)
        return code, said.out + said.err

    return carry_out


def test_a_table_an_experiment_and_a_task_of_my_own_are_found(
    own: Path, call: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    place = f"output_dir={tmp_path / 'outputs'}"
    (tmp_path / "outputs" / "runs").mkdir(parents=True)
    assert "no such table" in call("table", "table=own", "--plan", place)[1]
    code, said = call("table", "table=own", "--plan", place, "--config-dir", own)
    assert code == 0 and "LtSft" not in said and "full" in said
    code, said = call("--config-dir", own, "plot", "figure=own", place)
    assert code == 2 and "this table has no picture" in said
    code, said = call("floors", f"--config-dir={own}", "experiment=own", "method=bitfit")
    assert code == 2 and "model.run" in said and "own" not in said
    code, said = call("runs", "why", "experiment=own", f"--config-dir={own}", place)
    assert code == 0 and "own_experiment" in said
    assert "max_length=17" not in said
    with own_configs(str(own)):
        assert _named_task("own")["max_length"] == 17
    with hydra_ready(), pytest.raises(ValueError, match="own"):
        compose(["experiment=own"])  # afterwards it is gone


def test_commands_that_compose_nothing_refuse_it_and_a_missing_folder_is_named(
    own: Path, call: Callable[..., tuple[int, str]]
) -> None:
    for name in (name for name, one in SUBCOMMANDS.items() if not one.reads_configs):
        code, said = call(name, "--config-dir", own)
        assert code == 2 and "reads no configs" in said, name
    code, said = call("table", "--config-dir", own / "absent", "table=quickstart")
    assert code == 2 and "no such folder" in said
    code, said = call("table", "table=quickstart", "--plugins")
    assert code == 2 and "--plugins" in said


def test_the_benchmarks_are_listed_and_one_is_run_with_its_own_words(
    call: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, said = call("bench")
    assert code == 0 and all(name in said for name in benchmarks()) and "loader" in benchmarks()
    called: list[list[str]] = []

    class Done:
        returncode = 3

    def run(command: list[str], check: bool) -> Done:
        called.append(command)
        return Done()

    monkeypatch.setattr("xlt.commands.bench.subprocess.run", run)
    assert call("bench", "select", "--entries", "5")[0] == 3
    assert called == [[sys.executable, str(benchmarks()["select"]), "--entries", "5"]]
    code, said = call("bench", "selct")
    assert code == 2 and "did you mean select?" in said
