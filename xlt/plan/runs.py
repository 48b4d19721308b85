"""The runs of a plan: what each one is and needs, which exist, and what remains to be done."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from omegaconf import DictConfig

from xlt.compose import plain
from xlt.config import PARTS, RunConfig
from xlt.data.planned import PlannedData
from xlt.data.source_report import SourceReport, form_note
from xlt.data.sources import parallel_languages
from xlt.data.where import row_count
from xlt.engine.build import build_task, method_name, task_class
from xlt.engine.processes import Processes
from xlt.engine.run import Composition, Standing
from xlt.engine.run_data import RunData
from xlt.engine.source_job import SourceJob
from xlt.engine.weights import check_searches, searched
from xlt.errors import UsageError
from xlt.modules import ModuleFileError
from xlt.plan.checked_data import CheckedData, preflight
from xlt.plan.checked_models import CheckedModel, forms_matter
from xlt.plan.checks import division_faults, module_faults, package_faults, user_file_faults
from xlt.plan.identity import digest
from xlt.plan.model_checks import model_faults, model_notes, network_faults
from xlt.plan.other_code import OtherCode, StoredRun
from xlt.plan.run_index import kind_with_debug
from xlt.plan.run_names import names_of, shortened
from xlt.plan.store import RunStore
from xlt.repositories import pinned_name


@dataclass
class Run:
    """A run in the plan. The plan adds evaluations to it, but never changes its config, identity or needs.

    Attributes:
        fingerprint, identity: of the run.
        config: checked and frozen.
        standing: paths of models and modules that it needs; they exist once the runs in `depends_on` are done.
        data: its sources, and all data that its module is evaluated on; None: those in the config.
        evaluations: key -> requested evaluation.
        evaluation_needs: fingerprints of further runs that its evaluations need.
        added: those runs among `evaluation_needs` whose task modules are added to the run's own.
        evaluation_model: folder or hub id of the model that is evaluated.
        job: the source that the run makes; None for a run that trains.
        systems: table -> name of the run in this table, for dashboards.
    """

    fingerprint: str
    identity: dict[str, Any]
    config: RunConfig
    standing: Standing
    data: PlannedData | None = None
    evaluations: dict[str, Composition] = field(default_factory=dict)
    evaluation_needs: set[str] = field(default_factory=set)
    added: set[str] = field(default_factory=set)
    evaluation_model: str | None = None
    job: SourceJob | None = None
    systems: dict[str, str] = field(default_factory=dict)

    @property
    def planned_data(self) -> PlannedData:
        """The run's sources, and all data that its module is evaluated on."""
        return PlannedData.of(self.config.data) if self.data is None else self.data

    @property
    def depends_on(self) -> dict[str, str]:
        return dict(self.standing.depends_on)

    @property
    def hub_modules(self) -> dict[str, str]:
        """Language, start, overlap or teacher -> ORG/NAME@COMMIT, for the modules of the training that the hub has."""
        files = {
            **self.standing.language_modules,
            "start": self.standing.start,
            "overlap": self.standing.overlap,
            "teacher": self.standing.teacher_module,
        }
        pinned = {role: pinned_name(file.path) for role, file in files.items() if file is not None}
        return {role: name for role, name in pinned.items() if name is not None}

    @property
    def kind(self) -> str:
        """A name that runs of similar duration share; those with `debug` share none with others."""
        model = self.config.model.path or (self.config.model.run and self.config.model.run.experiment) or "random"
        if self.job is not None:
            kind = f"{self.job.verb}/{Path(str(model)).name}/{self.job.languages[-1]}"
        else:
            kind = f"{self.config.experiment_name}/{method_name(self.config.method)}/{Path(str(model)).name}"
        return kind_with_debug(kind, {"choices": self.config.choices})

    @property
    def label(self) -> str:
        """A description for people: experiment, method, languages; for a student also its target and its training."""
        if self.job is not None:
            source = self.job.source
            what = source.location().name if source.path else source.reader
            return f"{self.job.verb} {what} {source.split} {' -> '.join(self.job.languages)}"
        about = self.config.language or ",".join(sorted({s.language for s in self.config.data.sources.values()}))
        shown = shortened(about)
        student = self.config.model.student
        if student is not None:
            taught = " taught" if self.config.teacher.losses else ""
            begins = "" if student.copies else " from random weights"
            shown += f" 1/{student.layer_reduction} for {self.config.target}{taught}{begins}"
        return f"{self.config.experiment_name} {method_name(self.config.method)} {shown} seed={self.config.seed}"


