"""Loads modules for use: which task they do, on which base model, and which language each is for.

A module's header says this. For modules of versions whose headers do not, the manifest beside the module's file does.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_class
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from xlt import tasks
from xlt.config import faults
from xlt.config.data import LANGUAGE, TASK
from xlt.data.encoding import Encoder
from xlt.engine.build import build_task, place_model, with_head
from xlt.engine.published import read_published
from xlt.engine.run import CHECKPOINT_FOLDER, MODULE_FILE
from xlt.errors import UsageError
from xlt.files import DamagedFileError, file_digest, read_sealed
from xlt.languages import language_fault
from xlt.models.families import built_in_languages
from xlt.models.language_tokens import add_language_tokens, initialise_language_embeddings
from xlt.models.loading import load_pretrained, load_tokenizer, quiet_libraries
from xlt.models.quantised import round_to_nf4
from xlt.models.transfer import TransferModel
from xlt.modules import ModuleArtefact, ModuleFileError, ModuleStack, check_base, load_module
from xlt.modules.generator import Generator
from xlt.plan.store import MANIFEST_FILE
from xlt.plug_ins import activate, installed_entries
from xlt.repositories import module_path, published_module, published_weights
from xlt.tasks.task import Task
from xlt.use.by_example import LanguageModulesByExample, by_example_fault, layers_for_examples
from xlt.use.model_faults import check_revision, named_model

FOLDER_DIGITS = 12


@dataclass(frozen=True)
class UsedModule:
    """A module and the file it is from.

    Attributes:
        path: of the file.
        module: as loaded; a generator is not yet one language's module.
        manifest: of the run whose folder the file is in; empty if there is none.
    """

    path: Path
    module: ModuleArtefact
    manifest: Mapping[str, Any] = field(default_factory=dict)

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the header says beside its fields."""
        return self.module.header.provenance

    def model_facts(self) -> Mapping[str, Any]:
        """Returns the settings of the base model that header or manifest have; empty if neither has some."""
        model = self.facts.get("model") or self.manifest.get("config", {}).get("model") or {}
        return model if isinstance(model, Mapping) else {}


@dataclass
class UsedModules:
    """The modules that a command uses together.

    Attributes:
        tasks: task modules, in the order in which they are applied; the last one gives the task.
        languages: language -> its module. Key None: a generator, which makes those of all languages without one.
    """

    tasks: list[UsedModule] = field(default_factory=list)
    languages: dict[str | None, UsedModule] = field(default_factory=dict)

    @property
    def main(self) -> UsedModule:
        """The module that gives the task."""
        return self.tasks[-1]


def read_modules(
    paths: Sequence[str], language_paths: Mapping[str, str], model: str | None = None, revision: str | None = None
) -> UsedModules:
    """Reads module files; a folder of a run stands for the module in it.

    Args:
        paths: of task modules and language modules, in any order; headers say which is which.
        language_paths: language -> file of its module, or of a generator; or a published module of another library.
        model, revision: base model of published modules; None: the one that the task module names.
    Raises:
        UsageError, ModuleFileError: a file is unusable, or there is no task module.
    """
    used = UsedModules()
    for path in paths:
        module = read_module(path)
        header = module.module.header
        if header.language is not None:
            if header.language in used.languages:
                raise UsageError(f"{path}: a second module of language {header.language}; give one of each language")
            used.languages[header.language] = module
        elif header.task is None or isinstance(module.module, Generator):
            if None in used.languages:
                raise UsageError(f"{path}: a second module without a language, of which there can be one; it serves "
                                 "all languages")  # fmt: skip
            used.languages[None] = module
        else:
            if twin := next((one for one in used.tasks if file_digest(one.path) == file_digest(module.path)), None):
                raise UsageError(f"{path}: the same module as {twin.path}; give it once, or it is added twice")
            used.tasks.append(module)
    for language, path in language_paths.items():
        if (fault := language_fault(language)) is not None:
            raise UsageError(f"--language-module={language}={path}: {language}: {fault}")
        if language in used.languages:
            raise UsageError(f"--language-module={language}={path}: a second module of language {language}, beside "
                             f"{used.languages[language].path}; give one of them")  # fmt: skip
        if published_module(path) is None:
            used.languages[language] = _read_for_language(language, path)
    if not used.tasks:
        raise UsageError(f"{', '.join(paths)}: none of these is a task module; give one, which says what to predict")
    names = {module.module.header.task for module in used.tasks}
    if len(names) > 1:
        raise UsageError(f"{', '.join(paths)}: modules of several tasks ({', '.join(sorted(map(str, names)))}); give "
                         "those of one")  # fmt: skip
    _add_published(used, language_paths, model, revision)
    return used


