"""Makes a figure from the runs of a table. A kind of figure gathers numbers and draws them; both are saved."""

from __future__ import annotations

import importlib
import itertools
import json
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from xlt.errors import UsageError
from xlt.files import DamagedFileError, atomic_path, read_sealed, set_aside, write_sealed
from xlt.plan.planner import Run
from xlt.plan.store import RunStore
from xlt.tables.config import FigureConfig, SystemConfig
from xlt.tables.grid import INCOMPLETE, Cell, Grid
from xlt.writers import remove_left_overs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import FigureBase


# The colours of Okabe and Ito, which colour-blind readers can distinguish; the markers serve prints without colours.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_STYLE = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "savefig.dpi": 200,
    "svg.hashsalt": "xlt",
}
_SUFFIXES = ("pdf", "png", "svg")
_NUMBERS = ".figure.json"
_PAGE = 7.2
"""Width in inches of a picture with several panels."""
_TITLE = 12
"""Characters of a picture's title per inch."""
_WIDE = 5.7
"""Width in inches from which a panel has a row of its own."""
Runs = Mapping[str, Sequence[Run]]
"""System's label -> its finished runs, in order of their seeds."""
Point = list[Any]
"""[x, our mean or None, its spread or None, the published number or None]."""


@dataclass(frozen=True)
class FigurePanel:
    """One panel of a picture: its config, and the runs and cells from which it is drawn."""

    config: FigureConfig
    runs: Runs
    grid: Grid


class SeriesStyles:
    """The colours and markers of series, by label: a label has the same style in all panels of a picture.

    Args:
        order: labels whose styles follow from their place in this list, also if some are not drawn.
    """

    def __init__(self, order: Iterable[str] = ()) -> None:
        self._places = {label: place for place, label in enumerate(dict.fromkeys(order))}
        self._numbers: dict[str, int] = {}

    def __call__(self, label: str) -> dict[str, Any]:
        """Returns `color` and `marker` of a series. No pair is used twice before every pair was used."""
        if label not in self._numbers:
            free = (number for number in itertools.count() if number not in self._numbers.values())
            place = self._places.get(label)
            self._numbers[label] = next(free) if place is None or place in self._numbers.values() else place
        turn, number = divmod(self._numbers[label], len(_COLOURS))
        return {"color": _COLOURS[number], "marker": _MARKERS[(number + turn) % len(_MARKERS)]}


class Kind(Protocol):
    """The functions that every kind of figure, a file of this package, must have."""

    def gather(self, config: FigureConfig, runs: Runs, store: RunStore, grid: Grid) -> dict[str, Any]:
        """Returns the numbers to draw, as JSON values; `grid` has the cells of the table.

        Raises:
            UsageError: these runs have no such numbers.
        """

    def labels(self, grid: Grid) -> Iterable[str]:
        """Returns the labels of all series in order, also of those that have no numbers yet."""

    def size(self, numbers: dict[str, Any]) -> tuple[float, float]:
        """Returns a suitable width and height, in inches, for the figure."""

    def draw(self, config: FigureConfig, numbers: dict[str, Any], figure: FigureBase, styles: SeriesStyles) -> None:
        """Draws the numbers; all panels of a picture share `styles`."""


def save_figure(config: FigureConfig, runs: Runs, store: RunStore, grid: Grid) -> Path | None:
    """Saves the picture of one table as `save_panels` does; returns the PNG, None if no run is finished."""
    return save_panels(grid.name, grid.config.title, {"": FigurePanel(config, runs, grid)}, store)[0]


