"""The pages of docs/ and the README: links lead somewhere, Python runs, what is made from the code is up to date."""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import scripts.draw_concepts as drawing
import scripts.site_hook as site_hook
import scripts.write_reference as reference
import xlt.use.python
from tests.pages import PAGES, README, ROOT, anchors, blocks, links, python_blocks, shown_files
from xlt.compose import hydra_ready
from xlt.models.loading import load_pretrained
from xlt.modules import Entries, ModuleHeader, SparseDelta
from xlt.plug_ins import VARIABLE
from xlt.tables.request import request_table

DOCS = ROOT / "docs"
WEIGHT = "backbone.encoder.layer.0.attention.self.query.weight"
MODULES: dict[str, dict[str, str]] = {
    "faroese.safetensors": {"language": "fao"},
    "fao.safetensors": {"language": "fao"},
    "pos.safetensors": {"task": "pos"},
}
"""Module files that blocks of Python name -> facts of their headers."""
WITH_PYTHON = [page for page in PAGES if python_blocks(page)]


class _SiteLoader(yaml.SafeLoader):
    """Reads mkdocs.yml, whose tags name what only mkdocs knows."""


_SiteLoader.add_multi_constructor("!", lambda loader, tag, node: None)
SITE = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), _SiteLoader)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_link_and_picture_is_there(page: Path) -> None:
    for link in links(page):
        if re.match(r"https?://", link):
            continue  # no network here
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), f"{page.name}: {link}: no such file"
        assert page == README or target.is_relative_to(DOCS), f"{page.name}: {link}: not a part of the site"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}: no such heading"


def test_every_page_is_in_the_navigation_and_can_be_reached_from_the_first() -> None:
    named = re.findall(r"[\w/-]+\.md", json.dumps(SITE["nav"]))
    pages = {str(page.relative_to(DOCS)) for page in PAGES if page != README}
    assert len(named) == len(set(named)) and set(named) == pages
    first = DOCS / "index.md"
    linked = {(first.parent / link.partition("#")[0]).resolve() for link in links(first)}
    assert {DOCS / name for name in pages} - {first} <= linked
    assert {file.resolve() for file in (DOCS / "notebooks").glob("*.ipynb")} <= linked


