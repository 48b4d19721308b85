"""Finds faults of a run's base model before any training: from its config and the headers of its files."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from xlt.config import ModelConfig, RunConfig
from xlt.data.encoding import Encoder
from xlt.data.sources import parallel_languages
from xlt.engine.build import build_method, build_task, task_class, task_name
from xlt.errors import UsageError
from xlt.models.checkpoint import expanded, load_config
from xlt.models.families import (
    ENCODER,
    ENCODER_DECODER,
    TRANSLATOR,
    architecture,
    built_in_languages,
    family_fault,
    longest_input,
    writing_fault,
)
from xlt.models.language_tokens import add_language_tokens
from xlt.models.loading import CheckpointReport, inspect_checkpoint, load_tokenizer, skeleton
from xlt.models.narrowing import Width
from xlt.models.quantised import check_quantisable
from xlt.models.student import kept_blocks
from xlt.models.transfer import TransferModel
from xlt.models.vocabulary import train_tokenizer

_X_MOD = "xmod"  # the one type of model whose languages matter; see `built_in_languages`
_NO_WORD = 300  # size of a vocabulary that has all bytes but no words


def model_faults(config: RunConfig, model_run: RunConfig | None, languages: Sequence[str] = ()) -> list[str]:
    """Returns the reasons why the run cannot use its base model; a line each.

    Possible reasons: the model is missing, its architecture is not one for the task, its tokenizer lacks what the task
    needs, it has too few positions, no token for a language, or nothing that the method could train, or its layers
    cannot be reduced as the student's settings require.

    Args:
        config: of the run.
        model_run: config of the run that makes the base model, of several the first one; None if no run does.
        languages: ISO 639-3 codes that the model needs tokens for, if the task translates.
    """
    made_by = config if model_run is None or config.model.path is not None else model_run
    random = made_by.model.random
    task = build_task(config.task)
    if random is not None:
        if task.translates and random.architecture != TRANSLATOR:
            return [f"model.random.architecture={random.architecture}: task {task.name} needs {TRANSLATOR}"]
        kind = ENCODER_DECODER if random.architecture == TRANSLATOR else ENCODER
        if (fault := task.architecture_fault(kind)) is not None:
            return [f"model.random.architecture={random.architecture}: for task {task.name}: it {fault}"]
        if task.translates and (faults := _language_faults(config, made_by, languages)):
            return faults
        name, positions = "model.random", random.max_positions
        layers, width = random.layers, Width(random.hidden_size, random.heads, random.intermediate_size)
    elif made_by.model.path is not None:
        name = made_by.model.path if made_by is config else f"the model of {made_by.experiment_name}"
        try:
            given, path = made_by.model, made_by.model.path
            shape = _pretrained_config(path, given.revision, given.trust_remote_code)
            encoder = Encoder(_tokenizer(path, given.revision, given.trust_remote_code))
            if faults := list(_pretrained_faults(config, given, shape, encoder)):
                return faults
            if task.translates and made_by is config:  # a run's model has tokens for the languages of its data, too
                encoder = Encoder(copy.deepcopy(encoder.tokenizer))
                add_language_tokens(encoder.tokenizer, config.model.new_languages)
                task.check_languages(encoder, languages)
        except UsageError as error:
            return error.lines
        kind, positions = architecture(shape), longest_input(shape)
        layers = int(getattr(shape, "num_hidden_layers", 0))
        heads, inner = (int(getattr(shape, key, 0)) for key in ("num_attention_heads", "intermediate_size"))
        width = Width(shape.hidden_size, heads, inner)
    else:
        return []
    lines = [
        f"{key}={length}: {name} has {positions} positions; give {key}={positions} or less"
        for key, length in task.lengths().items()
        if length > positions
    ]
    if config.model.student is not None:
        if kind == ENCODER_DECODER:
            lines.append(f"model.student: {name} is an encoder-decoder, of which no student can be made")
            return lines
        if made_by is not config and made_by.model.student is not None:
            return lines  # the layers are those of a student
        try:
            kept_blocks(layers, config.model.student.layer_reduction)
            if config.model.student.hidden_size is not None:
                width.narrowed(config.model.student.hidden_size)
        except UsageError as error:
            lines += error.lines
    return lines


def block_count(config: RunConfig, made_by: RunConfig) -> int | None:
    """Returns how many blocks the base model of a run has; None for a student, or if nothing on disk says it.

    Args:
        config: of the run.
        made_by: config of the run that made the base model first; that of the run itself if no run did.
    """
    if config.model.student is not None or made_by.model.student is not None:
        return None
    if made_by.model.random is not None:
        return made_by.model.random.layers
    try:
        given = made_by.model
        shape = _pretrained_config(str(given.path), given.revision, given.trust_remote_code)
    except UsageError:  # `model_faults` says it
        return None
    return getattr(shape, "num_hidden_layers", None)


def _pretrained_faults(config: RunConfig, base: ModelConfig, shape: Any, encoder: Encoder) -> Iterator[str]:
    """Yields a line for each reason why task and method cannot use a pre-trained model.

    Args:
        config: of the run.
        base: settings of the pre-trained model, which another run may have trained since.
        shape: the model's transformers config.
        encoder: the model's tokenizer.
    """
    task, method, path = build_task(config.task), build_method(config.method), str(base.path)
    kind = architecture(shape)
    if (fault := family_fault(shape)) is not None:
        yield f"model.path={path}: {fault}"
        return
    if (fault := task.architecture_fault(kind)) is not None:
        yield f"task={task.name}: the model ({shape.model_type}, model.path={path}) {fault}"
        return
    if task.translates and shape.model_type != TRANSLATOR:
        yield f"model.path={path}: {shape.model_type} is no translator that xlt knows; take NLLB or another M2M-100"
        return
    if task.needs_lm_head and (fault := writing_fault(shape)) is not None:
        yield f"model.path={path}: {fault}"
    try:
        task.check_tokenizer(encoder)
    except UsageError as error:
        yield from error.lines
    if kind == ENCODER_DECODER and not task.needs_lm_head and method.leaves_checkpoint:
        yield (
            f"method={method.name}: task {task.name} uses the encoder of {shape.model_type} alone, so that no whole "
            "model would be left; take a method that leaves a module, such as full"
        )
    if base is config.model:  # a run that trained it further has been checked by itself
        wrong = _checkpoint(path, base.revision, base.trust_remote_code, task.needs_lm_head).faults
        yield from wrong
        if wrong:
            return
    if config.model.student is None and base.student is None:
        yield from _adaptation_faults(config, base)


def network_faults(config: RunConfig) -> list[str]:
    """Returns a line for each language of a run's data for which its model, an X-MOD, has no network."""
    if config.model.path is None or _named_type(config.model.path) not in (None, _X_MOD):
        return []
    try:
        model = config.model
        own = built_in_languages(_pretrained_config(config.model.path, model.revision, model.trust_remote_code))
    except UsageError:  # `model_faults` says it
        return []
    if own is None:
        return []
    parts = (config.data.sources, config.data.validation, config.data.evaluation)
    languages = {source.language for part in parts for source in part.values()}
    if config.data.sampling.mixed_batches and len({source.language for source in config.data.sources.values()}) > 1:
        return [
            f"data.sampling.mixed_batches=true: model.path={config.model.path} has a network for each language, so "
            "that a batch must be in one; give false"
        ]
    return [
        f"model.path={config.model.path}: the model has no network for language {language}; it has one for each of "
        f"{', '.join(sorted(own))}"
        for language in sorted(languages - own.keys())
    ]


