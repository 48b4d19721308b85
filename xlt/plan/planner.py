"""The plan: which runs a config stands on, which exist, what remains to be done and in what order."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from xlt.compose import (
    checked,
    compose_added_run,
    compose_generator_run,
    compose_language_run,
    compose_model_run,
    compose_start_run,
    compose_student_run,
    compose_teacher_run,
    compose_translator_run,
    language_run_settings,
    model_run_settings,
    plain,
)
from xlt.config import DataConfig, LanguageModulesConfig, PlannedTranslation, RunConfig, RunReference, SourceConfig
from xlt.data.sources import PARTS, source_faults
from xlt.data.translation import TRANSLATED_FILE
from xlt.data.typology import load_typology
from xlt.engine.build import build_method, build_task
from xlt.engine.run import ALONE, BASE, COMPOSED, Composition, ModuleFile, Standing
from xlt.engine.translate import TranslationJob
from xlt.errors import UsageError
from xlt.plan.checks import task_module_faults
from xlt.plan.identity import (
    digest,
    evaluated_identity,
    evaluation_identity,
    file_identity,
    run_identity,
    translation_identity,
)
from xlt.plan.runs import Gathered, Run, Runs, method_name
from xlt.plan.store import RunStore


class Plan(Runs):
    """Runs, and how configs become runs: each is added with all that it stands on."""

    def __init__(self, store: RunStore) -> None:
        super().__init__(store)
        self._known: dict[str, str] = {}
        self._model_runs: dict[str, str] = {}
        self._language_runs: dict[str, str] = {}

    def add(self, config: DictConfig, *, evaluate: bool = True) -> Run:
        """Adds a run and all it stands on; a run that is in the plan already is found again.

        Args:
            config: composed, not yet checked.
            evaluate: also plan the evaluation of its module on `data.evaluation`.
        Raises:
            UsageError: all faults of this config and of those it stands on.
        """
        return self._add(config, evaluate)[0]

    def ask(self, config: DictConfig) -> tuple[Run, dict[str, Composition]]:
        """As `add`, with the evaluations that this config wants of the run: other configs may want others of it."""
        return self._add(config, evaluate=True)

    def _add(self, config: DictConfig, evaluate: bool) -> tuple[Run, dict[str, Composition]]:
        run_config = checked(config)
        wanted = _evaluated(run_config) if evaluate else {}
        known = digest(plain(run_config))
        if not evaluate:  # then a test set is translated for nothing
            tests = run_config.data.evaluation
            run_config.data.evaluation = {name: source for name, source in tests.items() if source.translation is None}
        gathered = Gathered()
        translations = self._translations(config, run_config, gathered)
        gathered.refuse()
        run = self.runs[self._known[known]] if known in self._known else None
        evaluations: dict[str, Composition] = {}
        if run is None:
            with gathered:
                run = self._plan(config, run_config, translations)
        if run is not None and wanted:
            with gathered:
                evaluations = self._plan_evaluations(config, run_config, run)
                run.evaluation_needs |= {
                    needed for role, needed in translations.items() if role.startswith("evaluation.")
                }
        elif wanted and _composes(run_config):  # faulty already: only to say what is wrong with the others too
            self._language_modules(config, run_config, "evaluation", gathered)
        gathered.refuse()
        assert run is not None
        self._known[known] = run.fingerprint
        return run, evaluations

    def _plan(self, config: DictConfig, run_config: RunConfig, translations: dict[str, str]) -> Run:
        gathered = Gathered(source_faults(run_config.data), _contradictions(run_config))
        depends_on = {role: needed for role, needed in translations.items() if not role.startswith("evaluation.")}
        model_run = None
        model_path = run_config.model.path
        if run_config.model.run is not None:
            with gathered:
                model_run = self._model_run(config, run_config)
                depends_on["model"] = model_run
                model_path = str(self.store.checkpoint(model_run))
        student_run, teacher_module = None, None
        teacher = _Teacher(model_path) if run_config.teacher.losses else _Teacher()
        if run_config.model.student is not None and run_config.model.student.run is not None:
            with gathered:
                student_run = self._student_run(config, run_config.model.student.run)
                depends_on["student"] = student_run
                model_path = str(self.store.checkpoint(student_run))
        if run_config.teacher.knows_task and run_config.teacher.losses:
            with gathered:
                teacher_module, teacher.module, needed = self._teacher_module(config, run_config)
                if needed is not None:
                    depends_on["teacher"] = needed
        identities, files = {}, {}
        if _adapts_in_training(run_config):
            for language, found in self._language_modules(config, run_config, "sources", gathered).items():
                identities[language], files[language], needed = found
                if needed is not None:
                    depends_on[language] = needed
        start_identity, start, needed = None, None, None
        with gathered:
            start_identity, start, needed = self._start(config, run_config)
        if needed is not None:
            depends_on["start"] = needed
        gathered.refuse()
        identity = run_identity(run_config, model_run, identities, start_identity, student_run, teacher_module)
        fingerprint, identity = self.other_code.chosen(identity, run_config.other_code)
        if fingerprint not in self.runs:
            left = None if student_run is None else ModuleFile(self.store.module_file(student_run))
            standing = Standing(fingerprint, model_path, files, start, teacher.path, teacher.module, left, depends_on)
            self.runs[fingerprint] = Run(fingerprint, identity, run_config, standing)
        return self.runs[fingerprint]

    def _translations(self, config: DictConfig, run_config: RunConfig, gathered: Gathered) -> dict[str, str]:
        """Has the run's translated sources know their translation; returns part and name -> the run that makes it."""
        found = {}
        for part in PARTS:
            for name, source in getattr(run_config.data, part).items():
                if source.translation is not None:
                    with gathered:
                        found[f"{part}.{name}"] = self._translation(config, f"data.{part}.{name}", source, part)
        return found

    def _translation(self, config: DictConfig, name: str, source: SourceConfig, part: str) -> str:
        """Fingerprint of the run that translates a source of a part, planned with all it stands on."""
        settings = source.translation
        assert settings is not None
        child = compose_translator_run(config, name, source)
        translates = checked(child)
        task = build_task(translates.task)
        if not task.translates:
            raise UsageError(f"{name}.translation.run: task {task.name} does not translate; take task=translation")
        if settings.adapts(source.language):
            translator = self._add(child, evaluate=False)[0]
            translates, model, depends_on = translator.config, translator.fingerprint, {"model": translator.fingerprint}
            whole = build_method(translates.method).leaves_checkpoint
            path = str(self.store.checkpoint(model)) if whole else translator.standing.model_path
            modules = () if whole else (ModuleFile(self.store.module_file(model)),)
        else:
            modules, depends_on = (), {}
            model, path = None, translates.model.path
            if translates.model.run is not None:
                model = self._model_run(child, translates)
                depends_on, path = {"model": model}, str(self.store.checkpoint(model))
        if path is None:
            raise UsageError(
                f"{name}.translation.adapt: {translates.experiment_name} begins with random weights; name the language"
            )
        original = source.untranslated()
        identity = translation_identity(translates, model, original, source.language, settings)
        fingerprint, identity = self.other_code.chosen(identity, translates.other_code)
        if fingerprint not in self.runs:
            standing = Standing(fingerprint, path, depends_on=depends_on)
            job = TranslationJob(original, source.language, settings, modules)
            self.runs[fingerprint] = Run(fingerprint, identity, translates, standing, translation=job)
        told = {item.name: getattr(settings, item.name) for item in dataclasses.fields(settings)}
        told |= {"file": str(self.store.folder(fingerprint) / TRANSLATED_FILE), "whole": part == "evaluation"}
        source.translation = PlannedTranslation(**told | {"fingerprint": fingerprint})
        return fingerprint

    def _model_run(self, config: DictConfig, run_config: RunConfig) -> str:
        """Fingerprint of the run that makes the base model."""
        assert run_config.model.run is not None
        known = digest(model_run_settings(config))
        if known not in self._model_runs:
            run = self.add(compose_model_run(config, run_config.model.run), evaluate=False)
            self._model_runs[known] = run.fingerprint
        return self._model_runs[known]

    def _student_run(self, config: DictConfig, reference: RunReference) -> str:
        """Fingerprint of the run that trains the student in use."""
        sources = sorted({source.language for source in config.data.sources.values()})
        known = digest([model_run_settings(config), plain(reference), config.target, sources])
        if known not in self._model_runs:
            run = self.add(compose_student_run(config, reference), evaluate=False)
            if not build_method(run.config.method).leaves_checkpoint:
                raise UsageError(
                    f"model.student.run: method {method_name(run.config)} leaves no checkpoint; take method=pretrain"
                )
            self._model_runs[known] = run.fingerprint
        return self._model_runs[known]

    def _teacher_module(self, config: DictConfig, run_config: RunConfig) -> tuple[str, ModuleFile, str | None]:
        """Identity, file and run of the task's module that the teacher has."""
        path = run_config.teacher.path
        if path is not None:
            return file_identity(path), ModuleFile(Path(path).expanduser()), None
        run = self.add(compose_teacher_run(config), evaluate=False)
        return run.fingerprint, ModuleFile(self.store.module_file(run.fingerprint)), run.fingerprint

    def _start(self, config: DictConfig, run_config: RunConfig) -> tuple[str | None, ModuleFile | None, str | None]:
        """Identity, file and run of the module that training begins with; all None for fresh values."""
        settings = run_config.start
        if settings.path is not None:
            file = ModuleFile(Path(settings.path).expanduser(), run_config.language)
            return file_identity(settings.path), file, None
        if settings.run is None:
            return None, None, None
        run = self.add(compose_start_run(config), evaluate=False)
        file = ModuleFile(self.store.module_file(run.fingerprint), run_config.language)
        return run.fingerprint, file, run.fingerprint

    def _language_modules(
        self, config: DictConfig, run_config: RunConfig, part: str, gathered: Gathered
    ) -> dict[str, tuple[str, ModuleFile, str | None]]:
        """Language -> its module, for the languages of "sources" or "evaluation"; what is wrong with any is gathered.

        A module is its identity, its file and, where one makes it, the run.
        """
        found = {}
        for language in sorted({source.language for source in getattr(run_config.data, part).values()}):
            if any(f"language={language}:" in line for line in gathered.lines):
                continue  # said already
            with gathered:
                used = _used_language(run_config.language_modules, language, part)
                found[language] = self._language_module(config, run_config, used)
        return found

    def _language_module(
        self, config: DictConfig, run_config: RunConfig, used: str
    ) -> tuple[str, ModuleFile, str | None]:
        settings = run_config.language_modules
        sources = {source.language for source in run_config.data.sources.values()}
        if used in settings.paths:
            path = settings.paths[used]
            return file_identity(path), ModuleFile(Path(path).expanduser(), used), None
        if settings.generator is not None and (settings.experiment is None or used in sources):
            run = self.runs[self._once(["generator", language_run_settings(config)], compose_generator_run, config)]
            if faults := build_method(run.config.method).language_faults([used]):
                raise UsageError(*faults)
            file = ModuleFile(self.store.module_file(run.fingerprint), used)
            return f"{run.fingerprint}/{used}", file, run.fingerprint
        if settings.experiment is None:
            raise UsageError(
                f"language_modules: no module for {used}; give +language_modules.paths.{used}=FILE "
                "or language_modules.experiment"
            )
        fingerprint = self._once([used, language_run_settings(config)], compose_language_run, config, used)
        return fingerprint, ModuleFile(self.store.module_file(fingerprint), used), fingerprint

    def _once(self, settings: Any, compose_run: Callable[..., DictConfig], *arguments: Any) -> str:
        """Fingerprint of a run for language modules; composed and added once for the same settings."""
        known = digest(settings)
        if known not in self._language_runs:
            self._language_runs[known] = self.add(compose_run(*arguments), evaluate=False).fingerprint
        return self._language_runs[known]

    def _added(self, config: DictConfig, run_config: RunConfig, name: str) -> tuple[str, ModuleFile, str | None]:
        """Identity, file and run of a further task module."""
        path = run_config.task_modules.paths.get(name)
        if path is not None:
            if faults := task_module_faults(path):
                raise UsageError(*faults)
            return file_identity(path), ModuleFile(Path(path).expanduser()), None
        run = self.add(compose_added_run(config, name), evaluate=False)
        return run.fingerprint, ModuleFile(self.store.module_file(run.fingerprint)), run.fingerprint

    def _plan_evaluations(self, config: DictConfig, run_config: RunConfig, run: Run) -> dict[str, Composition]:
        """Each evaluation source with its language's module and, if asked for or without modules, alone.

        Benchmarks are evaluated alone: they have no one language. Alone means with further task modules, if there are
        any; and the base model is evaluated without a module where that is asked for.
        """
        entries = {name: _entry(run.config.data, name, source) for name, source in run_config.data.evaluation.items()}
        run.config.data.benchmarks.update(run_config.data.benchmarks)
        # A task's head is in the module and in no checkpoint.
        checkpoint = build_method(run_config.method).leaves_checkpoint and not build_task(run_config.task).has_head
        run.evaluation_model = str(self.store.checkpoint(run.fingerprint)) if checkpoint else run.standing.model_path
        own = () if checkpoint else (ModuleFile(self.store.module_file(run.fingerprint)),)
        roles = {"task": run.fingerprint}
        gathered = Gathered(_addition_faults(run_config))
        gathered.refuse()
        added = []
        for name in [*run_config.task_modules.runs, *run_config.task_modules.paths]:
            with gathered:
                roles[f"added.{name}"], file, needed = self._added(config, run_config, name)
                added.append(file)
                if needed is not None:
                    run.evaluation_needs.add(needed)
                    run.added.add(needed)
        own = (*added, *own)
        modules = {}
        evaluated = _evaluated(run_config)
        if _composes(run_config):
            modules = self._language_modules(config, run_config, "evaluation", gathered)
        gathered.refuse()
        wanted: dict[str, Composition] = {}
        added_names = unusual_modules(run_config)
        content = {name: digest(evaluated_identity(run_config.data, name)) for name in evaluated}
        for name, source in run_config.data.evaluation.items():
            if name not in evaluated:
                continue
            told = (entries[name], content[name])
            if source.language in modules:
                identity, file, needed = modules[source.language]
                key, about = self._evaluation(run, run_config, name, {**roles, "language": identity})
                unusual = unusual_modules(run_config, source.language)
                wanted[key] = Composition(name, COMPOSED, (file, *own), *told, about, unusual)
                if needed is not None:
                    run.evaluation_needs.add(needed)
            if not _composes(run_config) or run_config.language_modules.evaluate_without:
                key, about = self._evaluation(run, run_config, name, roles)
                wanted[key] = Composition(name, ALONE, own, *told, about, added_names)
        for name in run_config.data.benchmarks:
            if name not in evaluated:
                continue
            key, about = self._evaluation(run, run_config, name, roles)
            wanted[key] = Composition(name, ALONE, own, name, content[name], about, added_names)
        if run_config.task_modules.evaluate_base:
            for name in evaluated:
                told = (entries.get(name, name), content[name])
                key, about = self._evaluation(run, run_config, name, {})
                wanted[key] = Composition(name, BASE, (), *told, about)
        run.evaluations |= wanted
        return wanted

    def _evaluation(
        self, run: Run, run_config: RunConfig, name: str, roles: dict[str, str]
    ) -> tuple[str, dict[str, Any]]:
        """Key and identity of an evaluation of a run's module.

        Args:
            run: it may have been made by other code, and then so may the evaluation.
            run_config: as the evaluation is asked for.
            name: in `data.evaluation` or `data.benchmarks`.
            roles: role -> identity of each module in the model.
        """
        identity = evaluation_identity(run_config, name, roles)
        key = digest(identity)
        if run_config.other_code == "use" and key not in self.store.evaluations(run.fingerprint):
            source = run_config.data.evaluation.get(name)
            key = self.other_code.evaluation_like(run.fingerprint, identity, source) or key
        return key, identity