def save_panels(
    name: str, title: str, panels: Mapping[str, FigurePanel], store: RunStore
) -> tuple[Path | None, list[str]]:
    """Writes `NAME.png`, `.svg`, `.pdf` and `NAME.figure.json` (numbers, and the runs behind them) beside the tables.

    If something is missing in this picture, or it has only some of the seeds, and an earlier one was drawn from more,
    the earlier one is not replaced: the new files are called `NAME.incomplete`. They are removed when the picture is
    saved again under its own name.

    Args:
        name, title: of the picture.
        panels: heading -> panel; if there are several, those with nothing to show are left out.
    Returns:
        The PNG, None if no run is finished; and a line for each panel that is left out, and for a picture that is kept.
    Raises:
        UsageError: as `Kind.gather`, if there is nothing to show in any panel.
    """
    drawn: dict[str, tuple[Kind, FigurePanel, dict[str, Any]]] = {}
    backed_by: dict[str, dict[str, list[str]]] = {}
    left_out: list[str] = []
    several, refused = len(panels) > 1, False
    for heading, panel in panels.items():
        finished = {}
        for label, system_runs in panel.runs.items():
            if trained := [run for run in system_runs if store.is_trained(run.fingerprint)]:
                finished[label] = trained
        if not finished:
            left_out.append(f"{heading}: none of its runs is finished")
            continue
        kind = cast(Kind, importlib.import_module(f"xlt.tables.figures.{panel.config.kind}"))
        try:
            drawn[heading] = (kind, panel, kind.gather(panel.config, finished, store, panel.grid))
        except UsageError as error:
            refused = True
            left_out += [f"{heading}: {line}" if several else line for line in error.lines]
            continue
        backed_by[heading] = {label: [run.fingerprint for run in trained] for label, trained in finished.items()}
    if not drawn:
        if refused:
            raise UsageError(*left_out)
        return None, left_out
    folder = store.root / "tables"
    folder.mkdir(parents=True, exist_ok=True)
    remove_left_overs(folder)
    numbers = {heading: panel_numbers for heading, (_, _, panel_numbers) in drawn.items()}
    seeds = sorted({seed for panel in panels.values() for seed in panel.grid.seeds})
    record: dict[str, Any] = {"title": title, "seeds": seeds, "runs": backed_by, "numbers": numbers}
    if not several:  # then there are no headings
        record |= {key: next(iter(record[key].values())) for key in ("runs", "numbers")}
    complete = not left_out and all(_is_complete(panel, store) for panel in panels.values())
    saved, saved_seeds = _saved(folder / f"{name}{_NUMBERS}")
    if _amount(record) < saved and (not complete or {*seeds} < saved_seeds):
        kept, name = folder / f"{name}.png", f"{name}{INCOMPLETE}"
        left_out.append(f"{kept}: was drawn from more than this picture and is kept; this one is {name}.png")
    else:
        for ending in (_NUMBERS, *(f".{suffix}" for suffix in _SUFFIXES)):
            (folder / f"{name}{INCOMPLETE}{ending}").unlink(missing_ok=True)
    write_sealed(folder / f"{name}{_NUMBERS}", json.loads(json.dumps(record)))
    _draw(drawn, title, several, folder / name)
    return folder / f"{name}.png", left_out


def _is_complete(panel: FigurePanel, store: RunStore) -> bool:
    """Returns whether all runs of a panel are finished, and no cell of its table lacks a value."""
    runs = (run for system_runs in panel.runs.values() for run in system_runs)
    return panel.grid.is_complete and all(store.is_trained(run.fingerprint) for run in runs)


def _amount(record: Mapping[str, Any]) -> tuple[int, int]:
    """Returns from how much a picture was drawn: the number of runs, and the number of numbers that are not missing."""
    return _leaves(record["runs"]), _leaves(record["numbers"])


