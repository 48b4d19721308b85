"""A run's identity: a hash of everything that determines the module it leaves, and of nothing else."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xlt
from xlt.compose import plain
from xlt.config import RunConfig, SourceConfig, StudentConfig, TranslationConfig
from xlt.data.held_out import HeldOut
from xlt.data.planned import PlannedData
from xlt.data.sources import digest, parallel_languages, source_identity
from xlt.models.loading import model_identity

# Where things lie, how fast or watched they run, and what is evaluated afterwards change no module.
_NOT_PART = (
    "experiment_name",
    "scale",
    "model",
    "data",
    "language_modules",
    "task_modules",
    "start",
    "teacher",
    "tracker",
    "launcher",
    "target",
    "translator",
    "data_dir",
    "output_dir",
    "device",
    "threads",
)
# `reduction_factor` counts where a method takes it over.
_NOT_PART_OF_TRAIN = ("save_every_seconds", "activation_checkpointing", "reduction_factor")


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
        UsageError: a data file is missing, or the model.
    """
    settings = {name: value for name, value in plain(config).items() if name not in _NOT_PART}
    settings["method"] |= _contents_of_files(config.method)
    settings["train"] = {k: v for k, v in settings["train"].items() if k not in _NOT_PART_OF_TRAIN}
    whole = _model_identity(config, model_run)
    teacher = None
    if config.teacher.losses:
        told = {"losses": sorted(config.teacher.losses), "dtype": config.teacher.dtype}
        teacher = {"model": whole, "module": teacher_module, **told}
    return {
        "xlt": xlt.__version__,
        "settings": settings,
        "data": data_identity(data),
        "model": whole if config.model.student is None else _student_identity(config.model.student, whole, student_run),
        "language_modules": dict(modules),
        **({"start": start} if start is not None else {}),
        **({"teacher": teacher} if teacher is not None else {}),
    }


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
    return {
        "xlt": xlt.__version__,
        "translator": {"model": _model_identity(config, run), **task},
        "source": original_identity(source),
        "languages": [settings.source_language, language],
        "fields": sorted(settings.fields),
        "decoding": {
            "beams": settings.beams,
            "batch_tokens": settings.batch_tokens,
            "precision": config.train.precision,
        },
    }


def _student_identity(config: StudentConfig, whole: Any, run: str | None) -> Any:
    if run is not None:
        return {"run": run}
    own = {name: value for name, value in plain(config).items() if name != "run" and value is not None}
    return {"of": whole, "student": own}


def _contents_of_files(config: Any) -> dict[str, Any]:
    """Key -> content hash, of those keys of a config object that name a file."""
    files = (item.name for item in dataclasses.fields(config) if item.metadata.get("file"))
    return {name: file_identity(path) for name in files if (path := getattr(config, name)) is not None}


def evaluation_key(config: RunConfig, data: PlannedData, name: str, modules: Mapping[str, str]) -> str:
    """Identity of one evaluation: its data and the modules in the model, by role."""
    about = {"modules": dict(modules), "precision": config.train.precision}
    return digest({**evaluated_identity(data, name), **about})


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
    identity = HeldOut(data.config, seed=0).identity()
    if data.config.sampling.by == "size":
        identity["sampling"] = plain(data.config.sampling)
    for part in ("sources", "validation", "excluded"):
        identity[part] = {name: source_identity(source) for name, source in data.part(part).items()}
    return identity


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


def _model_identity(config: RunConfig, model_run: str | None) -> Any:
    held = {
        name: value
        for name, value, usual in (
            ("dtype", config.model.dtype, "float32"),
            ("quantise", config.model.quantise, None),
            ("dropout", config.model.dropout, None),
            ("new_languages", dict(config.model.new_languages), {}),
        )
        if value != usual
    }
    if model_run is not None:
        return {"run": model_run, **held}
    if config.model.random is not None:
        tokens = parallel_languages(config.data)  # the vocabulary has one for each
        return {"random": plain(config.model.random), **({"languages": tokens} if tokens else {}), **held}
    assert config.model.path is not None
    return {"content": model_identity(config.model.path, config.model.revision), **held}