def _read_for_language(language: str, path: str) -> UsedModule:
    module = read_module(path)
    header = module.module.header
    if header.task is not None and not isinstance(module.module, Generator):
        raise UsageError(f"--language-module={language}={path}: {header} is a task module; give one of a language")
    return module


def _add_published(
    used: UsedModules, language_paths: Mapping[str, str], model: str | None, revision: str | None
) -> None:
    """Adds those of the language modules that are of other libraries; they are read on their base model."""
    given = {language: found for language, path in language_paths.items() if (found := published_module(path))}
    if not given:
        return
    facts = used.main.model_facts()
    path = model or facts.get("path")
    if not isinstance(path, str):
        raise UsageError(f"{used.main.path}: its header does not say where its base model is; give --model=FOLDER")
    quiet_libraries()
    base = load_pretrained(path, revision or (facts.get("revision") if model is None else None))
    for language, found in given.items():
        module = read_published(found, base, language=language)
        used.languages[language] = UsedModule(published_weights(found), module)


def read_module(path: str) -> UsedModule:
    """Reads a module file, that in the folder of a run, or that in a repository of the hub (ORG/NAME[@REVISION]).

    Raises:
        UsageError, ModuleFileError: it is unusable.
    """
    file = module_path(path)
    if file.is_dir():
        file = file / MODULE_FILE
        if not file.is_file():
            raise UsageError(f"{path}: the folder has no {MODULE_FILE}; give the folder of a finished run, or a file")
    try:
        manifest = read_sealed(file.parent / MANIFEST_FILE) if file.name == MODULE_FILE else {}
    except DamagedFileError as error:
        raise UsageError(f"{file.parent / MANIFEST_FILE}: {error}") from error
    return UsedModule(file, load_module(file), manifest)


def task_of(module: UsedModule, name: str | None = None, settings: Sequence[str] = ()) -> Task:
    """Builds the task of a task module.

    Args:
        module: the task module.
        name: of a file of conf/task, for a module whose header and run do not say the task's settings; for a module of
            several tasks, the one to build. None: the header says all.
        settings: KEY=VALUE, settings that replace the module's own.
    Raises:
        UsageError: nothing says the settings, they are wrong, or the task predicts nothing.
    """
    stored = module.facts.get("task") or module.manifest.get("config", {}).get("task")
    labels = module.facts.get("labels") or []
    if isinstance(stored, Mapping) and isinstance(stored.get("tasks"), Mapping):
        return _one_of_several(module, stored, labels, name, settings)
    if name is not None:
        values = _named_task(name)
        own = next((key for key in ("labels", "relations") if key in values), None)
        if own is not None and labels:
            values[own] = list(labels)
    elif isinstance(stored, Mapping):
        values = dict(stored)
    else:
        raise UsageError(
            f"{module.path}: neither its header nor a {MANIFEST_FILE} beside it says the settings of its task "
            f"({module.module.header.task}), because an earlier version wrote it; give --task=NAME, a file of conf/task"
        )
    schema = _schema_of(str(values.pop("_target_", "")), module.path)
    task = build_task(_typed(schema, values, settings, module.path))
    _check_labels(labels, task, module.path)
    return task


