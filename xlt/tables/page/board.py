"""A scoreboard on a page: means of groups of languages, and a row for each language that one can search and sort."""

from __future__ import annotations

from xlt.tables.grid import Grid
from xlt.tables.page.markup import Markup, joined, tag
from xlt.tables.scoreboard import FACT_NAMES, fact_words, language_groups, name_of, shown_mean, tokenizer_group
from xlt.tables.terminal import FEWER_SEEDS, best_systems, holes, legend, stand_in_lines

_NOTHING = "–"
_NAMES = ("code", "language")
_FACTS = (*FACT_NAMES[:2], "tokenizer", *FACT_NAMES[2:])
_WORDS = {*_NAMES, *_FACTS[:3]}  # columns of text, not of numbers


def scrolling(label: str, *parts: Markup, class_: str = "", id: str | None = None) -> Markup:
    """Puts a table into a container that scrolls if the table is too wide, also by keyboard."""
    table = tag("table", *parts, class_=class_, id=id)
    return tag("div", table, class_="scroll", tabindex=0, role="region", aria_label=label)


def scoreboard(grid: Grid) -> Markup:
    """Shows the means of groups, and below a row for each language with facts about it and its scores."""
    lines = [*stand_in_lines(grid), *holes(grid)]
    note = grid.config.note
    return joined(
        tag("p", legend(grid), class_="note"),
        _groups(grid),
        tag("h3", "Every language"),
        _search(),
        _languages(grid),
        tag("ul", *(tag("li", line) for line in lines), class_="note") if lines else None,
        tag("p", note, class_="note") if note else None,
    )


def _groups(grid: Grid) -> Markup:
    systems = grid.config.systems
    head = [("group", "word"), ("languages", None), *((system.label, None) for system in systems.values())]
    body: list[Markup] = []
    kind = ""
    for group in language_groups(grid):
        if group.kind != kind:
            kind = group.kind
            body.append(tag("tr", tag("th", f"by {kind}", scope="colgroup", colspan=len(head)), class_="kind"))
        cells = [tag("td", shown_mean(grid, system, group)) for system in systems]
        body.append(tag("tr", tag("th", group.name, scope="row"), tag("td", str(len(group.columns))), *cells))
    heads = (tag("th", word, scope="col", class_=kind_of) for word, kind_of in head)
    return scrolling("Means of groups", tag("thead", tag("tr", *heads)), tag("tbody", *body), class_="groups")


def _languages(grid: Grid) -> Markup:
    config, best = grid.config, best_systems(grid)
    # The scores come before the facts, so that they are on the screen however narrow it is.
    words = (*_NAMES, *(system.label for system in config.systems.values()), *_FACTS)
    heads = [tag("th", _sorter(word), scope="col", class_="word" if word in _WORDS else None) for word in words]
    body = []
    for column in config.columns:
        script, family, *numbers = fact_words(grid.languages.get(column))
        cells = [
            tag("td", name_of(grid, column), class_="word"),
            *(_score(grid, name, column, name in best[column]) for name in config.systems),
            *(tag("td", word, class_="word") for word in (script, family, tokenizer_group(grid, column) or _NOTHING)),
            *(tag("td", number) for number in numbers),
        ]
        body.append(tag("tr", tag("th", column, scope="row"), *cells))
    return scrolling(
        "Every language", tag("thead", tag("tr", *heads)), tag("tbody", *body), class_="scores board", id="board"
    )


def _sorter(word: str) -> Markup:
    return tag("button", word, type="button", class_="sorter")


def _score(grid: Grid, system: str, column: str, is_best: bool) -> Markup:
    cell, decimals = grid.cells[system][column], grid.decimals(column)
    if not cell.values:
        return tag("td", _NOTHING, class_="none")
    spread = f"±{cell.spread:.{decimals}f}" if cell.spread is not None else ""
    number = tag("b" if is_best else "span", f"{cell.mean:.{decimals}f}")
    return tag(
        "td", number, tag("span", spread, class_="spread") if spread else None, *cell_marks(grid, system, column)
    )


def cell_marks(grid: Grid, system: str, column: str) -> list[Markup]:
    """Returns the marks of a cell: the module is that of another language, and the mean is over fewer seeds."""
    cell, marks = grid.cells[system][column], []
    if cell.stand_in is not None:
        marks.append(tag("span", "†", title=f"with the module of {cell.stand_in}"))
    if grid.lacks_seeds(system, column):
        marks.append(tag("span", FEWER_SEEDS, title=f"over {len(cell.values)} of {len(grid.seeds)} seeds"))
    return marks


def _search() -> Markup:
    return tag(
        "label",
        tag("span", "Find languages"),
        tag("input", type="search", id="find-language", autocomplete="off", placeholder="name, code, script, family"),
        tag("output", "", id="languages-found"),
        class_="search",
        hidden=True,
    )