def _leaves(value: Any) -> int:
    """Counts the texts and numbers in JSON values."""
    if isinstance(value, dict):
        return sum(map(_leaves, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(_leaves, value))
    return 0 if value is None else 1


def _saved(file: Path) -> tuple[tuple[int, int], set[int]]:
    """Returns from how much a saved picture was drawn, and its seeds; (0, 0) and none if there is none.

    A damaged file is set aside.
    """
    try:
        record = read_sealed(file)
        return (_amount(record), {*record.get("seeds", ())}) if record else ((0, 0), set())
    except DamagedFileError as error:
        set_aside(file, str(error), "the picture is drawn again")
    except (KeyError, TypeError):
        set_aside(file, "it has no numbers of a picture", "the picture is drawn again")
    return (0, 0), set()


def _draw(drawn: Mapping[str, tuple[Kind, FigurePanel, dict[str, Any]]], title: str, several: bool, stem: Path) -> None:
    import matplotlib
    from matplotlib.figure import Figure

    sizes = [kind.size(numbers) for kind, _, numbers in drawn.values()]
    columns = 2 if len(drawn) > 1 and max(width for width, _ in sizes) < _WIDE else 1
    rows = math.ceil(len(drawn) / columns)
    size = sizes[0] if len(drawn) == 1 else (_PAGE, 0.4 + rows * max(min(height, 3.4) for _, height in sizes))
    styles = SeriesStyles(label for kind, panel, _ in drawn.values() for label in kind.labels(panel.grid))
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        figure.suptitle(textwrap.fill(title, int(size[0] * _TITLE)), fontsize=10)
        parts = figure.subfigures(rows, columns, squeeze=False).flat
        for part, (heading, (kind, panel, numbers)) in zip(parts, drawn.items(), strict=False):
            if several:
                part.suptitle(heading, fontsize=9, fontweight="bold")
            kind.draw(panel.config, numbers, part, styles)
        for suffix in _SUFFIXES:
            with atomic_path(stem.with_name(f"{stem.name}.{suffix}")) as temporary:
                figure.savefig(temporary, format=suffix, metadata={"Date": None} if suffix == "svg" else None)


def one_panel_size(numbers: dict[str, Any]) -> tuple[float, float]:
    """Returns the width and height, in inches, of a figure with one panel of lines; a kind may use it as its `size`."""
    return 5.0, 3.4


def system_labels(grid: Grid) -> list[str]:
    """Returns the labels of all systems of a table in order; a kind may use it as its `labels`.

    The settings of a search share one label.
    """
    return list(dict.fromkeys(unsearched(name, system) for name, system in grid.config.systems.items()))


def unsearched(name: str, system: SystemConfig) -> str:
    """Returns a system's label without the setting of a search, which ends its name too (`SYSTEM KEY=VALUE`)."""
    return system.label.removesuffix(name.partition(" ")[2]).strip()


def by_seed(cell: Cell, runs: Sequence[Run]) -> dict[int, float]:
    """Returns the value of a column for each seed that has one. Not for averages: several runs make one value."""
    seeds = {run.fingerprint: run.config.seed for run in runs}
    pairs = zip(cell.backed_by, cell.values, strict=True)
    return {seeds[fingerprint]: value for fingerprint, value in pairs if fingerprint in seeds}


def published(grid: Grid, system: str, column: str) -> float | None:
    """Returns the published number of a cell, or None."""
    return (grid.config.reference or {}).get(system, {}).get(column)


def draw_lines(axes: Axes, lines: Mapping[str, Sequence[Point]], styles: SeriesStyles, band: bool = False) -> None:
    """Draws a line for each system through our means, with spreads; published numbers are dotted and hollow."""
    for label, points in lines.items():
        look = styles(label)
        ours = [point for point in points if point[1] is not None]
        at, means, spreads = ([point[index] or 0.0 for point in ours] for index in range(3))
        bars = None if band else spreads
        axes.errorbar(at, means, yerr=bars, capsize=2, elinewidth=0.9, label=label, **look)
        if band:
            low, high = ([m + sign * s for m, s in zip(means, spreads, strict=True)] for sign in (-1, 1))
            axes.fill_between(at, low, high, color=look["color"], alpha=0.15, linewidth=0)
        theirs = [(point[0], point[3]) for point in points if point[3] is not None]
        if theirs:
            axes.plot(*zip(*theirs, strict=True), **look, **PUBLISHED)


def log_axis(axes: Axes, values: Sequence[float]) -> None:
    """Sets a logarithmic x axis with plain numbers, or a linear one if all values are close together."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    if max(values) < 3 * min(values):
        axes.xaxis.set_major_locator(MaxNLocator(4))
        return
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0) if max(values) < 1000 * min(values) else (1.0,)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def legend(axes: Axes, with_published: bool, **placing: Any) -> None:
    """Draws the legend: the systems and, if published numbers are drawn, their style."""
    from matplotlib.lines import Line2D

    handles, labels = axes.get_legend_handles_labels()
    if with_published:
        handles, labels = [*handles, Line2D([], [], color="0.3", marker="o", **PUBLISHED)], [*labels, "thesis"]
    if len(labels) > 1:
        axes.legend(handles, labels, **placing)


PUBLISHED: dict[str, Any] = {"linestyle": ":", "linewidth": 1.1, "markerfacecolor": "white", "alpha": 0.85}
"""How published numbers are drawn."""


def has_published(lines: Mapping[str, Sequence[Point]]) -> bool:
    return any(point[3] is not None for points in lines.values() for point in points)
