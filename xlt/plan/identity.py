"""A run's identity: everything that determines the module it makes, and nothing else; its digest is the fingerprint.

An identity has four parts: the settings that the run uses, the content of its data and model, the identities of the
modules and runs that it needs, and digests of the code that it executes. The schema declares which settings count
(`xlt.config.schema`): all keys do, except those that cannot change a module (`no_module`), those that have no effect
because of another setting (`unused`), and those for which the identity contains something else (`known_by`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xlt.compose import plain
from xlt.config import RunConfig, RunFacts, SourceConfig, TranslationConfig, used_keys
from xlt.data.held_out import HeldOut
from xlt.data.planned import PlannedData, PlannedSource
from xlt.data.sources import digest, parallel_languages, source_identity
from xlt.engine.build import build_task
from xlt.engine.composed import ComposedModule
from xlt.engine.run import ModuleFile
from xlt.engine.weights import search_identity
from xlt.models.loading import model_identity
from xlt.modules.module_file import content_digest
from xlt.plan.code import evaluation_code, training_code, translation_code


def run_identity(
    config: RunConfig,
    data: PlannedData,
    model_run: str | None,
    modules: Mapping[str, str],
    start: str | None = None,
    student_run: str | None = None,
    teacher_module: str | None = None,
    overlap: str | None = None,
) -> dict[str, Any]:
    """Returns the identity of a run, which is all that determines its module, as JSON values.

    Args:
        config: of the run.
        data: of the run, as planned.
        model_run: fingerprint of the run that makes the base model; None if no run does.
        modules: language -> identity of its module, for each source language.
        start: identity of the module that training starts from; None for new values.
        student_run: fingerprint of the run that makes the student; None if no other run does.
        teacher_module: identity of the teacher's task module; None if it has none.
        overlap: identity of the module whose entries the method's own are chosen by; None if there is none.
    Raises:
        UsageError: a data file, the model or a source file of the code is missing.
    """
    whole = _model_identity(config, model_run)
    return {
        "settings": used_settings(config, facts_of(config)),
        "data": data_identity(data),
        "model": {"run": student_run} if student_run is not None else whole,
        "language_modules": dict(modules),
        "code": training_code(config),
        **({"start": start} if start is not None else {}),
        **({"overlap": overlap} if overlap is not None else {}),
        **({"teacher": {"model": whole, "module": teacher_module}} if config.teacher.losses else {}),
    }


def facts_of(config: RunConfig) -> RunFacts:
    """Returns the facts about a run by which its schemas decide which keys it does not use."""
    task = build_task(config.task)
    # A student that is narrower than its teacher may have its own head, which is trained.
    has_head = task.has_head or config.model.student is not None
    return RunFacts(task.adapts_language, has_head, task.validates_at_random)


def used_settings(config: Any, facts: RunFacts, of_files: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Returns the values of a config object that are part of a run's identity, as JSON values.

    Null values, empty lists and empty mappings are left out. So existing identities stay valid when a new key is added
    whose null value changes nothing.

    Args:
        config: an instance of a schema dataclass; nested dataclasses are included.
        facts: about the run.
        of_files: key -> content hash of the file that the key names; None: read the files.
    """
    files = {item.name for item in dataclasses.fields(config) if item.metadata.get("file")}
    settings: dict[str, Any] = {}
    for name in used_keys(config, facts):
        value = getattr(config, name)
        if dataclasses.is_dataclass(value):
            value = used_settings(value, facts, of_files)
        elif name in files and value is not None:
            value = file_identity(value) if of_files is None else of_files.get(name)
        if value is not None and value != {} and value != []:
            settings[name] = plain(value)
    return settings


def translation_identity(
    config: RunConfig, run: str | None, source: SourceConfig, language: str, settings: TranslationConfig
) -> dict[str, Any]:
    """Returns all that determines the translation of a source, as JSON values.

    Args:
        config: of the translator's run.
        run: fingerprint of the run that makes the translator; None for a model with a path.
        source: the original, untranslated source.
        language: ISO 639-3 code of the language that it is translated into.
        settings: settings of the translation.
    """
    task = {name: value for name, value in plain(config.task).items() if name in ("max_length", "tokens")}
    model = {"settings": used_settings(config.model, facts_of(config)), **_model_identity(config, run)}
    return {
        "translator": {"model": model, **task},
        "source": original_identity(source),
        "languages": [settings.source_language, language],
        "fields": sorted(settings.fields),
        "decoding": {
            "beams": settings.beams,
            "batch_tokens": settings.batch_tokens,
            "precision": config.train.precision,
        },
        "code": translation_code(config, source),
    }


