"""Builds the parts of a run from its config."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from hydra.utils import get_class

from xlt.config import RunConfig, UsageError
from xlt.data.encoding import Encoder
from xlt.data.streams import stream_seed
from xlt.engine.run_data import RunData
from xlt.methods.method import Method
from xlt.models.loading import load_pretrained, load_tokenizer, random_pretrained
from xlt.models.quantised import quantise_blocks, through_nf4
from xlt.models.transfer import TransferModel, recompute_activations
from xlt.models.vocabulary import train_tokenizer
from xlt.tasks.task import Task


def build_task(config: Any) -> Task:
    """The task of a run, from its config's values."""
    return _instance(config)


def build_method(config: Any) -> Method:
    """The method of a run, from its config's values."""
    return _instance(config)


def build_encoder(config: RunConfig, model_path: str | None, data: RunData) -> Encoder:
    """The model's tokenizer, or one trained on the run's own sources where the model starts from nothing."""
    if model_path is not None:
        return Encoder(load_tokenizer(model_path, config.model.revision))
    assert config.model.random is not None
    return Encoder(train_tokenizer(data.lines(), config.model.random.vocabulary))


def build_model(
    config: RunConfig, model_path: str | None, task: Task, encoder: Encoder, *, trains: bool
) -> TransferModel:
    """The pre-trained model with the task's head, drawn from the seed: the same at every call.

    Args:
        trains: a 4-bit base stays in 4 bits; else its layers are dense again, for modules to be written into.
    Raises:
        UsageError: model and task do not fit.
    """
    if model_path is not None:
        model = load_pretrained(model_path, config.model.revision, getattr(torch, config.model.dtype))
    else:
        assert config.model.random is not None
        model = random_pretrained(config.model.random, encoder.tokenizer, stream_seed(config.seed, "weights"))
    positions = getattr(model.backbone.config, "max_position_embeddings", None)
    if isinstance(positions, int) and task.max_length > positions:
        raise UsageError(f"task.max_length={task.max_length}: {model.base_name} has {positions} positions")
    if len(encoder.tokenizer) > model.vocabulary:
        raise UsageError(
            f"model.path={model.base_name}: the tokenizer has {len(encoder.tokenizer)} entries, "
            f"the model's embeddings {model.vocabulary}"
        )
    if encoder.typed and getattr(model.backbone.config, "type_vocab_size", 2) < 2:
        raise UsageError(
            f"model.path={model.base_name}: the tokenizer numbers the two sequences of a pair, the model has one type"
        )
    if not task.needs_lm_head:
        model.lm_head = None
    elif model.lm_head is None:
        raise UsageError(f"model.path={model.base_name}: no language-model head, which task {task.name} needs")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(config.seed, "head"))
        model.head = task.head(model.hidden_size)
    model = model.to(device_of(config))
    if config.model.quantise is not None:
        (quantise_blocks if trains else through_nf4)(model)
    if trains and config.train.activation_checkpointing:
        recompute_activations(model)
    return model


def device_of(config: RunConfig) -> torch.device:
    """The device a run asks for.

    Raises:
        UsageError: CUDA is asked for and absent.
    """
    if config.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if config.device.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"device={config.device}: no CUDA device here; use device=cpu")
    return torch.device(config.device)


def _instance(config: Any) -> Any:
    values: Mapping[str, Any] = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    arguments = {name: value for name, value in values.items() if name != "_target_"}
    return get_class(config._target_)(**arguments)
