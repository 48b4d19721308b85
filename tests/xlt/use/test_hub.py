"""Modules by the names of repositories, and cards made of headers and runs; the hub itself is replaced."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from xlt.engine.watching import Silence
from xlt.errors import UsageError
from xlt.execution.execution import carry_out
from xlt.plan.planner import Plan, Run
from xlt.use.export import ExportSettings, export
from xlt.use.hub import model_card
from xlt.use.loading import read_module
from xlt.use.repositories import is_repository


def test_a_repository_is_told_from_a_file(modules: Mapping[str, Path], tmp_path: Path) -> None:
    assert is_repository("org/name") and is_repository("org/name@v1.0")
    assert not is_repository(str(modules["pos"])) and not is_repository("name") and not is_repository("a/b/c")


def test_a_module_is_read_by_the_name_of_its_repository_and_revision(
    modules: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str, str | None]] = []

    def download(repository: str, file: str, revision: str | None = None) -> str:
        asked.append((repository, file, revision))
        return str(modules["pos"])

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert read_module("org/tagger@v2").module.header.task == "pos"
    assert read_module("org/tagger").module.header.task == "pos"
    assert asked == [("org/tagger", "module.safetensors", "v2"), ("org/tagger", "module.safetensors", None)]


def test_without_a_network_one_line_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as refused:
        read_module("org/no-such-module")
    (line,) = refused.value.lines
    assert line.startswith("org/no-such-module:") and "module.safetensors" in line


def test_an_upload_has_the_module_and_its_card(modules: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    sent: dict[str, Any] = {}

    class Api:
        def create_repo(self, name: str, **options: Any) -> None:
            sent["repository"] = name

        def upload_folder(self, repo_id: str, folder_path: str, **options: Any) -> None:
            sent["files"] = {file.name: file.read_bytes() for file in Path(folder_path).iterdir()}

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    said = export(ExportSettings([str(modules["fao"])], "org/faroese", to="hub"))
    assert said.endswith("org/faroese") and sent["repository"] == "org/faroese"
    assert sent["files"].keys() == {"module.safetensors", "README.md"}
    assert sent["files"]["module.safetensors"] == modules["fao"].read_bytes()
    card = sent["files"]["README.md"].decode()
    assert "Faroese" in card and "`fao`" in card and 'language: ["fao"]' in card and "tiny-bert" in card
    with pytest.raises(UsageError, match="ORG/NAME"):
        export(ExportSettings([str(modules["fao"])], "faroese", to="hub"))


def test_the_card_of_a_run_has_its_data_and_scores(
    plan: Plan, planned: Callable[..., Run], words: tuple[str, ...], tmp_path: Path
) -> None:
    run = planned(*words)
    carry_out(plan, None, lambda *_: Silence())
    card = model_card(read_module(str(plan.store.folder(run.fingerprint))), "org/name")
    for record in plan.store.evaluations(run.fingerprint).values():
        assert (
            f"| {record['source']} | {record['language']} | task | accuracy {record['metrics']['accuracy']:.2f}" in card
        )
    assert "| training | eng | English (eng) | train | gold | CC BY-SA 4.0 |" in card
    assert run.fingerprint in card and "xlt predict org/name" in card
    export(ExportSettings([str(plan.store.folder(run.fingerprint))], str(tmp_path / "card.md"), to="card"))
    assert (tmp_path / "card.md").read_text().count("##") == card.count("##") == 3
