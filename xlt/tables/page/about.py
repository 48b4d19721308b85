"""Facts about a run on a page: its state, the runs it stands on, links to its files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from xlt.engine.run import MODULE_FILE, RESULT_FILE
from xlt.plan.planner import Plan, Run
from xlt.plan.store import EVALUATION_FILE, MANIFEST_FILE, METRICS_FILE, RunStore
from xlt.tables.page.markup import Markup, tag

_FILES = {
    "manifest": MANIFEST_FILE,
    "metrics": METRICS_FILE,
    "result": RESULT_FILE,
    "evaluation": EVALUATION_FILE,
    "module": MODULE_FILE,
}


@dataclass(frozen=True)
class State:
    """How far a run is. `kind` is exists, partial, failed or missing; `words` say it to people, with the reason."""

    kind: str
    words: str


def state_of(run: Run, plan: Plan, failures: Mapping[str, str]) -> State:
    """Returns a run's state, from the store and from the failures of this session.

    A run that is trained and evaluated exists, even if an earlier session recorded a failure.
    """
    store, fingerprint = plan.store, run.fingerprint
    trained, lacking = store.is_trained(fingerprint), len(plan.missing_evaluations(run))
    reason = failures.get(fingerprint) or (None if trained and not lacking else store.failure(fingerprint))
    if reason is not None:
        return State("failed", f"failed: {reason}")
    if not trained:
        return State("partial", "interrupted") if store.has_state(fingerprint) else State("missing", "missing")
    return State("partial", f"{lacking} evaluations missing") if lacking else State("exists", "exists")


def lineage(runs: Iterable[Run], plan: Plan) -> list[Run]:
    """Returns the runs and all runs that their training and evaluation need, in the order of the plan."""
    reached: set[str] = set()
    waiting = [run.fingerprint for run in runs]
    while waiting:
        fingerprint = waiting.pop()
        if fingerprint not in reached:
            reached.add(fingerprint)
            run = plan.runs[fingerprint]
            waiting += [*run.depends_on.values(), *run.evaluation_needs]
    return [run for run in plan.runs.values() if run.fingerprint in reached]


def files_of(run: Run, store: RunStore, page: Path) -> Markup | None:
    """Returns links, relative to the page, to the files that the run has."""
    folder = store.folder(run.fingerprint)
    links = [file_link(word, folder / file, page) for word, file in _FILES.items() if (folder / file).is_file()]
    return tag("span", *links, class_="files") if links else None


def file_link(word: str, file: Path, page: Path) -> Markup:
    """Returns a link to a file, relative to the page."""
    return tag("a", word, href=quote(Path(os.path.relpath(file, page.parent)).as_posix()))


def anchor(run: Run) -> str:
    """Returns the id of the run's row in the plan of the page."""
    return f"run-{run.fingerprint[:12]}"