@dataclass
class _Teacher:
    """What the teacher of a run is: the whole model, and the task's module for it."""

    path: str | None = None
    module: ModuleFile | None = None


def _entry(data: DataConfig, name: str, source: SourceConfig) -> str:
    """The name by which a run knows an evaluation source: its own, or a further one where that means other data."""
    names = (name if number == 1 else f"{name} ({number})" for number in itertools.count(1))
    entry = next(one for one in names if data.evaluation.setdefault(one, source) == source)
    return entry


def _contradictions(config: RunConfig) -> list[str]:
    task, method = build_task(config.task), build_method(config.method)
    languages = {source.language for source in config.data.sources.values()}
    student = config.model.student
    if student is not None and student.run is None and not method.leaves_checkpoint:
        return [
            f"model.student.run=null: method {method.name} leaves no checkpoint; take method=pretrain, or give a run"
        ]
    if "prediction" in config.teacher.losses and not task.decides:
        return [f"teacher.losses: task {task.name} makes no decisions that a teacher could guide; leave out prediction"]
    if task.adapts_language and (faults := method.language_faults(languages)):
        return faults
    if (config.start.path is not None or config.start.run is not None) and not method.starts_from_modules:
        return [f"start: method {method.name} begins with fresh values; leave start out, or take an adapter method"]
    if config.language is not None and not task.adapts_language:
        return [
            f"language={config.language}: task {task.name} leaves a task module; "
            "leave language out, or learn a language module with experiment=language"
        ]
    return []


