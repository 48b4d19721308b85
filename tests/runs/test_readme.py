"""The README and docs/: command lines compose or parse, and the example method trains as it stands there."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.pages import PAGES, README, ROOT, commands, make_targets, shown_files
from tests.runs.test_sweep import write_swept_experiment
from xlt.commands.claims import compose_claims
from xlt.commands.subcommands import SUBCOMMANDS, carry_out_subcommand
from xlt.compose import compose, hydra_ready, override_faults, own_configs
from xlt.errors import UsageError
from xlt.models.loading import load_pretrained
from xlt.modules import ModuleStack, SparseDelta, load_module
from xlt.tables.request import request_table
from xlt.tables.table import run_words

NEW_METHOD = ROOT / "docs" / "how-to" / "new_method.md"
WRONG_ON_PURPOSE = "train.bath_size=8"


def _all_commands() -> list[tuple[Path, list[str]]]:
    """Every command line of every page, once; those with a plug-in are carried out by tests of their own."""
    found = {" ".join(words): (page, words) for page in PAGES for words in commands(page)}
    wrong = [text for text in found if WRONG_ON_PURPOSE in text]
    of_plug_ins = [text for text in found if text.startswith("xlt --plugins")]
    assert len(wrong) == 1 and len(of_plug_ins) == 2 and len(found) > 90
    return [one for text, one in found.items() if text not in (*wrong, *of_plug_ins)]


COMMANDS = _all_commands()
EXAMPLE = ["xlt", "experiment=nano_fields", "method=top_layers", "method.layers=1"]
"""The command that trains the example method, which this checkout does not have."""


@pytest.fixture(scope="module")
def _hydra(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Composition with the configs that pages show, for the whole module: what commands have in common is kept."""
    own = tmp_path_factory.mktemp("own")
    for page in PAGES:
        for path, text in shown_files(page).items():
            if path.startswith("conf/"):
                (file := own / path).parent.mkdir(parents=True, exist_ok=True)
                assert not file.exists(), f"{page.name}: another page shows {path}, too"
                file.write_text(text, encoding="utf-8")
    with own_configs(str(own / "conf")), hydra_ready():
        yield


def _composes(words: Sequence[str]) -> None:
    """Composes an `xlt` command; several values for a key are composed one by one.

    Raises:
        AssertionError: with what `xlt` would say.
    """
    sweep = "-m" in words
    overrides = [word for word in words if word not in ("-m", "...") and not word.startswith("--") and word != "job"]
    if "..." in words and not any(word.startswith("experiment=") for word in overrides):
        overrides.insert(0, "experiment=nano_fields")
    if sweep:
        assert override_faults(overrides, "config", sweep=True) == []
    else:
        compose(overrides)


def _table(words: Sequence[str]) -> None:
    """Composes the first system of each grid of a table, with the overrides of the command."""
    if "--list" in words:
        return
    named = "figure" if any(word.startswith("figure=") for word in words) else "table"
    request = request_table([word for word in words if not word.startswith("--")], named)
    for grid in request.grids.values():
        for system in [*grid.systems.values()][:1]:
            compose(run_words(grid, system, request.overrides, next(iter(grid.sources), None)))


def _claims(words: Sequence[str]) -> None:
    compose_claims([word for word in words if not word.startswith(("data_dir=", "model.path="))])


