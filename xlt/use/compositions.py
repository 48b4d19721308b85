"""Modules that are combined by an expression, in place of the language's and then the task's, for texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from xlt.compose import compose, hydra_ready
from xlt.config.data import LANGUAGE, TASK
from xlt.data.streams import stream
from xlt.errors import UsageError
from xlt.modules import ModuleArtefact, ModuleFileError
from xlt.modules.composition.expression import (
    STACK,
    Expression,
    Operation,
    computed,
    leaves,
    operation,
    searches,
)
from xlt.use.loading import LoadedModel, UsedModule, UsedModules

_OPTION = "--composition"


def read_composition(word: str, modules: UsedModules) -> Operation:
    """Reads the expression of the option `--composition`, and checks it against the modules.

    Args:
        word: name of a file of conf/composition, or `{operator: NAME, of: [...], ...}`.
        modules: that are given; the expression names them `language`, `language.CODE` and `task`.
    Raises:
        UsageError: there is no such file, the expression has faults, or names a module that is not given.
    """
    if word.lstrip().startswith("{"):
        try:
            value = OmegaConf.to_container(OmegaConf.create(word))
        except (OmegaConfBaseException, YAMLError, ValueError) as error:
            raise UsageError(
                f"{_OPTION}: not to be read as {{operator: NAME, of: [...]}}: {str(error).splitlines()[0]}"
            ) from error
    else:
        with hydra_ready():
            config = compose(["data=empty", f"+composition@compositions.used={word}"])
            value = OmegaConf.to_container(config.compositions.used, resolve=True)
    expression = operation(value, _OPTION)
    if lines := list(_faults(expression, modules)):
        raise UsageError(*(f"{_OPTION}: {expression}: {line}" for line in lines))
    return expression


def with_composition(loaded: LoadedModel, expression: Operation | None) -> LoadedModel:
    """Returns the model with its modules combined by an expression; None: the language's and then the task's."""
    if expression is None:
        return loaded
    return _ComposedModel(loaded, expression)


def _faults(expression: Operation, modules: UsedModules) -> list[str]:
    lines = []
    if searches(expression):
        lines.append("its weights are found in an evaluation; give sum with the weights that stand in its record")
    for name in leaves(expression):
        first, _, code = name.partition(".")
        if name == TASK or (first == LANGUAGE and modules.languages.get(code or None) is not None):
            continue
        if name == LANGUAGE and modules.languages:
            continue
        if first == LANGUAGE:
            lines.append(f"no module of language {code} is given" if code else "no module of a language is given")
        else:
            lines.append(f"no module {name}; there are {LANGUAGE}, {TASK}, and {LANGUAGE}.CODE for a given language")
    names = leaves(expression)
    if TASK not in names:
        lines.append("it has no task module; add task")
    for part in expression.parts if expression.operator == STACK else (expression,):
        if isinstance(part, Operation) and TASK in leaves(part) and len(modules.tasks) > 1:
            lines.append(f"{part} takes one module as task, but {len(modules.tasks)} are given")
    return lines


class _ComposedModel(LoadedModel):
    """A loaded model whose modules are combined by an expression."""

    def __init__(self, loaded: LoadedModel, expression: Operation) -> None:
        super().__init__(loaded.model, loaded.encoder, loaded.task, loaded.modules)
        self._expression = expression

    def speak_all(self, languages: Sequence[str | None]) -> Callable[[Sequence[str | None]], None] | None:
        """Returns None: what the task's module becomes depends on the language."""
        return None

    def _applied(self, language: str | None) -> list[ModuleArtefact]:
        if language not in self._languages:
            applied: list[ModuleArtefact] = []
            one = self._expression
            for part in one.parts if one.operator == STACK else (one,):
                applied += self._modules(part, language)
            for module in applied:
                try:
                    module.check(self.model)
                except ValueError as error:
                    raise ModuleFileError(self.modules.main.path, str(error)) from error
            self._languages[language] = applied
        return self._languages[language]

    def _modules(self, part: Expression, language: str | None) -> list[ModuleArtefact]:
        """Returns the modules that a part of a stack stands for.

        Raises:
            UsageError: they cannot be combined.
        """
        if isinstance(part, str):
            return self._named(part, language)
        parts = {name: self._named(name, language)[-1] for name in leaves(part)}
        try:
            return [computed(part, parts, stream)]
        except ValueError as error:
            raise UsageError(f"{_OPTION}: {error}") from error

    def _named(self, name: str, language: str | None) -> list[ModuleArtefact]:
        described = {TASK: self.task.head_name or self.task.name}
        described |= {} if language is None else {LANGUAGE: language}
        if name == TASK:
            used: list[tuple[UsedModule, str | None]] = [(one, None) for one in self.modules.tasks]
        else:
            code = name.partition(".")[2] or language
            used = [(one, code) for one in self._language_module(code)]
        modules = []
        for one, own in used:
            path: Path = one.path
            try:
                module = one.module if own is None else one.module.for_language(own)
                modules.append(module.for_features(**described))
            except ValueError as error:
                raise ModuleFileError(path, str(error)) from error
        return modules
