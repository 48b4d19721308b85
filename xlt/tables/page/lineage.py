"""The plan on a page: every run behind it, the runs it stands on, its state and its files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from xlt.console import duration
from xlt.plan.planner import Plan, Run
from xlt.tables.page.about import State, anchor, files_of
from xlt.tables.page.board import scrolling
from xlt.tables.page.markup import Markup, joined, tag

# Each state has a sign of its own shape, for readers who cannot tell the colours apart.
_SIGNS = {"exists": "●", "partial": "◐", "failed": "✕", "missing": "○"}
_COLUMNS = ("run", "state", "stands on", "in evaluation", "took", "files")


def counts(states: Mapping[str, State]) -> Markup:
    """Shows how many runs are in which state."""
    number = Counter(state.kind for state in states.values())
    words = {"exists": "exist", "partial": "in part", "failed": "failed", "missing": "missing"}
    shown = [joined(_sign(kind), f" {number[kind]} {word}") for kind, word in words.items() if number[kind]]
    return tag("p", *(tag("span", one, class_="count") for one in shown), class_="counts")


def plan_table(
    runs: Sequence[Run], names: Mapping[str, str], states: Mapping[str, State], plan: Plan, page: Path
) -> Markup:
    """Shows a row for each run, with links to the rows of the runs it stands on, which come first."""
    body = []
    for run in runs:
        state = states[run.fingerprint]
        seconds = plan.store.result(run.fingerprint).get("training", {}).get("seconds")
        on = [_link(role, plan.runs[needed], names) for role, needed in run.depends_on.items()]
        used = [_link(None, plan.runs[needed], names) for needed in plan.runs if needed in run.evaluation_needs]
        cells = (
            tag("td", tag("span", _sign(state.kind), " ", state.words, class_=f"state {state.kind}")),
            tag("td", _folded(on)),
            tag("td", _folded(used)),
            tag("td", duration(seconds) if seconds is not None else None, class_="number"),
            tag("td", files_of(run, plan.store, page)),
        )
        name = joined(names[run.fingerprint], " ", tag("code", run.fingerprint[:12]))
        body.append(tag("tr", tag("th", name, scope="row"), *cells, id=anchor(run)))
    head = tag("thead", tag("tr", *(tag("th", column, scope="col") for column in _COLUMNS)))
    return scrolling("Plan", head, tag("tbody", *body), class_="plan")


def _sign(kind: str) -> Markup:
    return tag("span", _SIGNS[kind], class_=f"sign {kind}", aria_hidden="true")


def _link(role: str | None, run: Run, names: Mapping[str, str]) -> Markup:
    link = tag("a", names[run.fingerprint], href=f"#{anchor(run)}")
    return tag("li", tag("span", f"{role} ", class_="role") if role is not None else None, link)


def _folded(items: Sequence[Markup]) -> Markup | None:
    """Shows a list; a long one is folded."""
    if not items:
        return None
    listed = tag("ul", *items)
    return listed if len(items) <= 2 else tag("details", tag("summary", f"{len(items)} runs"), listed)
