"""A folder of tables, systems and published numbers that Hydra finds before those of xlt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra

from xlt.compose import hydra_ready
from xlt.plan.planner import Plan
from xlt.plan.store import RunStore
from xlt.tables.config import GridConfig, SystemConfig
from xlt.tables.table import Table

EXPERIMENT = "pos"
BARE = ("data=empty", "language_modules=none")

_FILES = {
    "table/small.yaml": """
        defaults: [base_table, _self_]
        title: A small table
        stands_for: {Table 9.1: {show: averages}, Table 9.2: {of: [UAS, LAS]}, Figure 9.1: {show: figure}}
        parts:
          POS:
            experiment: nano_fields
            metrics: {POS: accuracy}
            systems: {plain: {}, alone: {system: plain, label: Alone, composition: task}}
            columns: [fao, hsb]
            published: paper
          DP:
            experiment: nano_fields
            metrics: {UAS: uas, LAS: las}
            overrides: ["data=mix_{scale}"]
            systems: {plain: {by_metric: {UAS: [seed=7]}}}
            columns: [fao, hsb, yor]
            published: paper
        figure: {kind: sizes}
        mini:
          parts: {DP: {columns: [fao]}}
        thesis:
          parts: {DP: {note: at full size}}
    """,
    "table/measured.yaml": """
        defaults: [base_table, _self_]
        title: Measured
        stands_for: {Table 9.3: {}}
        measured_by: scripts/bench.py
    """,
    "table/searched.yaml": """
        defaults: [base_table, _self_]
        title: A search
        parts:
          all:
            experiment: nano_fields
            metrics: {score: accuracy}
            systems: {plain: {search: {over: {data: ["mix_1_{scale}", "mix_2_{scale}"]}, best: data=mix_2}}}
            columns: [fao]
            published: paper
    """,
    "system/plain.yaml": """
        defaults: [base_system, _self_]
        label: Plain
        overrides: [method=bitfit, "data={experiment}_{scale}"]
    """,
    "published/paper.yaml": """
        name: the paper
        numbers:
          POS: {plain: {fao: 50.0, hsb: 40.0, avg: 45.0}}
          UAS: {plain: {fao: 30.0, hsb: 20.0, yor: 10.0, avg: 20.0}}
          LAS: {plain: {fao: 3.0, hsb: 2.0, avg: 99.0}}
          score: {"plain data=mix_1_{scale}": {fao: 1.0}, other: {fao: 2.0}}
        over: {LAS: [fao, hsb, yor]}
    """,
}


@pytest.fixture
def tables_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "conf"
    for name, text in _FILES.items():
        lines = text.strip("\n").splitlines()
        indent = len(lines[0]) - len(lines[0].lstrip())
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("\n".join(line[indent:] for line in lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def tables_ready(tables_folder: Path) -> Iterator[Callable[[str, str], None]]:
    """Hydra is ready; `tables_ready(name, text)` changes a file."""

    def write(name: str, text: str) -> None:
        (tables_folder / name).write_text(text, encoding="utf-8")

    outer = GlobalHydra.instance()
    hydra, outer.hydra = outer.hydra, None
    try:
        with hydra_ready(str(tables_folder)):
            yield write
    finally:
        GlobalHydra.instance().hydra = hydra


@pytest.fixture
def make_table(tmp_path: Path, words: tuple[str, ...]) -> Callable[..., tuple[Table, Plan]]:
    """A table of full FT and BitFit on English and Faroese, over two seeds; nothing is trained."""

    def make(asked: Sequence[str] = (), **changes: Any) -> tuple[Table, Plan]:
        plan = Plan(RunStore(tmp_path / "outputs"))
        own = [word for word in words if not word.startswith(("data_dir", "model.path"))]
        user = [word for word in words if word.startswith(("data_dir", "model.path"))]
        values: dict[str, Any] = {
            "overrides": own,
            "systems": {
                name: SystemConfig(label, EXPERIMENT, [*BARE, f"method={name}"], "task")
                for name, label in (("full", "full FT"), ("bitfit", "BitFit"))
            },
            "metric": "accuracy",
            "columns": ["eng", "fao"],
            "average": ["fao"],
            "reference": {"full": {"fao": 55.5, "avg": 50.0}},
            "reference_name": "Table 1",
            "note": "a note",
        }
        config = GridConfig(title="A table", **{**values, **changes})
        return Table("small", config, [1, 2], [*user, *asked, f"output_dir={tmp_path / 'outputs'}"], plan), plan

    return make
