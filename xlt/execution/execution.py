"""Carries out a plan: one run after the other, or several runs at once in worker processes."""

from __future__ import annotations

import functools
import os
import signal
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, cast

from xlt.data.transforms.translation import DONE_FILE
from xlt.engine.composed import files_of, forget_parts
from xlt.engine.processes import Processes
from xlt.engine.run import Composition, evaluate_compositions, prepare
from xlt.engine.state import RunState
from xlt.engine.training import Interrupted
from xlt.engine.watching import Silence, Watcher
from xlt.engine.weights import learn_weights, searched
from xlt.errors import UsageError
from xlt.escapes import say
from xlt.execution.quiet import quiet_all
from xlt.execution.workers import JobResult, Workers
from xlt.modules import ModuleFileError
from xlt.plan.code import evaluation_code, training_code, translation_code
from xlt.plan.identity import data_identity, digest, evaluated_identity, original_identity
from xlt.plan.runs import Run, Runs, missing_evaluations, reading_of
from xlt.plan.store import RunStore
from xlt.repositories import pinned_name
from xlt.tracebacks import PlainError, failure_line

WatcherFor = Callable[[Run, RunStore], Watcher]
Job = tuple[str, str]
"""What to do ("train" or "evaluate"), and the fingerprint of the run."""

_CHANGED = "its files have changed since this was planned; give the same command again"
_STOPPING = (signal.SIGTERM, signal.SIGINT)
"""Signals that stop a command, also one that began with SIGINT ignored, as those in the background of a script do."""
_PATIENCE = timedelta(minutes=2)
"""How long a failed process waits for the other processes, which may fail for the same reason."""


@dataclass
class Outcome:
    """The result of carrying out a plan.

    Attributes:
        failures: fingerprint -> reason of the failure, one line; a run that needs a failed run gets the same reason.
        refused: fingerprints of the failed runs whose input was wrong, so that the user can correct it.
        skipped: fingerprints of the failed runs that were not started, because a run that they need failed.
        done: jobs that were carried out.
    """

    failures: dict[str, str] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    skipped: set[str] = field(default_factory=set)
    done: list[Job] = field(default_factory=list)


def carry_out(
    plan: Runs,
    workers: Workers | None,
    watcher_for: WatcherFor,
    report: Callable[[str, Run, str], None] = lambda *_: None,
    outcome: Outcome | None = None,
) -> Outcome:
    """Carries out the missing jobs of a plan in its order; a run is evaluated before the next one is trained.

    If a run fails, only the runs that need it are skipped. Damaged files of finished runs are set aside, and these runs
    are made again if a job stands on them. A killed process may have left a run with a result but without a manifest;
    such manifests are written first. If several processes train together, all of them carry out the jobs that the
    leader chose, and they wait for each other after every job.

    Args:
        plan: the runs, with their store.
        workers: carry out several runs at once; None: everything is done in this process.
        watcher_for: makes the watcher of a run; must be picklable if there are workers.
        report: is called with an event of a job ("start", "done", "failed", "skipped"), the run, and a message.
        outcome: results are added to it when jobs end, so that the caller has them even after an interruption.
    Raises:
        Interrupted: a signal came; running jobs saved their state.
        PlainError: processes that train together ended a job differently, so that they cannot continue together.
    """
    processes = Processes.join()
    if processes.leads:
        plan.store.remove_left_overs(plan.runs)
    plan.set_aside_damaged()
    for run in plan.runs.values() if processes.leads else ():
        if plan.store.lacks_manifest(run.fingerprint):
            with plan.store.lock(run.fingerprint):
                _record_if_missing(run, plan.store)
    jobs: dict[Job, set[Job]] = {}
    for action, runs in (("evaluate", plan.to_evaluate()), ("train", plan.to_train())):
        for run in runs:
            jobs[action, run.fingerprint] = {("train", needed) for needed in plan.needs(run, action)}
    waiting = {job: {need for need in needs if need in jobs} for job, needs in jobs.items()}
    waiting = processes.from_leader(waiting)  # processes read the store at different times
    return _Execution(plan, waiting, watcher_for, report, outcome or Outcome()).run(workers)


