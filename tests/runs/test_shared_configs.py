"""A folder of configs from somebody else: what would run code, read a secret or write elsewhere is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from tests.runs.conftest import Ended
from xlt.commands.reproduce import main as reproduce
from xlt.compose import checked, command_line, compose, hydra_ready, recorded
from xlt.errors import UsageError
from xlt.plan import earlier

SECRET, PLACE = "swordfish-1234", "XLT_TEST_PLACE"
_BASE = "# @package _global_\ndefaults: [nano_fields]\n"

# Name -> text of conf/experiment/shared.yaml, and what the line must say.
EXPERIMENTS: dict[str, tuple[str, list[str]]] = {
    "os.system as the method": ("method: {{_target_: os.system}}", ["method._target_=os.system", "LtSft"]),
    "exec as the task": ("task: {{_target_: builtins.exec}}", ["task._target_=builtins.exec", "Tagging"]),
    "another method's class": (
        "method: {{_target_: xlt.methods.full.Full}}",
        ["method._target_=xlt.methods.full", "LtSft"],
    ),
    "Hydra's own instantiate": (
        "method: {{_target_: hydra.utils.instantiate}}",
        ["method._target_=hydra.utils.instantiate"],
    ),
    "a callback of Hydra": (
        "hydra: {{callbacks: {{mine: {{_target_: subprocess.Popen, args: [touch, '{pwned}']}}}}}}",
        ["hydra.callbacks.mine", "subprocess.Popen"],
    ),
    "the callback of xlt": (
        "hydra: {{callbacks: {{sweep: {{_target_: os.system}}}}}}",
        ["hydra.callbacks.sweep", "os.system"],
    ),
    "a launcher of Hydra": ("hydra: {{launcher: {{_target_: subprocess.Popen}}}}", ["hydra.launcher", "subprocess"]),
    "a sweeper of Hydra": ("hydra: {{sweeper: {{_target_: os.system}}}}", ["hydra.sweeper._target_=os.system"]),
    "a class of the log": (
        'hydra: {{job_logging: {{handlers: {{mine: {{"()": os.system, command: "touch {pwned}"}}}}}}}}',
        ["hydra.job_logging", "os.system"],
    ),
    "a file of the log": (
        "hydra: {{job_logging: {{handlers: {{mine: {{class: logging.FileHandler, filename: {pwned}}}}}}}}}",
        ["hydra.job_logging", "filename"],
    ),
    "an object of the log": (
        'hydra: {{job_logging: {{handlers: {{mine: {{class: logging.StreamHandler, stream: "ext://os.environ"}}}}}}}}',
        ["ext://os.environ"],
    ),
    "the folder of a run of Hydra": ("hydra: {{run: {{dir: {pwned}}}}}", ["hydra.run.dir", "command line"]),
    "the environment": ("hydra: {{job: {{env_set: {{HF_ENDPOINT: 'http://x'}}}}}}", ["hydra.job.env_set"]),
    "shell lines of a launcher": (
        "launcher: {{cluster: local, setup: ['touch {pwned}']}}",
        ["launcher.setup", "command line"],
    ),
    "shell lines in the name of a partition": (
        'launcher: {{partition: "gpu\\ntouch {pwned}"}}',
        ["launcher.partition=gpu", "line breaks"],
    ),
    "code beside a model": ("model: {{trust_remote_code: true}}", ["model.trust_remote_code", "command line"]),
    "code of a run that is needed": (
        "model: {{run: {{experiment: nano_pretrain, overrides: ['method._target_=os.system']}}}}",
        ["model.run", "method._target_=os.system"],
    ),
    "trust by a run that is needed": (
        "model: {{run: {{experiment: nano_pretrain, overrides: ['model.trust_remote_code=true']}}}}",
        ["model.trust_remote_code"],
    ),
    "a folder elsewhere": ("output_dir: ../elsewhere", ["output_dir=../elsewhere", "command line"]),
    "a name from the environment": (
        "experiment_name: ${{oc.env:XLT_TEST_PLACE}}",
        ["experiment_name=${oc.env:XLT_TEST_PLACE}", "cannot stand here"],
    ),
    "a name from a path from the environment": (
        "output_dir: ${{oc.env:XLT_TEST_PLACE}}\nexperiment_name: ${{output_dir}}",
        ["experiment_name=${output_dir}", "XLT_TEST_PLACE"],
    ),
    "a part of an override from the environment": (
        "language_modules: {{overrides: ['experiment_name=${{oc.env:XLT_TEST_PLACE}}']}}",
        ["language_modules.overrides.0", "XLT_TEST_PLACE"],
    ),
    "a label from the environment, decoded": (
        "task: {{labels: ['${{oc.decode:${{oc.env:XLT_TEST_PLACE}}}}']}}",
        ["task.labels.0", "XLT_TEST_PLACE"],
    ),
    "a secret as a path": (
        "model: {{path: 'somebody/${{oc.env:XLT_TEST_API_KEY}}', run: null}}",
        ["model.path", "XLT_TEST_API_KEY", "secret"],
    ),
}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLT_TEST_API_KEY", SECRET)
    monkeypatch.setenv(PLACE, f"elsewhere-{SECRET}")


@pytest.fixture
def pwned(tmp_path: Path) -> Iterator[Path]:
    """A file that no config may make."""
    yield tmp_path / "pwned"
    assert not (tmp_path / "pwned").exists()


def write(folder: Path, name: str, text: str) -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, "utf-8")
    return folder


@pytest.mark.parametrize("case", EXPERIMENTS)
def test_what_a_shared_experiment_may_not_say_is_refused_in_one_line(
    case: str, command: Callable[..., Ended], tmp_path: Path, pwned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, said = EXPERIMENTS[case]
    shared = write(tmp_path / "shared", "experiment/mine.yaml", _BASE + text.format(pwned=pwned) + "\n")
    monkeypatch.setattr(subprocess, "Popen", None)  # nothing may even look at it
    before = set(sys.modules)
    ended = command("--config-dir", shared, "experiment=mine")
    assert ended.code == 2
    (line,) = [line for line in ended.lines if said[0] in line]
    assert all(part in line for part in said), line
    assert SECRET not in "".join(ended.lines) + ended.out and ended.left == []
    assert "antigravity" not in set(sys.modules) - before


def test_a_method_without_a_schema_is_refused(command: Callable[..., Ended], tmp_path: Path, pwned: Path) -> None:
    shared = write(tmp_path / "shared", "method/mine.yaml", f"_target_: subprocess.Popen\nargs: [touch, {pwned}]\n")
    ended = command("--config-dir", shared, "experiment=nano_fields", "method=mine")
    assert ended.code == 2 and len(ended.lines) == 1 and "base_NAME" in ended.lines[0]


def test_a_class_on_the_command_line_is_refused_too(command: Callable[..., Ended]) -> None:
    for word in ("method._target_=os.system", "task._target_=builtins.exec"):
        ended = command("experiment=nano_fields", word)
        assert ended.code == 2 and [word in line for line in ended.lines] == [True]


def test_a_package_is_not_imported_because_a_shared_config_searches_it(
    command: Callable[..., Ended], tmp_path: Path
) -> None:
    shared = write(tmp_path / "shared", "own.yaml", "hydra: {searchpath: ['pkg://antigravity']}\nseed: 1\n")
    ended = command("--config-dir", shared, "--config-name", "own")
    assert ended.code == 2 and "pkg://antigravity" in ended.lines[0] and "antigravity" not in sys.modules


def test_a_shared_job_of_a_sweep_is_refused(command: Callable[..., Ended], tmp_path: Path, pwned: Path) -> None:
    text = EXPERIMENTS["a class of the log"][0].format(pwned=pwned)
    shared = write(tmp_path / "shared", "experiment/mine.yaml", f"{_BASE}{text}\n")
    ended = command("--config-dir", shared, "-m", "experiment=nano_fields,mine")
    assert ended.code == 2 and "os.system" in "".join(ended.lines) and ended.left == []


def test_the_rows_of_a_table_name_no_class(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["table=quickstart", "--plan", f"output_dir={tmp_path}", "table.rows=[full]"]
    with pytest.raises(SystemExit) as stop:
        reproduce([*words, "table.parts.fields.systems.full.overrides=['method._target_=os.system']"])
    lines = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and all("method._target_=os.system" in line for line in lines) and lines


@pytest.mark.parametrize(
    ("setting", "word"),
    [
        ("model: {trust_remote_code: true}", "model.trust_remote_code=true"),
        ("launcher: {cluster: null, setup: ['true']}", "launcher.setup=['true']"),
        ("launcher: {cluster: null, setup: ['true']}", "launcher=local"),
        ("output_dir: ../elsewhere", "output_dir=../elsewhere"),
    ],
)
def test_what_the_command_line_says_as_well_is_allowed(setting: str, word: str, tmp_path: Path) -> None:
    shared = write(tmp_path / "shared", "experiment/mine.yaml", f"{_BASE}{setting}\n")
    with hydra_ready(str(shared)):
        with command_line(["experiment=mine"]), pytest.raises(UsageError, match="on the command line"):
            checked(compose(["experiment=mine"]))
        with command_line(["experiment=mine", word]):
            checked(compose(["experiment=mine"]))


def test_a_path_from_the_environment_is_used_but_not_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PLACE, str(tmp_path))
    words = ["experiment=nano_fields", f"output_dir=${{oc.env:{PLACE}}}/runs", f"tracker.entity=${{oc.env:{PLACE}}}"]
    with hydra_ready(), command_line(words):
        config = checked(compose(words))
        written = recorded(config)
    assert config.output_dir == f"{tmp_path}/runs" and config.tracker.entity == str(tmp_path)
    assert written["output_dir"] == f"${{oc.env:{PLACE}}}/runs"
    assert written["tracker"]["entity"] == f"${{oc.env:{PLACE}}}"
    assert str(tmp_path) not in json.dumps(written)


def test_a_plug_in_is_a_method_by_its_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "site", "method_of_tests.py", _PLUG_IN)
    about = "Metadata-Version: 2.1\nName: method-of-tests\nVersion: 1\n"
    write(tmp_path / "site", "method_of_tests-1.dist-info/METADATA", about)
    write(
        tmp_path / "site", "method_of_tests-1.dist-info/entry_points.txt", "[xlt.methods]\nof_tests = method_of_tests\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    shared = write(tmp_path / "shared", "method/of_tests.yaml", "defaults: [base_of_tests, _self_]\nrate: 3\n")
    with hydra_ready(str(shared)):
        config = checked(compose(["experiment=nano_fields", "method=of_tests", "recipe=nano_distil"]))
    assert type(config.method).__name__ == "OfTestsConfig" and config.method.rate == 3


_PLUG_IN = """
from dataclasses import dataclass
from xlt.config import key
from xlt.methods.full import Full

@dataclass
class OfTestsConfig:
    _target_: str = "method_of_tests.OfTests"
    rate: int = key("a number", low=1)

SCHEMA = OfTestsConfig

class OfTests(Full):
    name = "of_tests"
"""


def test_a_manifest_in_the_store_names_no_module_to_import(tmp_path: Path) -> None:
    with hydra_ready():
        config = OmegaConf.to_container(compose(["experiment=nano_fields"]), resolve=False)
    assert isinstance(config, dict)
    config["method"]["_target_"] = "antigravity.fly"
    assert earlier.converted({"config": config, "identity": {}}) is None
    assert "antigravity" not in sys.modules
