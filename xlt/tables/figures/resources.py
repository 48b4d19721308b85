"""Scores by the size of a language's text (thesis Figure 6.3); marks show which models know a language."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from xlt.errors import UsageError
from xlt.plan.store import RunStore
from xlt.tables.config import FigureConfig
from xlt.tables.figures._text_size import as_points, published_megabytes, scatter, series_handles, text_megabytes
from xlt.tables.figures.figure import Runs, SeriesStyles, published, system_labels

if TYPE_CHECKING:
    from matplotlib.figure import FigureBase

    from xlt.tables.grid import Grid

_MARKERS = {"encoder and translation model": "o", "encoder": "s", "translation model": "^", "neither": "X"}

labels = system_labels


def gather(config: FigureConfig, runs: Runs, store: RunStore, grid: Grid) -> dict[str, Any]:
    """Returns `ours` and `thesis`, system -> language -> [megabytes of text, value], and `known`.

    Our value is the score divided by the score on the source language. The thesis gives no scores on the source
    language, so its value is the score in points. `known` says which models know a language. The columns of source
    languages are those that the table's average leaves out.
    """
    targets = grid.config.average or grid.config.sources
    source_columns = [column for column in grid.config.sources if column not in targets]
    if not source_columns:
        raise UsageError("table.figure.kind=resources: no column of the source language, outside the table's average")
    sizes, their_sizes = text_megabytes(runs, store), published_megabytes(grid)
    facts = grid.config.facts or {}
    numbers: dict[str, dict[str, Any]] = {"ours": {}, "thesis": {}}
    for name, system in grid.config.systems.items():
        cells = grid.cells[name]
        ours = {}
        if all(cells[column].values for column in source_columns):
            on_source = statistics.fmean(cells[column].mean for column in source_columns)
            ours = {column: cells[column].mean / on_source for column in targets if cells[column].values}
        theirs = {column: value for column in targets if (value := published(grid, name, column)) is not None}
        for part, scores, megabytes in (("ours", ours, sizes), ("thesis", theirs, their_sizes)):
            if points := as_points(scores, megabytes):
                numbers[part][system.label] = points
    if not numbers["ours"]:
        raise UsageError("table.figure.kind=resources: no language that is evaluated, its text in a file, yet")
    known = {column: _known(facts.get(column, {})) for column in targets}
    return {**{part: series for part, series in numbers.items() if series}, "known": known}


def size(numbers: dict[str, Any]) -> tuple[float, float]:
    return (7.2 if "thesis" in numbers else 5.0), 3.6


def draw(config: FigureConfig, numbers: dict[str, Any], figure: FigureBase, styles: SeriesStyles) -> None:
    from matplotlib.lines import Line2D

    parts = [part for part in ("ours", "thesis") if part in numbers]
    all_axes = figure.subplots(1, len(parts), squeeze=False)[0]
    labels = list(dict.fromkeys(label for part in parts for label in numbers[part]))
    markers = {language: _MARKERS[known] for language, known in numbers["known"].items()}
    for axes, part in zip(all_axes, parts, strict=True):
        scatter(axes, numbers[part], styles, markers)
        axes.set_title(part)
    score = config.metric or "score"
    all_axes[0].set_ylabel(f"{score}, relative to the source")
    if len(parts) > 1:
        all_axes[1].set_ylabel(score)
    used = [known for known in _MARKERS if known in numbers["known"].values()]
    handles = [
        Line2D(
            [],
            [],
            color="0.35",
            marker=_MARKERS[known],
            linestyle="",
            label=known if known == "neither" else f"in {known}",
        )
        for known in used
    ]
    handles = [*series_handles(labels, styles, False), *handles]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=7)


def _known(facts: dict[str, float]) -> str:
    encoder, translation = bool(facts.get("in encoder")), bool(facts.get("in translation model"))
    if encoder and translation:
        return "encoder and translation model"
    return "encoder" if encoder else "translation model" if translation else "neither"