def _adaptation_faults(config: RunConfig, base: ModelConfig) -> list[str]:
    """Returns why the method cannot train a pre-trained model, as far as the model's modules tell."""
    task, method = build_task(config.task), build_method(config.method)
    try:
        trusted = base.trust_remote_code
        model = _skeleton(str(base.path), base.revision, trusted, task.needs_lm_head)
        if config.model.quantise is not None:
            check_quantisable(model)
        method.check_model(model, adapts_language=task.adapts_language)
    except UsageError as error:
        return error.lines
    except (NotImplementedError, RuntimeError):  # a family that cannot run without weights; `attach` checks it again
        pass
    return []


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


@lru_cache(maxsize=8)
def _skeleton(path: str, revision: str | None, trust_remote_code: bool, needs_lm_head: bool) -> TransferModel:
    """Builds a model as a task uses it, without weights; see `skeleton`. Nobody may change it."""
    shape = _pretrained_config(path, revision, trust_remote_code)
    model = skeleton(shape, path, needs_head=needs_lm_head, trust_remote_code=trust_remote_code)
    if model.decodes and not needs_lm_head:
        model.keep_encoder()
    if not needs_lm_head:
        model.lm_head = None
    return model


@lru_cache(maxsize=32)
def _pretrained_config(path: str, revision: str | None, trust_remote_code: bool) -> Any:
    """Loads the transformers config of a pre-trained model; see `load_config`. Nobody may change it."""
    return load_config(path, revision, trust_remote_code=trust_remote_code)


@lru_cache(maxsize=32)
def _named_type(path: str) -> str | None:
    """Returns the type of model that config.json of a local folder names, without transformers; None if it does not."""
    try:
        content = json.loads((Path(expanded(path)) / "config.json").read_text(encoding="utf-8"))
        named = content.get("model_type")
    except (OSError, ValueError, AttributeError):
        return None
    return named if isinstance(named, str) else None


@lru_cache(maxsize=4)
def _tokenizer(path: str, revision: str | None, trust_remote_code: bool) -> Any:
    """Loads the tokenizer of a pre-trained model; see `load_tokenizer`. Nobody may change it."""
    return load_tokenizer(path, revision, trust_remote_code=trust_remote_code)


@lru_cache(maxsize=32)
def _checkpoint(path: str, revision: str | None, trust_remote_code: bool, needs_head: bool) -> CheckpointReport:
    """Compares a checkpoint's tensors with its config; see `inspect_checkpoint`."""
    shape = _pretrained_config(path, revision, trust_remote_code)
    return inspect_checkpoint(path, revision, shape, needs_head=needs_head, trust_remote_code=trust_remote_code)


def model_notes(config: RunConfig) -> list[str]:
    """Returns lines for the user about a usable base model: that its language-model head is drawn from the seed."""
    model = config.model
    if model.path is None or not task_class(config.task).needs_lm_head:
        return []
    if not _checkpoint(model.path, model.revision, model.trust_remote_code, True).draws_head:
        return []
    return [
        f"model.path={model.path}: the checkpoint has no language-model head; runs of task {task_name(config.task)} "
        f"draw one from seed={config.seed}"
    ]
