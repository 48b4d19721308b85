"""Scores: a table's cells beside the published numbers, or the evaluations of a sweep's runs."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from xlt.engine.build import build_task, task_class
from xlt.engine.run import Composition
from xlt.plan.planner import Run
from xlt.plan.store import RunStore
from xlt.tables.config import AVERAGE
from xlt.tables.grid import Grid, decimals_of, score_of
from xlt.tables.page.about import anchor, file_link
from xlt.tables.page.averages import average_chart
from xlt.tables.page.board import cell_marks, scoreboard, scrolling
from xlt.tables.page.markup import Markup, joined, tag
from xlt.tables.scoreboard import is_scoreboard
from xlt.tables.terminal import best_settings, best_systems, holes, legend, stand_in_lines

_NOTHING = "–"


def grid_scores(grid: Grid, page: Path) -> Markup:
    """Shows systems by columns, and below, folded, every value with the run behind it.

    Args:
        grid: the table.
        page: path of the page, to which links to files of predictions are relative.
    """
    if is_scoreboard(grid):
        return scoreboard(grid)
    config, best = grid.config, best_systems(grid)
    columns = sorted(grid.columns, key=lambda column: column != AVERAGE)  # the average first: it is read first
    body = []
    for name, system in config.systems.items():
        published = config.reference.get(name, {})
        cells = [_cell(grid, name, c, published.get(c), name in best[c]) for c in columns]
        body.append(tag("tr", tag("th", system.label, scope="row"), *cells))
    spread = "spreads" if len(grid.seeds) > 1 else ""
    lines = [*best_settings(grid), *stand_in_lines(grid), *holes(grid)]
    return joined(
        tag("p", legend(grid).replace("in brackets:", "second line:"), class_="note"),
        scrolling("Scores", _head(["system", *columns], AVERAGE), tag("tbody", *body), class_=f"scores {spread}"),
        average_chart(grid),
        tag("ul", *(tag("li", line) for line in lines), class_="note") if lines else None,
        *(tag("p", line, class_="note") for line in (config.note or "").splitlines()),
        _every_value(grid, page),
    )


@dataclass(frozen=True)
class JobScores:
    """The scores of one job on a sweep's page, or of several jobs that requested the same.

    Attributes:
        name: the job's name, which consists of its overrides.
        run: the run that the job requested.
        evaluations: key -> composition, as the job requested them; other jobs may request others of the same run.
    """

    name: str
    run: Run
    evaluations: Mapping[str, Composition]


def run_scores(jobs: Sequence[JobScores], store: RunStore, page: Path) -> Markup:
    """Shows the scores of a sweep: a row for each job and composition, a column for each evaluation source.

    If all rows have the same metric or composition, it stands above the table instead of in a column. A score whose
    predictions were kept is a link to their file, relative to the page.
    """
    sources = list(dict.fromkeys(composition.source for job in jobs for composition in job.evaluations.values()))
    rows: list[tuple[JobScores, str, str, dict[str, float]]] = []
    signatures: dict[str, None] = {}
    kept: dict[tuple[str, str, str], Path] = {}
    for job in jobs:
        task, done = build_task(job.run.config.task), store.evaluations(job.run.fingerprint)
        by_label: dict[str, dict[str, float]] = {}
        for key, composition in job.evaluations.items():
            scores = by_label.setdefault(composition.label, {})
            if key in done:
                signatures |= dict.fromkeys(done[key].get("signatures", {}).values())
                scores[composition.source] = score_of(done[key], task.metric)
                if (file := store.predictions_file(job.run.fingerprint, key)).is_file():
                    kept[job.name, composition.label, composition.source] = file
        rows += [(job, label, task.metric, scores) for label, scores in (by_label or {_NOTHING: {}}).items()]
    best = _best(rows, sources)
    averaged = [AVERAGE] if len(sources) > 1 else []
    metrics, labels = {metric for _, _, metric, _ in rows}, {label for _, label, _, _ in rows}
    shared = [len(metrics) == 1, len(labels) == 1]
    columns = [*averaged, *sources]
    body = []
    for job, label, metric, scores in rows:
        if averaged and len(scores) == len(sources):
            scores = {**scores, AVERAGE: statistics.fmean(scores.values())}
        cells = [
            tag(
                "td",
                file_link(f"{scores[c]:.{decimals_of(metric)}f}", link, page)
                if (link := kept.get((job.name, label, c))) is not None
                else f"{scores[c]:.{decimals_of(metric)}f}",
                class_=_classes(scores[c] == best.get(c), c == AVERAGE),
            )
            if c in scores
            else tag("td", _NOTHING, class_="none average" if c == AVERAGE else "none")
            for c in columns
        ]
        head = tag("th", tag("a", job.name, href=f"#{anchor(job.run)}"), scope="row")
        texts = [_validated(store, job.run, metric), *_unshared((metric, label), shared)]
        body.append(tag("tr", head, *(tag("td", text, class_="word") for text in texts), *cells))
    words = ["run", "best validation", *_unshared(("metric", "modules"), shared)]
    head = _head([*words, *columns], AVERAGE, words=len(words))
    alike = [*metrics] * shared[0] + [f"modules: {label}" for label in labels] * shared[1]
    alike += signatures
    return joined(
        tag("p", "; ".join(alike), class_="note") if alike else None,
        scrolling("Scores", head, tag("tbody", *body), class_="scores"),
    )


def _unshared(words: Sequence[str], shared: Sequence[bool]) -> list[str]:
    return [word for word, of_all in zip(words, shared, strict=True) if not of_all]


def _head(columns: Sequence[str], average: str | None = None, words: int = 1) -> Markup:
    """Returns the heads of columns; the first `words` columns hold text."""
    cells = []
    for number, column in enumerate(columns):
        kind = "word" if number < words else "average" if column == average else None
        cells.append(tag("th", column, scope="col", class_=kind))
    return tag("thead", tag("tr", *cells))


def _cell(grid: Grid, system: str, column: str, published: float | None, is_best: bool) -> Markup:
    cell, decimals = grid.cells[system][column], grid.decimals(column)
    ours = tag("b" if is_best else "span", f"{cell.mean:.{decimals}f}" if cell.values else _NOTHING, class_="ours")
    spread = tag("span", f"±{cell.spread:.{decimals}f}", class_="spread") if cell.spread is not None else None
    marks = cell_marks(grid, system, column)
    theirs = tag("span", f"{published:.{decimals}f}", class_="published") if published is not None else None
    return tag(
        "td", tag("span", ours, spread, *marks, theirs, class_="cell"), class_=_classes(False, column == AVERAGE)
    )


def _classes(best: bool, average: bool) -> str | None:
    return " ".join(["best"] * best + ["average"] * average) or None


def _every_value(grid: Grid, page: Path) -> Markup:
    has_predictions = any(cell.predictions for row in grid.cells.values() for cell in row.values())
    body = []
    for name, system in grid.config.systems.items():
        for column in grid.columns:
            cell = grid.cells[name][column]
            if cell.values:
                values = " ".join(f"{value:.2f}" for value in cell.values)
                runs = list(dict.fromkeys(fingerprint[:12] for fingerprint in cell.backed_by))
                links = [joined(tag("a", run[:7], href=f"#run-{run}"), " ") for run in runs]
                row = (
                    tag("th", system.label, scope="row"),
                    tag("td", column, class_="word"),
                    tag("td", values, class_="word"),
                )
                files = [joined(file_link(file.parent.parent.name[:7], file, page), " ") for file in cell.predictions]
                more = [tag("td", *files, class_="word")] if has_predictions else []
                body.append(tag("tr", *row, tag("td", *links, class_="word"), *more))
    words = ["system", "column", "values", "runs", *["predictions"] * has_predictions]
    table = scrolling("Every value", _head(words, words=len(words)), tag("tbody", *body))
    return tag("details", tag("summary", "Every value, and the run behind it"), table)


def _best(rows: Sequence[tuple[JobScores, str, str, dict[str, float]]], sources: Sequence[str]) -> dict[str, float]:
    """Returns the best score of each column; nothing if the runs have different metrics."""
    if len({metric for _, _, metric, _ in rows}) != 1:
        return {}
    choose = max if task_class(rows[0][0].run.config.task).greater_is_better else min
    best = {c: choose(scores) for c in sources if (scores := [row[-1][c] for row in rows if c in row[-1]])}
    whole = [statistics.fmean(row[-1].values()) for row in rows if len(row[-1]) == len(sources) > 1]
    return {**best, **({AVERAGE: choose(whole)} if whole else {})}


def _validated(store: RunStore, run: Run, metric: str) -> str:
    value = store.result(run.fingerprint).get("training", {}).get(f"best/{metric}")
    return _NOTHING if value is None else f"{value:.{decimals_of(metric)}f}"