def evaluation_identity(
    config: RunConfig,
    data: PlannedData,
    name: str,
    modules: Mapping[str, str],
    composition: Mapping[str, Any] | None = None,
    composed: Sequence[ModuleFile] = (),
) -> dict[str, Any]:
    """Returns all that determines one evaluation of a run's module: its data, the modules in the model, the code.

    Args:
        config: of the run.
        data: of the run, as planned.
        name: of the evaluation source or benchmark.
        modules: role -> identity of a module.
        composition: how the modules are combined; None: the language's and then the task's are applied.
        composed: with `composition`, the modules that are applied.
    """
    facts = facts_of(config)
    batches = {"batch_size": config.train.evaluation_batch_size} if facts.validates_at_random else {}
    composed_of = [file for file in composed if isinstance(file, ComposedModule)]
    search = [search_identity(source, config.seed) for file in composed_of for _, source in file.search]
    return {
        **evaluated_identity(data, name),
        "modules": dict(modules),
        "precision": config.train.precision,
        **batches,
        "code": digest(evaluation_code(config, data, name, composed)),
        **({} if composition is None else {"composition": dict(composition)}),
        **({"search": search} if search else {}),
    }


def evaluated_identity(data: PlannedData, name: str) -> dict[str, Any]:
    """Returns what identifies the data of an evaluation source or benchmark, with the present content of its files."""
    if name in data.benchmarks:
        benchmark = data.benchmarks[name]
        folder = None if benchmark.folder is None else _folder_identity(benchmark.folder)
        return {"benchmark": {**plain(benchmark), "folder": folder}}
    # An evaluation on fewer examples is another evaluation; one on the same examples in another place is not.
    return {"source": source_identity(data.evaluation[name])}


def original_identity(source: SourceConfig) -> dict[str, Any]:
    """Returns what identifies the source that a transform starts from, with the present content of its files."""
    return {**source_identity(source), "split": source.split}


def data_identity(data: PlannedData) -> dict[str, Any]:
    """Returns what identifies the data for training and validation, with the present content of the files.

    Raises:
        UsageError: a file is missing.
    """
    identity: dict[str, Any] = {
        part: {name: _used_identity(source, part) for name, source in data.part(part).items()}
        for part in ("sources", "validation", "excluded")
    }
    # The order counts, because batches of all sources are numbered together before they are shuffled.
    identity["order"] = {part: [*data.part(part)] for part in ("sources", "validation")}
    held_out = HeldOut(data.config, seed=0)
    return identity | (held_out.identity() if held_out.is_used else {})


def _used_identity(source: PlannedSource, part: str) -> dict[str, object]:
    """Returns the source's identity, without `upsample` if the part is not used for training."""
    return {name: value for name, value in source_identity(source).items() if part == "sources" or name != "upsample"}


def _folder_identity(path: str) -> dict[str, str]:
    """Returns name -> content hash for all files in a folder and its subfolders."""
    folder = Path(path).expanduser()
    return {
        file.relative_to(folder).as_posix(): file_identity(str(file))
        for file in sorted(folder.rglob("*"))
        if file.is_file() and "__pycache__" not in file.parts
    }


def file_identity(path: str) -> str:
    """Returns the content hash of a module file of the user."""
    return content_digest(path)


def _model_identity(config: RunConfig, model_run: str | None) -> dict[str, Any]:
    """Returns the base model's content hash, or the run that makes it; how it is used is part of the settings."""
    if model_run is not None:
        return {"run": model_run}
    if config.model.random is not None:
        tokens = parallel_languages(config.data)  # the vocabulary has a token for each language
        return {"random": {"languages": tokens} if tokens else {}}
    assert config.model.path is not None
    return {"content": model_identity(config.model.path, config.model.revision)}
