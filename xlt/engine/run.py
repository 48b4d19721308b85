"""Carries out a run: prepares it, trains it, saves its module; and evaluates the module together with others."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from xlt.config import RunConfig, SamplingConfig
from xlt.data.encoding import Encoder
from xlt.data.mix import Sampling
from xlt.data.planned import PlannedData
from xlt.data.streams import stream
from xlt.engine.activation import LanguageActivation, TeacherModules
from xlt.engine.benchmarks import SCORE, benchmark_faults, run_benchmark
from xlt.engine.build import (
    build_encoder,
    build_method,
    build_model,
    build_student,
    build_task,
    build_teacher,
    device_of,
)
from xlt.engine.cost import counted_before, inference_cost
from xlt.engine.evaluation import evaluate
from xlt.engine.export import module_header, rehearse_export
from xlt.engine.kept_predictions import KeptPredictions
from xlt.engine.processes import Processes
from xlt.engine.run_data import RunData
from xlt.engine.state import RunState
from xlt.engine.training import Trainer
from xlt.engine.watching import Silence, Watcher
from xlt.errors import UsageError
from xlt.files import atomic_folder, digests_of, write_sealed
from xlt.methods.method import Method, Setting, write_head
from xlt.models.loading import save_checkpoint
from xlt.models.transfer import TransferModel
from xlt.modules import ModuleArtefact, ModuleFileError, ModuleHeader, ModuleStack, check_base, load_module
from xlt.modules.module_file import content_digest
from xlt.modules.sparse_delta import is_head
from xlt.repositories import module_path
from xlt.tasks.task import Task

MODULE_FILE = "module.safetensors"
CHECKPOINT_FOLDER = "checkpoint"
RESULT_FILE = "result.json"


@dataclass(frozen=True)
class ModuleFile:
    """A module on disk.

    Attributes:
        path: of the file.
        language: for a language module, its language; if the file has a generator, the module is generated for it.
        run: fingerprint of the run that makes the module; None for a file of the user.
        content: of a file of the user, its content hash at the time of planning.
    """

    path: Path
    language: str | None = None
    run: str | None = field(default=None, compare=False)  # the path says it, too
    content: str | None = field(default=None, compare=False)

    def load(self) -> ModuleArtefact:
        """Loads the module.

        Raises:
            ModuleFileError: the file is unusable, is the module of another run, has changed since planning, or has no
                module for the language.
        """
        if self.content is not None and content_digest(self.path) != self.content:
            raise ModuleFileError(self.path, "has changed since this was planned; give the same command again")
        module = load_module(self.path)
        if self.run is not None and module.header.fingerprint != self.run:
            other = f"run {module.header.fingerprint}" if module.header.fingerprint else "no run"
            raise ModuleFileError(
                self.path, f"its header says that {other} made it, not run {self.run}; put the run's own module there"
            )
        if self.language is None:
            return module
        try:
            module = module.for_language(self.language)
        except ValueError as error:
            raise ModuleFileError(self.path, str(error)) from error
        if module.header.language not in (None, self.language):
            other = module.header.language
            raise ModuleFileError(self.path, f"a module of language {other}, wanted {self.language}")
        return module


@dataclass(frozen=True)
class Standing:
    """The models and modules that a run needs; all of them exist before it starts.

    Attributes:
        fingerprint: of the run.
        model_path: folder or hub id of the base model; None for a model with random weights.
        language_modules: ISO 639-3 code of a source language -> its module; empty without language adaptation. For a
            student with a teacher, these are the teacher's modules.
        start: the module that training starts from; None: new values.
        overlap: the language module whose entries the method's own are chosen by; None: there is none.
        teacher_path: folder or hub id of the whole model, the teacher; None without a teacher.
        teacher_module: the teacher's task module; None if it has only language modules.
        student_module: module of the run that made the student; None if this run makes the student.
        depends_on: role -> fingerprint, for the runs that this run needs.
    """

    fingerprint: str
    model_path: str | None
    language_modules: Mapping[str, ModuleFile] = field(default_factory=dict)
    start: ModuleFile | None = None
    overlap: ModuleFile | None = None
    teacher_path: str | None = None
    teacher_module: ModuleFile | None = None
    student_module: ModuleFile | None = None
    depends_on: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Composition:
    """One evaluation: a source or a benchmark, and the modules in the evaluated model.

    Attributes:
        source: name of the source or benchmark in the config that requests the evaluation.
        label: the text of the expression over modules, such as task+language.
        modules: the modules, in the order in which they are applied.
        entry: name of the source or benchmark in the run's own data, because configs may use a name for different data.
        content: digest of the data at the time of planning.
        identity: all that determines the evaluation; it is stored with the result.
        unusual: modules that the label does not mention: another language's module, or further task modules; empty if
            there are none.
    """

    source: str
    label: str
    modules: tuple[ModuleFile, ...]
    entry: str
    content: str
    identity: Mapping[str, Any] = field(default_factory=dict)
    unusual: str = ""

    @property
    def name(self) -> str:
        """The label, with the unusual modules in brackets."""
        return f"{self.label} ({self.unusual})" if self.unusual else self.label


@dataclass
class PreparedRun:
    """A run that is ready to train: its input has been checked, its data and model are loaded, no file is written yet.

    Attributes:
        config, standing: of the run.
        trainer: trains the run.
        student: facts about the student that this run made; None if it made none.
    """

    config: RunConfig
    standing: Standing
    trainer: Trainer
    student: dict[str, int] | None = None

    def train(self, folder: Path, watcher: Watcher) -> dict[str, Any]:
        """Trains the run, or continues its training, in the run's folder.

        Writes `module.safetensors`, for some methods `checkpoint/`, and at last `result.json`; a run with this file is
        complete.

        Returns:
            The content of `result.json`: validation metric of the selected checkpoint, facts about module and training,
            and digests of the module's file and of those in the checkpoint.
        Raises:
            Interrupted: a signal stopped the training; its state was saved.
        """
        trainer, task, method = self.trainer, self.trainer.task, self.trainer.method
        watcher = watcher if trainer.processes.leads else Silence()
        training = trainer.train(folder, watcher, self.standing.fingerprint)
        result = {"fingerprint": self.standing.fingerprint, "metric": task.metric, "training": training}
        if trainer.processes.leads:
            if method.leaves_checkpoint:
                _save_checkpoint(trainer.model, trainer.encoder, folder)
            module = method.export(trainer.model, self._header())
            module.save(folder / MODULE_FILE)
            if self.student is not None:
                result["student"] = self.student
            result["module"] = {**method.report(), "bytes": (folder / MODULE_FILE).stat().st_size}
            result["files"] = digests_of(folder, (MODULE_FILE, CHECKPOINT_FOLDER))
            write_sealed(folder / RESULT_FILE, result)
            RunState(folder).discard()
        trainer.processes.wait()
        return result

    def check_bases(self, files: Iterable[ModuleFile]) -> None:
        """Refuses module files of the user that are for another base model than this run's; called before training.

        Args:
            files: modules with which the run's own module will be evaluated; those that other runs make are not read.
        Raises:
            ModuleFileError: a file is damaged, or for another base model.
        """
        for path in sorted({file.path for file in files if file.content is not None}):
            check_base(load_module(path).header, self.trainer.model.base_hash, path)

    def rehearse_export(self, output_dir: Path) -> None:
        """Exports the untrained module and throws it away; only for a run that has no saved state.

        Args:
            output_dir: the folder below which the run's files will be.
        Raises:
            UsageError: the module of this run could not be stored.
        """
        rehearse_export(self.trainer, self._header, output_dir)

    def _header(self) -> ModuleHeader:
        config, model, task = self.config, self.trainer.model, self.trainer.task
        return module_header(
            config,
            self.trainer.method,
            task.name,
            base_model=Path(model.base_name).name or model.base_name,
            base_hash=model.base_hash,
            fingerprint=self.standing.fingerprint,
            untied=model.is_untied,
            provenance={"labels": task.labels(), "depends_on": dict(self.standing.depends_on)},
        )


def prepare(config: RunConfig, standing: Standing, planned: PlannedData | None = None) -> PreparedRun:
    """Prepares a run for training: reads the data, and loads the model and the modules.

    Args:
        config: of the run.
        standing: the models and modules that the run needs.
        planned: its data; None: those of the config, without sources that other runs make.
    Raises:
        UsageError, ModuleFileError: data, model and modules do not fit together.
    """
    processes = Processes.join()
    _set_threads(config)
    task = build_task(config.task)
    data = RunData(config, task, planned)
    data.check()
    languages = {source.language for part in ("sources", "validation") for source in data.sources(part).values()}
    modules = _language_modules(standing, languages)
    student = None
    if config.model.student is not None and config.model.student.run is None:
        assert standing.model_path is not None
        new = build_student(config, standing.model_path, task, data)
        encoder, model, student = new.encoder, new.model, new.report
    else:
        encoder = build_encoder(config, standing.model_path, data)
        model = build_model(config, standing.model_path, task, encoder, trains=True)
    teacher = None
    if standing.teacher_path is not None:
        narrow = config.model.student is not None and config.model.student.hidden_size is not None
        distilled = standing.student_module.load() if standing.student_module is not None and narrow else None
        whole, task = build_teacher(config, standing.teacher_path, task, encoder, model, distilled)
        teacher = TeacherModules(whole, modules, _teacher_module(standing, whole, task))
    for language, module in modules.items():
        base_hash = model.base_hash if teacher is None else whole.base_hash
        check_base(module.header, base_hash, standing.language_modules[language].path)
    if teacher is None and any(module.header.untied for module in modules.values()):
        model.untie_embeddings()
    sources, validation = (data.load(part, encoder) for part in ("sources", "validation"))
    method = build_method(config.method)
    if standing.start is not None:
        _start(method, standing.start, model, task)
    other = None if standing.overlap is None else standing.overlap.load()
    if standing.overlap is not None and other is not None:
        check_base(other.header, model.base_hash, standing.overlap.path)
    languages_of = [source.language for source in (*sources, *validation)]
    trainer = Trainer(
        model=model,
        method=method,
        task=task,
        encoder=encoder,
        sources=sources,
        validation=validation,
        activation=LanguageActivation(model, modules if teacher is None else {}, languages_of, teacher),
        recipe=config.train,
        setting=Setting(task.adapts_language, random=lambda *name: stream(config.seed, "method", *name), other=other),
        sampling=_sampling(config.data.sampling),
        mixed_batches=config.data.sampling.mixed_batches,
        seed=config.seed,
        processes=processes,
    )
    return PreparedRun(config, standing, trainer, student)


def evaluate_compositions(
    config: RunConfig,
    planned: PlannedData,
    model_path: str,
    asked: Mapping[str, Composition],
    watcher: Watcher,
    keep: Callable[[str, str, Iterable[Mapping[str, Any]]], None] = lambda *_: None,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Evaluates the base model with modules on evaluation sources and benchmarks, one after the other.

    Args:
        config: of the run whose task module is evaluated.
        planned: data of the run, with all evaluation data.
        model_path: folder or hub id of the base model.
        asked: key -> composition, for the evaluations to carry out.
        watcher: receives a line for each evaluation.
        keep: is called with the key of an evaluation, its source and composition, and a record for each example, if
            the config asks for predictions.
    Yields:
        Key and record: source, language, composition, metrics, for sources the cost per example, and the signatures of
        metrics that have some.
    Raises:
        UsageError: data, model and modules do not fit together.
    """
    _set_threads(config)
    task = build_task(config.task)
    data = RunData(config, task, planned)
    data.check()
    files = {file for composition in asked.values() for file in composition.modules}
    modules = {file: file.load() for file in files}
    encoder = build_encoder(config, model_path, data)
    model = build_model(config, model_path, task, encoder, trains=False)
    for file, module in modules.items():
        check_base(module.header, model.base_hash, file.path)
    names = {composition.entry for composition in asked.values()} - planned.benchmarks.keys()
    sources = {source.name: source for source in data.load("evaluation", encoder, names)}
    stack = ModuleStack(model)
    suited: dict[tuple[ModuleFile, tuple[tuple[str, str], ...]], ModuleArtefact] = {}
    for key, composition in asked.items():
        benchmark = composition.entry in planned.benchmarks
        described = {"task": task.name} if benchmark else sources[composition.entry].described
        for file in composition.modules:
            if (file, (*described.items(),)) not in suited:
                suited[file, (*described.items(),)] = _for_examples(modules[file], file, described)
        applied = [suited[file, (*described.items(),)] for file in composition.modules]
        stack.set(applied)
        if benchmark:
            name = composition.entry
            metrics = run_benchmark(model, task, encoder, config.train, name, planned.benchmarks[name])
            yield key, {"source": composition.source, "composition": composition.label, "metrics": metrics}
            watcher.note(f"{composition.source}, {composition.label}: {SCORE} {metrics[SCORE]:.2f}")
            continue
        source = sources[composition.entry]
        own_task = task.part(source.described)
        model.speak(source.language)
        size, precision = config.train.evaluation_batch_size, config.train.precision
        kept = KeptPredictions(own_task) if config.evaluation.predictions and own_task.compares else None
        keep_batch = None if kept is None else kept.keep
        metrics = evaluate(model, own_task, [source], encoder, size, precision, keep=keep_batch)
        if kept is not None:
            keep(key, f"{composition.source}, {composition.label}", kept.records(data.examples(composition.entry)))
        about: dict[str, Any] = {"source": composition.source, "language": source.language}
        about["composition"] = composition.label
        own = [one for file, one in zip(composition.modules, applied, strict=True) if one is not modules[file]]
        if own:  # a new language has no features of its own, which the record says
            about["features"] = own[0].header.provenance["features"]
        cost = inference_cost(model, own_task, source, encoder, counted_before(model, own_task, applied))
        signatures = own_task.signatures(source.features)
        if own_task is not task:  # several tasks have several metrics that count
            about["metric"] = own_task.metric
        yield key, {**about, "metrics": metrics, "cost": cost, **({"signatures": signatures} if signatures else {})}
        metric = own_task.metric
        signature = f" ({signatures[metric]})" if metric in signatures else ""
        watcher.note(f"{composition.source}, {composition.label}: {metric} {metrics[metric]:.2f}{signature}")


