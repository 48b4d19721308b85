"""Digests of the code that a run, an evaluation or a translation executes; they are part of its identity.

The search for this code starts at a function of the engine, and at the classes and readers that the config names. Code
that is executed only under a condition on the config is left out if the config does not meet the condition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache

from xlt.config import RunConfig, SourceConfig
from xlt.data.planned import PlannedData
from xlt.data.sources import parallel_languages, reading_module
from xlt.engine.build import task_configs
from xlt.engine.composed import ComposedModule, files_of, operators_of
from xlt.engine.run import ModuleFile
from xlt.modules import ModuleFileError, load_module
from xlt.modules.composition.expression import operators as known_operators
from xlt.plan.kept_digests import code_digests
from xlt.repositories import module_path

_TRAINING = ("xlt.engine.run.prepare", "xlt.engine.run.PreparedRun")
_EVALUATION = "xlt.engine.run.evaluate_compositions"
_OF_OPERATOR = ("compute", "learn", "resolved")
_SEARCH = "xlt.engine.weights.learn_weights"
_COMPOSED, _OPERATORS = "xlt.engine.composed.ComposedModule", "xlt.modules.composition"
_TRANSLATION = "xlt.engine.translate.translate_source"

NO_RESULT = {
    "xlt.__version__": "it is only written into a module's header",
    "xlt.engine.export.facts_for_use": "they are only written into a module's header",
    "xlt.config.schema": "it checks configs",
    "xlt.errors": "what an error message says",
    "xlt.escapes": "how a message is shown",
    "xlt.files": "how files are written",
    "xlt.repositories": "where modules of the hub are found; the content of their files counts",
    "xlt.languages": "which codes are languages, and how one is written; others are refused",
    "xlt.language_codes": "what the refusal of a code suggests",
    "xlt.data.leaks": "it refuses data or not",
    "xlt.engine.watching": "who watches a run",
}
"""Code that is executed but cannot change a result: dotted name -> why."""

ONLY_IF: dict[str, Callable[[RunConfig], object]] = {
    "xlt.engine.build.build_student": lambda c: c.model.student is not None and c.model.student.run is None,
    "xlt.engine.build.build_teacher": lambda c: c.teacher.losses,
    "xlt.engine.activation.TeacherModules": lambda c: c.teacher.losses,
    "xlt.engine.run._teacher_module": lambda c: c.teacher.losses,
    "xlt.engine.run._start": lambda c: c.start.path is not None or c.start.run is not None,
    "xlt.data.mixed_batches": lambda c: c.data.sampling.mixed_batches,
    "xlt.models.loading.random_pretrained": lambda c: c.model.random is not None,
    "xlt.models.vocabulary.train_tokenizer": lambda c: c.model.random is not None,
    "xlt.models.quantised": lambda c: c.model.quantise is not None,
    "xlt.models.language_tokens": lambda c: c.model.new_languages or parallel_languages(c.data),
}
"""Code that is executed only under a condition: dotted name -> the condition."""

_BENCHMARKS = "xlt.engine.benchmarks"


def training_code(config: RunConfig) -> dict[str, str]:
    """Returns digests of the code that trains a run and writes its module: Python module name -> digest.

    Raises:
        UsageError: a source file is missing.
    """
    data = config.data
    sources = [*data.sources.values(), *data.validation.values(), *data.excluded.values()]
    files = [config.start.path, config.teacher.path, *config.language_modules.paths.values()]
    classes = [config.method._target_, *_tasks(config), *_classes_of(files)]
    return _digests([*_TRAINING, *classes, *_readers(sources)], config, _BENCHMARKS)


def evaluation_code(
    config: RunConfig, data: PlannedData, name: str, composed: Sequence[ModuleFile] = ()
) -> dict[str, str]:
    """Returns digests of the code that evaluates a module on an evaluation source or a benchmark.

    The class of the run's method is included, because it determines the kind of the module.

    Args:
        config: of the run that makes the module.
        data: of the run, as planned.
        name: of the evaluation source or benchmark.
        composed: the modules in the model, if they are not just the language's and the task's.
    """
    classes = [config.method._target_, *_tasks(config), *_classes_of(config.language_modules.paths.values())]
    classes += _classes_of(str(file.path) for file in files_of(composed) if file.content is not None)
    if operators := operators_of(composed):
        files = known_operators()
        parts = [(name, part) for name in operators for part in _OF_OPERATOR if hasattr(files[name], part)]
        classes += [_COMPOSED, *(f"{_OPERATORS}.{name}.{part}" for name, part in parts)]
    search = [source for file in composed if isinstance(file, ComposedModule) for _, source in file.search]
    if search:  # what a found sum is computed with is reached from the search
        classes += [_SEARCH, *_readers(search)]
    if name in data.benchmarks:
        return _digests([_EVALUATION, *classes], config)
    return _digests([_EVALUATION, *classes, *_readers([data.evaluation[name].config])], config, _BENCHMARKS)


def translation_code(config: RunConfig, source: SourceConfig) -> dict[str, str]:
    """Returns digests of the code that translates a source.

    Args:
        config: of the translator's run.
        source: the untranslated source.
    """
    classes = [config.method._target_, config.task._target_]
    return _digests([_TRANSLATION, *classes, *_readers([source])], config, _BENCHMARKS)


def _tasks(config: RunConfig) -> list[str]:
    """Returns the dotted names of the class of a run's task and of the tasks that it consists of."""
    return list(dict.fromkeys([config.task._target_, *(one._target_ for one in task_configs(config.task).values())]))


def _digests(roots: Iterable[str], config: RunConfig, *without: str) -> dict[str, str]:
    unused = [name for name, condition in ONLY_IF.items() if not condition(config)]
    return code_digests([*roots], {*NO_RESULT, *unused, *without})


def _readers(sources: Iterable[SourceConfig]) -> list[str]:
    return sorted({reading_module(source) for source in sources})


def _classes_of(files: Iterable[str | None]) -> Iterator[str]:
    """Yields the dotted names of the classes of the modules in module files, whose code a run executes."""
    for file in files:
        if file is not None:
            path = module_path(file)
            yield from _class_of(str(path), path.stat().st_mtime_ns)


@lru_cache(maxsize=4096)
def _class_of(file: str, modified: int) -> tuple[str, ...]:
    try:
        kind = type(load_module(file))
    except ModuleFileError:  # `module_faults` and `task_module_faults` report what is wrong with it
        return ()
    return (f"{kind.__module__}.{kind.__qualname__}",)