def _subcommand(name: str, words: Sequence[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Checks that a subcommand has the options of a command line, and that what it composes can be composed."""
    if name in ("table", "dashboard", "plot"):
        _table(words)
    elif name == "claims":
        _claims(words)
    elif name == "floors" or (name == "runs" and words[0] == "why"):
        _composes([word for word in words if word != "why"])
    with pytest.raises(SystemExit) if name in WITH_OPTIONS else nullcontext():
        carry_out_subcommand([name, "--help"])
    options = {word for word in words if word.startswith("--") and name in WITH_OPTIONS}
    assert options <= set(re.findall(r"--[\w-]+", capsys.readouterr().out))


WITH_OPTIONS = ("predict", "evaluate", "export", "import", "merge", "floors", "runs")
SCRIPTS: dict[str, Callable[[Sequence[str]], None]] = {
    "reproduce_table.py": _table,
    "wandb_dashboard.py": _table,
    "bench_student.py": _table,
    "plot.py": _table,
    "claims.py": _claims,
    "floors.py": _composes,
}


def _without_config_dir(words: Sequence[str]) -> list[str]:
    """The words without `--config-dir FOLDER`, which stands for that of the pages."""
    at = words.index("--config-dir") if "--config-dir" in words else len(words)
    return [*words[:at], *words[at + 2 :]]


@pytest.mark.usefixtures("_hydra")
@pytest.mark.parametrize(
    ("page", "words"), [pytest.param(*one, id=" ".join(one[1])) for one in COMMANDS if one[1] != EXAMPLE]
)
def test_a_command_line_composes_or_parses(
    page: Path,
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "sbatch").touch(0o755)  # as where jobs are submitted
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    words = _without_config_dir(words)
    if "sib200" in " ".join(words):  # the columns are the languages in the folder, or those on the hub
        words = [word for word in words if word != "data_dir=DATA"]
    try:
        _carry_out(words, monkeypatch, capsys)
    except UsageError as error:
        raise AssertionError(f"{page.name}: {' '.join(words)}: {error}") from error


def _carry_out(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Does of a command what needs no data and trains nothing.

    Raises:
        UsageError: it cannot be composed.
    """
    if words[0] == "xlt" and words[1] in SUBCOMMANDS:
        _subcommand(words[1], words[2:], capsys)
        return
    if words[0] == "xlt":
        _composes(words[1:])
        return
    script = ROOT / words[1]
    assert script.is_file(), f"{words[1]}: no such script"
    if script.name in SCRIPTS:
        SCRIPTS[script.name](words[2:])
        return
    monkeypatch.setattr(sys, "argv", [str(script), *words[2:], "--help"])
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as stop:
        assert stop.code in (0, None)
    options = {word for word in words[2:] if word.startswith("--")}
    assert options <= set(re.findall(r"--[\w-]+", capsys.readouterr().out))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_script_file_and_target_that_a_page_names_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    own = shown_files(page)
    for path in re.findall(r"`((?:xlt|conf|scripts|tests|kernels)/[\w./+-]*)`", text):
        assert (ROOT / path).exists() or path in own or "NAME" in path, path
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert make_targets(page) <= targets
    for name in re.findall(r"`xlt ([a-z][a-z-]*)[ `]", text):
        assert name in SUBCOMMANDS, f"xlt {name}"


def test_the_readme_is_short_and_begins_with_two_commands() -> None:
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 120 and max(map(len, lines)) <= 120
    assert make_targets(README) >= {"quickstart", "test"}


def test_the_example_method_trains_as_it_stands_there(tmp_path: Path, data_dir: Path, tiny_bert: Path) -> None:
    package = tmp_path / "package"
    unwanted = shutil.ignore_patterns("__pycache__")
    for name, source in (("xlt", "xlt"), ("xlt_conf", "conf"), ("xlt_kernels", "kernels")):
        shutil.copytree(ROOT / source, package / name, ignore=unwanted)
    assert EXAMPLE in commands(NEW_METHOD)
    shown = shown_files(NEW_METHOD)
    assert shown.keys() == {"xlt/methods/top_layers.py", "conf/method/top_layers.yaml"}
    for path, text in shown.items():
        (package / re.sub(r"^conf/", "xlt_conf/", path)).write_text(text, encoding="utf-8")
    own = write_swept_experiment(tmp_path / "own")
    words = [
        *("--config-dir", str(own), "experiment=swept", *EXAMPLE[2:], "train.max_steps=2"),
        *(f"data_dir={data_dir}", f"model.path={tiny_bert}", f"output_dir={tmp_path / 'out'}"),
        "language_modules=none",
    ]
    environment = {**os.environ, "PYTHONPATH": str(package)}
    call = [sys.executable, "-m", "xlt", *words]
    ended = subprocess.run(call, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    (file,) = (tmp_path / "out" / "runs").glob("*/module.safetensors")
    module = load_module(file)
    assert isinstance(module, SparseDelta) and module.header.method == "top_layers"
    model = load_pretrained(str(tiny_bert))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    ModuleStack(model).set([_without_head(module)])
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved and all(name.startswith("backbone.encoder.layer.1.") for name in moved)
    report: dict[str, Any] = json.loads((file.parent / "result.json").read_text())["module"]
    trained = sum(parameter.numel() for name, parameter in model.named_parameters() if ".layer.1." in name)
    assert report["tuned_entries"] == trained
    assert report["density"] == pytest.approx(trained / model.pretrained_parameters)


def _without_head(module: SparseDelta) -> SparseDelta:
    """The module for a model that has no head for the task."""
    return SparseDelta(module.header, module.entries, {})