def preflight(config: RunConfig, planned: PlannedData, kind: type[RunData] = RunData) -> RunData:
    """Reads and checks a run's data before a model is loaded, so that faults are reported early.

    Args:
        config: of the run.
        planned: data of the run, with all evaluation data.
        kind: what reads and checks them.
    Returns:
        The checked data.
    Raises:
        UsageError, ModuleFileError: data or module files have faults; a line for each.
    """
    device_of(config)
    if wrong := list(benchmark_faults(planned.benchmarks, config.task)):
        raise UsageError(*wrong)
    data = kind(config, build_task(config.task), planned)
    data.check()
    for path in config.language_modules.paths.values():
        load_module(module_path(path))
    return data


def _for_examples(module: ModuleArtefact, file: ModuleFile, described: Mapping[str, str]) -> ModuleArtefact:
    """Returns the module to use for examples with some features.

    Raises:
        ModuleFileError: the module cannot be used for them.
    """
    try:
        return module.for_features(**described)
    except ValueError as error:
        raise ModuleFileError(file.path, str(error)) from error


def _set_threads(config: RunConfig) -> None:
    if config.threads is not None:
        torch.set_num_threads(config.threads)


def _sampling(config: SamplingConfig) -> Sampling | None:
    if config.by == "concatenation":
        return None
    given = config.weights if config.by == "given" else None
    return Sampling(config.exponent, config.ceiling, config.task_exponent, given)


