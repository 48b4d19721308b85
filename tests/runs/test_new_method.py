"""`xlt new-method`: what it writes trains at once, is what its page shows, and replaces nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pages import shown_files
from tests.runs.test_readme import NEW_METHOD
from xlt.commands.new_method import files_of_method, main

ROOT = Path(__file__).parents[2]


def test_its_files_are_those_that_its_page_shows() -> None:
    written = files_of_method("top_layers")
    for path, text in shown_files(NEW_METHOD).items():
        own = written[path.removeprefix("xlt/")]
        assert text.strip() == own.strip(), path


def test_the_method_trains_and_its_test_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "plug ins"
    main(["own_layers", "--folder", str(folder), "--package"])
    said = capsys.readouterr().out
    written = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert written == {*files_of_method("own_layers"), "pyproject.toml", "__init__.py"}
    assert all(name in said for name in written) and "method=own_layers" in said
    call = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)]
    ended = subprocess.run(call, cwd=tmp_path, env={**os.environ}, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout
    assert "1 passed" in ended.stdout


def test_no_file_is_overwritten_and_nothing_written_beside_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "conf" / "method" / "mine.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("mine", encoding="utf-8")
    with pytest.raises(SystemExit) as stop:
        main(["mine", "--folder", str(tmp_path)])
    assert stop.value.code == 2 and str(file) in capsys.readouterr().err
    assert file.read_text() == "mine" and not (tmp_path / "methods").exists()


@pytest.mark.parametrize("name", ["lt_sft", "TopLayers", "class", "top-layers", "../up"])
def test_names_that_no_method_can_have_are_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main([name])
    assert stop.value.code == 2 and len(capsys.readouterr().err.splitlines()) == 1
    assert not list(tmp_path.iterdir())
