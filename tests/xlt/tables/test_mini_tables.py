"""Mini tables beside those of the thesis: the same systems, and of its numbers those of the languages they show."""

from __future__ import annotations

import pytest

from xlt.commands.reproduce import compose_table
from xlt.compose import hydra_ready
from xlt.tables.table import AVERAGE, TableConfig


def composed(name: str, scale: str) -> TableConfig:
    with hydra_ready():
        return compose_table([f"table={name}_{scale}", f"scale={scale}"])[0].table


@pytest.mark.parametrize("name", ["sentiment_mixes", "sentiment_ablations", "sentiment_resources"])
def test_a_mini_table_of_sentiment_has_the_systems_and_numbers_of_the_thesis(name: str) -> None:
    mini, thesis = composed(name, "mini"), composed(name, "thesis")
    assert {system: shown.label for system, shown in mini.systems.items()} == {
        system: shown.label for system, shown in thesis.systems.items()
    }
    assert mini.reference.keys() == mini.systems.keys()
    for system, numbers in mini.reference.items():
        ours = {column: number for column, number in numbers.items() if column != AVERAGE}
        assert ours == {column: thesis.reference[system][column] for column in mini.columns}
        assert numbers[AVERAGE] == pytest.approx(sum(ours.values()) / len(ours), abs=0.051)


def test_one_number_of_each_new_row_as_the_thesis_has_it() -> None:
    # Thesis Table D.3b, Madurese; Table 6.2b for FS + TTRAIN-ALL.
    ablations = composed("sentiment_ablations", "mini").reference
    systems = ("ttrain_all", "ttrain_all_la", "adapter_ttrain_all", "adapter_ttrain_all_la")
    assert [ablations[system]["mad"] for system in systems] == [81.6, 79.7, 78.8, 77.8]
    assert composed("sentiment_resources", "mini").reference["fs_ttrain_all"]["mad"] == 81.0
