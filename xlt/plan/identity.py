"""A run's identity: everything that determines the module it leaves, and nothing else; its digest is the fingerprint.

Four things are in it: the settings that the run uses, the content of its data and model, the identities of what it
stands on, and the code that it executes. Which settings count is said where they are declared (`xlt.config.schema`):
every key does, except one that says why it cannot change a module, one that another setting leaves without effect
(`unused`), and one whose value stands for something that is in the identity itself (`known_by`).
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xlt.compose import plain
from xlt.config import RunConfig, RunFacts, SourceConfig, TranslationConfig, used_keys
from xlt.data.held_out import HeldOut
from xlt.data.planned import PlannedData, PlannedSource
from xlt.data.sources import digest, parallel_languages, source_identity
from xlt.engine.build import build_task
from xlt.models.loading import model_identity
from xlt.plan.code import evaluation_code, training_code, translation_code


def run_identity(
    config: RunConfig,
    data: PlannedData,
    model_run: str | None,
    modules: Mapping[str, str],
    start: str | None = None,
    student_run: str | None = None,
    teacher_module: str | None = None,
) -> dict[str, Any]:
    """What determines a run's module, as JSON values.

    Args:
        config: of the run.
        data: of the run, as planned.
        model_run: fingerprint of the run that makes the base model, if one does.
        modules: identity of the language module of each source language.
        start: identity of the module that training begins with, if there is one.
        student_run: fingerprint of the run that makes the student in use, if one does.
        teacher_module: identity of the task's module that the teacher has, if it has one.
    Raises:
        UsageError: a data file is missing, or the model, or a source file of the code.
    """
    whole = _model_identity(config, model_run)
    return {
        "settings": used_settings(config, facts_of(config)),
        "data": data_identity(data),
        "model": {"run": student_run} if student_run is not None else whole,
        "language_modules": dict(modules),
        "code": training_code(config),
        **({"start": start} if start is not None else {}),
        **({"teacher": {"model": whole, "module": teacher_module}} if config.teacher.losses else {}),
    }


def facts_of(config: RunConfig) -> RunFacts:
    """What the schemas of a run may ask about it."""
    task = build_task(config.task)
    # A student that is narrower than its teacher may have a head of its own, which is trained.
    has_head = task.has_head or config.model.student is not None
    return RunFacts(task.adapts_language, has_head, task.validates_at_random)


def used_settings(config: Any, facts: RunFacts, of_files: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The values of a config object that are part of a run's identity, as JSON values.

    A null value and an empty list or mapping are left out: a key that is new, and null where it changes nothing, leaves
    the identities as they were.

    Args:
        config: an instance of a schema dataclass; those below it are gone through as well.
        facts: about the run.
        of_files: key -> content of the file that it names, where the file itself is not at hand.
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
    """What determines the translation of a source, as JSON values.

    Args:
        config: of the translator's run.
        run: fingerprint of the run that leaves the translator; None for a model with a path.
        source: the original, untranslated.
        language: that it is translated into.
        settings: how.
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


def evaluation_identity(config: RunConfig, data: PlannedData, name: str, modules: Mapping[str, str]) -> dict[str, Any]:
    """What determines one evaluation of a run's module: its data, the modules in the model by their role, the code.

    Args:
        config: of the run.
        data: of the run, as planned.
        name: of the evaluation source or benchmark.
        modules: role -> identity of a module.
    """
    facts = facts_of(config)
    batches = {"batch_size": config.train.evaluation_batch_size} if facts.validates_at_random else {}
    return {
        **evaluated_identity(data, name),
        "modules": dict(modules),
        "precision": config.train.precision,
        **batches,
        "code": digest(evaluation_code(config, data, name)),
    }


def evaluated_identity(data: PlannedData, name: str) -> dict[str, Any]:
    """What an evaluation source, or a benchmark, is scored on, with the content of its files as they are now."""
    if name in data.benchmarks:
        benchmark = data.benchmarks[name]
        folder = None if benchmark.folder is None else _folder_identity(benchmark.folder)
        return {"benchmark": {**plain(benchmark), "folder": folder}}
    # Few examples for a quick look are another evaluation; where they lie is not.
    return {"source": source_identity(data.evaluation[name])}


def original_identity(source: SourceConfig) -> dict[str, Any]:
    """The examples of a source that a transform starts from, with the content of its files as they are now."""
    return {**source_identity(source), "split": source.split}


def data_identity(data: PlannedData) -> dict[str, Any]:
    """What a run learns from and is selected by, as its fingerprint has it: the content of files as they are now.

    Raises:
        UsageError: a file is missing.
    """
    identity: dict[str, Any] = {
        part: {name: _used_identity(source, part) for name, source in data.part(part).items()}
        for part in ("sources", "validation", "excluded")
    }
    # Batches of the sources are shuffled together by their numbers.
    identity["order"] = {part: [*data.part(part)] for part in ("sources", "validation")}
    held_out = HeldOut(data.config, seed=0)
    return identity | (held_out.identity() if held_out.is_used else {})


def _used_identity(source: PlannedSource, part: str) -> dict[str, object]:
    """The source's identity as far as its part uses it: only examples that are learned from can be repeated."""
    return {name: value for name, value in source_identity(source).items() if part == "sources" or name != "upsample"}


def _folder_identity(path: str) -> dict[str, str]:
    """Name -> content hash of the files in a folder and below it."""
    folder = Path(path).expanduser()
    return {
        file.relative_to(folder).as_posix(): file_identity(str(file))
        for file in sorted(folder.rglob("*"))
        if file.is_file() and "__pycache__" not in file.parts
    }


def file_identity(path: str) -> str:
    """Content hash of a module file given by the user."""
    return hashlib.blake2b(Path(path).expanduser().read_bytes(), digest_size=16).hexdigest()


def _model_identity(config: RunConfig, model_run: str | None) -> dict[str, Any]:
    """The base model's content, or the run that makes it; how it is used is among the settings."""
    if model_run is not None:
        return {"run": model_run}
    if config.model.random is not None:
        tokens = parallel_languages(config.data)  # the vocabulary has one for each
        return {"random": {"languages": tokens} if tokens else {}}
    assert config.model.path is not None
    return {"content": model_identity(config.model.path, config.model.revision)}
