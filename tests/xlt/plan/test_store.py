from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import xlt
from xlt.engine.run import RESULT_FILE
from xlt.files import write_json
from xlt.plan.planner import Plan, Run


def test_a_manifest_is_recorded_on_a_machine_without_git(
    plan: Plan, planned: Callable[..., Run], words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = planned(*words)
    folder = plan.store.folder(run.fingerprint)
    folder.mkdir(parents=True)
    write_json(folder / RESULT_FILE, {"training": {"seconds": 7.0}})
    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(xlt, "__file__", str(tmp_path / "xlt" / "__init__.py"))
    (tmp_path / "xlt").mkdir()
    (tmp_path / "no programs").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "no programs"))
    plan.store.record_manifest(run.fingerprint, run.config, run.identity, run.kind, run.depends_on)
    manifest = plan.store.manifest(run.fingerprint)
    assert manifest["commit"] is None and manifest["seconds"] == 7.0