class Planner(Protocol):
    """The part of the plan's interface that functions use to add the runs that they need."""

    store: RunStore
    runs: dict[str, Run]
    other_code: OtherCode

    def add(self, config: DictConfig, *, evaluate: bool = True) -> Run: ...

    def once(self, settings: Any, compose_run: Callable[..., DictConfig], *arguments: Any) -> Run: ...

    def model_run(self, config: DictConfig, run_config: RunConfig) -> str: ...


class Runs:
    """A collection of runs in which each run comes after those that it needs.

    Args:
        store: the store with the finished runs.

    Attributes:
        runs: fingerprint -> run.
    """

    def __init__(self, store: RunStore) -> None:
        self.store = store
        self.runs: dict[str, Run] = {}
        self.other_code = OtherCode(store, self.runs)
        self._checked: set[str] = set()

    def missing_evaluations(self, run: Run) -> dict[str, Composition]:
        """Returns the requested evaluations that are not in the store; see the function of this name."""
        return missing_evaluations(self.store, run, run.evaluations)

    def to_train(self) -> list[Run]:
        """Returns the runs that are not in the store, in order."""
        return [run for run in self.runs.values() if not self.store.is_trained(run.fingerprint)]

    def made_by_other_code(self) -> list[StoredRun]:
        """Returns runs in the store that differ from the runs to be trained only in the code that made them."""
        alike = (self.other_code.run_like(run.identity) for run in self.to_train())
        return [run for run in alike if run is not None]

    def to_evaluate(self) -> list[Run]:
        """Returns the runs of which the store lacks requested evaluations, in order."""
        return [run for run in self.runs.values() if self.missing_evaluations(run)]

    def to_do(self) -> list[Run]:
        """Returns the runs that are to be trained or evaluated, each once."""
        return list({run.fingerprint: run for run in [*self.to_train(), *self.to_evaluate()]}.values())

    def needs(self, run: Run, action: str) -> set[str]:
        """Returns the fingerprints of the trained runs that a job stands on.

        Args:
            run: of the job.
            action: "train" or "evaluate".
        """
        needed = set(run.depends_on.values())
        return needed | {run.fingerprint, *run.evaluation_needs} if action == "evaluate" else needed

    def set_aside_damaged(self) -> None:
        """Checks every byte of the stored files on which the jobs of the plan stand; sets aside what is damaged.

        A run whose module, checkpoint or translation is damaged is then one of those to be trained, and so may those
        be that it needs itself. Files that were found sound are not read again for the same plan. Of several processes
        only the leader does this.
        """
        while Processes.join().leads:
            jobs = [(run, "train") for run in self.to_train()] + [(run, "evaluate") for run in self.to_evaluate()]
            needed = set().union(*(self.needs(*job) for job in jobs)) - self._checked
            if not needed:
                return
            for fingerprint in sorted(needed):
                self.store.is_sound(fingerprint)
            self._checked |= needed

    def preflight(self) -> list[str]:
        """Checks data, module files and the model's tokenizer for all that remains to be done.

        This finds mistakes before hours of training; only the model's weights are not read. Data that several runs
        share are read once. Before that, damaged files of the store are set aside.

        Returns:
            Lines for the user about the data: rows that are left out, tags that are converted, Unicode forms.
        Raises:
            UsageError: all faults of all runs.
        """
        self.set_aside_damaged()
        gathered = Gathered(self.store.place_faults(run.fingerprint for run in self.to_do()))
        read: list[tuple[Run, RunData]] = []
        made_notes: list[str] = []
        models: dict[str, None] = {}
        seen: set[str] = set()

        def is_new(*parts: Any) -> bool:
            before = len(seen)
            seen.add(digest(plain(parts)))
            return len(seen) > before

        untrained = {run.fingerprint for run in self.to_train()}
        for run in self.to_do():
            model_runs = self._model_runs_of(run.fingerprint)
            config = run.config
            data = (run.planned_data, config.task, config.seed, config.device, config.language_modules.paths)
            with gathered:
                if run.job is not None:  # its model's training data are checked with the run that trains the model
                    run.job.check()
                    if (count := row_count(run.job.source)) is not None:
                        made_notes += SourceReport(count.rows, dict(count.left_out)).notes(run.label)
                elif is_new(data):
                    read.append((run, preflight(config, run.planned_data)))
            with gathered:
                gathered.lines += self._leaks(run)
            with gathered:
                check_searches(config, run.planned_data, self.missing_evaluations(run).values())
            trains = run.job is None and run.fingerprint in untrained
            gathered.lines += [
                *package_faults(config, trains=trains),
                *(division_faults(config, Processes.join().count) if trains else ()),
                *module_faults(config.language_modules),
                *user_file_faults(config),
            ]
            gathered.lines += network_faults(config)
            made_by = model_runs[-1].config if model_runs else None
            if is_new(config.model, config.task, config.method, made_by and made_by.model, _spoken(run)):
                known = CheckedModel(self.store.root, config, made_by)
                if (notes := known.notes()) is None and (faults := model_faults(config, made_by, _spoken(run))):
                    gathered.lines += faults
                    continue
                if notes is None:
                    known.has_no_faults(notes := model_notes(config))
                models |= dict.fromkeys(notes)
        gathered.refuse()
        return [*models, *made_notes, *_notes(read, self.store.root)]

    def _leaks(self, run: Run) -> list[str]:
        """Returns a line for each training source of other runs that has texts of this run's evaluation data.

        The other runs are those whose models made this run's sources, and those whose task modules are added to it.
        """
        if run.config.data.leaks != "refuse":
            return []
        learners = [self.runs[added] for added in run.added]
        for part in PARTS:
            for source in run.planned_data.part(part).values():
                if source.made is not None and part != "excluded":
                    learners += self._model_runs_of(source.made.fingerprint)
        if not learners:
            return []
        data = {run.fingerprint: (f"{run.label}: data.sources", _data_of(run)) for run in learners}
        return _data_of(run).leaks(data.values())

    def _model_runs_of(self, fingerprint: str) -> list[Run]:
        """Returns the runs that made a run's model: the one that trained it last, then the one before, and so on."""
        runs = []
        run = self.runs[fingerprint]
        while "model" in run.depends_on:
            run = self.runs[run.depends_on["model"]]
            runs.append(run)
        return runs

    def rows(self) -> list[tuple[str, str, float | None]]:
        """Returns a row for each run, for display: name, what has to be done, and an estimate of the seconds for it.

        The estimate is the time that past runs of the same kind took for the same steps (training, evaluation, or
        both); None if there was no such run, or if another process is working on this one.
        """
        rows, names = [], names_of(self.runs.values())
        seconds_of_training = self.store.seconds_of_kinds()
        seconds_of_evaluation = self.store.seconds_of_evaluations()
        for run in self.runs.values():
            todo, trained = len(self.missing_evaluations(run)), self.store.is_trained(run.fingerprint)
            steps, seconds = [], []
            if not trained:
                begun = self.store.has_state(run.fingerprint)
                steps.append("resume" if begun else "train" if run.job is None else run.job.verb)
                seconds.append(seconds_of_training.get(run.kind))
            if todo:
                steps.append(f"evaluate {todo}{_search_of(self.missing_evaluations(run).values())}")
                seconds_each = seconds_of_evaluation.get(run.kind)
                seconds.append(None if seconds_each is None else todo * seconds_each)
            known = [part for part in seconds if part is not None]
            if steps and self.store.is_worked_on(run.fingerprint):
                steps, known = ["wait for another process"], []
            rows.append((names[run.fingerprint], " + ".join(steps) or "exists", sum(known) if known else None))
        return rows

    def abandoned_state(self) -> tuple[int, int]:
        """Returns how many unfinished runs outside this plan have saved state in the store, and its size in bytes."""
        planned = {self.store.folder(fingerprint).name for fingerprint in self.runs}
        others = {name: files for name, files in self.store.unfinished().items() if name not in planned}
        return len(others), sum(file.stat().st_size for files in others.values() for file in files)


