"""What can be found wrong with a run's model and modules without loading a weight, so before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from xlt.config import LanguageModulesConfig, RunConfig
from xlt.data.encoding import Encoder
from xlt.data.sources import parallel_languages
from xlt.engine.build import build_task
from xlt.errors import UsageError
from xlt.models.language_tokens import add_language_tokens
from xlt.models.loading import load_tokenizer
from xlt.models.narrowing import Width
from xlt.models.student import kept_blocks
from xlt.models.vocabulary import train_tokenizer
from xlt.modules import ModuleFileError, load_module

_TRANSLATOR = "m2m_100"
_NO_WORD = 300  # entries of a tokenizer that has the bytes, and tokens of languages
# Families that count positions from the padding id on: 514 positions hold 512 tokens.
_OFFSET_FAMILIES = ("roberta", "xlm-roberta", "camembert", "xlm-roberta-xl")


def task_module_faults(path: str) -> list[str]:
    """Why a file is no task module: it is damaged, or a language's."""
    try:
        header = load_module(Path(path).expanduser()).header
    except ModuleFileError as error:
        return [str(error)]
    if header.language is not None:
        return [f"{path}: a module of language {header.language}, wanted one of a task; see language_modules"]
    return []


def module_faults(config: LanguageModulesConfig) -> list[str]:
    """Module files that are damaged, no language modules, or those of another language; a line each."""
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
            lines.append(f"{path}: a module of language {header.language}, wanted {language}")
    return lines


def model_faults(config: RunConfig, model_run: RunConfig | None, languages: Sequence[str] = ()) -> list[str]:
    """A base model that is not there or does not fit the run; a line each.

    It has too few positions for the task, cannot translate or has no token of a language, or no such layers for a
    student.

    Args:
        config: of the run.
        model_run: config of the run that makes its base model, if one does.
        languages: that it is told, if the task translates.
    """
    made_by = config if model_run is None else model_run
    shape = made_by.model.random
    task = build_task(config.task)
    if shape is not None:
        if task.translates and shape.architecture != _TRANSLATOR:
            return [f"model.random.architecture={shape.architecture}: task {task.name} needs {_TRANSLATOR}"]
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
    wanted = task.max_length
    if wanted > positions:
        lines = [
            f"task.max_length={wanted}: {name} has {positions} positions; give task.max_length={positions} or less"
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
    """A language of which a translator has no token that begins with random weights; a line each."""
    tokenizer = train_tokenizer([], _NO_WORD)
    add_language_tokens(tokenizer, dict.fromkeys(parallel_languages(made_by.data)))
    try:
        add_language_tokens(tokenizer, config.model.new_languages)
        build_task(config.task).check_languages(Encoder(tokenizer), languages)
    except UsageError as error:
        return error.lines
    return []


def _shape(path: str, revision: str | None, translates: bool) -> tuple[int, int, Width]:
    """Longest input of a pre-trained model, how many blocks it has and how wide; loads its config and tokenizer.

    Raises:
        UsageError: one of them is not there or does not load, or it is to translate and cannot.
    """
    from transformers import AutoConfig

    try:
        shape = AutoConfig.from_pretrained(str(Path(path).expanduser()) if path[0] == "~" else path, revision=revision)
    except Exception as error:
        said = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UsageError(f"model.path={path}: no local folder, and the hub does not give it: {said}") from error
    if translates and not shape.is_encoder_decoder:
        raise UsageError(f"model.path={path}: {shape.model_type} is no encoder-decoder; take NLLB or another M2M-100")
    load_tokenizer(path, revision)
    positions = int(getattr(shape, "max_position_embeddings", 1 << 30))
    if shape.model_type in _OFFSET_FAMILIES:
        positions -= int(shape.pad_token_id) + 1
    inner = int(getattr(shape, "intermediate_size", 0))
    return positions, int(shape.num_hidden_layers), Width(shape.hidden_size, shape.num_attention_heads, inner)