class _Execution:
    def __init__(
        self, plan: Runs, jobs: dict[Job, set[Job]], watcher_for: WatcherFor, report: Any, outcome: Outcome
    ) -> None:
        self._plan, self._waiting, self._watcher_for, self._report = plan, jobs, watcher_for, report
        self._outcome = outcome

    def run(self, workers: Workers | None) -> Outcome:
        processes = Processes.join()
        if workers is None or processes.count > 1:
            with _terminating(processes.count == 1):
                while (job := self._next()) is not None:
                    self._report("start", self._plan.runs[job[1]], job[0])
                    self._settle(job, _agreed(processes, _do(job, self._arguments(job))))
        else:
            self._run_side_by_side(workers)
        assert not self._waiting, f"jobs that wait for each other: {self._waiting}"
        return self._outcome

    def _next(self) -> Job | None:
        """Removes and returns a job for which everything is ready; reports jobs that need a failed run as skipped."""
        for job in list(self._waiting):
            failed = next((need for need in self._waiting[job] if need[1] in self._outcome.failures), None)
            if failed is not None:
                del self._waiting[job]
                run, base = self._plan.runs[job[1]], self._plan.runs[failed[1]]
                about = "" if base is run else f"stands on {base.label}, which failed: "
                reason = f"{about}{self._outcome.failures[failed[1]]}"
                if job[1] not in self._outcome.failures:  # otherwise its own training failed
                    self._outcome.failures[job[1]] = reason
                    self._outcome.skipped.add(job[1])
                self._report("skipped", run, reason)
                return self._next()
            if not self._waiting[job]:
                del self._waiting[job]
                return job
        return None

    def _settle(self, job: Job, result: JobResult) -> None:
        run = self._plan.runs[job[1]]
        if result.interrupted:
            raise Interrupted(result.interrupted)
        if result.reason is None:
            self._outcome.done.append(job)
            for needs in self._waiting.values():
                needs.discard(job)
            self._report("done", run, job[0])
            return
        self._outcome.failures[job[1]] = result.reason
        if result.refused:
            self._outcome.refused.add(job[1])
        self._plan.store.record_failure(job[1], result.reason)
        self._report("failed", run, result.reason)

    def _arguments(self, job: Job) -> tuple[Any, ...]:
        run = self._plan.runs[job[1]]
        needs = self._plan.needs(run, job[0])
        return run, self._plan.store, needs, self._plan.missing_evaluations(run), self._watcher_for

    def _run_side_by_side(self, workers: Workers) -> None:
        running = 0
        before = {number: signal.signal(number, _raise_interrupted) for number in _STOPPING}
        try:
            while True:
                ready: dict[Hashable, Callable[[], JobResult]] = {}
                while running + len(ready) < workers.count and (job := self._next()) is not None:
                    self._report("start", self._plan.runs[job[1]], job[0])
                    ready[job] = functools.partial(_do, job, self._arguments(job))
                if ready:
                    workers.start(ready)
                    running += len(ready)
                if not running:
                    return
                for key, result in workers.finished():
                    running -= 1
                    if result.interrupted:  # only this job's process was asked to stop
                        name = signal.Signals(result.interrupted).name
                        result = JobResult(
                            f"stopped by {name}; its state is saved, and the same command continues from there"
                        )
                    self._settle(cast(Job, key), result)
        except (KeyboardInterrupt, Interrupted) as stop:
            if running:
                say("stopping: the runs at work save their state first")
            workers.stop()
            raise stop if isinstance(stop, Interrupted) else Interrupted(_number_of(stop)) from stop
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            workers.close()


def _do(job: Job, arguments: tuple[Any, ...]) -> JobResult:
    """Carries out one job, in this process or in a worker; an error becomes one line in the result."""
    run, store, needs, evaluations, watcher_for = arguments
    quiet_all()
    try:
        _check_needs(run, store, needs)
        if job[0] == "train" and run.job is not None:
            _make_source(run, store, watcher_for)
        elif job[0] == "train":
            _train(run, store, watcher_for)
        else:
            _evaluate(run, store, evaluations, watcher_for)
    except Interrupted as stop:
        return JobResult("interrupted", interrupted=stop.signal)
    except KeyboardInterrupt as stop:
        return JobResult("interrupted", interrupted=_number_of(stop))
    except (UsageError, ModuleFileError) as error:
        return JobResult("; ".join(str(error).splitlines()), refused=True)
    except Exception as error:
        if os.environ.get("XLT_TRACEBACK"):
            raise
        return JobResult(failure_line(error, store.traceback_file(run.fingerprint)))
    return JobResult()