def _one_of_several(
    module: UsedModule, stored: Mapping[str, Any], labels: Sequence[str], name: str | None, settings: Sequence[str]
) -> Task:
    """Builds one of the tasks of a module of several.

    Args:
        module: the task module.
        stored: settings of the tasks together.
        labels: of all tasks, as the header has them.
        name: of the task among them; None: there is only one.
        settings: KEY=VALUE, settings that replace the task's own.
    Raises:
        UsageError: `name` is none of them, or the settings of one are wrong.
    """
    parts = {str(part): dict(values) for part, values in stored["tasks"].items() if isinstance(values, Mapping)}
    name = next(iter(parts)) if name is None and len(parts) == 1 else name
    if name not in parts:
        given = f"{module.path}: " if name is None else f"--task={name}: {module.path}: "
        raise UsageError(f"{given}it learned several tasks at once; give --task=NAME, one of {', '.join(parts)}")
    tasks_by_name = {}
    for part, values in parts.items():
        schema = _schema_of(str(values.pop("_target_", "")), module.path)
        tasks_by_name[part] = build_task(_typed(schema, values, settings if part == name else (), module.path))
    together = get_class(_schema_of(str(stored.get("_target_", "")), module.path)._target_)
    task = together(str(stored.get("name")), tasks_by_name).part({TASK: name})
    own = [label.removeprefix(f"{name}:") for label in map(str, labels) if label.startswith(f"{name}:")]
    _check_labels(own, task, module.path)
    return task


def _check_labels(labels: Sequence[str], task: Task, path: Path) -> None:
    if labels and task.labels() and list(labels) != task.labels():
        theirs, ours = (", ".join(map(str, one)) for one in (labels, task.labels()))
        raise UsageError(f"{path}: its head has the labels {theirs:.80}; the task's are {ours:.80}")


