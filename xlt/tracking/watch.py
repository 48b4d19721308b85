"""Combines the watchers of a run, and gives trackers what they have not received of earlier runs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from xlt.engine.processes import Processes
from xlt.engine.training import Interrupted
from xlt.engine.watching import Watcher
from xlt.errors import UsageError
from xlt.escapes import say
from xlt.plan.planner import Run
from xlt.plan.store import RunStore
from xlt.tracking.at_work import Relay
from xlt.tracking.csv_files import CsvFiles
from xlt.tracking.jsonl import MetricsFile
from xlt.tracking.progress import ProgressBar
from xlt.tracking.tensorboard import TensorBoardRun
from xlt.tracking.wandb import WandbRun
from xlt.tracking.wandb_record import has_unsent


class Watchers:
    """A watcher that passes every event to several watchers; the first one counts the metric records.

    When training is complete and recorded, an error of a watcher cannot make the run fail any more: it is reported as a
    line on standard error.

    Args:
        watchers: at least one.
        label: of the run, for this line.
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
            with _report_errors(self._label):
                watcher.trained()

    def evaluated(self, records: Mapping[str, Mapping[str, Any]]) -> None:
        for watcher in self._watchers:
            with _report_errors(self._label):
                watcher.evaluated(records)

    def close(self) -> None:
        for watcher in self._watchers:
            with _report_errors(self._label):
                watcher.close()


def watch(
    run: Run, store: RunStore, relay: Path | None = None, in_worker: bool = False, said: set[str] | None = None
) -> Watcher:
    """Returns the watchers that the run's config asks for, combined into one.

    Args:
        run: that is watched.
        store: with its folder.
        relay: folder of the command that shows the runs at work; None: it shows none.
        in_worker: whether the run has no terminal of its own: with `relay`, the command alone writes to it.
        said: lines about settings that the command has shown; they are not shown again, and others are added.
    """
    tracker = run.config.tracker
    watchers: list[Watcher] = [MetricsFile(store.folder(run.fingerprint))]
    if relay is not None and (in_worker or not tracker.progress):
        watchers.append(Relay(relay, run.fingerprint, notes=tracker.progress))
    elif tracker.progress:
        watchers.append(ProgressBar(run.label, said=said))
    watchers += _file_trackers(run, store)
    if tracker.wandb != "off":
        tracked = WandbRun(run, store)
        watchers.append(tracked)
        if tracker.progress:
            watchers[1].note(f"W&B: {tracked.where}")
    return Watchers(watchers, run.label)


def _file_trackers(run: Run, store: RunStore) -> list[CsvFiles | TensorBoardRun]:
    """Returns the trackers that write into the run's folder, as its config asks for."""
    tracker = run.config.tracker
    trackers: list[CsvFiles | TensorBoardRun] = [CsvFiles(run, store)] if tracker.csv else []
    return [*trackers, TensorBoardRun(run, store)] if tracker.tensorboard else trackers


def send_unsent(runs: Iterable[Run], store: RunStore) -> None:
    """Gives each tracker what it has not received of the runs of an executed plan, for runs whose config uses it.

    These are parts that an error or a kill prevented from being sent, or a whole run that was trained without W&B. An
    error is reported as a line on standard error, and what could not be sent is left to the next command. The other
    runs are sent all the same, unless W&B cannot be reached. Of several processes only the leader sends.

    Raises:
        UsageError: the client is not installed, or there is no account for online use.
    """
    is_out_of_reach = False
    for run in runs if Processes.join().leads else ():
        _write_missing_files(run, store)
        if is_out_of_reach or not has_unsent(run, store):
            continue
        with store.lock(run.fingerprint), _report_errors(run.label) as errors:
            if has_unsent(run, store):  # the process that had the lock may have sent it
                tracked = WandbRun(run, store)
                try:
                    tracked.send()
                finally:
                    tracked.close()
                if run.config.tracker.progress:
                    say(f"  W&B received the missing parts of {run.label}: {tracked.where}")
        is_out_of_reach = any(map(_is_out_of_reach, errors))


def _write_missing_files(run: Run, store: RunStore) -> None:
    if not store.is_trained(run.fingerprint):
        return
    for tracked in _file_trackers(run, store):
        if not tracked.is_complete():
            with store.lock(run.fingerprint), _report_errors(run.label):
                tracked.send()


def _is_out_of_reach(error: Exception) -> bool:
    """Returns whether an error says that W&B cannot be reached, so that other runs would meet the same error."""
    import wandb

    of_network = type(error).__module__.partition(".")[0] in ("requests", "urllib3", "httpx")
    return of_network or isinstance(error, (ConnectionError, TimeoutError, wandb.errors.CommError))


@contextmanager
def _report_errors(label: str) -> Iterator[list[Exception]]:
    """Reports an error as a line, because the run itself is complete and the next command can send the rest.

    Yields:
        A list that contains the error afterwards, if there was one.
    """
    errors: list[Exception] = []
    try:
        yield errors
    except (UsageError, Interrupted):
        raise
    except Exception as error:
        if os.environ.get("XLT_TRACEBACK"):
            raise
        errors.append(error)
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        say(f"xlt: {label}: not everything was sent: {reason}; repeat the command to send the rest")