def _language_modules(standing: Standing, languages: set[str]) -> dict[str, ModuleArtefact]:
    """Loads the modules of the source languages; returns an empty dict without language adaptation.

    Raises:
        UsageError: a language has no module although others have, or a file has the module of another language.
    """
    if not standing.language_modules:
        return {}
    loaded = {}
    for language in sorted(languages):
        if language not in standing.language_modules:
            raise UsageError(
                f"language_modules: no module for {language}; give language_modules.paths.{language}=FILE "
                "or an experiment that trains it"
            )
        loaded[language] = standing.language_modules[language].load()
    return loaded


def _teacher_module(standing: Standing, teacher: TransferModel, task: Task) -> ModuleArtefact | None:
    """Loads the teacher's task module; returns None if it has none.

    Raises:
        ModuleFileError: the file is unusable, or was not made for this model and task.
    """
    file = standing.teacher_module
    if file is None:
        return None
    module = file.load()
    check_base(module.header, teacher.base_hash, file.path)
    _check_labels(module, file, task)
    try:
        module.check(teacher)
    except ValueError as error:
        raise ModuleFileError(file.path, str(error)) from error
    return module


def _start(method: Method, file: ModuleFile, model: TransferModel, task: Task) -> None:
    """Loads the module that training starts from, and gives it to the method; a head alone is written into the model.

    Raises:
        ModuleFileError: the file is unusable, of another base model, or not of the kind that the method trains.
    """
    module = file.load()
    check_base(module.header, model.base_hash, file.path)
    _check_labels(module, file, task)
    try:
        module.check(model)
        if is_head(module):
            write_head(model, getattr(module, "tensors", {}))
        else:
            method.start_from(module)
    except ValueError as error:
        raise ModuleFileError(file.path, str(error)) from error


def _check_labels(module: ModuleArtefact, file: ModuleFile, task: Task) -> None:
    """Refuses a module whose task head was trained for other labels than this task's.

    Raises:
        ModuleFileError: the labels differ, or their order does.
    """
    learned = module.header.provenance.get("labels")
    if learned and task.labels() and list(learned) != task.labels():
        theirs, ours = (", ".join(map(str, labels)) for labels in (learned, task.labels()))
        raise ModuleFileError(file.path, f"its head has the labels {theirs:.80}; the task's are {ours:.80}")


def _save_checkpoint(model: TransferModel, encoder: Encoder, folder: Path) -> None:
    """Writes the whole model in transformers' format; the folder gets its final name only when it is complete."""
    final = folder / CHECKPOINT_FOLDER
    with atomic_folder(final) as temporary:
        save_checkpoint(model, encoder.tokenizer, temporary)
        if final.exists():
            shutil.rmtree(final)
