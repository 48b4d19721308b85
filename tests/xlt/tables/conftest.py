"""A folder of tables, systems and published numbers that Hydra finds before those of xlt."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from xlt.compose import hydra_ready

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
