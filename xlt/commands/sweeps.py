"""Carries out a sweep (`xlt -m`): all jobs become one plan; a table and a page show the result of each job."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from xlt.commands.ending import FAILURE, USAGE, new_traceback_file
from xlt.commands.subcommands import PLAN
from xlt.compose import is_composition_error
from xlt.config import LauncherConfig
from xlt.console import Terminal
from xlt.engine.run import Composition
from xlt.errors import UsageError
from xlt.escapes import say
from xlt.execution.execution import Outcome, carry_out
from xlt.execution.workers import make_workers
from xlt.files import folder_fault, write_json
from xlt.modules import ModuleFileError
from xlt.plan.planner import Plan, Run
from xlt.plan.store import RunStore
from xlt.plan.unheeded import unheeded
from xlt.tables.page import JobScores, save_page
from xlt.tables.sweep_notes import PlannedJob, mean_lines, same_result_lines
from xlt.tables.terminal import SweepRow, mean_scores, print_notes, print_plan, print_sweep
from xlt.tracebacks import failure_line
from xlt.tracking.job_report import JobReport
from xlt.tracking.wandb import check_account
from xlt.tracking.watch import send_unsent

_LONGEST_SHOWN = 1000  # characters of a job's overrides in a line about its faults
_GRID_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
_SERIAL_LAUNCHER = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"


class TrialFailed(Exception):
    """Error: a job that a search chose has failed; its fault lines were printed. `code` is the exit code."""

    def __init__(self, code: int) -> None:
        self.code = code
        super().__init__(code)


class SweepFolder(Callback):
    """The folder that Hydra makes for a sweep; it is removed again if no job could be carried out.

    Hydra calls `on_multirun_start` before it makes any folder.

    Attributes:
        folder: of the sweep.
        new_folders: folders that did not exist before the sweep, innermost first.
        used: whether there was a job to carry out.
    """

    folder: ClassVar[str] = ""
    new_folders: ClassVar[list[Path]] = []
    used: ClassVar[bool] = False

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        if Sweep.plan_alone and not _are_gathered(config.hydra):
            say(f"xlt: {PLAN}: jobs of a search, or of another Hydra launcher, are not known before; leave it out")
            sys.exit(USAGE)
        folder = Path(str(config.hydra.sweep.dir)).absolute()
        if (fault := folder_fault(folder)) is not None:
            shown = str(folder)[:_LONGEST_SHOWN]
            say(f"xlt: {shown}: the folder of a sweep (hydra.sweep.dir, in output_dir): {fault}")
            sys.exit(USAGE)  # an exception would be only a warning of Hydra's
        SweepFolder.new_folders = [path for path in (folder, *folder.parents) if not path.exists()]
        SweepFolder.folder, SweepFolder.used = str(folder), False

    @classmethod
    def remove_if_unused(cls) -> None:
        """Removes the folders that a sweep made, unless there was a job to carry out or they contain files."""
        if cls.used or not cls.new_folders:
            return
        folder = cls.new_folders[0]
        if not any(path.is_file() and path.name != "multirun.yaml" for path in folder.rglob("*")):
            (folder / "multirun.yaml").unlink(missing_ok=True)
            for empty in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
                empty.rmdir()
            with contextlib.suppress(OSError):  # the folder has files of others
                for path in cls.new_folders:
                    path.rmdir()
        cls.new_folders = []


@dataclass
class SweepJob:
    """One job of a sweep.

    Attributes:
        number: of the job, as Hydra counts.
        words: overrides of the job.
        folder: that Hydra made for the job; it becomes a link to the run's folder.
        run: the requested run; None if the job was refused or could not be planned.
        evaluations: key -> composition, as this job requested; other jobs may request others of the same run.
        faults: a line for each fault of the job's config.
        error: an error of the program while the job was planned, in one line; None if there was none.
        existed: whether the run was trained and evaluated before the sweep began.
    """

    number: int
    words: list[str]
    folder: Path
    run: Run | None = None
    evaluations: dict[str, Composition] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    error: str | None = None
    existed: bool = False


class Sweep:
    """The jobs of a sweep: they are planned one by one and then carried out as one plan.

    A run that several jobs need is trained once. A finished job is not repeated. If a run fails, only the runs that
    need it are skipped.

    Attributes:
        gathered: the sweep whose jobs Hydra currently passes to `xlt`; None if there is none.
        plan_alone: whether the command line asks for the plan of a run or sweep, and nothing is to be carried out.
    """

    gathered: ClassVar[Sweep | None] = None
    plan_alone: ClassVar[bool] = False

    def __init__(self) -> None:
        self.jobs: list[SweepJob] = []
        self._notes: dict[str, None] = {}
        self._plan: Plan | None = None
        self._launcher: LauncherConfig | None = None

    def add(self, config: DictConfig) -> None:
        """Plans one job; is called for each job. If a job has faults, they are printed and the job is left out."""
        settings = HydraConfig.get()
        job = SweepJob(int(settings.job.num), list(settings.overrides.task), Path(settings.runtime.output_dir))
        self.jobs.append(job)
        store = RunStore(config.output_dir)
        if self._plan is not None and self._plan.store.root != store.root:
            self._refuse(job, [f"output_dir={config.output_dir}: all jobs of a sweep must have the same output_dir"])
            return
        self._plan = self._plan or Plan(store)
        if config.tracker.group is None:
            config.tracker.group = self._title(config)
        try:
            alone = Plan(store)
            planned = alone.ask(config)
            self._notes |= dict.fromkeys(alone.preflight())
            job.existed = not alone.to_train() and not alone.to_evaluate()
            job.run, job.evaluations = planned if self._plan.absorb(alone) else self._plan.ask(config)
            self._notes |= dict.fromkeys(unheeded(job.run.config, job.words, config))
        except (UsageError, ModuleFileError) as error:
            self._refuse(job, error.lines if isinstance(error, UsageError) else [str(error)])
            return
        except Exception as error:
            if is_composition_error(error) or os.environ.get("XLT_TRACEBACK"):
                raise
            job.error = failure_line(error, new_traceback_file(config.output_dir))
            _print_lines(job, [job.error])
            return
        self._launcher = self._launcher or job.run.config.launcher
        SweepFolder.used = not Sweep.plan_alone

    def carry_out(self) -> int:
        """Trains and evaluates what is missing for all jobs, and prints and saves the result of each.

        Returns:
            The exit code: 0, 1 if a job failed, 2 if one was refused.
        Raises:
            Interrupted: a signal came; running jobs saved their state, and the results so far were printed.
        """
        refused, failed = any(job.faults for job in self.jobs), any(job.error for job in self.jobs)
        plan, console = self._plan, Terminal(stderr=True)
        if plan is None or self._launcher is None:
            return USAGE if refused else FAILURE if failed else 0
        same = same_result_lines(
            [
                PlannedJob(job.number, job.words, (job.run.fingerprint, frozenset(job.evaluations)))
                for job in self.jobs
                if job.run is not None
            ]
        )
        if plan.to_do() or Sweep.plan_alone:
            print_notes([*self._notes, *same], console)
        if Sweep.plan_alone:
            print_plan(plan, Terminal())
            return USAGE if refused else FAILURE if failed else 0
        if plan.to_do():
            print_plan(plan, console, short=True)
        check_account(plan.to_do())
        workers = make_workers(self._launcher, plan.store.root / "cluster")
        outcome = Outcome()
        try:
            with JobReport(console, plan, self._launcher) as report:
                carry_out(plan, workers, report.watcher_for, report, outcome)
        finally:  # also when it is stopped
            rows = [self._row(job, plan, outcome) for job in self.jobs]
            print_sweep(rows, Terminal(), [*self._mean_lines(plan.store), *same])
            self._save(rows, plan, outcome)
        send_unsent(plan.runs.values(), plan.store)
        return USAGE if refused else FAILURE if outcome.failures or failed else 0

    def _row(self, job: SweepJob, plan: Plan, outcome: Outcome) -> SweepRow:
        if job.run is None:
            state = "refused" if job.error is None else "failed"
            return SweepRow(job.number, self._overrides(job), state, {}, job.error or "; ".join(job.faults))
        store, fingerprint = plan.store, job.run.fingerprint
        scores = mean_scores(job.run, job.evaluations, store)
        metric = str(store.result(fingerprint).get("metric", "")) if scores else ""
        finished = store.is_trained(fingerprint) and job.evaluations.keys() <= store.evaluations(fingerprint).keys()
        if finished:  # even if another job's evaluation of this run failed
            state = "existed" if job.existed else "done"
            return SweepRow(job.number, self._overrides(job), state, scores, None, metric)
        reason = outcome.failures.get(fingerprint)
        state = "not tried" if fingerprint in outcome.skipped else "not finished" if reason is None else "failed"
        return SweepRow(job.number, self._overrides(job), state, scores, reason, metric)

    def _mean_lines(self, store: RunStore) -> list[str]:
        averaged: dict[int, dict[str, list[str]]] = {}
        metrics: dict[int, str] = {}
        for job in self.jobs:
            if job.run is not None and (shown := mean_scores(job.run, job.evaluations, store)):
                metrics[job.number] = str(store.result(job.run.fingerprint).get("metric", ""))
                averaged[job.number] = {
                    label: [one.source for one in job.evaluations.values() if one.label == label] for label in shown
                }
        return mean_lines(averaged, metrics)

    def _overrides(self, job: SweepJob) -> str:
        """Returns the overrides of a job that not all jobs have; for a single job, all its overrides."""
        common = set.intersection(*(set(one.words) for one in self.jobs)) if len(self.jobs) > 1 else set()
        return " ".join(word for word in job.words if word not in common)

    def _save(self, rows: Sequence[SweepRow], plan: Plan, outcome: Outcome) -> None:
        """Writes `summary.json` and the page `sweep.html` into the sweep's folder."""
        folder = Path(SweepFolder.folder)
        if not folder.is_dir():
            return
        for job in self.jobs:
            if job.run is not None:
                link_to_run(job.folder, plan.store.folder(job.run.fingerprint))
        write_json(folder / "summary.json", [dataclasses.asdict(row) for row in rows])
        names: dict[str, str] = {}
        for job in self.jobs:
            if job.run is not None:  # jobs whose differences do not affect training share a run
                names[job.run.fingerprint] = "; ".join(
                    filter(None, (names.get(job.run.fingerprint), self._overrides(job)))
                )
        title = next(job.run.config.tracker.group for job in self.jobs if job.run is not None)
        runs = [plan.runs[fingerprint] for fingerprint in names]
        page = save_page(
            folder / "sweep.html", str(title), runs, plan.store, outcome.failures, None, plan, names, self._job_scores()
        )
        Terminal(stderr=True).print(f"{page}", highlight=False, soft_wrap=True)

    def _job_scores(self) -> list[JobScores]:
        """Returns the rows of the page; jobs that requested the same evaluations of the same run share a row."""
        rows: dict[tuple[str, frozenset[str]], JobScores] = {}
        for job in self.jobs:
            if job.run is not None:
                key = (job.run.fingerprint, frozenset(job.evaluations))
                before = rows[key].name if key in rows else ""
                name = "; ".join(filter(None, (before, self._overrides(job)))) or job.run.label
                rows[key] = JobScores(name, job.run, job.evaluations)
        return list(rows.values())

    @staticmethod
    def _title(config: DictConfig) -> str:
        return f"{config.experiment_name} {Path(SweepFolder.folder).name}"

    def _refuse(self, job: SweepJob, lines: Sequence[str]) -> None:
        job.faults = list(lines)
        _print_lines(job, lines)


