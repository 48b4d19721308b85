"""The size of the text that language modules were trained on, and drawing values over this size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xlt.plan.store import RunStore
from xlt.tables.figures.figure import Runs, SeriesStyles, log_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from xlt.tables.grid import Grid

TEXT = "text MB"
"""Name of a column's fact: published size of its text in megabytes (thesis Table D.1)."""


def text_megabytes(runs: Runs, store: RunStore) -> dict[str, float]:
    """Returns language -> megabytes of text that its module was trained on, from the manifests of the runs.

    Languages whose text is not in a file (generated text, or text from the hub) are left out.
    """
    sizes: dict[str, float] = {}
    for fingerprint in {
        needed for system_runs in runs.values() for run in system_runs for needed in run.evaluation_needs
    }:
        config = store.manifest(fingerprint).get("config", {})
        language = config.get("language")
        if language is not None and (size := _size(config["data"]["sources"].values(), language)) is not None:
            sizes[language] = size
    return sizes


def _size(sources: Iterable[dict[str, Any]], language: str) -> float | None:
    """Returns the size of a language run's files in megabytes; None if a source has no file."""
    total = 0
    for source in sources:
        code = source["codes"].get(language, language)
        path = Path((source["path"] or "").replace("{code}", code)).expanduser()
        if not path.is_file():
            return None
        total += path.stat().st_size
    return total / 1e6


def published_megabytes(grid: Grid) -> dict[str, float]:
    """Returns column -> megabytes of text, for columns with a published size."""
    return {name: facts[TEXT] for name, facts in (grid.config.facts or {}).items() if TEXT in facts}


def scatter(
    axes: Axes,
    series: Mapping[str, Mapping[str, Sequence[float]]],
    styles: SeriesStyles,
    markers: Mapping[str, str] | None = None,
) -> None:
    """Draws a point for each language, with its text size and value; each series has its own colour and marker.

    Args:
        axes: to draw on.
        series: label -> language -> [megabytes, value].
        styles: of the series.
        markers: language -> marker, used instead of the series' markers; None: the series' markers.
    """
    top: dict[str, tuple[float, float]] = {}
    for label, points in series.items():
        look = styles(label)
        for language, (at, value) in points.items():
            marker = look["marker"] if markers is None else markers[language]
            axes.plot([at], [value], color=look["color"], marker=marker, linestyle="", alpha=0.9)
            top[language] = (at, max(value, top.get(language, (at, value))[1]))
    for language, place in top.items():
        axes.annotate(language, place, xytext=(0, 5), textcoords="offset points", ha="center", fontsize=6.5)
    axes.margins(x=0.12, y=0.14)
    log_axis(axes, [at for at, _ in top.values()])
    axes.set_xlabel("text of the language (MB)")


def series_handles(labels: Iterable[str], styles: SeriesStyles, marked: bool) -> list[Any]:
    """Returns the legend entries of the series; `marked` says whether each series has its own marker."""
    from matplotlib.lines import Line2D

    shape: dict[str, Any] = {"markersize": 4.5} if marked else {"marker": ".", "markersize": 9}
    return [Line2D([], [], **{**styles(label), **shape}, linestyle="", label=label) for label in labels]


def as_points(values: Mapping[str, float], megabytes: Mapping[str, float]) -> dict[str, list[Any]]:
    """Returns language -> [megabytes, value], for the languages that have both."""
    return {language: [megabytes[language], value] for language, value in values.items() if language in megabytes}
