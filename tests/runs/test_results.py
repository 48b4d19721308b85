"""`make results`: a page of the claims and tables, from what is in the store."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "results.py"
_WORDS = ["only=[averaging_raises_scores]", "seeds=[1]"]


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = importlib.util.spec_from_file_location("results", SCRIPT)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(script, "FOLDER", tmp_path / "results")
    return script


def test_what_was_not_run_is_said_and_no_path_is_written(results: Any, tmp_path: Path) -> None:
    assert results.make([*_WORDS, f"output_dir={tmp_path / 'out'}"], carry_out=False) == 0
    page = (tmp_path / "results" / "README.md").read_text(encoding="utf-8")
    assert "1 of 1 claims: not tested" in page
    assert "- averaging_nano: not run; none of its runs is finished" in page
    assert "- averaging: not run; needs data_dir and model.path" in page
    for file in (tmp_path / "results").rglob("*"):
        assert not file.is_file() or str(tmp_path) not in file.read_text(encoding="utf-8")


def test_results_are_older_when_the_code_would_train_other_runs(
    results: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["table=averaging_nano", "seeds=[1]", "scale=mini", f"output_dir={tmp_path / 'out'}"]
    _, tables, _ = results._planned(asked)
    runs = sorted({run.fingerprint for table in tables.values() for runs in table.runs().values() for run in runs})
    about = {"words": ["scale=mini"], "runs": runs}
    (tmp_path / "results").mkdir()
    for known, code, said in ((runs, 0, "as the code is"), (runs[1:], 1, "older than the code")):
        record = {"seeds": [1], "tables": {"averaging_nano": about | {"runs": known}, "flix": {"not run": "no data"}}}
        (tmp_path / "results" / "manifest.json").write_text(json.dumps(record), encoding="utf-8")
        assert results.check([f"output_dir={tmp_path / 'out'}"]) == code
        assert capsys.readouterr().out == f"averaging_nano: {said}\n"
