"""The Pareto set of a search: which settings are beaten by none, and where a table says so."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch

from xlt.tables.config import GridConfig, SearchConfig, SystemConfig
from xlt.tables.grid import Cell, Grid
from xlt.tables.pareto import pareto_set
from xlt.tables.terminal import table_markdown


@pytest.mark.parametrize("seed", range(5))
def test_it_is_what_every_pair_says(seed: int) -> None:
    drawn = torch.randint(0, 4, (12, 3), generator=torch.Generator().manual_seed(seed)).tolist()
    scores = {str(number): list(map(float, row)) for number, row in enumerate(drawn)}
    beaten = {
        worse
        for worse, better in itertools.permutations(scores, 2)
        if scores[worse] != scores[better] and all(a <= b for a, b in zip(scores[worse], scores[better], strict=True))
    }
    assert pareto_set(scores) == [name for name in scores if name not in beaten]
    turned = {name: [-score for score in row] for name, row in scores.items()}
    assert pareto_set(turned, greater_is_better=False) == pareto_set(scores)


def test_equal_settings_remain_together_and_one_is_its_own_set() -> None:
    assert pareto_set({"a": [1.0, 2.0], "b": [1.0, 2.0], "c": [1.0, 1.0]}) == ["a", "b"]
    assert pareto_set({"a": [0.0]}) == ["a"]
    assert pareto_set({}) == []


def _grid(metric: str) -> Grid:
    """A search over four settings, of which one lacks a score; and a system that is better, but no setting."""
    search = SearchConfig({"compositions.shown.weights": ["[1,0.5]", "[0.5,1]", "[1,1]", "[2,2]"]}, best=None)
    systems = {"full": SystemConfig("full FT"), "bitfit": SystemConfig("BitFit")}
    config = GridConfig("A table", metric, systems, ["eng", "fao"], searches={"full": search}).searched()
    scores = {"[1,0.5]": (60.0, 80.0), "[0.5,1]": (80.0, 60.0), "[1,1]": (60.0, 70.0), "[2,2]": (90.0, None)}
    cells = {}
    for name in config.systems:
        eng, fao = scores.get(name.rpartition("=")[2], (99.0, 99.0))
        row = {"eng": eng, "fao": fao, "avg": eng}
        cells[name] = {column: Cell() if one is None else Cell([one], ["run"]) for column, one in row.items()}
    return Grid("all", config, [1], cells)


def test_a_table_says_which_weights_no_others_beat(tmp_path: Path) -> None:
    """A setting without a score in a column is not compared, nor is a system that was not searched over."""
    grid = _grid("accuracy")
    text = table_markdown(grid)
    said = "Pareto set over eng, fao (2 of 3 settings; no other is better in one and worse in none): "
    assert f"{said}weights=[1,0.5]; weights=[0.5,1]" in text.replace("\\", "")
    grid.save(text, tmp_path)
    saved = json.loads((tmp_path / "all.json").read_text(encoding="utf-8"))["pareto"]
    assert saved == {"full": {"settings": ["weights=[1,0.5]", "weights=[0.5,1]"], "complete": 3, "searched": 4}}


def test_of_a_loss_the_lower_values_are_better() -> None:
    assert _grid("loss").pareto_sets["full"].settings == ["weights=[0.5,1]", "weights=[1,1]"]
