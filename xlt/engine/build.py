"""Builds the parts of a run from its config: data first, because that is where users' mistakes are, the model last."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from hydra.utils import get_class

from xlt.config import DataConfig, RunConfig, SourceConfig, UsageError
from xlt.data.encoding import Encoder
from xlt.data.examples import Example
from xlt.data.mix import LoadedSource
from xlt.data.sources import read_source
from xlt.data.streams import stream, stream_seed
from xlt.methods.method import Method
from xlt.models.loading import load_pretrained, load_tokenizer, random_pretrained
from xlt.models.transfer import TransferModel
from xlt.models.vocabulary import train_tokenizer
from xlt.tasks.task import Task


@dataclass(frozen=True, eq=False)
class ReadSource:
    """A source's examples, read and checked, not yet tokenised."""

    name: str
    config: SourceConfig
    examples: list[Example]


@dataclass(frozen=True)
class ReadData:
    """All data of a run by the part it plays."""

    sources: list[ReadSource]
    validation: list[ReadSource]
    evaluation: list[ReadSource]


def build_task(config: Any) -> Task:
    """The task of a run, from its config's values."""
    return _instance(config)


def build_method(config: Any) -> Method:
    """The method of a run, from its config's values."""
    return _instance(config)


def read_data(config: RunConfig, task: Task) -> ReadData:
    """Reads every source of a run and lets the task check it, before any model is loaded.

    Raises:
        UsageError: what is wrong with the sources, a line for each broken one.
    """
    faults: list[str] = []
    read: dict[str, list[ReadSource]] = {}
    for part in ("sources", "validation", "evaluation"):
        read[part] = []
        for name, source in getattr(config.data, part).items():
            try:
                examples = read_source(f"data.{part}.{name}", source, config.seed)
                task.check(examples, f"data.{part}.{name}")
                read[part].append(ReadSource(name, source, examples))
            except UsageError as error:
                faults += error.lines
    if faults:
        raise UsageError(*faults)
    data = ReadData(**read)
    return data if data.validation else _held_out(data, config.data, config.seed)


def _held_out(data: ReadData, config: DataConfig, seed: int) -> ReadData:
    """Moves a seeded share of every training source to validation (thesis §4.4.2: 5% of the corpus)."""
    sources, validation = [], []
    for source in data.sources:
        count = len(source.examples)
        held = max(1, round(config.held_out_fraction * count))
        if held >= count:
            raise UsageError(
                f"data.sources.{source.name}: {count} examples are too few to hold some out for validation"
            )
        order = torch.randperm(count, generator=stream(seed, "held-out", source.name)).tolist()
        kept = sorted(order[held:])
        sources.append(dataclasses.replace(source, examples=[source.examples[i] for i in kept]))
        validation.append(dataclasses.replace(source, examples=[source.examples[i] for i in sorted(order[:held])]))
    return ReadData(sources, validation, data.evaluation)


def build_encoder(config: RunConfig, model_path: str | None, data: ReadData) -> Encoder:
    """The model's tokenizer, or one trained on the run's own sources where the model starts from nothing."""
    if model_path is not None:
        return Encoder(load_tokenizer(model_path, config.model.revision))
    assert config.model.random is not None
    lines = (
        example.text if example.text is not None else " ".join(example.words or ())
        for source in data.sources
        for example in source.examples
    )
    return Encoder(train_tokenizer(lines, config.model.random.vocabulary))


def load(sources: list[ReadSource], task: Task, encoder: Encoder) -> list[LoadedSource]:
    """Tokenises sources into the task's features."""
    return [
        LoadedSource(
            source.name, source.config.language, task.features(source.examples, encoder), source.config.upsample
        )
        for source in sources
    ]


def build_model(config: RunConfig, model_path: str | None, task: Task, encoder: Encoder) -> TransferModel:
    """The pre-trained model with the task's head, drawn from the seed: the same at every call.

    Raises:
        UsageError: model and task do not fit.
    """
    if model_path is not None:
        model = load_pretrained(model_path, config.model.revision)
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
    if not task.needs_lm_head:
        model.lm_head = None
    elif model.lm_head is None:
        raise UsageError(f"model.path={model.base_name}: no language-model head, which task {task.name} needs")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(config.seed, "head"))
        model.head = task.head(model.hidden_size)
    return model.to(device_of(config))


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
