"""What the page says about a run: its name, its state, where its files lie."""

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
    """Whether a run is there. `kind`: exists, partial, failed or missing; `words` for people, with the reason."""

    kind: str
    words: str


def state_of(run: Run, plan: Plan, failures: Mapping[str, str]) -> State:
    """The run's state as the store has it now, and the failures of this sitting.

    A run that is trained and evaluated is there, whatever an earlier sitting recorded as a failure.
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
    """The runs and all that they and their evaluations stand on, bases first."""
    wanted: set[str] = set()
    waiting = [run.fingerprint for run in runs]
    while waiting:
        fingerprint = waiting.pop()
        if fingerprint not in wanted:
            wanted.add(fingerprint)
            run = plan.runs[fingerprint]
            waiting += [*run.depends_on.values(), *run.evaluation_needs]
    return [run for run in plan.runs.values() if run.fingerprint in wanted]


def files_of(run: Run, store: RunStore, page: Path) -> Markup | None:
    """Links to those of a run's files that there are, relative to the page."""
    folder = store.folder(run.fingerprint)
    links = [
        tag("a", word, href=quote(Path(os.path.relpath(folder / file, page.parent)).as_posix()))
        for word, file in _FILES.items()
        if (folder / file).is_file()
    ]
    return tag("span", *links, class_="files") if links else None


def anchor(run: Run) -> str:
    """Where on the page the run stands in the plan."""
    return f"run-{run.fingerprint[:12]}"
