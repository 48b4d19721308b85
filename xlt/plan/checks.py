"""Finds faults of a run's config, model and modules before any training, without loading weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from xlt.config import LanguageModulesConfig, RunConfig
from xlt.data.encoding import Encoder
from xlt.data.sources import parallel_languages
from xlt.engine.build import build_method, build_task, method_class, method_name, task_class, task_name
from xlt.errors import UsageError
from xlt.languages import near_languages
from xlt.models.families import TRANSLATOR, longest_input
from xlt.models.language_tokens import add_language_tokens
from xlt.models.loading import load_tokenizer
from xlt.models.narrowing import Width
from xlt.models.student import kept_blocks
from xlt.models.vocabulary import train_tokenizer
from xlt.modules import ModuleFileError, load_module

_NO_WORD = 300  # size of a vocabulary that has all bytes but no words


def task_module_faults(path: str) -> list[str]:
    """Returns why a file is no task module: it is damaged, or a language module; a line each."""
    try:
        header = load_module(Path(path).expanduser()).header
    except ModuleFileError as error:
        return [str(error)]
    if header.language is not None:
        return [f"{path}: a module of language {header.language}, wanted one of a task; see language_modules"]
    return []


def module_faults(config: LanguageModulesConfig) -> list[str]:
    """Returns a line for each module file that is damaged, no language module, or of another language."""
    lines = []
    for language, path in config.paths.items():
        try:
            header = load_module(Path(path).expanduser()).header
        except ModuleFileError as error:
            lines.append(str(error))
            continue
        if header.language is None and header.task is not None:
            lines.append(f"{path}: a module of task {header.task}, wanted the language module of {language}")
        elif header.language not in (None, language):
            lines.append(_other_language(path, header.language, language))
    return lines


def _other_language(path: str, trained: str, language: str) -> str:
    """Returns the line about a file given as the module of `language` that was trained for the language `trained`."""
    line = f"{path}: a module of language {trained}, wanted {language}"
    if not near_languages(language, [trained]):
        return line
    return (
        f"{line}; if it is to stand in, give language_modules.paths.{trained} and "
        f"language_modules.stand_in.{language}={trained}"
    )


def model_faults(config: RunConfig, model_run: RunConfig | None, languages: Sequence[str] = ()) -> list[str]:
    """Returns the reasons why the run cannot use its base model; a line each.

    Possible reasons: the model is missing, has too few positions for the task, cannot translate, has no token for a
    language, or its layers cannot be reduced as the student's settings require.

    Args:
        config: of the run.
        model_run: config of the run that makes the base model; None if no run does.
        languages: ISO 639-3 codes that the model needs tokens for, if the task translates.
    """
    made_by = config if model_run is None else model_run
    shape = made_by.model.random
    task = build_task(config.task)
    if shape is not None:
        if task.translates and shape.architecture != TRANSLATOR:
            return [f"model.random.architecture={shape.architecture}: task {task.name} needs {TRANSLATOR}"]
        if task.translates and (faults := _language_faults(config, made_by, languages)):
            return faults
        name, positions = "model.random", shape.max_positions
        layers, width = shape.layers, Width(shape.hidden_size, shape.heads, shape.intermediate_size)
    elif config.model.path is not None:
        name = config.model.path
        try:
            positions, layers, width = _shape(config.model.path, config.model.revision, task.translates)
            if task.translates:
                tokenizer = load_tokenizer(config.model.path, config.model.revision)
                add_language_tokens(tokenizer, config.model.new_languages)
                task.check_languages(Encoder(tokenizer), languages)
        except UsageError as error:
            return error.lines
    else:
        return []
    lines = []
    length = task.max_length
    if length > positions:
        lines = [
            f"task.max_length={length}: {name} has {positions} positions; give task.max_length={positions} or less"
        ]
    if config.model.student is not None:
        try:
            kept_blocks(layers, config.model.student.layer_reduction)
            if config.model.student.hidden_size is not None:
                width.narrowed(config.model.student.hidden_size)
        except UsageError as error:
            lines += error.lines
    return lines


def _language_faults(config: RunConfig, made_by: RunConfig, languages: Sequence[str]) -> list[str]:
    """Returns a line for each language that a translator with random weights will have no token for."""
    tokenizer = train_tokenizer([], _NO_WORD)
    add_language_tokens(tokenizer, dict.fromkeys(parallel_languages(made_by.data)))
    try:
        add_language_tokens(tokenizer, config.model.new_languages)
        build_task(config.task).check_languages(Encoder(tokenizer), languages)
    except UsageError as error:
        return error.lines
    return []


def _shape(path: str, revision: str | None, translates: bool) -> tuple[int, int, Width]:
    """Returns a pre-trained model's longest input in tokens, number of blocks, and width.

    Args:
        path, revision: of the model; only its config and its tokenizer are loaded.
        translates: the model must be an encoder-decoder.
    Raises:
        UsageError: config or tokenizer is missing or cannot be loaded, or the model cannot translate.
    """
    from transformers import AutoConfig

    try:
        shape = AutoConfig.from_pretrained(str(Path(path).expanduser()) if path[0] == "~" else path, revision=revision)
    except Exception as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UsageError(f"model.path={path}: no local folder, and the hub does not give it: {reason}") from error
    if translates and not shape.is_encoder_decoder:
        raise UsageError(f"model.path={path}: {shape.model_type} is no encoder-decoder; take NLLB or another M2M-100")
    load_tokenizer(path, revision)
    inner = int(getattr(shape, "intermediate_size", 0))
    return (
        longest_input(shape),
        int(shape.num_hidden_layers),
        Width(shape.hidden_size, shape.num_attention_heads, inner),
    )


def contradictions(config: RunConfig) -> list[str]:
    """Returns a line for each pair of settings that cannot be combined, given the config's method and task."""
    task, method = task_class(config.task), method_class(config.method)
    languages = {source.language for source in config.data.sources.values()}
    student = config.model.student
    if student is not None and student.run is None and not method.leaves_checkpoint:
        return [
            f"model.student.run=null: method {method_name(config.method)} leaves no checkpoint; "
            "take method=pretrain, or give a run"
        ]
    if "prediction" in config.teacher.losses and not task.decides:
        name = task_name(config.task)
        return [f"teacher.losses: task {name} makes no decisions that a teacher could guide; leave out prediction"]
    if task.adapts_language and (faults := build_method(config.method).language_faults(languages)):
        return faults
    if (config.start.path is not None or config.start.run is not None) and not method.starts_from_modules:
        name = method_name(config.method)
        return [f"start: method {name} begins with fresh values; leave start out, or take an adapter method"]
    if config.language is not None and not task.adapts_language:
        return [
            f"language={config.language}: task {task_name(config.task)} leaves a task module; "
            "leave language out, or learn a language module with experiment=language"
        ]
    return []


def addition_faults(config: RunConfig) -> Iterator[str]:
    """Yields a line for each key of `task_modules` that the run cannot use, with the reason."""
    given = config.task_modules
    asked = [f"task_modules.{name}" for name in ("runs", "paths") if getattr(given, name)]
    asked += ["task_modules.evaluate_base"] if given.evaluate_base else []
    task, method = task_class(config.task), method_class(config.method)
    for name in asked:
        if task.has_head:
            head = f"task {task_name(config.task)} has a head, in each module its own"
            yield f"{name}: {head}; instruct, mlm and causal_lm have none"
        elif method.leaves_checkpoint or config.model.student is not None:
            whole = "this method" if method.leaves_checkpoint else "a student"
            yield f"{name}: {whole} leaves a model of its own, no module of the base; take a method that leaves one"
