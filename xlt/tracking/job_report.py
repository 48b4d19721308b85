"""Reports on the terminal how far a plan is carried out: a line for each finished run, and the runs at work."""

from __future__ import annotations

import functools
import signal
import statistics
import time
from collections.abc import Callable
from types import TracebackType

from xlt.config import LauncherConfig
from xlt.console import Terminal, duration
from xlt.engine.processes import Processes
from xlt.engine.training import Interrupted
from xlt.engine.watching import Watcher
from xlt.plan.planner import Plan, Run
from xlt.plan.run_names import names_of
from xlt.plan.store import RunStore
from xlt.tracking.at_work import RunsAtWork
from xlt.tracking.watch import watch

_ABOUT_TO = {"train": "prepares training", "evaluate": "evaluates"}


class PlanInterrupted(Interrupted):
    """A signal stopped the runs of a plan.

    Args:
        number: of the signal.
        kept: what is saved, and how to go on.
    """

    def __init__(self, number: int, kept: str) -> None:
        super().__init__(number)
        self.args = (f"stopped by {signal.Signals(number).name}; {kept}",)


class JobReport:
    """Says when the first run begins, when each ends, about how long the others take, and what is at work meanwhile.

    What is counted are runs: one counts when all that the plan wants of it is done. Use it in a `with` statement.

    Args:
        console: output.
        plan: the runs; what remains to be done of them now is what is reported.
        launcher: that carries them out; None: this process.
    """

    def __init__(self, console: Terminal, plan: Plan, launcher: LauncherConfig | None = None) -> None:
        self._console, self._plan, self._names = console, plan, names_of(plan.runs.values())
        self._left: dict[str, set[str]] = {}
        for action, runs in (("train", plan.to_train()), ("evaluate", plan.to_evaluate())):
            for run in runs:
                self._left.setdefault(run.fingerprint, set()).add(action)
        self._total = len(self._left)
        self._done: dict[str, list[str]] = {}
        self._ended: set[str] = set()
        self._skipped = 0
        self._said: set[str] = set()
        self._began, self._begun_at = time.monotonic(), dict[tuple[str, str], float]()
        self._on_cluster = launcher is not None and launcher.cluster is not None
        several = launcher is not None and launcher.workers > 1 and Processes.join().count == 1
        self._in_workers = several and not self._on_cluster
        self._at_work = RunsAtWork(console)

    @functools.cached_property
    def _times(self) -> _Times:  # past runs are looked up when there is something to do
        return _Times(self._plan)

    @property
    def watcher_for(self) -> Callable[[Run, RunStore], Watcher]:
        """Makes the watcher of a run, which tells this report where the run is; it can be pickled."""
        if self._on_cluster:  # its machines do not share the folder
            return watch
        relay, alone = self._at_work.folder, not self._in_workers
        return functools.partial(watch, relay=relay, in_worker=not alone, said=self._said if alone else None)

    def __enter__(self) -> JobReport:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the display; an interruption is raised again with what is kept of the plan, and how to go on."""
        self._at_work.close()
        self._say_skipped()
        if isinstance(error, Interrupted):
            raise self._stopped(error) from error

    def __call__(self, what: str, run: Run, message: str) -> None:
        """Takes an event of `carry_out`."""
        fingerprint = run.fingerprint
        if what == "start":
            self._start(run, message)
        elif what == "done":
            self._at_work.end(fingerprint)
            self._times.add(run, message, time.monotonic() - self._begun_at.pop((fingerprint, message)))
            self._left.setdefault(fingerprint, set()).discard(message)
            self._done.setdefault(fingerprint, []).append(message)
            if not self._left[fingerprint]:
                self._end(run, _deeds(run, self._done[fingerprint]))
        elif fingerprint not in self._ended:  # failed, or needs a failed run
            self._at_work.end(fingerprint)
            self._left[fingerprint] = set()
            self._begun_at = {job: at for job, at in self._begun_at.items() if job[0] != fingerprint}
            if what == "skipped":
                self._ended.add(fingerprint)
                self._skipped += 1
            else:
                self._end(run, message, "red")

    def _stopped(self, stop: Interrupted) -> PlanInterrupted:
        finished = sum(not self._left[fingerprint] for fingerprint in self._done)
        at_work = len({fingerprint for fingerprint, _ in self._begun_at})
        begun = f", {at_work} begun" if at_work else ""
        return PlanInterrupted(
            stop.signal,
            f"{finished} of {self._total} runs finished{begun}; all that was done is saved, "
            "and the same command goes on from there",
        )

    def _start(self, run: Run, action: str) -> None:
        if run.fingerprint not in self._left:  # its files were damaged
            self._left[run.fingerprint], self._total = set(), self._total + 1
        self._left[run.fingerprint].add(action)
        if not self._begun_at and not self._done and not self._ended:
            self._print(f"[0/{self._total} runs] {self._names[run.fingerprint]} begins")
        self._begun_at[run.fingerprint, action] = time.monotonic()
        if not self._on_cluster and (self._in_workers or not run.config.tracker.progress):
            doing = _ABOUT_TO[action] if run.job is None else run.job.verb
            self._at_work.begin(run.fingerprint, self._names[run.fingerprint], doing)

    def _end(self, run: Run, message: str, style: str = "") -> None:
        self._say_skipped()
        self._ended.add(run.fingerprint)
        passed = time.monotonic() - self._began
        rest = self._time_left(passed)
        left = f", about {duration(rest)} left" if rest else ""
        at = f"[{len(self._ended)}/{self._total} runs, {duration(passed)}{left}]"
        self._print(f"{at} {self._names[run.fingerprint]}: {message}", style)

    def _time_left(self, passed: float) -> float | None:
        """Returns how many seconds the others take, with as many jobs at once as so far; None if that is unknown."""
        jobs = [(self._plan.runs[fingerprint], action) for fingerprint, left in self._left.items() for action in left]
        each = [self._times.of(run, action) for run, action in jobs]
        if not each or None in each:
            return None
        now = time.monotonic()
        under_way = sum(now - began for began in self._begun_at.values())
        at_once = max(1.0, (self._times.total + under_way) / passed) if passed else 1.0
        return max(0.0, sum(filter(None, each)) - under_way) / at_once

    def _say_skipped(self) -> None:
        if self._skipped:
            what = "1 run that needs" if self._skipped == 1 else f"{self._skipped} runs that need"
            self._print(f"[{len(self._ended)}/{self._total} runs] {what} a failed run: not tried", "yellow")
            self._skipped = 0

    def _print(self, text: str, style: str = "") -> None:
        self._console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


class _Times:
    """How long jobs took: those of this command, by kind and else by experiment; else past ones of the kind.

    Attributes:
        total: seconds of all jobs of this command together.
    """

    def __init__(self, plan: Plan) -> None:
        self.total = 0.0
        self._seconds: dict[tuple[str, str], list[float]] = {}
        self._past = plan.store.seconds_of_kinds()
        each = plan.store.seconds_of_evaluations()
        self._past_evaluations = {
            run.fingerprint: each[run.kind] * len(plan.missing_evaluations(run))
            for run in plan.runs.values()
            if run.kind in each
        }

    def add(self, run: Run, action: str, seconds: float) -> None:
        self.total += seconds
        for name in (run.kind, run.config.experiment_name):
            self._seconds.setdefault((name, action), []).append(seconds)

    def of(self, run: Run, action: str) -> float | None:
        """Returns about how many seconds a job takes; None if nothing like it was done before."""
        if (seconds := self._seconds.get((run.kind, action))) is not None:
            return statistics.fmean(seconds)
        if action == "train" and run.kind in self._past:
            return self._past[run.kind]
        if action == "evaluate" and run.fingerprint in self._past_evaluations:
            return self._past_evaluations[run.fingerprint]
        seconds = self._seconds.get((run.config.experiment_name, action))
        return None if seconds is None else statistics.fmean(seconds)


def _deeds(run: Run, actions: list[str]) -> str:
    if run.job is not None:
        return "done"
    return " and ".join({"train": "trained", "evaluate": "evaluated"}[action] for action in actions)