def _search_of(compositions: Iterable[Composition]) -> str:
    """Returns words about the few-shot sources on which weights of compositions are found; empty if none are."""
    modules = [one for composition in compositions if (one := searched(composition)) is not None]
    names = dict.fromkeys(name for one in modules for name, _ in one.search)
    return f" (weights from {shortened(', '.join(names))})" if names else ""


class Gathered:
    """A list of faults. `with gathered: ...` catches a UsageError and keeps its lines; `refuse` raises all as one."""

    def __init__(self, *lines: Iterable[str]) -> None:
        self.lines = [line for part in lines for line in part]

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if isinstance(error, UsageError):
            self.lines += error.lines
        elif isinstance(error, ModuleFileError):
            self.lines.append(str(error))
        else:
            return False
        return True

    def refuse(self) -> None:
        if self.lines:
            raise UsageError(*self.lines)


def missing_evaluations(store: RunStore, run: Run, requested: Mapping[str, Composition]) -> dict[str, Composition]:
    """Returns the requested evaluations that are not in the store, or lack the predictions that the run's config keeps.

    Args:
        store: of the run.
        run: the run that is evaluated.
        requested: key -> evaluation.
    """
    done = store.evaluations(run.fingerprint)
    keeps = run.config.evaluation.predictions and task_class(run.config.task).compares
    without = {
        key
        for key, composition in requested.items()
        if keeps and composition.entry in run.planned_data.evaluation
        if not store.predictions_file(run.fingerprint, key).is_file()
    }
    return {key: composition for key, composition in requested.items() if key not in done or key in without}


