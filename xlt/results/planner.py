"""The plan: which runs a config stands on, which exist, what remains to be done and in what order."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from xlt.compose import (
    checked,
    compose_language_run,
    compose_model_run,
    language_run_settings,
    model_run_settings,
    plain,
)
from xlt.config import RunConfig, UsageError
from xlt.engine.build import build_method
from xlt.engine.run import ALONE, COMPOSED, Composition, Standing, preflight
from xlt.modules import ModuleFileError
from xlt.results.fingerprint import digest, evaluation_key, file_identity, run_identity
from xlt.results.store import RunStore


@dataclass
class Run:
    """A run in the plan.

    Attributes:
        fingerprint, identity: what makes it this run.
        standing: paths of what it stands on; they exist once `depends_on` are done.
        depends_on: fingerprints of runs that training needs, by role.
        evaluations: key -> composition that is wanted of it.
        evaluation_needs: fingerprints of runs that its evaluations need besides.
        asked_for: it was asked for itself, not only as a base for others.
    """

    fingerprint: str
    identity: dict[str, Any]
    config: RunConfig
    standing: Standing
    evaluations: dict[str, Composition] = field(default_factory=dict)
    evaluation_needs: set[str] = field(default_factory=set)
    evaluation_model: str | None = None

    @property
    def depends_on(self) -> dict[str, str]:
        return dict(self.standing.depends_on)

    @property
    def kind(self) -> str:
        """What runs of similar duration have in common."""
        model = self.config.model.path or (self.config.model.run and self.config.model.run.experiment) or "random"
        return f"{self.config.experiment_name}/{_method_name(self.config)}/{Path(str(model)).name}"

    @property
    def label(self) -> str:
        """For people: experiment, method, what it adapts to."""
        about = self.config.language or ",".join(sorted({s.language for s in self.config.data.sources.values()}))
        shown = about if len(about) <= 24 else f"{about[:20]}..."
        return f"{self.config.experiment_name} {_method_name(self.config)} {shown} seed={self.config.seed}"


class Plan:
    """Runs in an order in which each comes after those it stands on.

    Args:
        store: where finished runs are looked up.
    """

    def __init__(self, store: RunStore) -> None:
        self.store = store
        self.runs: dict[str, Run] = {}
        self._known: dict[str, str] = {}
        self._model_runs: dict[str, str] = {}
        self._language_runs: dict[str, str] = {}

    def add(self, config: DictConfig, *, evaluate: bool = True) -> Run:
        """Adds a run and all it stands on; a run that is in the plan already is found again.

        Args:
            config: composed, not yet checked.
            evaluate: also plan the evaluation of its module on `data.evaluation`.
        Raises:
            UsageError: faults of this config or of one it stands on.
        """
        run_config = checked(config)
        known = digest(plain(run_config))
        run = self.runs[self._known[known]] if known in self._known else self._plan(config, run_config)
        self._known[known] = run.fingerprint
        if evaluate and run_config.data.evaluation:
            self._plan_evaluations(config, run_config, run)
        return run

    def _plan(self, config: DictConfig, run_config: RunConfig) -> Run:
        depends_on: dict[str, str] = {}
        model_run = None
        model_path = run_config.model.path
        if run_config.model.run is not None:
            known = digest(model_run_settings(config))
            if known not in self._model_runs:
                run = self.add(compose_model_run(config, run_config.model.run), evaluate=False)
                self._model_runs[known] = run.fingerprint
            model_run = self._model_runs[known]
            depends_on["model"] = model_run
            model_path = str(self.store.checkpoint(model_run))
        languages = sorted({source.language for source in run_config.data.sources.values()})
        identities, files = {}, {}
        if _adapts(run_config):
            for language in languages:
                identities[language], files[language], needed = self._language_module(config, run_config, language)
                if needed is not None:
                    depends_on[language] = needed
        identity = run_identity(run_config, model_run, identities)
        fingerprint = digest(identity)
        if fingerprint not in self.runs:
            standing = Standing(fingerprint, model_path, files, depends_on)
            self.runs[fingerprint] = Run(fingerprint, identity, run_config, standing)
        return self.runs[fingerprint]

    def _language_module(
        self, config: DictConfig, run_config: RunConfig, language: str
    ) -> tuple[str, Path, str | None]:
        """Identity, file and, where one makes it, run of a language's module."""
        settings = run_config.language_modules
        if language in settings.paths:
            path = settings.paths[language]
            return file_identity(path), Path(path).expanduser(), None
        if settings.experiment is None:
            raise UsageError(
                f"language_modules: no module for {language}; give language_modules.paths.{language}=FILE "
                "or language_modules.experiment"
            )
        known = digest([language, language_run_settings(config)])
        if known not in self._language_runs:
            run = self.add(compose_language_run(config, language), evaluate=False)
            self._language_runs[known] = run.fingerprint
        fingerprint = self._language_runs[known]
        return fingerprint, self.store.module_file(fingerprint), fingerprint

    def _plan_evaluations(self, config: DictConfig, run_config: RunConfig, run: Run) -> None:
        """Each evaluation source with its language's module and, if asked for or without modules, alone."""
        run.config.data.evaluation.update(run_config.data.evaluation)
        checkpoint = build_method(run_config.method).leaves_checkpoint
        run.evaluation_model = str(self.store.checkpoint(run.fingerprint)) if checkpoint else run.standing.model_path
        own = () if checkpoint else (self.store.module_file(run.fingerprint),)
        roles = {"task": run.fingerprint}
        for name, source in run_config.data.evaluation.items():
            if _adapts(run_config):
                identity, file, needed = self._language_module(config, run_config, source.language)
                key = evaluation_key(run_config, name, {**roles, "language": identity})
                run.evaluations[key] = Composition(name, COMPOSED, (file, *own))
                if needed is not None:
                    run.evaluation_needs.add(needed)
            if not _adapts(run_config) or run_config.language_modules.evaluate_without:
                run.evaluations[evaluation_key(run_config, name, roles)] = Composition(name, ALONE, own)

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
        """Reads the data of everything that remains to be done, so that mistakes show before hours of training.

        Raises:
            UsageError: all faults of all runs.
        """
        lines: list[str] = []
        for run in {id(run): run for run in [*self.to_train(), *self.to_evaluate()]}.values():
            try:
                preflight(run.config)
            except UsageError as error:
                lines += error.lines
            except ModuleFileError as error:
                lines.append(str(error))
        if lines:
            raise UsageError(*lines)

    def rows(self) -> list[tuple[str, str, float | None]]:
        """For display: label, what is there or to be done, seconds that past runs of the kind took."""
        rows = []
        for run in self.runs.values():
            todo = len(self.missing_evaluations(run))
            if not self.store.is_trained(run.fingerprint):
                state = "resume" if self.store.has_state(run.fingerprint) else "train"
                state += f" + evaluate {todo}" if todo else ""
            else:
                state = f"evaluate {todo}" if todo else "exists"
            known = None if state == "exists" else self.store.seconds_of_kind(run.kind)
            rows.append((run.label, state, known))
        return rows


def _adapts(config: RunConfig) -> bool:
    return config.language_modules.experiment is not None or bool(config.language_modules.paths)


def _method_name(config: RunConfig) -> str:
    return str(build_method(config.method).name)
