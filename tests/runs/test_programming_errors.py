"""Errors in the code of a method, task or reader: one line with file and line number, and the traceback in a file."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hydra.core.config_store import ConfigStore

import xlt.data.readers
import xlt.methods
from tests.runs.test_sweep import summary, write_swept_experiment

PLUGIN = """\
from dataclasses import dataclass

from xlt.methods.bitfit import BitFit
from xlt.tasks.tagging import Tagging, TaggingConfig


@dataclass
class MethodConfig:
    _target_: str = "faulty_plugin.FaultyMethod"


@dataclass
class TaskConfig(TaggingConfig):
    _target_: str = "faulty_plugin.FaultyTask"


@dataclass
class PlanningConfig:
    _target_: str = "faulty_plugin.NeverBuilt"


class FaultyMethod(BitFit):
    name = "faulty"

    def attach(self, model, phase, setting):
        return model.no_such_layer  # the method


class FaultyTask(Tagging):
    def loss(self, model, batch):
        return batch["no such column"]  # the task


class NeverBuilt(BitFit):
    name = "never_built"

    def __init__(self):
        raise IndexError("in the constructor")  # the constructor
"""


def line_of(text: str, mark: str) -> int:
    """Number of the line that bears a mark, from 1."""
    return next(number for number, line in enumerate(text.splitlines(), 1) if mark in line)


@pytest.fixture
def words(
    command: Callable[..., Any], tmp_path: Path, data_dir: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, ...]]:
    """Words of a short run, and a plug-in with faulty methods and a faulty task in the current folder."""
    Path("faulty_plugin.py").write_text(PLUGIN, encoding="utf-8")
    monkeypatch.syspath_prepend(str(Path.cwd()))
    import faulty_plugin

    store = ConfigStore.instance()
    store.store(group="method", name="base_faulty", node=faulty_plugin.MethodConfig)
    store.store(group="method", name="base_never_built", node=faulty_plugin.PlanningConfig)
    store.store(group="task", name="base_faulty", node=faulty_plugin.TaskConfig)
    own = write_swept_experiment(tmp_path / "own")
    for file, text in {
        "method/faulty.yaml": "defaults: [base_faulty, _self_]\n",
        "method/never_built.yaml": "defaults: [base_never_built, _self_]\n",
        "task/faulty.yaml": "defaults: [pos, base_faulty, _self_]\n",
    }.items():
        (own / file).parent.mkdir(parents=True, exist_ok=True)
        (own / file).write_text(text, encoding="utf-8")
    model = f"model.path={tiny_bert}"
    yield (
        *("--config-dir", str(own), "experiment=swept", f"data_dir={data_dir}", model, "output_dir=out"),
        "language_modules=none",
    )
    sys.modules.pop("faulty_plugin", None)


def traceback_in(line: str) -> str:
    """The traceback in the file that a line names."""
    found = re.search(r"\(whole traceback: (.*?)\)$", line)
    assert found is not None, line
    return Path(found.group(1)).read_text(encoding="utf-8")


def test_an_error_in_attach_is_one_line_and_its_traceback_lies_in_the_runs_folder(
    command: Callable[..., Any], words: tuple[str, ...]
) -> None:
    ended = command(*words, "method=faulty")
    said = [line for line in ended.lines if line.startswith("xlt:")]
    assert ended.code == 1 and len(said) == 1, ended.lines
    place = f"faulty_plugin.py:{line_of(PLUGIN, '# the method')}: AttributeError: "
    assert place in said[0] and "no_such_layer" in said[0]
    assert not any("Traceback" in line for line in ended.lines)
    whole = traceback_in(said[0])
    assert whole.startswith("Traceback") and "in attach" in whole
    (failure,) = (path for path in ended.left if path.endswith("failure.json"))
    reason = json.loads(Path(failure).read_text(encoding="utf-8"))["reason"]
    assert said[0].endswith(reason) and str(Path(failure).parent / "traceback.txt") in reason


def test_a_run_that_succeeds_later_keeps_no_traceback(
    command: Callable[..., Any], words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command(*words, "method=faulty").code == 1
    from xlt.methods.bitfit import BitFit

    monkeypatch.setattr(sys.modules["faulty_plugin"].FaultyMethod, "attach", BitFit.attach)
    ended = command(*words, "method=faulty")
    assert ended.code == 0, ended.lines
    assert not [path for path in ended.left if path.endswith(("traceback.txt", "failure.json"))]


@pytest.mark.parametrize("launcher", [(), ("launcher=parallel", "launcher.workers=2")])
def test_a_job_of_a_sweep_shows_the_line_and_the_others_are_done(
    launcher: tuple[str, ...], command: Callable[..., Any], words: tuple[str, ...]
) -> None:
    ended = command("-m", *words, *launcher, "method=faulty,never_built,bitfit")
    assert ended.code == 1
    rows = summary(ended)
    assert [row["state"] for row in rows] == ["failed", "failed", "done"]
    places = [f"faulty_plugin.py:{line_of(PLUGIN, mark)}: " for mark in ("# the method", "# the constructor")]
    for row, place in zip(rows, places, strict=False):
        assert place in row["reason"] and place in ended.out
        assert "Traceback" in traceback_in(row["reason"])


def test_an_error_in_a_task_names_the_tasks_line(command: Callable[..., Any], words: tuple[str, ...]) -> None:
    ended = command(*words, "task=faulty", "task.max_length=40")
    assert ended.code == 1
    assert f"faulty_plugin.py:{line_of(PLUGIN, '# the task')}: KeyError: 'no such column'" in ended.lines[-1]
    assert "in loss" in traceback_in(ended.lines[-1])


def test_an_error_in_the_constructor_of_a_method_names_its_line_before_anything_is_trained(
    command: Callable[..., Any], words: tuple[str, ...]
) -> None:
    ended = command(*words, "method=never_built")
    assert (ended.code, len(ended.lines)) == (1, 1), ended.lines
    place = f"xlt: faulty_plugin.py:{line_of(PLUGIN, '# the constructor')}: IndexError: in the constructor "
    assert ended.lines[0].startswith(place)
    assert "in __init__" in traceback_in(ended.lines[0])
    assert not [path for path in ended.left if path.startswith("out/runs")]


@pytest.fixture
def plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[ModuleType, str, str], Path]]:
    """`plug_in(package, name, text)`: a file in a package of xlt, as if it lay there."""
    made: list[tuple[ModuleType, str]] = []

    def put(package: ModuleType, name: str, text: str) -> Path:
        folder = tmp_path / package.__name__
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
        made.append((package, name))
        return folder / f"{name}.py"

    yield put
    for package, name in made:
        sys.modules.pop(f"{package.__name__}.{name}", None)
        if hasattr(package, name):
            delattr(package, name)


def test_an_error_in_a_reader_names_the_readers_line(
    command: Callable[..., Any], words: tuple[str, ...], plug_in: Callable[[ModuleType, str, str], Path]
) -> None:
    text = "from xlt.data.readers.conllu import files\n\ndef read(source):\n    yield 1 / 0\n"
    file = plug_in(xlt.data.readers, "dividing", text)
    ended = command(*words, "data.sources.eng.reader=dividing")
    assert (ended.code, len(ended.lines)) == (1, 1), ended.lines
    assert f"{file}:4: ZeroDivisionError: division by zero" in ended.lines[0]
    assert "dividing.py" in traceback_in(ended.lines[0])


@pytest.mark.parametrize(
    ("text", "line", "error"),
    [
        ("import os\n\ndef half(:\n", 3, "SyntaxError"),
        pytest.param(
            "import os\nimport no_such_package\n",
            2,
            "ModuleNotFoundError: No module named 'no_such_package'",
            marks=pytest.mark.slow,
        ),
        pytest.param("LAYERS = {}\nDEEPEST = LAYERS['none']\n", 2, "KeyError: 'none'", marks=pytest.mark.slow),
    ],
)
def test_a_broken_file_among_the_methods_matters_only_to_who_asks_for_it(
    text: str,
    line: int,
    error: str,
    command: Callable[..., Any],
    words: tuple[str, ...],
    plug_in: Callable[[ModuleType, str, str], Path],
) -> None:
    file = plug_in(xlt.methods, "half_written", text)
    (Path(words[1]) / "method" / "half_written.yaml").write_text("defaults: [base_half_written, _self_]\n")
    refused = command(*words, "method=half_written")
    assert (refused.code, len(refused.lines)) == (2, 1), refused.lines
    assert "xlt/methods/half_written" in refused.lines[0] and f"{file}:{line}: {error}" in refused.lines[0]
    assert command("--help").code == 0
    assert command(*words, "method=bitfit", "--cfg", "job").code == 0


def test_a_broken_reader_matters_only_to_who_asks_for_it(
    command: Callable[..., Any], words: tuple[str, ...], plug_in: Callable[[ModuleType, str, str], Path]
) -> None:
    file = plug_in(xlt.data.readers, "half_read", "\nimport no_such_package\n")
    refused = command(*words, "data.sources.eng.reader=half_read")
    assert (refused.code, len(refused.lines)) == (2, 1), refused.lines
    assert f"{file}:2: ModuleNotFoundError" in refused.lines[0] and "half_read" in refused.lines[0]
