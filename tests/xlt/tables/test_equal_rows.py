"""Rows of a table that a user's override makes equal, under names that tell them apart."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from tests.xlt.tables.conftest import BARE, EXPERIMENT
from xlt.errors import UsageError
from xlt.plan.planner import Plan
from xlt.tables.config import SystemConfig
from xlt.tables.table import Table


def test_an_override_that_makes_rows_equal_is_refused_since_their_names_would_lie(
    make_table: Callable[..., tuple[Table, Plan]],
) -> None:
    own = [*BARE, "method=full"]
    systems = {
        name: SystemConfig(label, EXPERIMENT, [*own, *words], "task")
        for name, label, words in (
            ("recipe", "the recipe", []),
            ("slow", "slower", ["train.learning_rate=0.01"]),
            ("short", "shorter", ["train.max_steps=3"]),
        )
    }
    assert len(make_table(["train.batch_size=2"], systems=systems)[1].runs) == 6
    with pytest.raises(UsageError) as raised:
        make_table(["++train.learning_rate=0.5"], systems=systems)
    (line,) = raised.value.lines
    assert line.startswith(
        '++train.learning_rate=0.5: takes the place of what rows set: "the recipe" and "slower" would'
    )
    assert line.endswith("would show the same runs; leave it out, or one of the rows: ~table.parts.PART.systems.slow")
    with pytest.raises(UsageError, match=r'method=bitfit: .* "full FT" and "BitFit" would show'):
        make_table(["method=bitfit"])
    models = {
        name: SystemConfig(name, EXPERIMENT, [*BARE, f"model={name}"], "task") for name in ("encoder_mini", "mbert")
    }
    with pytest.raises(UsageError, match=r'model\.path=\S+: .* "encoder_mini" and "mbert" would show'):
        make_table(systems=models)  # the words of these tests give model.path
    assert make_table(["train.learning_rate=0.5"], systems={"slow": systems["slow"], "short": systems["short"]})
    composed = {
        name: SystemConfig(name, EXPERIMENT, ["data=empty", "language_modules=mono", "method=bitfit"], name)
        for name in ("task+language", "task")
    }
    assert make_table(systems=composed)
    with pytest.raises(UsageError, match=r'^composition@\S+=task: .* "task\+language" and "task" would show'):
        make_table(["composition@compositions.shown=task"], systems=composed)
    twice = {"recipe": systems["recipe"], "again": dataclasses.replace(systems["recipe"], label="again")}
    assert make_table(["train.learning_rate=0.5"], systems=twice)  # a table's own rows may be equal