def test_the_page_about_python_is_read_on_the_disk_and_made_by_mkdocstrings_on_the_site() -> None:
    text = (DOCS / "reference" / "python.md").read_text(encoding="utf-8")
    names = [name for names in reference.OF_PYTHON.values() for name in names]
    directives = [f"::: {name}" for name in names]
    assert not [line for line in text.splitlines() if line.startswith(":::")]
    for part in (
        "def train(*overrides: str) -> TrainedRun:",
        "class Method",
        "    def attach(",
        '"""Trains a run and all',
    ):
        assert part in text
    assert "    def _" not in text and not re.search(r"^ +return ", text, re.MULTILINE)
    made = site_hook.on_page_markdown(text)
    assert [line for line in made.splitlines() if line.startswith(":::")] == directives
    assert "def train" not in made and made.startswith(text[: text.index("<!-- :::")])
    assert SITE["hooks"] == ["scripts/site_hook.py"]


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="needs xlt[docs]")
    call = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    ended = subprocess.run(call, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    page = tmp_path / "site" / "reference" / "python" / "index.html"
    assert "xlt.use.python.train" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_begins_with_its_title_and_its_lines_are_short(page: Path) -> None:
    lines = page.read_text(encoding="utf-8").splitlines()
    first = next(line for line in lines if line and not line.startswith("<!--"))
    assert first.startswith("# ")
    if page.parent.name in ("concepts", "how-to"):
        for number, line in enumerate(lines, start=1):
            assert len(line) <= 120 or line.startswith("|"), f"{page.name}:{number}"


def test_every_picture_of_the_pages_is_small_and_shown() -> None:
    shown = {(page.parent / link).resolve() for page in PAGES for link in links(page) if link.endswith(".svg")}
    drawn = set((DOCS / "img").glob("*.svg"))
    assert shown == drawn and {file.stem for file in drawn} == {*drawing.PICTURES, "quickstart"}
    assert all(file.stat().st_size < 80_000 for file in drawn)


def test_the_pictures_of_ideas_are_drawn(tmp_path: Path) -> None:
    drawing.main(["--output", str(tmp_path)])
    for name in drawing.PICTURES:
        texts = re.findall(r"<!-- (.+?) -->", (tmp_path / f"{name}.svg").read_text(encoding="utf-8"))
        assert texts == re.findall(r"<!-- (.+?) -->", (DOCS / "img" / f"{name}.svg").read_text(encoding="utf-8")), (
            f"docs/img/{name}.svg: python scripts/draw_concepts.py draws another one"
        )


def test_the_numbers_of_the_readme_are_those_that_the_picture_was_drawn_from() -> None:
    numbers = json.loads((DOCS / "img" / "quickstart.figure.json").read_text(encoding="utf-8"))["numbers"]
    rows = re.findall(r"^\| (.+?) \| ([\d.]+)% \| \**([\d.]+)\** ± ([\d.]+) \|$", README.read_text(), re.MULTILINE)
    expected = [
        (f"{share:.1f}", f"{mean:.1f}", f"{spread:.1f}")
        for ((share, mean, spread, _),) in sorted(numbers.values(), key=lambda points: -points[0][1])
    ]
    assert [row[1:] for row in rows] == expected and len(rows) == 6


def test_the_quickstart_makes_the_runs_that_the_readme_says_in_languages_of_the_whole_table() -> None:
    (line,) = re.findall(r"(table=quickstart .*\\\n.*)\n", (ROOT / "Makefile").read_text(encoding="utf-8"))
    words = [word for word in shlex.split(line.replace("\\\n", " ")) if not word.startswith("launcher=")]
    with hydra_ready():
        grid, whole = (request_table(asked).grids["fields"] for asked in (words, ["table=quickstart"]))
    assert grid.systems.keys() == whole.systems.keys()
    assert grid.columns == ["eng", *grid.average] and set(grid.average) < set(whole.average)
    methods = grid.systems.keys() - {"lt_sft_ta"}  # which is LT-SFT's runs without their language modules
    runs = 1 + 3 * len(methods) + len(methods - {"full"}) * len(grid.columns)
    assert f"trains {runs} small runs" in README.read_text(encoding="utf-8")
    assert f"{runs} small runs" in (DOCS / "index.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", reference.PAGES)
def test_a_page_that_is_made_from_the_code_is_as_the_code_is(name: str) -> None:
    made, written = reference.PAGES[name](), (DOCS / "reference" / name).read_text(encoding="utf-8")
    if name == "commands.md" and sys.version_info >= (3, 13):
        pytest.skip("argparse writes options in another way")
    assert made == written, f"docs/reference/{name} is older than the code: make reference"


def test_the_reference_has_keys_of_every_kind() -> None:
    text = (DOCS / "reference" / "keys.md").read_text(encoding="utf-8")
    for key in (
        "train.max_steps",
        "data.sources.NAME.where",
        "method.density",
        "task.labels",
        "table.rows",
    ):
        assert f"| `{key}` |" in text
    rows = dict(re.findall(r"^\| `(.+?)` \| .* \| ?(no)? \|$", text, re.MULTILINE))
    assert rows["launcher.workers"] == rows["seed"] + "no" and rows["train.batch_size"] == ""


def test_blocks_of_yaml_and_python_can_be_read() -> None:
    for page in PAGES:
        for path, text in shown_files(page).items():
            yaml.safe_load(text) if path.endswith(".yaml") else compile(text, path, "exec")
        for block in blocks(page):
            if block.language == "yaml":
                list(yaml.safe_load_all(re.sub(r"^(?=where:)", "---\n", block.text, flags=re.MULTILINE)))


@pytest.fixture
def _prepared(tmp_path: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with the model and modules that blocks of Python name; runs of `xlt.train` are very small."""
    monkeypatch.chdir(tmp_path)
    Path("MODEL").symlink_to(tiny_bert)
    model = load_pretrained("MODEL")
    for number, (file, facts) in enumerate(MODULES.items()):
        known = {"kind": "sparse_delta", "method": "lt_sft", "base_model": "MODEL", "base_hash": model.base_hash}
        header = ModuleHeader(**known, **facts)
        indices, values = torch.tensor([1 + number, 7, 20 + number]), torch.tensor([0.5, 0.25, -1.0])
        shape = tuple(dict(model.named_parameters())[WEIGHT].shape)
        SparseDelta(header, {WEIGHT: Entries(indices, values, shape)}, {}).save(Path(file))
    real = xlt.use.python.train

    def train(*overrides: str) -> Any:
        """`xlt.train` on the tiny model, for two steps, evaluated in two languages."""
        config = xlt.use.python.compose_config(*overrides)
        others = [f"~data.evaluation.{one}" for one in config.data.evaluation if one not in ("eng", "fao")]
        small = ["model=none", "model.path=MODEL", "language_modules=none", "task.max_length=40", "device=cpu"]
        steps = ["train.max_steps=2", "train.evaluate_every_steps=1", "data.sources.eng.cap=20"]
        caps = ["data.validation.eng.cap=10", "data.evaluation.eng.cap=10", "data.evaluation.fao.cap=10"]
        return real(*overrides, *others, *small, *steps, *caps)

    monkeypatch.setattr(xlt.use.python, "train", train)


@pytest.mark.usefixtures("_prepared")
@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: page.stem)
def test_the_python_of_a_page_runs(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {"model": load_pretrained("MODEL"), "candidates": [[1.0, 0.5], [0.0, 2.0]]}
    for code in python_blocks(page):
        exec(compile(code, str(page.relative_to(ROOT)), "exec"), names)
    if page == README:
        said = capsys.readouterr().out
        assert "eng task" in said and said.count("{'field': ") == 2


@pytest.fixture
def _no_plug_in_afterwards(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leaves no plug-in in this process."""
    monkeypatch.setenv(VARIABLE, "")
    package = importlib.import_module("xlt.tasks")
    monkeypatch.setattr(package, "__path__", list(package.__path__))
    yield
    sys.modules.pop("xlt.tasks.stars", None)


@pytest.mark.usefixtures("_no_plug_in_afterwards")
def test_the_task_and_the_data_set_of_the_pages_train_as_they_stand_there(
    tmp_path: Path, tiny_bert: Path, command: Callable[..., Any]
) -> None:
    task, data = (shown_files(DOCS / "how-to" / f"{name}.md") for name in ("new_task", "new_data_set"))
    places = {path: tmp_path / "my_task" / path.removeprefix("xlt/") for path in task}
    places |= {path: tmp_path / "my_configs" / path.removeprefix("conf/") for path in data}
    for path, text in (task | data).items():
        places[path].parent.mkdir(parents=True, exist_ok=True)
        places[path].write_text(text, encoding="utf-8")
    for split, count in (("train", 12), ("dev", 6), ("test", 5)):
        file = tmp_path / "DATA" / "reviews" / f"{split}.tsv"
        file.parent.mkdir(parents=True, exist_ok=True)
        rows = (f"{split} text {number}\t{1 + number % 5}" for number in range(count))
        file.write_text("\n".join(["text\tlabel", *rows]) + "\n", encoding="utf-8")
    ended = command(
        *("--plugins", tmp_path / "my_task", "--config-dir", tmp_path / "my_configs", "experiment=sentiment"),
        *("task=stars", "data=reviews", f"data_dir={tmp_path / 'DATA'}", "model=none", f"model.path={tiny_bert}"),
        *("language_modules=none", "method=bitfit", "train.max_steps=2", "train.evaluate_every_steps=1"),
        *("task.max_length=40", "device=cpu", "threads=1", "tracker=silent"),
    )
    assert ended.code == 0, ended.lines
    (file,) = (tmp_path / "called-from" / "outputs" / "runs").glob("*/evaluation.json")
    text = file.read_text(encoding="utf-8")
    found = {name: float(re.search(rf'"{name}": ([\d.]+)', text)[1]) for name in ("accuracy", "closeness")}  # type: ignore[index]
    assert 0 <= found["accuracy"] <= found["closeness"] <= 100