def _data_of(run: Run) -> RunData:
    return CheckedData(run.config, build_task(run.config.task), run.planned_data)


def reading_of(run: Run) -> dict[str, Any]:
    """Returns key of a source -> what was noticed while it was read, as JSON values, for the manifest of a run."""
    if run.job is not None:
        count = row_count(run.job.source)
        reports = {} if count is None else {"source": SourceReport(count.rows, dict(count.left_out))}
    else:
        reports = _data_of(run).reports()
    return {key: values for key, report in reports.items() if (values := report.as_json())}


def _notes(read: Sequence[tuple[Run, RunData]], root: Path) -> list[str]:
    """Returns lines about the data of runs, each once; one line has the sources that are in different Unicode forms.

    Forms differ within a run, or for a language in several runs. They are told if a model's tokenizer sees them.

    Args:
        read: runs with their data, which were checked.
        root: folder of the store.
    """
    of_runs = [[(run, key, report) for key, report in data.reports().items()] for run, data in read]
    lines = [line for of_run in of_runs for _, key, report in of_run for line in report.notes(key)]
    by_language: dict[str, list[tuple[Run, str, SourceReport]]] = {}
    for run, key, report in itertools.chain(*of_runs):
        _, part, name = key.split(".", 2)
        by_language.setdefault(run.planned_data.part(part)[name].language, []).append((run, key, report))
    several = [group for group in by_language.values() if len({report.form for *_, report in group} - {None}) > 1]
    differ = [
        group
        for group in (*of_runs, *several)
        if form_note({str(number): report for number, (*_, report) in enumerate(group)}) is not None
    ]
    samples: dict[tuple[str | None, str | None], list[SourceReport]] = {}
    for run, _, report in itertools.chain(*differ):
        samples.setdefault((run.config.model.path, run.config.model.revision), []).append(report)
    of_model = {(run.config.model.path, run.config.model.revision): (run.config.model, data) for run, data in read}
    matter = set()
    for model, reports in samples.items():
        config, data = of_model[model]
        if forms_matter(root, config, reports, partial(data.forms_matter, reports)):
            matter.add(model)
    told: dict[str, SourceReport] = {}
    known: set[tuple[str, str | None]] = set()
    for run, key, report in itertools.chain(*differ):
        if (run.config.model.path, run.config.model.revision) in matter and (key, report.form) not in known:
            known.add((key, report.form))
            told[key if key not in told else f"{key} ({run.label})"] = report
    about_forms = form_note(told)
    return list(dict.fromkeys([*lines, *([] if about_forms is None else [about_forms])]))


def _spoken(run: Run) -> Sequence[str]:
    """Returns ISO 639-3 codes of the languages that a run's model must have tokens for, if it translates."""
    return parallel_languages(run.config.data) if run.job is None else run.job.languages
