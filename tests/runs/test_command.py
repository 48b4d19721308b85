"""What Hydra users expect of the `xlt` command."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import xlt
from tests.runs.conftest import write_experiment
from xlt.tasks.tagging import Tagging

SETTINGS = "train: {max_steps: 2, evaluate_every_steps: 1, batch_size: 4}\n"


@pytest.fixture
def own_configs(tmp_path: Path) -> Path:
    return write_experiment(tmp_path / "own", "my_own", ["override /method: bitfit"], SETTINGS)


def test_help_fits_a_narrow_terminal_and_names_every_group_and_how_to_begin(command: Callable[..., Any]) -> None:
    ended = command("--help")
    assert (ended.code, ended.lines, ended.left) == (0, [], [])
    assert max(map(len, ended.out.splitlines())) <= 80
    assert len(ended.out.splitlines()) <= 60
    root = Path(xlt.__file__).parent.parent / "conf"
    for folder in root.iterdir():
        if folder.is_dir() and folder.name not in (
            "table",
            "system",
            "published",
            "recipes",
            "debug_by_method",
            "__pycache__",
        ):  # no groups of a run
            assert f"  {folder.name} " in ended.out, folder.name
    for option in ("nano_fields", "pos", "lt_sft", "random_sft", "locale_fields", "encoder_SCALE"):
        assert option in ended.out
    for line in ("model.path ", "data_dir ", "train.learning_rate ", "xlt experiment=nano_fields", "xlt -m experiment"):
        assert line in ended.out
    assert "base_" not in ended.out


def test_cfg_job_shows_the_composed_config_and_runs_nothing(command: Callable[..., Any]) -> None:
    ended = command("--cfg", "job", "method=bitfit", "seed=7")
    shown = yaml.safe_load(ended.out)
    assert (ended.code, ended.left, shown["seed"]) == (0, [], 7)
    assert shown["method"]["_target_"] == "xlt.methods.bitfit.BitFit"
    assert "hydra" not in shown


def test_cfg_with_a_package_shows_that_part(command: Callable[..., Any]) -> None:
    ended = command("--cfg", "job", "--package", "train", "recipe=nano_fields")
    assert yaml.safe_load("\n".join(line for line in ended.out.splitlines() if line[:1] != "#"))["batch_size"] == 32


def test_info_and_hydra_help_answer(command: Callable[..., Any]) -> None:
    assert "xlt_conf" in command("--info", "searchpath").out
    assert "--multirun" in command("--hydra-help").out


def test_version_is_that_of_xlt(command: Callable[..., Any]) -> None:
    ended = command("--version")
    assert (ended.code, ended.out.split()[:2]) == (0, ["xlt", f"{xlt.__version__},"])


def test_a_users_own_experiment_file_runs_from_anywhere(
    command: Callable[..., Any], own_configs: Path, data_dir: Path, tiny_bert: Path
) -> None:
    ended = command("--config-dir", own_configs, "experiment=my_own", f"data_dir={data_dir}", f"model.path={tiny_bert}")
    assert ended.code == 0, ended.lines
    assert "my_own bitfit eng" in " ".join(ended.out.split())
    assert sum(path.endswith("module.safetensors") for path in ended.left) == 1


def test_a_typo_beside_a_users_own_experiment_is_the_only_fault(command: Callable[..., Any], own_configs: Path) -> None:
    ended = command("--config-dir", own_configs, "experiment=my_own", "train.bath_size=3")
    assert ended.code == 2
    assert ended.lines == ["xlt: train.bath_size=3: no such key train.bath_size; did you mean train.batch_size?"]


@pytest.mark.parametrize("more", [[], ["data.cap=5"]])
def test_a_source_of_which_only_some_keys_are_given_lacks_the_others(
    command: Callable[..., Any], tmp_path: Path, more: list[str]
) -> None:
    """Such as one in an experiment that has another name than the one that `source@` gave."""
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    (tmp_path / "own" / "experiment" / "mine.yaml").write_text(
        "# @package _global_\n"
        "defaults:\n  - /source@data.sources.eng: ud_eng\n  - /source@data.validation.en: ud_eng\n  - _self_\n"
        "experiment_name: mine\ndata: {validation: {eng: {split: dev}}}\n"
    )
    ended = command("--config-dir", tmp_path / "own", "experiment=mine", f"data_dir={tmp_path}", "model=nano", *more)
    assert ended.code == 2
    ours = [line for line in ended.lines if line.startswith("xlt: data.validation.eng")]
    assert ours, ended.lines
    assert all("a value is required" in line for line in ours)


def test_a_group_that_every_run_has_is_not_deleted(command: Callable[..., Any]) -> None:
    ended = command("experiment=nano_fields", "~data")
    assert ended.code == 2
    assert ended.lines == ["xlt: ~data: every run has data, so it is not to be deleted; give data=... instead"]


def test_a_sweep_runs_every_job_and_leaves_what_hydra_leaves(
    command: Callable[..., Any], own_configs: Path, data_dir: Path, tiny_bert: Path
) -> None:
    # Options may stand between overrides.
    words = ("experiment=my_own", "-m", f"data_dir={data_dir}", "--config-dir", own_configs, f"model.path={tiny_bert}")
    ended = command(*words, "seed=1,2", "output_dir=out")
    assert ended.code == 0, ended.lines
    assert sum(path.endswith("module.safetensors") for path in ended.left) == 2
    (sweep,) = {"/".join(path.split("/")[:3]) for path in ended.left if path.startswith("out/sweeps/2")}
    assert [path for path in ended.left if path.startswith(sweep + "/")] == [
        f"{sweep}/{name}" for name in ("0", "1", "multirun.yaml", "summary.json", "sweep.html")
    ]


def test_the_same_command_again_trains_nothing(
    command: Callable[..., Any], own_configs: Path, data_dir: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--config-dir", own_configs, "experiment=my_own", f"data_dir={data_dir}", f"model.path={tiny_bert}")
    first = command(*words)
    monkeypatch.setattr("xlt.execution.execution._do", None)  # whoever calls it fails
    again = command(*words)
    assert (again.code, again.out, again.left) == (0, first.out, first.left)


def test_a_failing_run_is_one_line_and_exit_code_1(
    command: Callable[..., Any], own_configs: Path, data_dir: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--config-dir", own_configs, "experiment=my_own", f"data_dir={data_dir}", f"model.path={tiny_bert}")
    loss = Tagging.loss
    monkeypatch.setattr(Tagging, "loss", lambda *arguments: loss(*arguments) * float("nan"))
    ended = command(*words)
    assert ended.code == 1
    (line,) = ended.lines
    assert line.startswith("xlt: my_own bitfit eng seed=1: phase train") and "train.learning_rate" in line


def test_an_installed_command_finds_its_configs_away_from_the_checkout(tmp_path: Path) -> None:
    code = "from xlt.commands.cli import main; main()"
    call = [sys.executable, "-c", code, "experiment=nano_fields", "--cfg", "job", "--package", "scale"]
    ended = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "mini" in ended.stdout
    assert not list(tmp_path.iterdir())
