"""The plan: which runs a config needs, which of them exist, what remains to be done and in what order.

Planning never changes a config, since checked configs are frozen. All that a run needs besides its config is kept in
its `Run`: paths of models and modules, files that other runs make for its sources, and evaluations.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from xlt.compose import checked, compose_model_run, compose_student_run, model_run_settings, plain
from xlt.config import RunConfig, RunReference
from xlt.data.planned import MadeFile, PlannedData
from xlt.data.sources import source_faults
from xlt.data.transforms import transform_of
from xlt.engine.run import Composition, ModuleFile, Standing
from xlt.errors import UsageError
from xlt.plan.checks import contradictions, header_faults
from xlt.plan.compositions import needs_language_modules
from xlt.plan.evaluations import evaluated_on, plan_evaluations
from xlt.plan.identity import digest, run_identity
from xlt.plan.leavings import check_leaves_model
from xlt.plan.modules import (
    language_modules,
    overlap_module,
    start_module,
    teacher_module,
    trains_on_language_modules,
)
from xlt.plan.published import with_module_files
from xlt.plan.runs import Gathered, Run, Runs
from xlt.plan.store import RunStore
from xlt.plan.translations import plan_translations


class Plan(Runs):
    """The runs of a command. Configs are added to it; each becomes a run, together with the runs that it needs."""

    def __init__(self, store: RunStore) -> None:
        super().__init__(store)
        self._known: dict[str, str] = {}
        self._once: dict[str, str | UsageError] = {}

    def add(self, config: DictConfig, *, evaluate: bool = True) -> Run:
        """Adds the run of a config and all runs that it needs; a config that is already in the plan adds nothing.

        Args:
            config: composed, not yet checked.
            evaluate: also plan the evaluation of the run's module on `data.evaluation` and `data.benchmarks`.
        Returns:
            The run of the config.
        Raises:
            UsageError: all faults of this config and of the configs of the runs that it needs.
        """
        return self._add(config, evaluate)[0]

    def ask(self, config: DictConfig, labels: Collection[str] | None = None) -> tuple[Run, dict[str, Composition]]:
        """Adds a run as `add` does, and also returns those of its evaluations that this config requests.

        Args:
            config: composed, not yet checked.
            labels: of the requested compositions, the texts of their expressions; None: all that the config has.
        """
        return self._add(config, evaluate=True, labels=labels)

    def absorb(self, other: Plan) -> bool:
        """Takes over the runs of another plan for the same store, instead of planning their configs again.

        Returns:
            Whether it was possible; if not, nothing is changed. It is not if this plan has a run that the other one
            evaluates, because the data of the two may differ.
        """
        if any(run.evaluations and fingerprint in self.runs for fingerprint, run in other.runs.items()):
            return False
        for fingerprint, run in other.runs.items():
            self.runs.setdefault(fingerprint, run)
        self._known |= other._known
        self._once |= other._once
        self.other_code.used |= other.other_code.used
        return True

    def once(self, settings: Any, compose_run: Callable[..., DictConfig], *arguments: Any) -> Run:
        """Adds the run that `compose_run(*arguments)` composes, unless a run with equal settings was added before.

        Args:
            settings: JSON values, which contain all that the run depends on.
            compose_run: composes the config of the run.
            arguments: of `compose_run`.
        Raises:
            UsageError: faults of the run; the same again for equal settings, which are not composed twice.
        """
        key = digest(settings)
        if key not in self._once:
            try:
                self._once[key] = self.add(compose_run(*arguments), evaluate=False).fingerprint
            except UsageError as error:
                self._once[key] = error
        known = self._once[key]
        if isinstance(known, UsageError):
            raise UsageError(*known.lines)
        return self.runs[known]

    def model_run(self, config: DictConfig, run_config: RunConfig) -> str:
        """Adds the run that makes the base model of a config with `model.run`; returns its fingerprint."""
        reference = run_config.model.run
        settings = ["model", model_run_settings(config)]
        run = self.once(settings, compose_model_run, config, reference)
        check_leaves_model("model.run", run.config)
        return run.fingerprint

    def _add(
        self, config: DictConfig, evaluate: bool, labels: Collection[str] | None = None
    ) -> tuple[Run, dict[str, Composition]]:
        config = with_module_files(config)
        run_config = checked(config)
        asks = evaluate and bool(evaluated_on(run_config))
        key = digest(plain(run_config))
        gathered = Gathered()
        made_files = plan_translations(self, config, run_config, evaluate, gathered)
        gathered.refuse()
        data = PlannedData.of(run_config.data, made_files)
        if not evaluate:  # without evaluation, translated test sets are not needed
            sources = {n: source for n, source in data.evaluation.items() if transform_of(source.config) is None}
            data = data.evaluated_on(sources)
        run = self.runs[self._known[key]] if key in self._known else None
        evaluations: dict[str, Composition] = {}
        if run is None:
            with gathered:
                run = self._plan(config, run_config, data, made_files)
        if run is not None and asks:
            with gathered:
                evaluations = plan_evaluations(self, config, run_config, data, run, labels)
                run.evaluation_needs |= {
                    file.fingerprint for role, file in made_files.items() if role.startswith("evaluation.")
                }
        elif asks and needs_language_modules(run_config, labels):  # to report also the faults of these modules
            language_modules(self, config, run_config, "evaluation", gathered)
        gathered.refuse()
        assert run is not None
        self._known[key] = run.fingerprint
        return run, evaluations

    def _plan(
        self, config: DictConfig, run_config: RunConfig, data: PlannedData, made_files: dict[str, MadeFile]
    ) -> Run:
        gathered = Gathered(source_faults(run_config.data), contradictions(run_config) or header_faults(run_config))
        depends_on = {role: file.fingerprint for role, file in made_files.items() if not role.startswith("evaluation.")}
        model_run = None
        model_path = run_config.model.path
        if run_config.model.run is not None:
            with gathered:
                model_run = self.model_run(config, run_config)
                depends_on["model"] = model_run
                model_path = str(self.store.checkpoint(model_run))
        student_run = None
        teacher = _Teacher(model_path) if run_config.teacher.losses else _Teacher()
        if run_config.model.student is not None and run_config.model.student.run is not None:
            with gathered:
                student_run = self._student_run(config, run_config.model.student.run)
                depends_on["student"] = student_run
                model_path = str(self.store.checkpoint(student_run))
        if run_config.teacher.knows_task and run_config.teacher.losses:
            with gathered:
                module = teacher_module(self, config, run_config)
                teacher.identity, teacher.module = module.identity, module.file
                if module.run is not None:
                    depends_on["teacher"] = module.run
        modules = {}
        if trains_on_language_modules(run_config):
            modules = language_modules(self, config, run_config, "sources", gathered)
            depends_on |= {language: module.run for language, module in modules.items() if module.run is not None}
        start = None
        with gathered:
            start = start_module(self, config, run_config)
            if start is not None and start.run is not None:
                depends_on["start"] = start.run
        overlap = None
        with gathered:
            overlap = overlap_module(self, config, run_config)
            if overlap is not None and overlap.run is not None:
                depends_on["overlap"] = overlap.run
        gathered.refuse()
        identities = {language: module.identity for language, module in modules.items()}
        begins = None if start is None else start.identity
        shares = None if overlap is None else overlap.identity
        identity = run_identity(run_config, data, model_run, identities, begins, student_run, teacher.identity, shares)
        fingerprint, identity = self.other_code.chosen(identity, run_config.other_code)
        if fingerprint not in self.runs:
            standing = Standing(
                fingerprint,
                model_path,
                {language: module.file for language, module in modules.items()},
                None if start is None else start.file,
                None if overlap is None else overlap.file,
                teacher.path,
                teacher.module,
                None if student_run is None else ModuleFile(self.store.module_file(student_run), run=student_run),
                depends_on,
            )
            self.runs[fingerprint] = Run(fingerprint, identity, run_config, standing, data)
        return self.runs[fingerprint]

    def _student_run(self, config: DictConfig, reference: RunReference) -> str:
        """Adds the run that trains the student; returns its fingerprint."""
        sources = sorted({source.language for source in config.data.sources.values()})
        settings = ["student", model_run_settings(config), plain(reference), config.target, sources]
        run = self.once(settings, compose_student_run, config, reference)
        check_leaves_model("model.student.run", run.config)
        return run.fingerprint


@dataclass
class _Teacher:
    """The teacher of a run: the path of the whole model, and its task module with the module's identity."""

    path: str | None = None
    module: ModuleFile | None = None
    identity: str | None = None
