"""Runs of a plan: what each is and stands on, which exist, and what remains to be done."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from xlt.compose import plain
from xlt.config import PlannedTranslation, RunConfig
from xlt.data.sources import parallel_languages
from xlt.engine.build import build_method, build_task
from xlt.engine.run import Composition, Standing, preflight
from xlt.engine.run_data import RunData
from xlt.engine.translate import TranslationJob, check_source
from xlt.errors import UsageError
from xlt.modules import ModuleFileError
from xlt.plan.checks import model_faults, module_faults
from xlt.plan.identity import digest
from xlt.plan.store import RunStore

# What may differ between runs of one name and tells nobody why there are two.
_SILENT = (
    "data.validation.",
    "data.evaluation.",
    "data.excluded.",
    "data.leaks",
    "task_modules.",
    "tracker.",
    "launcher.",
    "experiment_name",
    "output_dir",
    "data_dir",
    "seed",
    "method._target_",
)
_SOURCES = "data.sources."
_MOST_WORDS = 3
_NOTHING = "null"


@dataclass
class Run:
    """A run in the plan.

    Attributes:
        fingerprint, identity: what makes it this run.
        standing: paths of what it stands on; they exist once `depends_on` are done.
        depends_on: fingerprints of runs that training needs, by role.
        evaluations: key -> composition that is wanted of it.
        evaluation_needs: fingerprints of runs that its evaluations need besides.
        added: those of them whose task modules are in the model beside its own.
        evaluation_model: folder or hub id of the model that is evaluated.
        translation: what it translates; None for a run that trains.
        systems: table that asks for it -> what the run is called in it, for dashboards.
    """

    fingerprint: str
    identity: dict[str, Any]
    config: RunConfig
    standing: Standing
    evaluations: dict[str, Composition] = field(default_factory=dict)
    evaluation_needs: set[str] = field(default_factory=set)
    added: set[str] = field(default_factory=set)
    evaluation_model: str | None = None
    translation: TranslationJob | None = None
    systems: dict[str, str] = field(default_factory=dict)

    @property
    def depends_on(self) -> dict[str, str]:
        return dict(self.standing.depends_on)

    @property
    def kind(self) -> str:
        """What runs of similar duration have in common."""
        model = self.config.model.path or (self.config.model.run and self.config.model.run.experiment) or "random"
        if self.translation is not None:
            return f"translate/{Path(str(model)).name}/{self.translation.language}"
        return f"{self.config.experiment_name}/{method_name(self.config)}/{Path(str(model)).name}"

    @property
    def label(self) -> str:
        """For people: experiment, method, what it adapts to; of a student, its target and how it learns."""
        if self.translation is not None:
            job = self.translation
            what = job.source.location().name if job.source.path else job.source.reader
            into = f"{job.settings.source_language} -> {job.language}"
            return f"translate {what} {job.source.split} {into}"
        about = self.config.language or ",".join(sorted({s.language for s in self.config.data.sources.values()}))
        shown = _shortened(about)
        student = self.config.model.student
        if student is not None:
            taught = " taught" if self.config.teacher.losses else ""
            begins = "" if student.copies else " from random weights"
            shown += f" 1/{student.layer_reduction} for {self.config.target}{taught}{begins}"
        return f"{self.config.experiment_name} {method_name(self.config)} {shown} seed={self.config.seed}"


class Runs:
    """Runs in an order in which each comes after those it stands on.

    Args:
        store: where finished runs are looked up.

    Attributes:
        runs: by fingerprint.
    """

    def __init__(self, store: RunStore) -> None:
        self.store = store
        self.runs: dict[str, Run] = {}

    def missing_evaluations(self, run: Run) -> dict[str, Composition]:
        """What of the wanted evaluations is not in the store."""
        done = self.store.evaluations(run.fingerprint)
        return {key: composition for key, composition in run.evaluations.items() if key not in done}

    def to_train(self) -> list[Run]:
        """Runs that are not in the store, in order."""
        return [run for run in self.runs.values() if not self.store.is_trained(run.fingerprint)]

    def to_evaluate(self) -> list[Run]:
        """Runs whose evaluations are not all in the store, in order."""
        return [run for run in self.runs.values() if self.missing_evaluations(run)]

    def preflight(self) -> None:
        """Reads data, module files and the model's tokenizer for all that remains to be done.

        Mistakes so show before hours of training. Only the weights of the model are not looked at. What several runs
        have in common is looked at once.

        Raises:
            UsageError: all faults of all runs.
        """
        gathered = Gathered()
        seen: set[str] = set()

        def is_new(*looked_at: Any) -> bool:
            before = len(seen)
            seen.add(digest(plain(looked_at)))
            return len(seen) > before

        for run in {id(run): run for run in [*self.to_train(), *self.to_evaluate()]}.values():
            model_run = self.runs[run.depends_on["model"]] if "model" in run.depends_on else None
            config = run.config
            data = (config.data, config.task, config.seed, config.device, config.language_modules.paths)
            with gathered:
                if run.translation is not None:  # whatever its translator learned from, is that one's to read
                    check_source(run.translation)
                elif is_new(data):
                    preflight(config)
            with gathered:
                gathered.lines += self._leaks(run)
            gathered.lines += module_faults(config.language_modules)
            made_by = model_run.config if model_run is not None else None
            if is_new(config.model, config.task, made_by and made_by.model, _spoken(run)):
                gathered.lines += model_faults(config, made_by, _spoken(run))
        gathered.refuse()

    def _leaks(self, run: Run) -> list[str]:
        """What a run is evaluated on and others learned from, a line each: translators of its sources, runs added."""
        if run.config.data.leaks != "refuse":
            return []
        learners: dict[str, RunConfig] = {added: self.runs[added].config for added in run.added}
        for part in ("sources", "validation", "evaluation"):
            for source in getattr(run.config.data, part).values():
                if isinstance(source.translation, PlannedTranslation):
                    learners |= self._translators(source.translation.fingerprint)
        if not learners:
            return []
        data = [(f"{self.runs[f].label}: data.sources", RunData(c, build_task(c.task))) for f, c in learners.items()]
        return RunData(run.config, build_task(run.config.task)).leaks(data)

    def _translators(self, translation: str) -> dict[str, RunConfig]:
        """Fingerprint -> config of the runs that made a translation's model: adapted, and trained before that."""
        found = {}
        run = self.runs[translation]
        while "model" in run.depends_on:
            run = self.runs[run.depends_on["model"]]
            found[run.fingerprint] = run.config
        return found

    def rows(self) -> list[tuple[str, str, float | None]]:
        """For display: name, what exists or has to be done, seconds that this took in past runs of the kind.

        The seconds are those of training, of evaluation, or of both, as what has to be done; None where no past run
        says, or where another process is working on the run.
        """
        rows, names = [], names_of(self.runs.values())
        seconds_of_training = functools.cache(self.store.seconds_of_kind)  # each looks through the whole store
        seconds_of_evaluation = functools.cache(self.store.seconds_of_evaluation)
        for run in self.runs.values():
            todo, trained = len(self.missing_evaluations(run)), self.store.is_trained(run.fingerprint)
            steps, seconds = [], []
            if not trained:
                begun = self.store.has_state(run.fingerprint)
                steps.append("resume" if begun else "train" if run.translation is None else "translate")
                seconds.append(seconds_of_training(run.kind))
            if todo:
                steps.append(f"evaluate {todo}")
                of_one = seconds_of_evaluation(run.kind)
                seconds.append(None if of_one is None else todo * of_one)
            known = [part for part in seconds if part is not None]
            if steps and self.store.is_worked_on(run.fingerprint):
                steps, known = ["wait for another process"], []
            rows.append((names[run.fingerprint], " + ".join(steps) or "exists", sum(known) if known else None))
        return rows

    def abandoned_state(self) -> tuple[int, int]:
        """How many unfinished runs outside of this plan keep state in the store, and how many bytes."""
        planned = {self.store.folder(fingerprint).name for fingerprint in self.runs}
        others = {name: files for name, files in self.store.unfinished().items() if name not in planned}
        return len(others), sum(file.stat().st_size for files in others.values() for file in files)