def _named_task(name: str) -> dict[str, Any]:
    from xlt.compose import compose, hydra_ready

    with hydra_ready():
        config = compose([f"task={name}"])
    values = OmegaConf.to_container(config.task, resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _schema_of(target: str, path: Path) -> Any:
    """Returns the schema whose class a header names. Only classes of known tasks can be named.

    Raises:
        UsageError: no installed task has this class.
    """
    activate()
    modules = [f"{tasks.__name__}.{info.name}" for info in pkgutil.iter_modules(tasks.__path__)]
    modules += [entry.module for entry in installed_entries(tasks.__name__)]
    module = target.rpartition(".")[0]
    if module in modules:
        schema = getattr(importlib.import_module(module), "SCHEMA", None)
        if schema is not None and schema._target_ == target:
            return schema
    raise UsageError(
        f"{path}: its header names the task {target!r}, which is not installed; install it, or give --task"
    )


def _typed(schema: Any, values: Mapping[str, Any], settings: Sequence[str], path: Path) -> Any:
    """Returns the task's config; a header can be of somebody else, so every value is checked."""
    known = {item.name for item in dataclasses.fields(schema)}
    if wrong := [word for word in settings if word.partition("=")[0] not in known or "=" not in word]:
        raise UsageError(*(f"--set={word}: no setting of the task; there are {', '.join(sorted(known - {'_target_'}))}"
                           for word in wrong))  # fmt: skip
    try:
        config = OmegaConf.merge(OmegaConf.structured(schema), dict(values), OmegaConf.from_dotlist(list(settings)))
        task = OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        line = str(error).splitlines()[0]
        raise UsageError(f"{path}: the settings of its task are unusable: {line}") from error
    if lines := list(faults(task, "task")):
        raise UsageError(*(f"{path}: {line}" for line in lines))
    return task


@dataclass
class LoadedModel:
    """A base model with tokenizer, and the modules that are written into it for each language.

    Attributes:
        model: in evaluation mode, with the task's head.
        encoder: its tokenizer.
        task: that the task module learned.
        modules: all modules.
    """

    model: TransferModel
    encoder: Encoder
    task: Task
    modules: UsedModules

    def __post_init__(self) -> None:
        self._stack = ModuleStack(self.model)
        self._languages: dict[str | None, list[ModuleArtefact]] = {}
        self._together_of: dict[str, ModuleArtefact] = {}
        self._together: LanguageModulesByExample | None = None

    def check_languages(self, languages: Mapping[str | None, str]) -> None:
        """Refuses languages for which there is no module although others have one.

        Args:
            languages: language of a part of the input, None if nothing says it -> a place, for the message.
        Raises:
            UsageError, ModuleFileError: there is no module, or it cannot be used.
        """
        for language, place in languages.items():
            try:
                self._applied(language)
            except UsageError as error:
                raise UsageError(*(f"{place}: {line}" for line in error.lines)) from error

    def speak(self, language: str | None) -> None:
        """Writes the modules for a language into the model; does nothing if they are there."""
        self._stack.set(self._applied(language))
        if language is not None:
            self.model.speak(language)

    def speak_all(self, languages: Sequence[str | None]) -> Callable[[Sequence[str | None]], None] | None:
        """Writes the modules for several languages into the model, so that each example of a batch uses its own.

        Args:
            languages: at least two.
        Returns:
            A function to call before each batch with the languages of its examples. None if the modules cannot be used
            together, or the model not with one row for each example, or it lies on several devices; nothing is changed.
        """
        if not self._has_a_row_for_each_example() or built_in_languages(self.model.backbone.config) is not None:
            return None
        applied = {language: self._applied(language) for language in languages}
        task_count = len(self.modules.tasks)
        tasks = next(iter(applied.values()))[-task_count:] if task_count else []
        of_language: dict[str, ModuleArtefact] = {}
        for language, modules in applied.items():
            cut = len(modules) - task_count
            if any(one is not other for one, other in zip(modules[cut:], tasks, strict=True)):
                return None  # the task module depends on the language
            for module in modules[:cut]:
                if language is None or by_example_fault(module, self._layers_for_examples) is not None:
                    return None
                of_language[language] = module
        if not of_language:
            self._stack.set(tasks)
            return lambda _: None
        if any(self._together_of.get(language) is not module for language, module in of_language.items()):
            try:
                together = LanguageModulesByExample({**self._together_of, **of_language}, self._layers_for_examples)
            except ValueError:  # their adapters have several placements
                return None
            self._together_of, self._together = {**self._together_of, **of_language}, together
        current = self._together
        assert current is not None
        self._stack.set([current, *tasks])
        return lambda codes: current.examples([str(code) for code in codes])

    @cached_property
    def _layers_for_examples(self) -> dict[str, torch.nn.Module]:
        return layers_for_examples(self.model)

    def _has_a_row_for_each_example(self) -> bool:
        """Whether the model, on one device, is called once for a batch, with one row for each row of features."""
        task, devices = self.task, {parameter.device for parameter in self.model.parameters()}
        return len(devices) == 1 and task.has_head and not task.translates and not {"choices", "turns"} & {*task.reads}

    def _applied(self, language: str | None) -> list[ModuleArtefact]:
        if language not in self._languages:
            described = {TASK: self.task.head_name or self.task.name}
            described |= {} if language is None else {LANGUAGE: language}
            files = [*self._language_module(language), *self.modules.tasks]
            applied = []
            for used in files:
                module = used.module
                try:
                    if used not in self.modules.tasks and language is not None:
                        module = module.for_language(language)
                    applied.append(module.for_features(**described))
                    applied[-1].check(self.model)
                except ValueError as error:
                    raise ModuleFileError(used.path, str(error)) from error
            self._languages[language] = applied
        return self._languages[language]

    def _language_module(self, language: str | None) -> list[UsedModule]:
        modules = self.modules.languages
        if not modules:
            return []
        if language is None:
            given = ", ".join(str(code) for code in modules if code is not None) or "a generator"
            raise UsageError(
                f"nothing says the language, for which there are modules ({given}); give --language=CODE, or "
                "--language-field"
            )
        used = modules.get(language) or modules.get(None)
        if used is None:
            raise UsageError(
                f"there is no module for language {language}, but for {', '.join(sorted(map(str, modules)))}; give "
                f"--language-module {language}=FILE, or none of any language"
            )
        return [used]


def load_model(
    modules: UsedModules, task: Task, *, model: str | None = None, device: str = "auto", revision: str | None = None
) -> LoadedModel:
    """Loads the base model of modules, with the task's head and without modules in it.

    Args:
        modules: that will be used with it.
        task: as `task_of` returns it.
        model: folder or hub id of the base model; None: the one that the task module names.
        device: cpu, cuda, cuda:N, auto, or several GPUs as in cuda:0+cuda:1.
        revision: of a hub model; None: the one that the task module names.
    Raises:
        UsageError, ModuleFileError: the model cannot be found or loaded, or is not the modules' base.
    """
    quiet_libraries()
    facts = modules.main.model_facts()
    path, whole = base_path(modules.main, task, model)
    check_revision(path, revision)
    revision = revision or (facts.get("revision") if model is None else None)
    with named_model(model, modules.main.path, path):
        tokenizer = load_tokenizer(path, revision)
        new = dict(facts.get("new_languages") or {})
        added = add_language_tokens(tokenizer, new)
        encoder = Encoder(tokenizer)
        dtype = getattr(torch, str(facts.get("dtype") or "float32"), torch.float32)
        prepare = _initialiser(tokenizer, new, added)
        loaded = load_pretrained(path, revision, dtype, prepare, head_seed=0 if task.needs_lm_head else None)
        with_head(loaded, task.joint or task, encoder, seed=0)
    if facts.get("quantise"):
        round_to_nf4(loaded)
    if whole:
        modules = UsedModules([], modules.languages)
    for used in (*modules.tasks, *modules.languages.values()):
        check_base(used.module.header, loaded.base_hash, used.path)
    place_model(loaded, device)
    loaded.eval().requires_grad_(False)
    return LoadedModel(loaded, encoder, task, modules)


def _initialiser(tokenizer: Any, new: dict[str, str], added: Any) -> Any:
    def initialise(pretrained: Any) -> None:
        if new:
            initialise_language_embeddings(pretrained, tokenizer, new, added)

    return initialise


def base_path(module: UsedModule, task: Task, given: str | None = None) -> tuple[str, bool]:
    """Returns the folder or hub id of a module's base model, and whether it is a checkpoint that has the module in it.

    Raises:
        UsageError: nothing says where the base model is.
    """
    checkpoint = module.path.parent / CHECKPOINT_FOLDER
    if module.path.name == MODULE_FILE and checkpoint.is_dir() and not task.has_head and given is None:
        return str(checkpoint), True
    if given is not None:
        return given, False
    made = list(_runs_of_models(module))
    for folder in made:
        if (folder / CHECKPOINT_FOLDER).is_dir():
            return str(folder / CHECKPOINT_FOLDER), False
    path = module.model_facts().get("path")
    if isinstance(path, str) and not made:
        return path, False
    raise UsageError(
        f"{module.path}: its base model, {module.module.header.base_model!r}, was made by another run, whose folder is "
        "not beside this one; give --model=FOLDER"
    )


def _runs_of_models(module: UsedModule) -> Iterator[Path]:
    """Yields the folders of the runs that may have made a module's base model."""
    depends = {**dict(module.facts.get("depends_on") or {}), **dict(module.manifest.get("depends_on") or {})}
    for role, fingerprint in depends.items():
        if role in ("model", "student") and re.fullmatch("[0-9a-f]{12,}", str(fingerprint)):
            yield module.path.parent.parent / str(fingerprint)[:FOLDER_DIGITS]