def link_to_run(folder: Path, run_folder: Path) -> None:
    """Replaces the empty folder of a job by a relative link to the folder of its run, where the system allows it."""
    if folder.is_symlink() or not run_folder.is_dir():
        return
    with contextlib.suppress(OSError):  # it has files, or the file system has no links
        folder.rmdir()
        folder.symlink_to(os.path.relpath(run_folder.absolute(), folder.parent.absolute()), target_is_directory=True)


def _print_lines(job: SweepJob, lines: Sequence[str]) -> None:
    words = ",".join(job.words)
    shown = words if len(words) <= _LONGEST_SHOWN else f"{words[:_LONGEST_SHOWN]}..."
    for line in lines:
        say(f"xlt: job {job.number} ({shown}): {line}")


def is_sweep() -> bool:
    """Returns whether this is a job of a sweep."""
    return bool(HydraConfig.get().mode == RunMode.MULTIRUN)


def is_gathered() -> bool:
    """Returns whether all jobs of the sweep are known before the first is carried out, so that they can be one plan.

    They are not known if a sweeper searches, because it chooses jobs by the results of others. Jobs are also not
    gathered with another Hydra launcher, because it carries out each job in its own process.
    """
    return _are_gathered(HydraConfig.get())


def _are_gathered(settings: Any) -> bool:
    return str(settings.sweeper._target_) == _GRID_SWEEPER and str(settings.launcher._target_) == _SERIAL_LAUNCHER
