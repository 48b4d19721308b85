"""Columns from the data: every language there is, and rows that have some of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from xlt.errors import UsageError
from xlt.plan.planner import Plan
from xlt.plan.store import RunStore
from xlt.tables.columns import list_columns
from xlt.tables.request import TableRequest, request_table

TABLE = """
defaults: [base_table, _self_]
title: Every language
parts:
  all:
    experiment: nano_fields
    metrics: {score: accuracy}
    overrides: [language_modules=none]
    systems:
      plain: {}
      with_text: {system: plain, label: With text, with_data_of: texts, overrides: [
        +language_modules.stand_in.yor=zul
      ]}
    columns: ["*"]
"""
SYSTEM = """
defaults: [base_system, _self_]
label: Plain
overrides: [method=bitfit]
composition: task
"""


@pytest.fixture
def request_for(
    tables_folder: Path, tables_ready: Callable[[str, str], None], tmp_path: Path
) -> Callable[..., TableRequest]:
    (tables_folder / "source").mkdir()
    for code in ("fao", "zul", "cym"):
        (tmp_path / f"{code}.txt").write_text("text\n", encoding="utf-8")
    tables_ready("table/every.yaml", TABLE)
    tables_ready("system/plain.yaml", SYSTEM)
    source = f"defaults: [_gold, _self_]\nreader: text\nlanguage: eng\npath: {tmp_path}/{{code}}.txt\nlicence: none\n"
    tables_ready("source/texts.yaml", source)
    return lambda *words: request_table(["table=every", *words])


def test_a_star_is_every_evaluation_of_the_experiment(request_for: Callable[..., TableRequest]) -> None:
    request = request_for()
    grid = list_columns(request.grids["score"], request.overrides)
    assert len(grid.columns) > 10
    assert {"eng", "fao", "yor"} <= set(grid.columns)
    assert grid.sources == grid.columns
    assert list_columns(grid, request.overrides) == grid


def test_a_row_has_the_columns_of_which_a_source_has_data_or_has_some_of_the_stand_in(
    request_for: Callable[..., TableRequest],
) -> None:
    request = request_for()
    grid = list_columns(request.grids["score"], request.overrides)
    assert grid.columns_of.keys() == {"with_text"}
    assert set(grid.sources_of("with_text")) == {"fao", "zul", "cym", "yor"}
    assert grid.sources_of("plain") == grid.columns


def test_only_named_columns_of_all_are_shown_and_an_unknown_one_is_refused(
    request_for: Callable[..., TableRequest], tmp_path: Path
) -> None:
    request = request_for("table.columns=[fao,yor]")
    tables, faulty = request.tables(Plan(RunStore(tmp_path / "store")))
    assert faulty == []
    assert tables["score"].config.columns == ["fao", "yor"]
    assert [list(run.planned_data.evaluation) for run in tables["score"].runs()["Plain"]] == [["fao", "yor"]]
    _, faulty = request_for("table.columns=[fao,nowhere]").tables(Plan(RunStore(tmp_path / "store")))
    assert any("nowhere" in line for line in faulty)


def test_a_cell_that_a_row_does_not_have_is_no_hole(request_for: Callable[..., TableRequest], tmp_path: Path) -> None:
    request = request_for("table.columns=[fao,hau]")
    plan = Plan(RunStore(tmp_path / "store"))
    tables, _ = request.tables(plan)
    cells = tables["score"].grid(plan.store, {}).cells
    assert cells["with_text"]["hau"].reason is None
    assert cells["with_text"]["fao"].reason == cells["plain"]["hau"].reason == "seed 1: not run"


def test_a_source_without_languages_is_refused_in_a_line(
    request_for: Callable[..., TableRequest], tables_ready: Callable[[str, str], None], tmp_path: Path
) -> None:
    nowhere = (
        f"defaults: [_gold, _self_]\nreader: text\nlanguage: eng\npath: {tmp_path}/no/{{code}}.txt\nlicence: none\n"
    )
    tables_ready("source/texts.yaml", nowhere)
    request = request_for()
    with pytest.raises(UsageError, match=r"languages=\[\*\]: .*no such folder"):
        list_columns(request.grids["score"], request.overrides)
