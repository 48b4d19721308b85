"""A page about runs: scores, learning curves and plan, in one file that needs no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import xlt
from xlt.files import atomic_text
from xlt.plan.planner import Plan, Run
from xlt.plan.run_names import names_of
from xlt.plan.store import RunStore
from xlt.tables.grid import Grid
from xlt.tables.page.about import lineage, state_of
from xlt.tables.page.curves import legend, run_curves
from xlt.tables.page.lineage import counts, plan_table
from xlt.tables.page.markup import Markup, joined, tag
from xlt.tables.page.scores import JobScores, grid_scores, run_scores

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def save_page(
    path: Path,
    title: str,
    runs: Sequence[Run],
    store: RunStore,
    failures: Mapping[str, str],
    grid: Grid | None,
    plan: Plan,
    names: Mapping[str, str] | None = None,
    jobs: Sequence[JobScores] | None = None,
) -> Path:
    """Writes a page about runs, with relative links into the run store.

    Args:
        path: of the file; links are relative to it.
        title: of the page.
        runs: the runs that the command requested; the plan has the runs they stand on.
        store: where the runs are.
        failures: fingerprint -> reason, for failures of this session; the store has earlier ones.
        grid: the table they belong to; None for a sweep, whose page shows a row for each job.
        plan: has the runs and all runs they stand on.
        names: fingerprint -> name of the run on the page (for a sweep, its overrides); by default the run's label.
        jobs: jobs of a sweep, each with the evaluations that it requested; by default one for each run, with all
            evaluations of the run.
    Returns:
        `path`.
    """
    requested = list({run.fingerprint: run for run in runs}.values())
    all_runs = lineage(requested, plan)
    bases = [run for run in all_runs if run.fingerprint not in {one.fingerprint for one in requested}]
    called = names_of(all_runs, names or {})
    states = {run.fingerprint: state_of(run, plan, failures) for run in all_runs}
    if jobs is None:
        jobs = [JobScores(called[run.fingerprint], run, run.evaluations) for run in requested]
    scores = run_scores(jobs, store, path) if grid is None else grid_scores(grid, path) if grid.columns else None
    under = tag(
        "details", tag("summary", f"Runs they stand on ({len(bases)})"), run_curves(bases, called, store), id="bases"
    )
    body = joined(
        tag("header", tag("h1", title), _toggle(), class_="top"),
        counts(states),
        _section("Scores", scores) if scores is not None else None,
        _section("Learning curves", joined(legend(), run_curves(requested, called, store), under if bases else None)),
        _section("Plan", joined(_search(), plan_table(all_runs, called, states, plan, path))),
        tag("footer", f"xlt {xlt.__version__}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_text(path) as file:
        file.write(_document(title, body))
    return path


def _document(title: str, body: Markup) -> str:
    head = joined(
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("link", rel="icon", href="data:,"),
        tag("title", title),
        tag("style", Markup(_beside("page.css"))),
    )
    whole = joined(tag("head", head), tag("body", tag("main", body), tag("script", Markup(_beside("page.js")))))
    return f"<!doctype html>\n{tag('html', whole, lang='en')}\n"


def _beside(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def _section(heading: str, content: Markup) -> Markup:
    name = heading.lower().replace(" ", "-")
    return tag("section", tag("h2", heading, id=name), content, aria_labelledby=name)


def _toggle() -> Markup:
    return tag("button", "Dark", type="button", id="theme", hidden=True)


def _search() -> Markup:
    return tag(
        "label",
        tag("span", "Find a run"),
        tag("input", type="search", id="search", autocomplete="off"),
        class_="search",
        hidden=True,
    )
