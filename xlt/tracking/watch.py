"""Everybody who watches a run, as one."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from xlt.engine.processes import Processes
from xlt.engine.training import Interrupted
from xlt.engine.watching import Watcher
from xlt.errors import UsageError
from xlt.plan.planner import Run
from xlt.plan.store import RunStore
from xlt.tracking.jsonl import MetricsFile
from xlt.tracking.progress import ProgressBar
from xlt.tracking.told import lacks
from xlt.tracking.wandb import WandbRun


class Watchers:
    """Hands every event to several watchers; the first one keeps the records.

    What is told when the run is recorded cannot make it fail any more: an error then is a line on standard error.

    Args:
        label: of the run, for that line.
    """

    def __init__(self, watchers: Sequence[Watcher], label: str) -> None:
        self._watchers, self._label = list(watchers), label

    def begin_phase(self, name: str, start: int, steps: int) -> None:
        for watcher in self._watchers:
            watcher.begin_phase(name, start, steps)

    def metrics(self, phase: str, step: int, values: Mapping[str, float]) -> None:
        for watcher in self._watchers:
            watcher.metrics(phase, step, values)

    def note(self, message: str) -> None:
        for watcher in self._watchers:
            watcher.note(message)

    def rewind(self, lines: int) -> None:
        for watcher in self._watchers:
            watcher.rewind(lines)

    def written(self) -> int:
        return self._watchers[0].written()

    def trained(self) -> None:
        for watcher in self._watchers:
            with _noted(self._label):
                watcher.trained()

    def evaluated(self, records: Mapping[str, Mapping[str, Any]]) -> None:
        for watcher in self._watchers:
            with _noted(self._label):
                watcher.evaluated(records)

    def close(self) -> None:
        for watcher in self._watchers:
            with _noted(self._label):
                watcher.close()


def watch(run: Run, store: RunStore) -> Watcher:
    """The watchers that a run's config asks for."""
    tracker = run.config.tracker
    watchers: list[Watcher] = [MetricsFile(store.folder(run.fingerprint))]
    if tracker.progress:
        watchers.append(ProgressBar(run.label))
    if tracker.wandb != "off":
        tracked = WandbRun(run, store)
        watchers.append(tracked)
        if tracker.progress:
            watchers[1].note(f"W&B: {tracked.where}")
    return Watchers(watchers, run.label)


def send_unsent(runs: Iterable[Run], store: RunStore) -> None:
    """Tells W&B what it lacks of the runs of a plan that has been carried out, where their configs ask for W&B.

    That may be what an error or a kill kept from it, or all of a run that was made without it. After an error, which is
    a line on standard error, the rest is left to the next command. Of several processes the leader does it.

    Raises:
        UsageError: the client is not installed, or online there is no account.
    """
    for run in runs if Processes.join().leads else ():
        if not lacks(run, store):
            continue
        sent = False
        with store.lock(run.fingerprint), _noted(run.label):
            if lacks(run, store):  # who had the lock may have sent it
                tracked = WandbRun(run, store)
                try:
                    tracked.send()
                finally:
                    tracked.close()
                if run.config.tracker.progress:
                    print(f"  W&B had not been told all of {run.label}: {tracked.where}", file=sys.stderr)
            sent = True
        if not sent:
            return


@contextmanager
def _noted(label: str) -> Iterator[None]:
    """An error is a line: the run is there whatever its dashboard says, and the next command makes that good."""
    try:
        yield
    except (UsageError, Interrupted):
        raise
    except Exception as error:
        if os.environ.get("XLT_TRACEBACK"):
            raise
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        print(f"xlt: {label}: not all was sent: {reason}; the same command sends the rest", file=sys.stderr)
