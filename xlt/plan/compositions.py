"""Which compositions of modules a config requests, and the modules that each consists of."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xlt.config import NO_MODULE, RunConfig, SourceConfig
from xlt.config.run import LANGUAGE, NEAREST, TASK
from xlt.engine.build import method_class, method_name, task_class, task_name
from xlt.engine.composed import ComposedModule
from xlt.engine.run import ModuleFile
from xlt.engine.weights import search_content
from xlt.errors import UsageError
from xlt.modules import ModuleArtefact, load_module
from xlt.modules.composition.expression import (
    STACK,
    Operation,
    OperatorConfig,
    kinds_fault,
    leaves,
    operation,
    operations,
    operators,
    searches,
)
from xlt.plan.modules import PlannedModule, evaluates_with_language_modules, goes_without_module
from xlt.plan.runs import Planner, Run

_KEY = "compositions"
_WITH_LANGUAGE, _ALONE, _BASE = (f"{_KEY}.{name}" for name in ("with_language", "alone", "base"))


def requested(config: RunConfig, labels: Collection[str] | None = None) -> dict[str, Operation]:
    """Returns key -> composition, for those that a config requests for at least one evaluation source.

    Args:
        config: checked.
        labels: texts of those to return; None: all.
    Raises:
        UsageError: an expression has faults.
    """
    unused = {
        _WITH_LANGUAGE: not evaluates_with_language_modules(config),
        _BASE: not config.task_modules.evaluate_base,
    }
    given = {f"{_KEY}.{name}": value for name, value in config.compositions.items() if value is not None}
    expressions = {key: operation(value, key) for key, value in given.items() if not unused.get(key)}
    return {key: one for key, one in expressions.items() if labels is None or str(one) in labels}


def is_evaluated(config: RunConfig, key: str, expression: Operation, language: str | None) -> bool:
    """Returns whether a composition is evaluated on a source of this language; None stands for a benchmark."""
    has_modules = evaluates_with_language_modules(config) and language is not None
    if key == _ALONE:
        return not has_modules or config.language_modules.evaluate_without
    if key == _BASE:
        return True
    if searches(expression) and not search_sources(config, language):
        return False
    return has_modules or (key != _WITH_LANGUAGE and LANGUAGE not in leaves(expression) and not nearest(expression))


def nearest(expression: Operation) -> dict[str, int]:
    """Returns name -> number of the nearest languages whose modules an expression names: `nearest.2` -> 2."""
    matches = {name: re.fullmatch(rf"{NEAREST}\.([1-9]\d*)", name) for name in leaves(expression)}
    return {name: int(match[1]) for name, match in matches.items() if match is not None}


def search_sources(config: RunConfig, language: str | None) -> tuple[tuple[str, SourceConfig], ...]:
    """Returns key -> few-shot source, as pairs, for those of a language on which weights are searched for."""
    return tuple(
        (f"data.search.{name}", source) for name, source in config.data.search.items() if source.language == language
    )


def needs_language_modules(config: RunConfig, labels: Collection[str] | None = None) -> bool:
    """Returns whether a composition that a config requests has the module of the evaluated language."""
    asked = requested(config, labels).values()
    return evaluates_with_language_modules(config) and any(LANGUAGE in leaves(one) for one in asked)


def requested_faults(
    config: RunConfig, expressions: Mapping[str, Operation], blocks: Callable[[], int | None]
) -> Iterator[str]:
    """Yields a line for each composition that the run's task, method or model cannot have, whatever the modules are.

    Args:
        config: of the run.
        expressions: of `requested`.
        blocks: counts those of the base model, for operations that depend on it; None if it is not known.
    """
    task, method = task_class(config.task), method_class(config.method)
    for key, expression in expressions.items():
        names = leaves(expression)
        near = nearest(expression)
        if (near or LANGUAGE in names) and key != _WITH_LANGUAGE and not evaluates_with_language_modules(config):
            yield f"{key}: names the language's module, but the run has none; choose language_modules"
        if key == _BASE:
            continue  # `addition_faults` refuses it
        others = [name for name in names if name.partition(".")[0] not in (LANGUAGE, TASK)]
        others = [name for name in others if name not in near]
        if task.has_head and TASK not in names and not others:
            yield f"{key}: {expression} has no module with a head of task {task_name(config.task)}; add task"
        if (method.leaves_checkpoint or config.model.student is not None) and names != [TASK]:
            whole = f"method {method_name(config.method)}" if method.leaves_checkpoint else "a student"
            if key not in (_WITH_LANGUAGE, _ALONE):
                yield f"{key}: {whole} leaves a model of its own, with which no other module is combined"
        yield from (f"{key}: {fault}" for fault in _search_faults(config, expression))
        for one in operations(expression):
            yield from (f"{key}: {fault}" for fault in _head_faults(config, one))
            fits = operators()[one.operator].SCHEMA.model_fault
            if fits is OperatorConfig.model_fault or (count := blocks()) is None:
                continue
            if (fault := fits(one.settings, count)) is not None:
                yield f"{key}: {one}: {fault}"


def _search_faults(config: RunConfig, expression: Operation) -> Iterator[str]:
    """Yields the reason why the weights in an expression cannot be found."""
    found = searches(expression)
    if len(found) > 1:
        yield f"{expression}: the weights of {' and '.join(map(str, found))} are searched for; only one can have such"
    languages = {source.language for source in config.data.evaluation.values()}
    if found and not any(source.language in languages for source in config.data.search.values()):
        yield (
            f"{expression}: its weights are found on labelled examples in an evaluated language, but data.search has "
            "none; add some, as +source@data.search.few=NAME data.search.few.cap=20"
        )


def _head_faults(config: RunConfig, one: Operation) -> Iterator[str]:
    """Yields the reason why the heads of several task modules cannot become one."""
    trained = [name for name in leaves(one) if name == TASK or name in config.evaluation.runs]
    related = config.start.run is not None  # the header of a module names the run that it began with, not a file
    combines = one.operator != STACK and operators()[one.operator].SCHEMA.heads is None
    if combines and len(trained) > 1 and task_class(config.task).has_head and not related:
        yield (
            f"{one}: the heads of {', '.join(trained)} are drawn independently, so they have no average; begin all "
            "runs with one (start=head_first, or start=run)"
        )


@dataclass
class AvailableModules:
    """The planned modules that compositions of one run consist of.

    Attributes:
        plan, config, run: that are evaluated.
        own: the run's own module; None if it leaves a whole model.
        added: name -> further task module, below the run's own.
        named: name in an expression -> its module.
        of_language: language -> its module.
        near: name (`nearest.1`) and language -> module of a near language.
    """

    plan: Planner
    config: RunConfig
    run: Run
    own: PlannedModule | None
    added: dict[str, PlannedModule] = field(default_factory=dict)
    named: dict[str, PlannedModule] = field(default_factory=dict)
    of_language: dict[str, PlannedModule] = field(default_factory=dict)
    near: dict[tuple[str, str], PlannedModule] = field(default_factory=dict)
    _classes: dict[str, type[ModuleArtefact]] = field(default_factory=dict)

    def modules(
        self, key: str, expression: Operation, language: str | None
    ) -> tuple[tuple[ModuleFile, ...], dict[str, str]]:
        """Returns the modules that are applied for a composition, in order, and role -> identity of all in it.

        Args:
            key: of the composition, for messages.
            expression: the composition.
            language: of the evaluation source.
        Raises:
            UsageError: an operation has no module where it needs one, or modules that it does not take.
        """
        files: list[ModuleFile] = []
        for part in expression.parts if expression.operator == STACK else (expression,):
            if isinstance(part, str):
                files += [module.file for module in self._planned(part, language)]
            else:
                files.append(self._composed(key, part, language))
        roles: dict[str, str] = {}
        for name in leaves(expression):
            roles |= self._roles(name, language)
        return tuple(files), roles

    def composition(self, expression: Operation) -> dict[str, Any] | None:
        """Returns what identifies how modules are combined; None for the language's and then the task's.

        None is also for one of them alone, or none: these have been evaluated since before there were others.
        """
        usual = [name for name in (LANGUAGE, TASK) if name in expression.parts]
        return None if (expression.operator, [*expression.parts]) == (STACK, usual) else expression.identity()

    def _planned(self, name: str, language: str | None) -> list[PlannedModule]:
        if name == TASK:
            return [*self.added.values(), *([] if self.own is None else [self.own])]
        if name == LANGUAGE:
            return [self.of_language[language]] if language in self.of_language else []
        if (near := self.near.get((name, language or ""))) is not None:
            return [near]
        return [self.named[name]]

    def _roles(self, name: str, language: str | None) -> dict[str, str]:
        if name == TASK:
            own = {TASK: self.run.fingerprint}
            return own | {f"added.{added}": module.identity for added, module in self.added.items()}
        if name == LANGUAGE and goes_without_module(self.config, language):
            return {LANGUAGE: NO_MODULE}
        planned = self._planned(name, language)
        return {name: planned[0].identity} if planned else {}

    def _composed(self, key: str, one: Operation, language: str | None) -> ComposedModule:
        parts = {name: self._planned(name, language) for name in leaves(one)}
        for name, planned in parts.items():
            if len(planned) != 1:
                why = f"there is no module for {language}" if name == LANGUAGE else "the run leaves a whole model"
                if self.added and name == TASK:
                    why = "task_modules adds others to it; name them in evaluation.paths or evaluation.runs instead"
                raise UsageError(f"{key}: {one} needs one module as {name}, but {why}")
            twins = [other for other, (module,) in parts.items() if module.identity == planned[0].identity]
            if len(twins) > 1:
                raise UsageError(f"{key}: {one}: {' and '.join(twins)} are the same module")
        classes = {name: self._class(planned[0]) for name, planned in parts.items()}
        self._check_heads(key, one, {name: planned[0] for name, planned in parts.items()})
        bases = {self._base(planned[0]) for planned in parts.values()} - {None}
        if len(bases) > 1:
            raise UsageError(f"{key}: {one}: its modules are of different base models")
        _check_kinds(key, one, classes)
        files = tuple((name, planned[0].file) for name, planned in parts.items())
        search = search_sources(self.config, language) if searches(one) else ()
        content = search_content(search, self.config.seed) if search else ""
        return ComposedModule(Path(str(one)), parts=files, operation=one, search=search, search_content=content)

    def _check_heads(self, key: str, one: Operation, parts: Mapping[str, PlannedModule]) -> None:
        """Refuses an operation, or one in it, that makes one head of those of modules with several starts.

        Raises:
            UsageError: runs whose heads would be merged did not start from one module.
        """
        runs = {name: self.plan.runs[module.run] for name, module in parts.items() if module.run is not None}
        starts = {
            name: run.depends_on.get("start") for name, run in runs.items() if task_class(run.config.task).has_head
        }
        for inner in operations(one):
            merged = {name: starts[name] for name in leaves(inner) if name in starts}
            if operators()[inner.operator].SCHEMA.heads is None and len({*merged.values()}) > 1:
                raise UsageError(
                    f"{key}: {inner}: {' and '.join(merged)} do not start from one run, so their heads have no average;"
                    " begin all with one (start=head_first, which gives the seed)"
                )

    def _class(self, module: PlannedModule) -> type[ModuleArtefact] | None:
        """Returns the class of a module; None if only a generator knows."""
        if module.run is None:
            if module.identity not in self._classes:
                self._classes[module.identity] = type(load_module(module.file.path))
            return self._classes[module.identity]
        left = method_class(self.plan.runs[module.run].config.method).leaves
        generates = module.file.language is not None and left.for_language is not ModuleArtefact.for_language
        return None if generates else left

    def _base(self, module: PlannedModule) -> str | None:
        """Returns what identifies the base model of a module that a run makes; None for a file."""
        return None if module.run is None else str(self.plan.runs[module.run].identity["model"])


def _check_kinds(key: str, one: Operation, classes: Mapping[str, type[ModuleArtefact] | None]) -> None:
    """Refuses modules that an operation, or one in it, does not take.

    Raises:
        UsageError: they are of other kinds, or of several.
    """
    for inner in operations(one):
        names = leaves(inner)
        for name in names:
            if (kind := classes[name]) is not None and not issubclass(kind, operators()[inner.operator].SCHEMA.takes):
                raise UsageError(f"{key}: {inner}: {name} is of kind {kind.kind}; {kinds_fault(inner.operator)}")
        kinds = {kind.kind: name for name in names if (kind := classes[name]) is not None}
        if len(kinds) > 1:
            given = ", ".join(f"{name} is of kind {kind}" for kind, name in kinds.items())
            raise UsageError(f"{key}: {inner}: {given}; only modules of one kind are combined")
        known = next((kind for name in names if (kind := classes[name]) is not None), None)
        schema = operators()[inner.operator].SCHEMA
        if known is not None and (fault := schema.kind_fault(inner.settings, len(inner.parts), known)) is not None:
            raise UsageError(f"{key}: {inner}: the weights {fault}")