def names_of(runs: Iterable[Run], given: Mapping[str, str] | None = None) -> dict[str, str]:
    """Fingerprint -> what a run is called, with up to three settings that tell it from namesakes.

    Args:
        runs: among which names should be clear.
        given: fingerprint -> a name in place of the run's label.
    """
    alike: dict[str, list[Run]] = {}
    for run in runs:
        alike.setdefault((given or {}).get(run.fingerprint, run.label), []).append(run)
    names = {}
    for name, namesakes in alike.items():
        settings: list[dict[str, str]] = [_settings(run) for run in namesakes] if len(namesakes) > 1 else [{}]
        keys = dict.fromkeys(key for one in settings for key in one)
        for key in list(keys):
            values = {one.get(key, _NOTHING) for one in settings}
            if len(values) == 1 or (key.startswith(_SOURCES) and not all(key in one for one in settings)):
                del keys[key]
        for run, one in zip(namesakes, settings, strict=True):
            words = [f"{key.removeprefix(_SOURCES)}={one.get(key, _NOTHING)}" for key in [*keys][:_MOST_WORDS]]
            names[run.fingerprint] = " ".join([name, *words])
    return names


def _settings(run: Run) -> dict[str, str]:
    """Dotted keys -> values of what may tell a run from a namesake; nothing of where a source's text comes from."""
    if run.translation is not None:
        told = _flat(plain(run.translation.settings))
    else:
        sources = run.config.data.sources
        told = {"origins": ",".join(sorted({source.origin for source in sources.values()}))}
        for key in ("cap", "cap_words", "upsample", "split", "text_language"):
            told |= {f"{_SOURCES}{name}.{key}": getattr(source, key) for name, source in sources.items()}
        every = _flat(plain(run.config))
        told |= {key: value for key, value in every.items() if not key.startswith((*_SILENT, _SOURCES))}
        told["data.sources"] = _shortened(",".join(sources))
    return {key: _NOTHING if value in (None, [], {}) else str(value) for key, value in told.items()}


def _shortened(listed: str) -> str:
    return listed if len(listed) <= 24 else f"{listed[:20]}..."


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(values, dict) or not values:
        return {prefix.removesuffix("."): values}
    return {key: value for name, part in values.items() for key, value in _flat(part, f"{prefix}{name}.").items()}


class Gathered:
    """Gathers faults: `with gathered: ...` goes on after a UsageError, `refuse` raises all of them as one."""

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


def method_name(config: RunConfig) -> str:
    """The name of the method, for people."""
    return str(build_method(config.method).name)


def _spoken(run: Run) -> list[str]:
    """ISO 639-3 codes of the languages that a run's model has to be told."""
    if run.translation is None:
        return parallel_languages(run.config.data)
    return [run.translation.settings.source_language, run.translation.language]
