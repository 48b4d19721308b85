"""Plans the modules that a run needs for training or evaluation: identity, file, and the run that makes each."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import DictConfig

from xlt.compose import (
    compose_added_run,
    compose_generator_run,
    compose_language_run,
    compose_start_run,
    compose_teacher_run,
    compose_varied_run,
    language_run_settings,
)
from xlt.config import NO_MODULE, LanguageModulesConfig, RunConfig
from xlt.config.run import LANGUAGE, MODULE_NAMES, NEAREST
from xlt.data.typology import by_nearness, load_typology
from xlt.engine.build import build_method, method_class
from xlt.engine.run import ModuleFile
from xlt.errors import UsageError
from xlt.languages import language_fault, near_languages
from xlt.modules import SparseDelta
from xlt.plan.checks import task_module_faults
from xlt.plan.identity import file_identity
from xlt.plan.leavings import check_leaves_generator, check_leaves_start
from xlt.plan.runs import Gathered, Planner
from xlt.repositories import module_path


@dataclass(frozen=True)
class PlannedModule:
    """A module that a planned run needs.

    Attributes:
        identity: of the module: the fingerprint of the run that makes it, or the content hash of the user's file.
        file: its place, which may not exist before the run is done.
        run: fingerprint of the run that makes it; None for a file of the user.
    """

    identity: str
    file: ModuleFile
    run: str | None = None


def language_modules(
    plan: Planner, config: DictConfig, run_config: RunConfig, part: str, gathered: Gathered
) -> dict[str, PlannedModule]:
    """Plans the language modules for the languages of a run's sources.

    Args:
        plan: the runs that make the modules are added to it.
        config: of the run, as composed.
        run_config: the same config, checked.
        part: "sources" or "evaluation".
        gathered: faults are added to it; a language with a fault is not in the result.
    Returns:
        Language -> its module. Languages that go without one are not in it.
    """
    modules, without = {}, []
    for language in sorted({source.language for source in getattr(run_config.data, part).values()}):
        if any(f"language={language}:" in line for line in gathered.lines):
            continue  # the fault has already been reported
        with gathered:
            used = _used_language(run_config.language_modules, language, part)
            if used == NO_MODULE:
                without.append(language)
            else:
                modules[language] = _language_module(plan, config, run_config, used)
    if part == "sources" and modules and without:
        with gathered:
            raise UsageError(
                f"language_modules.stand_in.{without[0]}=none: the run is trained with a module of "
                f"{', '.join(modules)}; of the languages that it is trained on, all go without a module, or none"
            )
    return modules


def _language_module(plan: Planner, config: DictConfig, run_config: RunConfig, used: str) -> PlannedModule:
    settings = run_config.language_modules
    sources = {source.language for source in run_config.data.sources.values()}
    if used in settings.paths:
        return _of_file(settings.paths[used], used)
    if settings.generator is not None and (settings.experiment is None or used in sources):
        run = plan.once(["language generator", language_run_settings(config)], compose_generator_run, config)
        check_leaves_generator("language_modules.generator", run.config)
        if faults := build_method(run.config.method).language_faults([used]):
            raise UsageError(*faults)
        file = ModuleFile(plan.store.module_file(run.fingerprint), used, run.fingerprint)
        return PlannedModule(f"{run.fingerprint}/{used}", file, run.fingerprint)
    if settings.experiment is None:
        near = near_languages(used, settings.paths)
        instead = f"; that of {near[0]} is used with +language_modules.stand_in.{used}={near[0]}" if near else ""
        raise UsageError(
            f"language_modules: no module for {used}; give +language_modules.paths.{used}=FILE "
            f"or language_modules.experiment{instead}"
        )
    run = plan.once([used, language_run_settings(config)], compose_language_run, config, used)
    return _of_run(plan, run.fingerprint, used)


def start_module(plan: Planner, config: DictConfig, run_config: RunConfig) -> PlannedModule | None:
    """Plans the module whose values training starts from; returns None for new values."""
    settings = run_config.start
    if settings.path is not None:
        return _of_file(settings.path, run_config.language)
    if settings.run is None:
        return None
    run = plan.add(compose_start_run(config), evaluate=False)
    check_leaves_start("start.run", run.config, run_config)
    return _of_run(plan, run.fingerprint, run_config.language)


def overlap_module(plan: Planner, config: DictConfig, run_config: RunConfig) -> PlannedModule | None:
    """Plans the language module whose entries the method's own are chosen by; returns None if there is none.

    It is the module that the language is evaluated with.

    Raises:
        UsageError: there is no such module, or it is no sparse delta.
    """
    language = method_class(run_config.method).overlaps_with(run_config.method)
    if language is None:
        return None
    key = f"method.overlap_with={language}"
    try:
        used = _used_language(run_config.language_modules, language, "evaluation")
        if used == NO_MODULE:
            raise UsageError("language_modules.stand_in says that it has no module")
        module = _language_module(plan, config, run_config, used)
    except UsageError as error:
        raise UsageError(*(f"{key}: {line}" for line in error.lines)) from error
    kind = method_class(plan.runs[module.run].config.method).leaves if module.run else type(module.file.load())
    if not issubclass(kind, SparseDelta):
        raise UsageError(
            f"{key}: its module is of kind {kind.kind}, which has no entries; give that of a sparse method"
        )
    return module


def teacher_module(plan: Planner, config: DictConfig, run_config: RunConfig) -> PlannedModule:
    """Plans the task module of a teacher that has one."""
    if run_config.teacher.path is not None:
        return _of_file(run_config.teacher.path)
    return _of_run(plan, plan.add(compose_teacher_run(config), evaluate=False).fingerprint)


def added_module(plan: Planner, config: DictConfig, run_config: RunConfig, name: str) -> PlannedModule:
    """Plans a further task module of an evaluation.

    Args:
        plan: the run that makes the module is added to it.
        config: of the run, as composed.
        run_config: the same config, checked.
        name: of the module in `task_modules.paths` or `task_modules.runs`.
    """
    path = run_config.task_modules.paths.get(name)
    if path is not None:
        if faults := task_module_faults(path):
            raise UsageError(*faults)
        return _of_file(path)
    return _of_run(plan, plan.add(compose_added_run(config, name), evaluate=False).fingerprint)


def named_module(plan: Planner, config: DictConfig, run_config: RunConfig, name: str, key: str) -> PlannedModule:
    """Plans a module that a composition names: another language's (`language.isl`), a file's, or another run's.

    Args:
        plan: the run that makes the module is added to it.
        config: of the run, as composed.
        run_config: the same config, checked.
        name: `language.CODE`, or in `evaluation.paths` or `evaluation.runs`.
        key: of the composition, for messages.
    Raises:
        UsageError: there is no such module, or it has faults.
    """
    first, _, language = name.partition(".")
    if first == LANGUAGE and language:
        if (fault := language_fault(language)) is not None:
            raise UsageError(f"{key}: {name}: {language} is {fault}")
        return _language_module(plan, config, run_config, language)
    given = run_config.evaluation
    if name in given.paths:
        return _of_file(given.paths[name])
    if name in given.runs:
        return _of_run(plan, plan.add(compose_varied_run(config, name), evaluate=False).fingerprint)
    known = ", ".join([*MODULE_NAMES, f"{LANGUAGE}.CODE", f"{NEAREST}.1", *given.paths, *given.runs])
    raise UsageError(f"{key}: no module {name}; there are {known}; evaluation.paths and evaluation.runs name others")


def nearest_module(
    plan: Planner, config: DictConfig, run_config: RunConfig, number: int, language: str
) -> PlannedModule:
    """Plans the module of one of the nearest languages to another, of those in `language_modules.among`.

    Args:
        plan: the run that makes the module is added to it.
        config: of the run, as composed.
        run_config: the same config, checked.
        number: 1 for the nearest language. The language itself does not count.
        language: of the evaluation source.
    Raises:
        UsageError: there are too few languages, one has no vector in URIEL, or the module has faults.
    """
    settings = run_config.language_modules
    others = [code for code in settings.among if code != language]
    if number > len(others):
        raise UsageError(
            f"language_modules.among: {len(others)} languages besides {language}, but {NEAREST}.{number} is asked for; "
            "list more"
        )
    ordered = by_nearness(load_typology(settings.typology), language, others)
    return _language_module(plan, config, run_config, ordered[number - 1])


def _of_file(path: str, language: str | None = None) -> PlannedModule:
    """Describes a module in a file of the user, or in a repository of the hub."""
    file = module_path(path)
    content = file_identity(str(file))
    return PlannedModule(content, ModuleFile(file, language, content=content))


def _of_run(plan: Planner, fingerprint: str, language: str | None = None) -> PlannedModule:
    """Describes the module that a run makes."""
    return PlannedModule(
        fingerprint, ModuleFile(plan.store.module_file(fingerprint), language, fingerprint), fingerprint
    )


def _used_language(settings: LanguageModulesConfig, language: str, part: str) -> str:
    """Returns the language whose module is used for `language`, in training ("sources") or evaluation.

    Raises:
        UsageError: URIEL has no vector for it, or for one of `among`.
    """
    if language in settings.stand_in:
        return settings.stand_in[language]
    if part == "evaluation" and "targets" in settings.stand_in:
        return settings.stand_in["targets"]
    if not settings.among or language in settings.among:
        return language
    return load_typology(settings.typology).nearest(language, settings.among)


def has_language_modules(config: RunConfig) -> bool:
    """Returns whether the config has any language modules."""
    modules = config.language_modules
    return modules.experiment is not None or modules.generator is not None or bool(modules.paths)


def trains_on_language_modules(config: RunConfig) -> bool:
    """Returns whether language modules are used in training: in the model or, for a student, in its teacher."""
    return has_language_modules(config) and (config.model.student is None or bool(config.teacher.losses))


def evaluates_with_language_modules(config: RunConfig) -> bool:
    """Returns whether language modules are used in evaluation. A student needs none: it was made for its languages."""
    return has_language_modules(config) and config.model.student is None


def goes_without_module(config: RunConfig, language: str | None) -> bool:
    """Returns whether the config says that a language is evaluated without a language module."""
    if language is None or not evaluates_with_language_modules(config):
        return False
    return _used_language(config.language_modules, language, "evaluation") == NO_MODULE


def unusual_modules(config: RunConfig | DictConfig, language: str | None = None, with_task: bool = True) -> str:
    """Names the modules in an evaluated model that its label does not mention.

    Args:
        config: of the run that is evaluated.
        language: of the evaluation source, if the model contains a language module; None otherwise.
        with_task: whether it contains the run's own module, and so the further task modules.
    Returns:
        For example "module of isl, +reviews"; empty if the model contains only the language's and the run's own module.
    """
    words = []
    if language is not None and (used := _used_language(config.language_modules, language, "evaluation")) != language:
        words.append("no language module" if used == NO_MODULE else f"module of {used}")
    words += [f"+{name}" for name in sorted([*config.task_modules.runs, *config.task_modules.paths]) if with_task]
    return ", ".join(words)
