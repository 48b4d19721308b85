"""Hydra composes the config of a command once, unless something can set `hydra.mode`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hydra._internal.hydra import Hydra

from xlt.commands.run_mode import mode_from_command_line
from xlt.compose import CONFIG_MODULE


@pytest.fixture
def composed(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The overrides of each call of the original function."""
    calls: list[list[str]] = []

    def get_mode(self: Any, config_name: str, overrides: list[str]) -> str:
        calls.append(overrides)
        return "read from the config"

    monkeypatch.setattr(Hydra, "get_mode", get_mode)
    return calls


def mode(folder: Path | None, *overrides: str) -> Any:
    with mode_from_command_line(CONFIG_MODULE, None if folder is None else str(folder)):
        return Hydra.get_mode(None, "config", list(overrides))


def test_without_a_mode_anywhere_nothing_is_composed(composed: list[list[str]], tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\ntrain: {max_steps: 3}\n")
    assert mode(None, "experiment=pos", "train.max_steps=1") is None
    assert mode(tmp_path, "experiment=mine") is None
    assert composed == []


@pytest.mark.parametrize("override", ["hydra.mode=MULTIRUN", "+hydra.mode=RUN", "hydra/sweeper=optuna"])
def test_an_override_of_hydra_is_composed(override: str, composed: list[list[str]]) -> None:
    assert mode(None, override) == "read from the config"
    assert composed == [[override]]


@pytest.mark.parametrize(
    "text",
    [
        "hydra:\n  mode: MULTIRUN\n",
        "hydra: {mode: MULTIRUN}\n",
        'hydra: {"mode": RUN}\n',
        "hydra:\n  searchpath: [file://elsewhere]\n",
    ],
)
def test_a_users_config_that_can_set_a_mode_is_composed(text: str, composed: list[list[str]], tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(text)
    assert mode(tmp_path) == "read from the config"
    assert composed == [[]]


def test_every_folder_of_the_user_is_looked_at(composed: list[list[str]], tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("hydra: {mode: MULTIRUN}\n")
    with mode_from_command_line(CONFIG_MODULE, None, str(tmp_path)):
        assert Hydra.get_mode(None, "config", []) == "read from the config"
    with mode_from_command_line(CONFIG_MODULE, None, "pkg://another_package"):
        assert Hydra.get_mode(None, "config", ["seed=1"]) == "read from the config"
    assert composed == [[], ["seed=1"]]


def test_hydras_own_function_is_back_afterwards() -> None:
    original = Hydra.get_mode
    with mode_from_command_line(CONFIG_MODULE, None):
        assert Hydra.get_mode is not original
    assert Hydra.get_mode is original
