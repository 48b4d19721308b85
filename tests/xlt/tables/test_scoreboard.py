"""A scoreboard by hand: five languages, two systems, one of which has two of them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from xlt.data.language_facts import LanguageFacts
from xlt.tables.config import GridConfig, ScoreboardConfig, SystemConfig
from xlt.tables.grid import Cell, Grid
from xlt.tables.page.board import scoreboard
from xlt.tables.scoreboard import extremes, group_mean, language_groups
from xlt.tables.terminal import print_table, table_markdown

FACTS = {
    "eng": LanguageFacts("eng", "Latn", "Indo-European", 1.0, 1.4, 0.0),
    "fra": LanguageFacts("fra", "Latn", "Indo-European", 0.8, 1.9, 0.0),
    "rus": LanguageFacts("rus", "Cyrl", "Indo-European", 0.7, 3.2, 0.0),
    "tam": LanguageFacts("tam", "Taml", "Dravidian", 0.6, 2.1, 0.45),
    "nqo": LanguageFacts("nqo", "Nkoo", None, None, 2.2, 0.48),
}
SCORES = {
    "plain": {"eng": 90.0, "fra": 80.0, "rus": 70.0, "tam": 40.0, "nqo": 20.0},
    "text": {"eng": 88.0, "fra": 82.0},
}


@pytest.fixture
def grid() -> Grid:
    columns = list(FACTS)
    config = GridConfig(
        title="Topics",
        metric="accuracy",
        systems={"plain": SystemConfig("Plain"), "text": SystemConfig("With text")},
        columns=columns,
        columns_of={"text": ["eng", "fra"]},
        scoreboard=ScoreboardConfig(),
    )
    cells = {
        system: {column: Cell([of[column]], ["f" * 32]) if column in of else Cell() for column in (*columns, "avg")}
        for system, of in SCORES.items()
    }
    return Grid("topics", config, [1], cells, languages=FACTS)


def test_languages_are_grouped_by_modules_tokenizer_script_and_family(grid: Grid) -> None:
    groups = {(group.kind, group.name): group.columns for group in language_groups(grid)}
    assert groups == {
        ("", "all languages"): ("eng", "fra", "rus", "tam", "nqo"),
        ("modules", "with a language module"): ("eng", "fra"),
        ("modules", "without one"): ("rus", "tam", "nqo"),
        ("tokenizer", "fewer pieces a word"): ("eng", "fra"),
        ("tokenizer", "script unknown"): ("tam", "nqo"),
        ("tokenizer", "3 or more pieces a word"): ("rus",),
        ("script", "Latin"): ("eng", "fra"),
        ("script", "Cyrillic"): ("rus",),
        ("script", "N’Ko"): ("nqo",),
        ("script", "Tamil"): ("tam",),
        ("family", "Indo-European"): ("eng", "fra", "rus"),
        ("family", "Dravidian"): ("tam",),
        ("family", "not in URIEL"): ("nqo",),
    }


def test_a_mean_is_over_the_whole_group_or_there_is_none(grid: Grid) -> None:
    of = {(group.kind, group.name): group for group in language_groups(grid)}
    assert group_mean(grid, "plain", of["", "all languages"]) == 60.0
    assert group_mean(grid, "plain", of["family", "Indo-European"]) == 80.0
    assert group_mean(grid, "text", of["modules", "with a language module"]) == 85.0
    assert (
        group_mean(grid, "text", of["", "all languages"]) is None
    )  # it would be over other languages than the other's
    assert group_mean(grid, "text", of["family", "Indo-European"]) is None


def test_the_largest_and_smallest_scores_are_told(grid: Grid) -> None:
    assert extremes(grid, "plain") == (["eng", "fra", "rus", "tam", "nqo"], [])
    many = {f"l{number:02}": Cell([float(number)], ["f"]) for number in range(30)}
    grid.config.columns = list(many)
    grid.cells["plain"] = many
    assert extremes(grid, "plain") == ([f"l{n:02}" for n in range(29, 19, -1)], [f"l{n:02}" for n in range(9, -1, -1)])


def test_markdown_has_groups_and_a_row_for_each_language(grid: Grid, tmp_path: Path) -> None:
    text = table_markdown(grid)
    assert "| all languages | 5 | 60.0 | – |" in text
    assert "| modules: with a language module | 2 | 85.0 | 85.0 |" in text
    assert "| rus | Russian | Cyrillic | Indo-European | 0.70 | 3.20 | 0.0 | 70.0 | - |" in text
    assert "| nqo | N'Ko | N’Ko | – | – | 2.20 | 48.0 | 20.0 | - |" in text
    grid.save(text, tmp_path)
    record = json.loads((tmp_path / "topics.json").read_text(encoding="utf-8"))
    assert record["languages"]["tam"]["unknown_share"] == 0.45


def test_the_terminal_shows_groups_and_extremes_but_not_every_language(grid: Grid) -> None:
    output = io.StringIO()
    print_table(grid, Console(file=output, width=100))
    text = output.getvalue()
    assert "Indo-European (3)" in text and "Plain, largest: eng 90.0, fra 80.0" in text
    assert "Russian" not in text


def test_the_page_has_a_row_for_each_language_with_its_facts_to_search_and_sort(grid: Grid) -> None:
    page = str(scoreboard(grid))
    board = page.split('id="board"')[1]
    assert board.count("<tr>") == 1 + len(FACTS)
    assert board.count('class="sorter"') == 8 + len(SCORES)
    assert 'id="find-language"' in page
    row = next(part for part in board.split("<tr>") if ">tam<" in part)
    for word in ("Tamil", "Dravidian", "script unknown", "0.60", "2.10", "45.0", "40.0"):
        assert word in row