def _check_needs(run: Run, store: RunStore, needs: Iterable[str]) -> None:
    """Checks again, at the time of use, the files of the runs that a job stands on.

    Raises:
        UsageError: one was damaged after planning; it was set aside, if possible.
    """
    if damaged := sorted(needed for needed in needs if not store.is_sound(needed)):
        folder = store.folder(damaged[0])
        raise UsageError(f"{run.label}: needs run {folder}, which is damaged; give the same command again")


def _agreed(processes: Processes, result: JobResult) -> JobResult:
    """Gathers the results of a job from all processes, which trained together or waited for the leader.

    Raises:
        PlainError: the processes failed for different reasons, or another process is still working or has ended. A
            process that still exchanges data would mix them up with those of the next job. Therefore this process
            must end; `torchrun` then ends the others.
    """
    failed = result.reason is not None
    try:
        results = processes.gather(result, _PATIENCE if failed else None)
    except RuntimeError as error:
        ended = not failed or _lost_another(error) or _lost_another(result.reason)
        reason = (
            "another process has ended; give the same command again"
            if ended
            else f"only this process failed: {result.reason}"
        )
        raise PlainError(f"process {processes.rank}: {reason}") from error
    failures = [gathered for gathered in results if gathered.reason is not None]
    if len({failure.reason for failure in failures}) > 1:
        reasons = "; ".join(f"process {rank}: {each.reason or 'done'}" for rank, each in enumerate(results))
        raise PlainError(f"processes failed differently: {reasons}")
    return failures[0] if failures else result


def _lost_another(what: object) -> bool:
    """Returns whether an error says that another process closed its connection, as when it was killed."""
    return any(words in str(what) for words in ("reset by peer", "closed by peer", "Broken pipe"))


def _make_source(run: Run, store: RunStore, watcher_for: WatcherFor) -> None:
    if not Processes.join().leads:
        return
    assert run.job is not None
    if original_identity(run.job.source) != run.identity["source"]:
        raise UsageError(f"{run.label}: {_CHANGED}")
    _check_code(run.identity["code"], translation_code(run.config, run.job.source), run.label)
    with store.lock(run.fingerprint):
        if store.is_trained(run.fingerprint):
            _record_if_missing(run, store)
            return
        watcher = watcher_for(run, store)
        try:
            run.job.carry_out(run.config, run.standing, store.folder(run.fingerprint), watcher)
            _record(run, store)
            watcher.trained()
        finally:
            watcher.close()


def _check_unchanged(run: Run) -> None:
    """Refuses to train if data or code have changed since planning: the fingerprint describes the old ones.

    Raises:
        UsageError: a line for every source whose files have changed, or one for a changed source file of the code.
    """
    _check_code(run.identity["code"], training_code(run.config), run.label)
    planned, now = run.identity["data"], data_identity(run.planned_data)
    changed = [
        f"data.{part}.{name}: {_CHANGED}"
        for part in ("sources", "validation", "excluded")
        for name, identity in planned[part].items()
        if identity != now[part].get(name)
    ]
    if changed:
        raise UsageError(*changed)


def _check_code(planned: Mapping[str, str], now: Mapping[str, str], name: str) -> None:
    """Refuses to execute code that differs from the code with which the run was planned.

    A worker process may read the files later than the process that planned.

    Raises:
        UsageError: a source file has changed; the line names it.
    """
    if planned != now:
        changed = sorted(module for module in planned.keys() | now if planned.get(module) != now.get(module))
        raise UsageError(f"{name}: the code in {changed[0]} has changed since this was planned; give the command again")


def _train(run: Run, store: RunStore, watcher_for: WatcherFor) -> None:
    _check_unchanged(run)
    prepared = prepare(run.config, run.standing, run.planned_data)
    processes = prepared.trainer.processes
    is_new = processes.from_leader(not store.is_trained(run.fingerprint) and not store.has_state(run.fingerprint))
    if is_new:  # before the lock and the watchers, which leave files
        if run.evaluation_model == run.standing.model_path and run.config.model.student is None:
            prepared.check_bases(file for asked in run.evaluations.values() for file in files_of(asked.modules))
        prepared.rehearse_export(store.root)
    with store.lock(run.fingerprint) if processes.leads else nullcontext():  # the leader holds it for all
        if processes.from_leader(store.is_trained(run.fingerprint)):  # no process may read saved state before this
            if processes.leads:
                _record_if_missing(run, store)
            return
        if is_new and processes.from_leader(store.has_state(run.fingerprint)):  # the lock's last holder began the run
            del prepared
            prepared = prepare(run.config, run.standing, run.planned_data)
        watcher = watcher_for(run, store) if processes.leads else Silence()
        try:
            prepared.train(store.folder(run.fingerprint), watcher)
            if processes.leads:
                _record(run, store)
                watcher.trained()
        finally:
            watcher.close()


