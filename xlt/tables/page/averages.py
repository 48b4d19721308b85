"""A chart of the averages of a table: a dot for each system with its spread, and the published average beside it."""

from __future__ import annotations

from xlt.tables.config import AVERAGE
from xlt.tables.grid import Grid
from xlt.tables.page.curves import round_bounds
from xlt.tables.page.markup import Markup, joined, tag

_WIDTH, _ROW, _RIGHT, _TOP, _BOTTOM = 420, 20, 12, 4, 20  # as wide as a phone, where it is drawn in about this size
_LONGEST = 26  # characters of a label
_CHARACTER = 7.5  # width of a character on a phone, where letters are largest
_GAP = 8
_MOST_SYSTEMS = 24


def average_chart(grid: Grid) -> Markup | None:
    """Draws a row for each system; None for a single system, or for so many that the table is clearer."""
    means = {name: row[AVERAGE] for name, row in grid.cells.items() if AVERAGE in grid.columns and row[AVERAGE].values}
    if not 1 < len(means) <= _MOST_SYSTEMS:
        return None
    published = {name: grid.config.reference.get(name, {}).get(AVERAGE) for name in means}
    known = [value for value in published.values() if value is not None]
    ends = [cell.mean + sign * (cell.spread or 0) for cell in means.values() for sign in (-1, 1)]
    low, high, ticks = round_bounds(min([*ends, *known]), max([*ends, *known]))
    bottom = _TOP + _ROW * len(means)
    labels = {name: _shortened(grid.config.systems[name].label) for name in means}
    left = round(_GAP + _CHARACTER * max(len(label) for label in labels.values()))

    def x(value: float) -> float:
        return round(left + (value - low) / (high - low) * (_WIDTH - left - _RIGHT), 1)

    parts = [tag("line", x1=x(v), x2=x(v), y1=_TOP, y2=bottom, class_="rule") for v in ticks]
    parts += [tag("text", f"{v:g}", x=x(v), y=bottom + 14, class_="tick middle") for v in ticks]
    for number, (name, cell) in enumerate(means.items()):
        y = _TOP + _ROW * number + _ROW / 2
        parts.append(tag("text", labels[name], x=left - _GAP, y=y + 3.5, class_="system"))
        theirs = published[name]
        if theirs is not None:
            corners = f"{x(theirs)},{y - 4} {x(theirs) + 4},{y} {x(theirs)},{y + 4} {x(theirs) - 4},{y}"
            parts.append(tag("polygon", points=corners, class_="theirs"))
        if cell.spread is not None:
            low_end, high_end = x(cell.mean - cell.spread), x(cell.mean + cell.spread)
            parts.append(tag("line", x1=low_end, x2=high_end, y1=y, y2=y, class_="whisker"))
        parts.append(tag("circle", cx=x(cell.mean), cy=y, r=3.5, class_="mean"))
    decimals = grid.decimals(AVERAGE)
    spoken = "; ".join(
        f"{grid.config.systems[name].label} {cell.mean:.{decimals}f}"
        + (f", published {published[name]:.{decimals}f}" if published[name] is not None else "")
        for name, cell in means.items()
    )
    height = bottom + _BOTTOM
    drawn = tag("svg", *parts, viewBox=f"0 0 {_WIDTH} {height}", role="img", aria_label=f"Averages: {spoken}")
    key = joined(tag("span", "●", class_="key"), " ours", " ± spread" if len(grid.seeds) > 1 else None)
    theirs_key = joined("\u2003", tag("span", "◇"), " published") if known else None
    return tag("figure", tag("figcaption", tag("span", f"{AVERAGE}: ", key, theirs_key)), drawn, class_="averages")


def _shortened(label: str) -> str:
    return label if len(label) <= _LONGEST else label[: _LONGEST - 1] + "…"