def _addition_faults(config: RunConfig) -> Iterator[str]:
    """Why no module can be added to the run's own, or there is no base model to evaluate."""
    given = config.task_modules
    asked = [f"task_modules.{name}" for name in ("runs", "paths") if getattr(given, name)]
    asked += ["task_modules.evaluate_base"] if given.evaluate_base else []
    task, method = build_task(config.task), build_method(config.method)
    for name in asked:
        if task.has_head:
            yield f"{name}: task {task.name} has a head, in each module its own; instruct, mlm and causal_lm have none"
        elif method.leaves_checkpoint or config.model.student is not None:
            whole = "this method" if method.leaves_checkpoint else "a student"
            yield f"{name}: {whole} leaves a model of its own, no module of the base; take a method that leaves one"


def _used_language(settings: LanguageModulesConfig, language: str, part: str) -> str:
    """The language whose module a language uses, in training ("sources") or evaluation.

    Raises:
        UsageError: URIEL has no vector of it, or of one of `among`.
    """
    if language in settings.stand_in:
        return settings.stand_in[language]
    if part == "evaluation" and "targets" in settings.stand_in:
        return settings.stand_in["targets"]
    if not settings.among or language in settings.among:
        return language
    return load_typology(settings.typology).nearest(language, settings.among)


def unusual_modules(config: RunConfig | DictConfig, language: str | None = None) -> str:
    """Names the modules in the model, in an evaluation, that the composition's label does not suggest.

    Args:
        config: of the run that is evaluated.
        language: that it is evaluated on with a language module; None: without one.
    Returns:
        For instance "module of isl, +reviews"; empty where there is only the language's module and the run's.
    """
    words = []
    if language is not None and (used := _used_language(config.language_modules, language, "evaluation")) != language:
        words.append(f"module of {used}")
    words += [f"+{name}" for name in sorted([*config.task_modules.runs, *config.task_modules.paths])]
    return ", ".join(words)


def _adapts(config: RunConfig) -> bool:
    modules = config.language_modules
    return modules.experiment is not None or modules.generator is not None or bool(modules.paths)


def _adapts_in_training(config: RunConfig) -> bool:
    """Whether language modules are in the model while it learns; of a student, in its teacher."""
    return _adapts(config) and (config.model.student is None or bool(config.teacher.losses))


def _composes(config: RunConfig) -> bool:
    """Whether language modules are in the model that is evaluated; a student knows its languages itself."""
    return _adapts(config) and config.model.student is None


def _evaluated(config: RunConfig) -> dict[str, Any]:
    """What the run's module is evaluated on; a student, only on languages that it was made for."""
    wanted = {**config.data.evaluation, **config.data.benchmarks}
    if config.model.student is None:
        return wanted
    spoken = {source.language for source in config.data.sources.values()} | {config.target}
    return {name: source for name, source in wanted.items() if getattr(source, "language", None) in spoken}