def _record(run: Run, store: RunStore, *, late: bool = False) -> None:
    """Writes the manifest of a trained run."""
    facts = run.fingerprint, run.config, run.identity, run.kind, run.depends_on
    store.record_manifest(*facts, reading=reading_of(run), hub_modules=run.hub_modules, late=late)


def _record_if_missing(run: Run, store: RunStore) -> None:
    """Writes the manifest of a trained run if it is missing; the caller holds the run's lock."""
    if store.lacks_manifest(run.fingerprint):
        folder = store.folder(run.fingerprint)
        RunState(folder).discard()
        (folder / DONE_FILE).unlink(missing_ok=True)
        _record(run, store, late=True)


def _evaluate(run: Run, store: RunStore, requested: dict[str, Composition], watcher_for: WatcherFor) -> None:
    if not Processes.join().leads:
        return
    assert run.evaluation_model is not None
    with store.lock(run.fingerprint):
        missing = missing_evaluations(store, run, requested)  # another process may have evaluated some
        if not missing:
            return
        _check_tests_unchanged(run, missing.values())
        watcher = watcher_for(run, store)
        try:
            began, finished = time.monotonic(), 0
            learned: dict[str, dict[str, Any]] = {}
            known = {key: one for key, one in missing.items() if searched(one) is None}
            for key, composition, facts in learn_weights(
                run.config, run.planned_data, run.evaluation_model, missing, watcher
            ):
                known[key], learned[key] = composition, facts

            def keep(key: str, about: str, records: Iterable[Mapping[str, Any]]) -> None:
                store.keep_predictions(run.fingerprint, key, records)

            evaluated = evaluate_compositions(run.config, run.planned_data, run.evaluation_model, known, watcher, keep)
            for key, record in evaluated:  # each is stored at once, so that nothing is done again after an interruption
                record = {**record, **learned.get(key, {}), "identity": dict(missing[key].identity)}
                files = files_of(missing[key].modules)
                if from_hub := [name for file in files if (name := pinned_name(file.path)) is not None]:
                    record["hub_modules"] = from_hub
                store.add_evaluations(run.fingerprint, {key: record})
                finished += 1
            store.record_evaluation_time(run.fingerprint, run.kind, finished, time.monotonic() - began)
            watcher.evaluated(store.evaluations(run.fingerprint))
        finally:
            forget_parts()
            watcher.close()


def _check_tests_unchanged(run: Run, compositions: Iterable[Composition]) -> None:
    """Refuses to evaluate if test data or code have changed since planning: the key describes the old ones."""
    compositions = list(compositions)
    planned = {composition.entry: composition for composition in compositions}
    if any(digest(_code_of(run, composition)) != composition.identity["code"] for composition in compositions):
        raise UsageError(f"{run.label}: the code has changed since this was planned; give the same command again")
    changed = [
        f"data.evaluation.{composition.source}: {_CHANGED}"
        for entry, composition in planned.items()
        if digest(evaluated_identity(run.planned_data, entry)) != composition.content
    ]
    if changed:
        raise UsageError(*changed)


def _code_of(run: Run, composition: Composition) -> dict[str, str]:
    composed = composition.modules if "composition" in composition.identity else ()
    return evaluation_code(run.config, run.planned_data, composition.entry, composed)


@contextmanager
def _terminating(alone: bool) -> Iterator[None]:
    """Makes signals that stop a command interruptions also outside of training, for instance in an evaluation.

    Args:
        alone: whether this process works alone; of several, the launcher ends all.
    """
    if not alone or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _raise_interrupted) for number in _STOPPING}
    try:
        yield
    except _Signalled as stop:  # between two jobs
        raise Interrupted(stop.number) from stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Signalled(KeyboardInterrupt):
    """What a signal raises wherever the process is; no `except Exception`, as around the loading of models, takes it.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def _number_of(stop: KeyboardInterrupt) -> int:
    return stop.number if isinstance(stop, _Signalled) else signal.SIGINT


def _raise_interrupted(number: int, frame: object) -> None:
    raise _Signalled(number)
