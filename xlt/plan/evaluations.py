"""Plans the evaluations of a run that a config requests, and the modules that they need besides the run's own."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig

from xlt.config import RunConfig
from xlt.config.run import LANGUAGE, TASK
from xlt.data.planned import PlannedData
from xlt.engine.build import method_class, task_class
from xlt.engine.run import Composition, ModuleFile
from xlt.modules.composition.expression import Operation, leaves
from xlt.plan.checks import addition_faults
from xlt.plan.compositions import (
    AvailableModules,
    is_evaluated,
    nearest,
    needs_language_modules,
    requested,
    requested_faults,
)
from xlt.plan.identity import digest, evaluated_identity, evaluation_identity
from xlt.plan.model_checks import block_count
from xlt.plan.modules import (
    PlannedModule,
    added_module,
    language_modules,
    named_module,
    nearest_module,
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

    Each evaluation source is evaluated with the composition that the config has for its language (see
    `requested`), and with further ones. Benchmarks have no language. The run's own module stands for itself with the
    further task modules below it.

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
        UsageError: a module cannot be loaded or planned, or modules cannot be combined.
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
    expressions = requested(run_config, labels)

    def blocks() -> int | None:
        return block_count(run_config, _first_config(plan, run))

    gathered = Gathered([*addition_faults(run_config), *requested_faults(run_config, expressions, blocks)])
    gathered.refuse()

    def use(module: PlannedModule, *, is_of_task: bool = False) -> None:
        if module.run is not None:
            run.evaluation_needs.add(module.run)
            if is_of_task:
                run.added.add(module.run)

    own = PlannedModule(
        run.fingerprint, ModuleFile(plan.store.module_file(run.fingerprint), run=run.fingerprint), run.fingerprint
    )
    available = AvailableModules(plan, run_config, run, None if whole else own)
    for name in [*run_config.task_modules.runs, *run_config.task_modules.paths]:
        with gathered:
            available.added[name] = added_module(plan, config, run_config, name)
            use(available.added[name], is_of_task=True)
    for key, name in _named(expressions):
        with gathered:
            available.named[name] = named_module(plan, config, run_config, name, key)
            use(available.named[name], is_of_task=name in run_config.evaluation.runs)
    if needs_language_modules(run_config, labels):
        available.of_language = language_modules(plan, config, run_config, "evaluation", gathered)
    gathered.refuse()
    compositions: dict[str, Composition] = {}
    for name in evaluated_on(run_config):
        language = data.evaluation[name].language if name in data.evaluation else None
        for key, expression in expressions.items():
            if not is_evaluated(run_config, key, expression, language):
                continue
            with gathered:
                near = nearest(expression)
                for role, number in near.items():
                    assert language is not None
                    available.near[role, language] = nearest_module(plan, config, run_config, number, language)
                    use(available.near[role, language])
                files, roles = available.modules(key, expression, language)
                composition = available.composition(expression)
                key_of, identity = _evaluation(plan, run_config, data, run, name, roles, composition, files)
                content = digest(evaluated_identity(data, name))
                in_model = leaves(expression)
                unusual = unusual_modules(run_config, language if LANGUAGE in in_model else None, TASK in in_model)
                if near_codes := [str(available.near[role, language or ""].file.language) for role in near]:
                    unusual = ", ".join(filter(None, [unusual, f"modules of {' and '.join(near_codes)}"]))
                label = str(expression)
                compositions[key_of] = Composition(name, label, files, entries[name], content, identity, unusual)
                if LANGUAGE in in_model and language in available.of_language:
                    use(available.of_language[language])
    gathered.refuse()
    run.evaluations |= compositions
    return compositions


def _first_config(plan: Planner, run: Run) -> RunConfig:
    """Returns the config of the run that made the base model first; the run's own if no run did."""
    while "model" in run.depends_on:
        run = plan.runs[run.depends_on["model"]]
    return run.config


def _named(expressions: Mapping[str, Operation]) -> Iterator[tuple[str, str]]:
    """Yields the first key that names it, and the name, of each module besides the language's and the task's."""
    seen = {LANGUAGE, TASK}
    for key, expression in expressions.items():
        yield from ((key, name) for name in leaves(expression) if name not in seen | nearest(expression).keys())
        seen.update(leaves(expression))


def _evaluation(
    plan: Planner,
    config: RunConfig,
    data: PlannedData,
    run: Run,
    name: str,
    roles: Mapping[str, str],
    composition: Mapping[str, Any] | None,
    files: Sequence[ModuleFile],
) -> tuple[str, dict[str, Any]]:
    """Returns the key and the identity of an evaluation of a run's module.

    Args:
        plan: gives access to the store.
        config: of the run, in the version that requests the evaluation.
        data: of the config.
        run: the evaluated run. With `other_code=use`, the key may be that of an evaluation by other code.
        name: of the evaluation source or benchmark.
        roles: role -> identity of each module in the model.
        composition: how they are combined; None: as usual.
        files: the modules that are applied.
    """
    identity = evaluation_identity(config, data, name, roles, composition, () if composition is None else files)
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
