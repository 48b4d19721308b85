"""`scripts/floors.py`: what a constant answer scores, and what is refused before anything is read."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "floors.py"


@pytest.fixture(scope="module")
def floors() -> Callable[..., int]:
    """`floors(*words)`: the script's exit code."""
    spec = importlib.util.spec_from_file_location("floors", SCRIPT)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    def run(*words: str) -> int:
        try:
            script.main(words)
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    return run


@pytest.fixture
def words(tiny_bert: Path, tmp_path: Path) -> list[str]:
    """A tagging run on sentences with two nouns to a verb; the target's have one to two."""
    rows = {
        "sources": ("eng", ["NOUN", "VERB", "NOUN"]),
        "validation": ("eng", ["NOUN", "NOUN", "VERB"]),
        "evaluation": ("fao", ["VERB", "NOUN", "VERB"]),
    }
    for part, (_, tags) in rows.items():
        lines = (f"{n}\t{part}{n}\t_\t{tag}\t_\t_\t0\t_\t_\t_\n" for n, tag in enumerate(tags, 1))
        (tmp_path / f"{part}.conllu").write_text("".join(lines) + "\n", encoding="utf-8")
    parts = [
        word
        for part, (language, _) in rows.items()
        for word in (
            f"+source@data.{part}.{language}=ud_{language}",
            f"data.{part}.{language}.path={tmp_path / part}.conllu",
        )
    ]
    return [
        "experiment=pos",
        "method=bitfit",
        "data=empty",
        "data.leaks=allow",
        "language_modules=none",
        *parts,
        f"model.path={tiny_bert}",
        f"output_dir={tmp_path / 'outputs'}",
    ]


def test_the_floor_of_tagging_is_the_most_frequent_tag_of_the_training_sources(
    floors: Callable[..., int], words: list[str], tmp_path: Path
) -> None:
    assert floors(*words, "--output", str(tmp_path / "floors.json")) == 0
    found = json.loads((tmp_path / "floors.json").read_text())
    assert found["validation"]["eng"]["accuracy"] == pytest.approx(200 / 3)
    assert found["evaluation"]["fao"]["accuracy"] == pytest.approx(100 / 3)


def test_what_has_no_floor_is_refused_before_anything_is_read(
    floors: Callable[..., int], words: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    instruct = ["experiment=instruct", *words[-2:]]
    run = [word for word in words if not word.startswith("model.path")]
    run += ["model=nano"]
    absent, folder = tmp_path / "absent" / "floors.json", tmp_path
    for given, facts in (
        (instruct, ["task: instruct", "no floor", "tagging, classification, parsing, "]),
        (run, ["model.run", "tokenizer", "model.path=... model.run=null"]),
        ([*words, "--output", str(absent)], [f"--output={absent}:", f"no folder {absent.parent}"]),
        ([*words, "--output", str(folder)], [f"--output={folder}:", "a folder", f"{folder}/floors.json"]),
    ):
        assert floors(*given) == 2
        out, err = capfd.readouterr()
        (line,) = err.splitlines()
        assert line.startswith("xlt: ") and all(fact in line for fact in facts) and out == ""
    assert not (tmp_path / "outputs").exists()
    assert floors(*instruct, "--output", str(absent)) == 2
    assert len(capfd.readouterr().err.splitlines()) == 2  # all that is wrong at once
