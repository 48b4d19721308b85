"""What `xlt` offers to Python: the commands as functions, for notebooks and other programs.

    >>> import xlt
    >>> config = xlt.compose_config("experiment=nano_fields", "method=bitfit", "seed=7")
    >>> config.seed, config.task.name
    (7, 'locale_fields')

Wrong input raises `xlt.errors.UsageError`, whose `lines` say what is wrong, as the commands do.

    >>> xlt.compose_config("experiment=nano_fields", "train.batch_size=0")
    Traceback (most recent call last):
    ...
    xlt.errors.UsageError: train.batch_size=0: must be at least 1
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xlt.compose import checked, command_line, compose, hydra_ready, one_source_per_language
from xlt.config import RunConfig
from xlt.data.examples import Example
from xlt.engine.published import read_published
from xlt.errors import UsageError
from xlt.execution.execution import carry_out
from xlt.execution.workers import make_workers
from xlt.languages import language_fault
from xlt.models.loading import load_pretrained
from xlt.modules import ModuleArtefact, ModuleStack
from xlt.plan.planner import Plan
from xlt.plan.store import RunStore
from xlt.repositories import forget_versions, published_module
from xlt.tasks.task import Annotation
from xlt.tracking.watch import watch
from xlt.use.annotating import annotate
from xlt.use.compositions import read_composition, with_composition
from xlt.use.evaluate import EvaluateSettings, Scores
from xlt.use.evaluate import evaluate as score
from xlt.use.loading import LoadedModel, read_module, read_modules, task_of
from xlt.use.loading import load_model as load_base
from xlt.use.texts import Entry, words_of
from xlt.use.unspaced import UnspacedTexts

__all__ = [
    "Annotation", "LoadedModel", "ModuleArtefact", "ModuleStack", "Scores", "TrainedRun", "compose_config", "evaluate",
    "load_model", "load_module", "predict", "train",
]  # fmt: skip

Text = str | Sequence[str] | Mapping[str, Any]
"""A text, the words of a sentence, or the parts of an example by name: text, pair, words, choices, language."""


@dataclass(frozen=True)
class TrainedRun:
    """A finished run.

    Attributes:
        fingerprint: of the run.
        folder: with its files.
        module: file of its module.
        validation: the validation metric of the selected checkpoint; None if there is none.
        evaluations: for each evaluation its source, language, composition and metrics.
    """

    fingerprint: str
    folder: Path
    module: Path
    validation: float | None
    evaluations: list[Mapping[str, Any]]


def compose_config(*overrides: str) -> RunConfig:
    """Returns the checked config of a run; the overrides are those of the `xlt` command.

    Raises:
        UsageError: an override is wrong; a line for each.
    """
    forget_versions()
    with command_line(overrides), hydra_ready():
        return checked(compose(overrides))


def train(*overrides: str) -> TrainedRun:
    """Trains a run and all runs that it needs, as far as they do not exist, and evaluates it.

    Args:
        overrides: those of the `xlt` command; `tracker=silent` shows no progress.
    Raises:
        UsageError: an override is wrong, or the data are; a line for each fault.
        RuntimeError: a run failed; the message says why.
    """
    forget_versions()
    with command_line(overrides), hydra_ready():
        config = one_source_per_language(compose(overrides))
        store = RunStore(config.output_dir)
        plan = Plan(store)
        run, evaluations = plan.ask(config)
        plan.preflight()
        outcome = carry_out(plan, make_workers(run.config.launcher, store.root / "cluster"), watch)
    if outcome.refused:
        raise UsageError(*(outcome.failures[fingerprint] for fingerprint in outcome.refused))
    if outcome.failures:
        raise RuntimeError("; ".join(dict.fromkeys(outcome.failures.values())))
    result, records = store.result(run.fingerprint), store.evaluations(run.fingerprint)
    return TrainedRun(
        run.fingerprint,
        store.folder(run.fingerprint),
        store.module_file(run.fingerprint),
        result["training"].get(f"best/{result.get('metric')}"),
        [records[key] for key in evaluations],
    )


def load_module(
    path: str | Path, *, model: str | None = None, language: str | None = None, task: str | None = None
) -> ModuleArtefact:
    """Reads a module file, that in the folder of a run, or that in a repository of the hub. Nothing in it is executed.

    Args:
        path: of the file or folder, or ORG/NAME, or ORG/NAME@REVISION.
        model: folder or hub id of the base model; for modules of composable-sft, AdapterHub and peft, which need it.
        language, task: what such a module is for.
    Raises:
        UsageError, ModuleFileError: it is unusable.
    """
    forget_versions()
    if model is None:
        if language is not None or task is not None:
            raise UsageError(f"{path}: language and task are for modules of other libraries, with model; a module file "
                             "says its own, so leave them out")  # fmt: skip
        return read_module(str(path)).module
    found = published_module(str(path))
    if found is None:
        raise UsageError(f"{path}: is no module of another library; leave out model")
    if (language is None) == (task is None):
        raise UsageError(f"{path}: give either language or task; the file does not say what the module is for")
    if language is not None and (fault := language_fault(language)) is not None:
        raise UsageError(f"language={language}: {fault}")
    return read_published(found, load_pretrained(model), language=language, task=task)


def load_model(
    *modules: str | Path,
    language_modules: Mapping[str, str] | None = None,
    model: str | None = None,
    task: str | None = None,
    settings: Sequence[str] = (),
    device: str = "auto",
    composition: str | None = None,
) -> LoadedModel:
    """Loads the base model of modules, for `predict`.

    Args:
        modules: files of a task module and of language modules, folders of runs, or ORG/NAME[@REVISION] of the hub.
        language_modules: language -> file, also of another language's module, or of a generator.
        model: folder or hub id of the base model; None: the one that the task module names.
        task: one of the tasks of a module of several; or the name of a file of conf/task, for modules of old versions.
        settings: KEY=VALUE, settings of the task.
        device: cpu, cuda, cuda:N, auto, or several GPUs as in cuda:0+cuda:1.
        composition: how modules are combined, as --composition of `xlt predict` says it: a file of conf/composition, or
            `{operator: ..., of: [language, task]}`; None: the language's and then the task's.
    Raises:
        UsageError, ModuleFileError: they do not fit together.
    """
    forget_versions()
    used = read_modules([str(module) for module in modules], language_modules or {}, model)
    expression = None if composition is None else read_composition(composition, used)
    loaded = load_base(used, task_of(used.main, task, settings), model=model, device=device)
    return with_composition(loaded, expression)


def predict(
    model: LoadedModel, texts: Iterable[Text], *, language: str | None = None, batch_size: int = 32
) -> list[Annotation]:
    """Annotates texts; the predictions are those of `xlt predict`.

    Args:
        model: of `load_model`.
        texts: a text, the words of a sentence, or the parts of an example, for each.
        language: of all texts that do not name their own; needed if there are language modules.
        batch_size: number of examples of a batch, at most.
    Raises:
        UsageError: a text lacks a part that the task needs, or there is no module for its language.
    """
    entries = [_entry(text, f"text {number}", model, language) for number, text in enumerate(texts, start=1)]
    examples = [entry.example for entry in entries if entry.example is not None]
    model.task.check([model.task.blank(example) for example in examples], "the texts")
    places: dict[str | None, str] = {}
    for number, entry in enumerate(entries, start=1):
        places.setdefault(entry.language, f"text {number}")
    model.check_languages(places)
    unspaced = UnspacedTexts()
    unspaced.look_at(entries)
    unspaced.say()
    return [one for one in annotate(model, entries, batch_size=batch_size) if one is not None]


def evaluate(
    *modules: str | Path,
    inputs: Sequence[str] = (),
    sources: Sequence[str] = (),
    overrides: Sequence[str] = (),
    **options: Any,
) -> list[Scores]:
    """Scores modules on labelled data, as `xlt evaluate` does.

    Args:
        modules: as for `load_model`.
        inputs: labelled files, `FILE` or `CODE=FILE` with the language.
        sources: names of files in conf/source.
        overrides: of the sources, such as `data_dir=DATA`.
        options: further fields of `EvaluateSettings`.
    Raises:
        UsageError, ModuleFileError: modules and data do not fit together.
    """
    return score(EvaluateSettings([str(module) for module in modules], inputs, sources, overrides, **options))


def _entry(text: Text, place: str, model: LoadedModel, language: str | None) -> Entry:
    parts: dict[str, Any]
    if isinstance(text, str):
        parts = {"text": text}
    elif isinstance(text, Mapping):
        parts = dict(text)
    else:
        parts = {"words": tuple(text)}
    language = parts.pop("language", language)
    if unknown := sorted(parts.keys() - {"text", "pair", "words", "choices"}):
        raise UsageError(f"{place}: unknown parts {', '.join(unknown)}; there are text, pair, words, choices, language")
    was_split = "words" in model.task.reads and "words" not in parts
    if was_split:
        parts["words"] = words_of(str(parts.get("text") or ""))
        if not parts["words"]:
            raise UsageError(f"{place}: there are no words")
    tuples: dict[str, Any] = {name: tuple(parts[name]) for name in ("words", "choices") if name in parts}
    return Entry(Example(place, **(parts | tuples)), language, was_split=was_split)
