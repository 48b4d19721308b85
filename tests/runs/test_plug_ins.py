"""Plug-ins: what a folder or an installed package brings is used like a file of xlt, also in other processes."""

from __future__ import annotations

import dataclasses
import importlib
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from xlt.compose import checked, compose, hydra_ready
from xlt.data.sources import reader_of
from xlt.errors import UsageError
from xlt.execution.workers import ClusterJob, LocalWorkers
from xlt.plan.code import training_code
from xlt.plug_ins import VARIABLE, plug_in_folders, use_plug_ins

PACKAGES = ("xlt.methods", "xlt.data.readers")
METHOD = """
from dataclasses import dataclass
from xlt.config import key
from xlt.methods.full import Full

@dataclass
class PluggedConfig:
    _target_: str = "xlt.methods.plugged.Plugged"
    rate: int = key("a number", low=1)

SCHEMA = PluggedConfig

class Plugged(Full):
    name = "plugged"

    def __init__(self, rate):
        self.rate = rate
"""
WORDS = ["experiment=nano_fields", "method=plugged", "recipe=nano_distil"]


def write_plug_in(folder: Path) -> Path:
    files = {
        "methods/plugged.py": METHOD,
        "readers/of_tests.py": "def files(source): return []\ndef read(source): return iter(())\n",
        "conf/method/plugged.yaml": "defaults: [base_plugged, _self_]\nrate: 3\n",
        "conf/recipes/of_tests.yaml": "mini: {all: {train: {max_steps: 7}}}\n",
    }
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leaves no plug-in in this process."""
    monkeypatch.setenv(VARIABLE, "")
    for name in PACKAGES:
        package = importlib.import_module(name)
        monkeypatch.setattr(package, "__path__", list(package.__path__))
    yield
    for name in ("xlt.methods.plugged", "xlt.data.readers.of_tests"):
        sys.modules.pop(name, None)


def test_a_folder_brings_a_method_its_config_a_recipe_and_a_reader(tmp_path: Path) -> None:
    use_plug_ins([str(write_plug_in(tmp_path / "mine"))])
    with hydra_ready():
        assert compose(["recipe=of_tests"]).train.max_steps == 7
        config = checked(compose(WORDS))
    assert type(config.method).__name__ == "PluggedConfig" and config.method.rate == 3
    source = dataclasses.replace(config.data.sources["eng"], reader="of_tests")
    assert reader_of(source).__name__ == "xlt.data.readers.of_tests"
    assert "xlt.methods.plugged" in training_code(config)  # a run is known by the plug-in's code


def test_an_installed_package_is_a_plug_in_without_an_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = write_plug_in(tmp_path / "site" / "plugged_of_tests")
    (package / "__init__.py").write_text("", encoding="utf-8")
    about = tmp_path / "site" / "plugged_of_tests-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged-of-tests\nVersion: 1\n", encoding="utf-8")
    (about / "entry_points.txt").write_text("[xlt.plug_ins]\nmine = plugged_of_tests\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert plug_in_folders() == [package]
    with hydra_ready():
        assert checked(compose(WORDS)).method.rate == 3


def test_what_is_of_a_plug_in_reaches_workers_and_cluster_jobs(tmp_path: Path) -> None:
    use_plug_ins([str(write_plug_in(tmp_path / "mine"))])
    made = importlib.import_module("xlt.methods.plugged").PluggedConfig(rate=5)
    workers = LocalWorkers(1)
    workers.start({"a": made.__repr__})
    ((_, result),) = workers.finished()
    workers.close()
    assert str(result) == repr(made)
    (tmp_path / "job").write_bytes(pickle.dumps(ClusterJob(made.__repr__)))
    code = "import pickle, sys; print(pickle.load(open(sys.argv[1], 'rb'))())"
    ended = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "job")],
        env={**os.environ},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout.strip() == repr(made)


def test_unusable_folders_are_refused_by_name(tmp_path: Path) -> None:
    clashing = tmp_path / "clashing"
    (clashing / "methods").mkdir(parents=True)
    (clashing / "methods" / "lt_sft.py").write_text("", encoding="utf-8")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError) as refused:
        use_plug_ins([str(tmp_path / "absent"), str(tmp_path / "empty"), str(clashing)])
    absent, empty, clash = refused.value.lines
    assert "absent: no such folder" in absent and "no plug-in folder" in empty
    assert "methods/lt_sft.py" in clash and "xlt.methods.lt_sft" in clash
    os.environ[VARIABLE] = str(tmp_path / "absent")
    with pytest.raises(UsageError, match=f"{VARIABLE}: .*absent"), hydra_ready():
        pass
