"""Learning curves as inline SVG: a run's validation metric and its loss, phases side by side."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from xlt.engine.build import build_task
from xlt.plan.planner import Run
from xlt.plan.store import RunStore
from xlt.tables.grid import decimals_of
from xlt.tables.page.about import anchor
from xlt.tables.page.markup import Attribute, Markup, joined, tag

_WIDTH, _HEIGHT = 320, 112
_LEFT, _RIGHT, _TOP, _BOTTOM = 38, 6, 16, 18
_MOST_POINTS = 140
_FEW = 16  # points that are each shown as a dot
_LABEL_WIDTH = 6.2  # of a character

Points = list[tuple[float, float]]


def run_curves(runs: Sequence[Run], names: Mapping[str, str], store: RunStore) -> Markup:
    """Shows a card with learning curves for each run that has metrics."""
    cards = [card for run in runs if (card := _card(run, names[run.fingerprint], store)) is not None]
    if not cards:
        return tag("p", "No run has metrics yet.", class_="note")
    return tag("div", *cards, class_="cards")


def round_bounds(low: float, high: float) -> tuple[float, float, list[float]]:
    """Returns round bounds around the values, and two or three round numbers between them for ticks."""
    span = high - low or abs(high) or 1.0
    unit = 10 ** math.floor(math.log10(span / 2))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if span / (unit * factor) <= 2.5)
    first, last = math.floor(low / step), math.ceil(high / step)
    last = max(last, first + 1)
    return first * step, last * step, [round(number * step, 10) for number in range(first, last + 1)]


def _card(run: Run, name: str, store: RunStore) -> Markup | None:
    records = store.metrics(run.fingerprint)
    if not records:
        return None
    phases = _phases(records)
    task = build_task(run.config.task)
    training = store.result(run.fingerprint).get("training", {})
    best = training.get(f"best/{task.metric}")
    readout = f"best {best:.{decimals_of(task.metric)}f}" if best is not None and math.isfinite(best) else None
    last = _series(records, phases, "loss")[-1][1]
    at = phases[-1][1] + training.get("best/step", 0) if readout else None
    charts = (
        _chart(f"validation {task.metric}", records, phases, f"validation/{task.metric}", readout, at),
        _chart("loss", records, phases, "loss", f"last {last[-1][1]:.3g}" if last else None),
    )
    return tag("article", tag("h3", tag("a", name, href=f"#{anchor(run)}")), *charts, class_="card")


def _phases(records: Sequence[dict[str, Any]]) -> list[tuple[str, int, int]]:
    """Returns name, first step and last step of each phase, its steps counted on from the phase before."""
    phases, start = [], 0
    for name, phase_records in itertools.groupby(records, key=lambda record: record["phase"]):
        steps = max(record["step"] for record in phase_records)
        phases.append((name, start, start + steps))
        start += steps
    return phases


def _series(
    records: Sequence[dict[str, Any]], phases: Sequence[tuple[str, int, int]], key: str
) -> list[tuple[str, Points]]:
    """Returns the points of each phase, its steps counted on from the phase before."""
    series = []
    for name, start, _ in phases:
        with_key = (record for record in records if record["phase"] == name and record.get(key) is not None)
        series.append((name, [(start + record["step"], float(record[key])) for record in with_key]))
    return series


def _chart(
    title: str,
    records: Sequence[dict[str, Any]],
    phases: Sequence[tuple[str, int, int]],
    key: str,
    readout: str | None,
    marked: int | None = None,
) -> Markup | None:
    whole = _series(records, phases, key)
    series = [(name, _thinned(points)) for name, points in whole]
    values = [value for _, points in series for _, value in points]
    if not values:
        return None
    low, high, ticks = round_bounds(min(values), max(values))
    end = max(phases[-1][2], 1)

    def x(step: float) -> float:
        return round(_LEFT + step / end * (_WIDTH - _LEFT - _RIGHT), 1)

    def y(value: float) -> float:
        return round(_TOP + (high - value) / (high - low) * (_HEIGHT - _TOP - _BOTTOM), 1)

    parts: list[Markup] = []
    for number, (name, start, stop) in enumerate(phases):
        width = x(stop) - x(start)
        size: dict[str, Attribute] = {"width": round(width, 1), "height": _HEIGHT - _TOP - _BOTTOM}
        parts.append(tag("rect", x=x(start), y=_TOP, class_=f"band band-{number % 2}", **size))
        if len(phases) > 1 and width > _LABEL_WIDTH * len(name):
            parts.append(tag("text", name, x=x(start) + 3, y=_TOP - 4, class_="phase"))
    for value in ticks:
        parts.append(tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y(value), y2=y(value), class_="rule"))
        parts.append(tag("text", f"{value:g}", x=_LEFT - 5, y=y(value) + 3.5, class_="tick y"))
    for step in sorted({0, end, *(stop for _, _, stop in phases)}):
        if step in (0, end) or _WIDTH * 0.15 < x(step) < _WIDTH * 0.85:
            place = {0: "start", end: "end"}.get(step, "middle")
            parts.append(tag("text", f"{step:,}", x=x(step), y=_HEIGHT - 5, class_=f"tick {place}"))
    for number, (_, points) in enumerate(series):
        if points:
            line = " ".join(f"{x(step)},{y(value)}" for step, value in points)
            parts.append(tag("polyline", points=line, class_=f"curve curve-{number % 2}"))
        if len(points) <= _FEW:
            parts += [tag("circle", cx=x(step), cy=y(value), r=1.8, class_="point") for step, value in points]
    dots = {step: value for _, points in whole for step, value in points}
    if marked in dots:
        parts.append(tag("circle", cx=x(marked), cy=y(dots[marked]), r=3.5, class_="best"))
    # The page's script computes a point's values from these.
    scale: dict[str, Attribute] = {"data_steps": end, "data_low": f"{low:g}", "data_high": f"{high:g}"}
    box: dict[str, Attribute] = {"left": _LEFT, "right": _WIDTH - _RIGHT, "top": _TOP, "bottom": _HEIGHT - _BOTTOM}
    scale |= {f"data_{side}": place for side, place in box.items()}
    spoken = f"{title} over {end} steps, from {values[0]:.4g} to {values[-1]:.4g}" + (f", {readout}" if readout else "")
    view = f"0 0 {_WIDTH} {_HEIGHT}"
    drawn = tag("svg", *parts, viewBox=view, role="img", tabindex=0, aria_label=spoken, **scale)
    caption = tag("figcaption", tag("span", title), tag("output", readout or "", class_="readout"))
    return tag("figure", caption, drawn, class_="chart")


def _thinned(points: Points) -> Points:
    """Keeps the lowest and highest point of each stretch, so that few points remain and no spike is lost."""
    if len(points) <= _MOST_POINTS:
        return points
    size = math.ceil(2 * len(points) / _MOST_POINTS)
    kept: Points = [points[0]]
    for start in range(1, len(points) - 1, size):
        stretch = points[start : min(start + size, len(points) - 1)]
        ends = {min(stretch, key=lambda p: p[1]), max(stretch, key=lambda p: p[1])}
        kept += sorted(ends)
    return [*kept, points[-1]]


def legend() -> Markup:
    """Explains how to read the curves."""
    best = joined(tag("span", "", class_="dot"), " the checkpoint that was kept")
    return tag("p", "Steps run on from phase to phase; phases differ in shade and line. ", best, ".", class_="note")
