"""How much text is behind a language's module, and scores drawn over it."""

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
"""A fact of a column: megabytes of its text, as published (thesis Table D.1)."""


def text_megabytes(runs: Runs, store: RunStore) -> dict[str, float]:
    """Language -> size of the text that its module was trained on, by the manifests of those runs.

    Languages whose text is no file (it was generated, or came from the hub) are left out.
    """
    found: dict[str, float] = {}
    for fingerprint in {needed for of in runs.values() for run in of for needed in run.evaluation_needs}:
        config = store.manifest(fingerprint).get("config", {})
        language = config.get("language")
        if language is not None and (size := _size(config["data"]["sources"].values(), language)) is not None:
            found[language] = size
    return found


def _size(sources: Iterable[dict[str, Any]], language: str) -> float | None:
    """Megabytes of a language run's files; None where there are none."""
    total = 0
    for source in sources:
        code = source["codes"].get(language, language)
        path = Path((source["path"] or "").replace("{code}", code)).expanduser()
        if not path.is_file():
            return None
        total += path.stat().st_size
    return total / 1e6


def published_megabytes(grid: Grid) -> dict[str, float]:
    """Column -> megabytes of text, where they are published."""
    return {name: facts[TEXT] for name, facts in (grid.config.facts or {}).items() if TEXT in facts}


def scatter(
    axes: Axes,
    series: Mapping[str, Mapping[str, Sequence[float]]],
    styles: SeriesStyles,
    markers: Mapping[str, str] | None = None,
) -> None:
    """Languages by text and value, a colour a series, and a marker too unless the languages have theirs.

    Args:
        axes: drawn on.
        series: label -> language -> [megabytes, value].
        styles: of the series.
        markers: by language.
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
    """What a legend shows for series; `marked`: each has a marker of its own."""
    from matplotlib.lines import Line2D

    shape: dict[str, Any] = {"markersize": 4.5} if marked else {"marker": ".", "markersize": 9}
    return [Line2D([], [], **{**styles(label), **shape}, linestyle="", label=label) for label in labels]


def as_points(values: Mapping[str, float], megabytes: Mapping[str, float]) -> dict[str, list[Any]]:
    """Language -> [megabytes, value], of the languages that have both."""
    return {language: [megabytes[language], value] for language, value in values.items() if language in megabytes}
