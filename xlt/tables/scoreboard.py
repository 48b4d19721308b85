"""A grid of very many languages: groups of languages, and the mean of each system over each group."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from xlt.data.language_facts import LanguageFacts, script_name
from xlt.languages import language_name
from xlt.tables.grid import Grid, decimals_of

ALL = "all languages"
UNKNOWN_SCRIPT = "script unknown"
_NO_FAMILY = "not in URIEL"
_EXTREMES = 10


@dataclass(frozen=True)
class LanguageGroup:
    """Languages that have something in common.

    Attributes:
        kind: what they have in common: script, family, tokenizer, modules.
        name: of the group.
        columns: of the grid, which are its languages.
    """

    kind: str
    name: str
    columns: tuple[str, ...]


def is_scoreboard(grid: Grid) -> bool:
    """Returns whether languages are shown as rows."""
    return grid.config.scoreboard is not None and bool(grid.config.columns)


def name_of(grid: Grid, column: str) -> str:
    """Returns the English name of a column's language."""
    facts = grid.languages.get(column)
    try:
        return language_name(column if facts is None else facts.language)
    except ValueError:
        return column


def tokenizer_group(grid: Grid, column: str) -> str | None:
    """Returns how well the encoder's tokenizer knows the text of a column; None if there are no facts about it.

    The tokenizer alone does not say whether the encoder has seen a language. If it cuts the words into unknown or very
    many pieces, the encoder cannot have learned much about them.
    """
    facts, scoreboard = grid.languages.get(column), grid.config.scoreboard
    if facts is None or scoreboard is None:
        return None
    if facts.unknown_share >= scoreboard.unknown_share:
        return UNKNOWN_SCRIPT
    many = facts.pieces_per_word >= scoreboard.pieces_per_word
    return f"{scoreboard.pieces_per_word:g} or more pieces a word" if many else "fewer pieces a word"


def language_groups(grid: Grid) -> list[LanguageGroup]:
    """Returns the groups of a grid's languages: all, those with modules, by tokenizer, by script and by family.

    Within a kind, larger groups come first.
    """
    columns = grid.config.columns
    groups = [LanguageGroup("", ALL, tuple(columns))]
    partly = {name: own for name, own in grid.config.columns_of.items() if own}
    for own in {tuple(own): None for own in partly.values()}:
        groups.append(LanguageGroup("modules", "with a language module", own))
        others = tuple(column for column in columns if column not in own)
        groups.append(LanguageGroup("modules", "without one", others))
    for kind, value in (("tokenizer", tokenizer_group), ("script", _script), ("family", _family)):
        by_value: dict[str, list[str]] = defaultdict(list)
        for column in columns:
            if (of_column := value(grid, column)) is not None:
                by_value[of_column].append(column)
        order = sorted(by_value, key=lambda name: (-len(by_value[name]), name))
        groups += [LanguageGroup(kind, name, tuple(by_value[name])) for name in order]
    return [group for group in groups if group.columns]


def group_mean(grid: Grid, system: str, group: LanguageGroup) -> float | None:
    """Returns the mean of a system's scores over a group; None unless it has a score in every language of the group."""
    cells = [grid.cells[system][column] for column in group.columns]
    return statistics.fmean(cell.mean for cell in cells) if all(cell.values for cell in cells) else None


def shown_mean(grid: Grid, system: str, group: LanguageGroup) -> str:
    """Returns `group_mean` as it is shown; "–" if there is none."""
    mean = group_mean(grid, system, group)
    return "–" if mean is None else f"{mean:.{decimals_of(grid.config.metric)}f}"


def extremes(grid: Grid, system: str) -> tuple[list[str], list[str]]:
    """Returns the ten columns in which a system scores most, and the ten in which it scores least, best first."""
    row = grid.cells[system]
    scored = [column for column in grid.config.columns if row[column].values]
    order = sorted(scored, key=lambda column: -row[column].mean)
    return order[:_EXTREMES], order[max(_EXTREMES, len(order) - _EXTREMES) :]


def fact_words(facts: LanguageFacts | None) -> Sequence[str]:
    """Returns script, family, similarity, pieces a word and share of unknown pieces in percent; "–" if not known."""
    if facts is None:
        return ["–"] * 5
    return [
        script_name(facts.script),
        facts.family or "–",
        "–" if facts.similarity is None else f"{facts.similarity:.2f}",
        f"{facts.pieces_per_word:.2f}",
        f"{100 * facts.unknown_share:.1f}",
    ]


FACT_NAMES = ("script", "family", "similarity", "pieces a word", "unknown %")


def _script(grid: Grid, column: str) -> str | None:
    facts = grid.languages.get(column)
    return None if facts is None else script_name(facts.script)


def _family(grid: Grid, column: str) -> str | None:
    facts = grid.languages.get(column)
    return None if facts is None else facts.family or _NO_FAMILY
