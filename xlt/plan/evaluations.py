"""Plans the evaluations of a run that a config requests, and the modules that they need besides the run's own."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from typing import Any

from omegaconf import DictConfig

from xlt.config import NO_MODULE, RunConfig
from xlt.data.planned import PlannedData
from xlt.engine.build import method_class, task_class
from xlt.engine.run import ALONE, BASE, COMPOSED, Composition, ModuleFile
from xlt.plan.checks import addition_faults
from xlt.plan.identity import digest, evaluated_identity, evaluation_identity
from xlt.plan.modules import (
    added_module,
    evaluates_with_language_modules,
    goes_without_module,
    language_modules,
    unusual_modules,
)
from xlt.plan.runs import Gathered, Planner, Run


def evaluated_on(config: RunConfig) -> dict[str, Any]:
    """Returns name -> evaluation source or benchmark, for all that a run's module is evaluated on.

    A student is evaluated only on the two languages for which it was made.
    """
    everything = {**config.data.evaluation, **config.data.benchmarks}
    if config.model.student is None:
        return everything
    spoken = {source.language for source in config.data.sources.values()} | {config.target}
    return {name: source for name, source in everything.items() if getattr(source, "language", None) in spoken}


def plan_evaluations(
    plan: Planner,
    config: DictConfig,
    run_config: RunConfig,
    data: PlannedData,
    run: Run,
    labels: Collection[str] | None = None,
) -> dict[str, Composition]:
    """Plans the evaluations that a config requests and adds them to its run.

    Each evaluation source is evaluated with its language's module. It is also evaluated with the task module alone if
    the config requests this or has no language modules. Benchmarks have no language, so they are evaluated with the
    task module alone. In both cases further task modules are added to the run's own. The base model is evaluated if
    the config requests this.

    Args:
        plan: the runs that make the modules are added to it.
        config: composed config.
        run_config: the same config, checked.
        data: of the config. The run may have other evaluation data, from another config with the same identity.
        run: the run of this config.
        labels: of the compositions to plan; None: all that the config requests.
    Returns:
        Key -> evaluation.
    Raises:
        UsageError: a module cannot be loaded or planned.
    """
    planned = run.planned_data
    entries = _entries({**planned.evaluation, **planned.benchmarks}, {**data.evaluation, **data.benchmarks})
    run.data = planned.evaluated_on(
        {**planned.evaluation, **{entries[name]: source for name, source in data.evaluation.items()}},
        {**planned.benchmarks, **{entries[name]: benchmark for name, benchmark in data.benchmarks.items()}},
    )
    # A task's head is stored in the module, not in the checkpoint.
    whole = method_class(run_config.method).leaves_checkpoint and not task_class(run_config.task).has_head
    run.evaluation_model = str(plan.store.checkpoint(run.fingerprint)) if whole else run.standing.model_path
    own = () if whole else (ModuleFile(plan.store.module_file(run.fingerprint), run=run.fingerprint),)
    roles = {"task": run.fingerprint}
    gathered = Gathered(addition_faults(run_config))
    gathered.refuse()
    added = []
    for name in [*run_config.task_modules.runs, *run_config.task_modules.paths]:
        with gathered:
            module = added_module(plan, config, run_config, name)
            roles[f"added.{name}"] = module.identity
            added.append(module.file)
            if module.run is not None:
                run.evaluation_needs.add(module.run)
                run.added.add(module.run)
    own = (*added, *own)
    composes = evaluates_with_language_modules(run_config)
    needs_modules = composes and (labels is None or COMPOSED in labels)
    modules = language_modules(plan, config, run_config, "evaluation", gathered) if needs_modules else {}
    gathered.refuse()
    compositions: dict[str, Composition] = {}

    def ask(name: str, label: str, files: tuple[ModuleFile, ...], roles: Mapping[str, str], unusual: str) -> None:
        key, identity = _evaluation(plan, run_config, data, run, name, roles)
        content = digest(evaluated_identity(data, name))
        compositions[key] = Composition(name, label, files, entries[name], content, identity, unusual)

    further = unusual_modules(run_config)
    for name in evaluated_on(run_config):
        language = data.evaluation[name].language if name in data.evaluation else None
        if language in modules:
            module = modules[language]
            unusual = unusual_modules(run_config, language)
            ask(name, COMPOSED, (module.file, *own), {**roles, "language": module.identity}, unusual)
            if module.run is not None:
                run.evaluation_needs.add(module.run)
        elif needs_modules and goes_without_module(run_config, language):
            ask(name, COMPOSED, own, {**roles, "language": NO_MODULE}, unusual_modules(run_config, language))
        alone = not composes or language is None or run_config.language_modules.evaluate_without
        if alone and (labels is None or ALONE in labels):
            ask(name, ALONE, own, roles, further)
        if run_config.task_modules.evaluate_base:
            ask(name, BASE, (), {}, "")
    run.evaluations |= compositions
    return compositions


def _evaluation(
    plan: Planner, config: RunConfig, data: PlannedData, run: Run, name: str, roles: Mapping[str, str]
) -> tuple[str, dict[str, Any]]:
    """Returns the key and the identity of an evaluation of a run's module.

    Args:
        plan: gives access to the store.
        config: of the run, in the version that requests the evaluation.
        data: of the config.
        run: the evaluated run. With `other_code=use`, the key may be that of an evaluation by other code.
        name: of the evaluation source or benchmark.
        roles: role -> identity of each module in the model.
    """
    identity = evaluation_identity(config, data, name, roles)
    key = digest(identity)
    if config.other_code == "use" and key not in plan.store.evaluations(run.fingerprint):
        source = data.evaluation[name].config if name in data.evaluation else None
        key = plan.other_code.evaluation_like(run.fingerprint, identity, source) or key
    return key, identity


def _entries(planned: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, str]:
    """Returns name -> the name of the source or benchmark in the run's data.

    The two are equal, unless the run has other data of that name; then a number is added.
    """
    entries = {}
    for name, data in new.items():
        names = (name if number == 1 else f"{name} ({number})" for number in itertools.count(1))
        entries[name] = next(candidate for candidate in names if planned.get(candidate, data) == data)
    return entries
