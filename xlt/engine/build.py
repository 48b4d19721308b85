"""Builds the parts of a run from its config."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from hydra.utils import get_class

from xlt.config import RunConfig
from xlt.data.encoding import Encoder
from xlt.data.sources import parallel_languages
from xlt.data.streams import stream_seed
from xlt.data.words import word_spans
from xlt.engine.distillation import Distillation
from xlt.engine.run_data import RunData
from xlt.errors import UsageError
from xlt.methods.method import HEAD, Method
from xlt.models.families import ENCODER_DECODER, architecture, longest_input, writing_fault
from xlt.models.language_tokens import add_language_tokens, initialise_language_embeddings
from xlt.models.loading import load_pretrained, load_tokenizer, random_pretrained
from xlt.models.quantised import quantise_blocks, round_to_nf4
from xlt.models.spreading import spread_blocks
from xlt.models.student import Widening, count_blocks, kept_blocks, make_student
from xlt.models.transfer import TransferModel, parameter_report, recompute_activations
from xlt.models.vocabulary import train_tokenizer
from xlt.models.vocabulary_reduction import (
    compare_segmentation,
    count_tokens,
    frequent_tokens,
    piece_map,
    reduce_vocabulary,
)
from xlt.modules import ModuleArtefact, SparseDelta
from xlt.tasks.task import Task


def task_class(config: Any) -> type[Task]:
    """The class of a run's task; what is a fact of the class is read here, without building a task."""
    return _class_of(config)


def method_class(config: Any) -> type[Method]:
    """The class of a run's method; what is a fact of the class is read here, without building a method."""
    return _class_of(config)


def task_name(config: Any) -> str:
    """The name of a run's task: its config's where it has one, else its class's."""
    return task_class(config).name_of(config)


def method_name(config: Any) -> str:
    """The name of a run's method, as in module headers and tables."""
    return method_class(config).name_of(config)


def task_configs(config: Any) -> dict[str, Any]:
    """Returns name -> config of each task of a run; a run of one task has one."""
    return task_class(config).configs(config)


def build_task(config: Any) -> Task:
    """Builds the task of a run from its config."""
    return _instance(config)


def build_method(config: Any) -> Method:
    """Builds the method of a run from its config."""
    return _instance(config)


def build_encoder(config: RunConfig, model_path: str | None, data: RunData) -> Encoder:
    """Loads the model's tokenizer, or trains one on the run's sources if the model starts from random weights.

    A loaded tokenizer gets tokens for the config's new languages, a trained one for the languages of all parallel text.

    Raises:
        UsageError: the tokenizer cannot be loaded, or the related language of a new one has no token.
    """
    if model_path is not None:
        tokenizer = _tokenizer(config, model_path)
        add_language_tokens(tokenizer, config.model.new_languages)
        return Encoder(tokenizer)
    assert config.model.random is not None
    tokenizer = train_tokenizer(data.lines(), config.model.random.vocabulary)
    add_language_tokens(tokenizer, dict.fromkeys(parallel_languages(config.data)))
    return Encoder(tokenizer)


def build_model(
    config: RunConfig, model_path: str | None, task: Task, encoder: Encoder, *, trains: bool
) -> TransferModel:
    """Builds the pre-trained model with the task's head, which is initialised from the seed.

    Args:
        config: of the run.
        model_path: folder or hub id; None for a model with random weights.
        task: its head is added to the model.
        encoder: the tokenizer.
        trains: whether the model is trained. If so, a 4-bit base stays in 4 bits; otherwise its layers are made dense
            again, so that modules can be written into them.
    Raises:
        UsageError: model and task do not fit together.
    """
    if model_path is not None:
        model = _load(config, model_path, needs_head=task.needs_lm_head)
    else:
        assert config.model.random is not None
        model = random_pretrained(config.model.random, encoder.tokenizer, stream_seed(config.seed, "weights"))
    model = _with_head(config, model, task, encoder)
    if config.model.quantise is not None:
        (quantise_blocks if trains else round_to_nf4)(model)
    if trains and config.train.activation_checkpointing:
        recompute_activations(model)
    return model


@dataclass(frozen=True)
class NewStudent:
    """A student before training.

    Attributes:
        encoder: its tokenizer.
        model: with the task's head.
        report: its sizes, and how many words its reduced vocabulary segments differently in the validation text.
    """

    encoder: Encoder
    model: TransferModel
    report: dict[str, int]


def build_student(config: RunConfig, model_path: str, task: Task, data: RunData) -> NewStudent:
    """Builds the student of a pre-trained model for the languages of the run's sources (thesis §5.3.2).

    Raises:
        UsageError: the teacher's layers cannot be reduced as configured, or model and task do not fit together.
    """
    settings = config.model.student
    assert settings is not None
    tokenizer = _tokenizer(config, model_path)
    by_language: dict[str, list[str]] = {}
    for name, source in data.sources("sources").items():
        by_language.setdefault(source.language, []).append(name)
    counts = [count_tokens(tokenizer, data.lines(names)) for names in by_language.values()]
    frequent = frequent_tokens(counts, settings.token_probability)
    reduced, kept = reduce_vocabulary(tokenizer, frequent, characters=settings.characters)
    teacher = _load(config, model_path, needs_head=task.needs_lm_head)
    blocks = kept_blocks(count_blocks(teacher), settings.layer_reduction)
    seed = stream_seed(config.seed, "weights")
    student = make_student(teacher, blocks, kept, copies=settings.copies, seed=seed, hidden=settings.hidden_size)
    widening = student.head
    encoder = Encoder(reduced)
    segmentation = compare_segmentation(tokenizer, reduced, kept, data.lines(part="validation"), word_spans)
    report = {
        **parameter_report(student),
        "teacher_parameters": parameter_report(teacher)["parameters"],
        "teacher_tokens": len(tokenizer),
        "tokens": len(kept),
        "words": segmentation.words,
        "words_cut_otherwise": segmentation.changed,
        "words_made_unknown": segmentation.unknown,
    }
    model = _with_head(config, student, task, encoder)
    if config.teacher.losses and model.head is None:
        model.head = widening
        model.to(device_of(config))
    if config.train.activation_checkpointing:
        recompute_activations(model)
    return NewStudent(encoder, model, report)


def build_teacher(
    config: RunConfig,
    model_path: str,
    task: Task,
    encoder: Encoder,
    student: TransferModel,
    distilled: ModuleArtefact | None,
) -> tuple[TransferModel, Task]:
    """Builds the frozen teacher and the task of learning from it.

    Args:
        config: of the run.
        model_path: folder or hub id of the teacher.
        task: that the student learns.
        encoder: the student's tokenizer.
        student: the student.
        distilled: module of the run that made the student; None if this run makes it.
    Raises:
        UsageError: the teacher does not have the student's tokens, or their numbers of layers do not fit together.
    """
    settings = config.teacher
    tokenizer = _tokenizer(config, model_path)
    teacher = _load(config, model_path, needs_head=False)
    pieces = piece_map(encoder.tokenizer, tokenizer)
    layers = count_blocks(student)
    if count_blocks(teacher) % layers:
        raise UsageError(
            f"model.student: the student has {layers} layers, which do not divide the teacher's {count_blocks(teacher)}"
        )
    teacher.lm_head = None
    if settings.knows_task:
        teacher.head = task.head(teacher.hidden_size)
    teacher.to(device=device_of(config), dtype=getattr(torch, settings.dtype))
    teacher.requires_grad_(False).eval()
    widening = None
    if distilled is not None and student.hidden_size != teacher.hidden_size:
        assert isinstance(distilled, SparseDelta)
        widening = Widening(distilled.tensors[f"{HEAD}weight"]).to(device_of(config)).requires_grad_(False)
    return teacher, Distillation(task, teacher, layers, pieces, settings.losses, widening)


def _tokenizer(config: RunConfig, model_path: str) -> Any:
    return load_tokenizer(model_path, config.model.revision, trust_remote_code=config.model.trust_remote_code)


def _load(config: RunConfig, model_path: str, *, needs_head: bool) -> TransferModel:
    def with_new_languages(pretrained: Any) -> None:
        tokenizer = _tokenizer(config, model_path)
        added = add_language_tokens(tokenizer, config.model.new_languages)
        initialise_language_embeddings(pretrained, tokenizer, config.model.new_languages, added)

    prepare = with_new_languages if config.model.new_languages else lambda _: None
    dtype = getattr(torch, config.model.dtype)
    return load_pretrained(
        model_path,
        config.model.revision,
        dtype,
        prepare,
        config.model.dropout,
        head_seed=stream_seed(config.seed, "lm_head") if needs_head else None,
        trust_remote_code=config.model.trust_remote_code,
    )


def _with_head(config: RunConfig, model: TransferModel, task: Task, encoder: Encoder) -> TransferModel:
    """Adds the task's head, initialised from the run's seed, and moves the model to the device of the run."""
    with_head(model, task, encoder, seed=stream_seed(config.seed, "head"))
    place_model(model, config.device)
    return model


def with_head(model: TransferModel, task: Task, encoder: Encoder, *, seed: int) -> None:
    """Adds the task's head to a pre-trained model, and removes what the task does not use.

    Args:
        model: is changed.
        task: the task.
        encoder: the tokenizer.
        seed: from which the head is initialised.
    Raises:
        UsageError: model and task do not fit together.
    """
    positions = longest_input(model.backbone.config)
    for key, length in task.lengths().items():
        if length > positions:
            raise UsageError(f"{key}={length}: model {model.base_name} has {positions} positions; set at most that")
    kind = architecture(model.backbone.config)
    if (fault := task.architecture_fault(kind)) is not None:
        raise UsageError(f"task={task.name}: model {model.base_name} {fault}")
    if task.needs_lm_head and (fault := writing_fault(model.backbone.config)) is not None:
        raise UsageError(f"model.path={model.base_name}: {fault}")
    task.check_tokenizer(encoder)
    if kind == ENCODER_DECODER and not task.needs_lm_head:
        model.keep_encoder()
    if len(encoder.tokenizer) > model.vocabulary:
        raise UsageError(
            f"model.path={model.base_name}: the tokenizer has {len(encoder.tokenizer)} entries, "
            f"but the model's embeddings have only {model.vocabulary}; use the model's own tokenizer"
        )
    if encoder.typed and getattr(model.backbone.config, "type_vocab_size", 2) == 1:
        raise UsageError(
            f"model.path={model.base_name}: the tokenizer gives the texts of a pair two type ids, but the model has "
            "one; use the model's own tokenizer"
        )
    if not task.needs_lm_head:
        model.lm_head = None
    elif model.lm_head is None:
        raise UsageError(
            f"model.path={model.base_name}: the model has no language-model head, which task {task.name} needs"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model.head = task.head(model.hidden_size)


def place_model(model: TransferModel, name: str) -> None:
    """Moves a model to the device of a name, or its blocks to several; raises as `devices_named` does."""
    devices = devices_named(name)
    if len(devices) > 1:
        spread_blocks(model, devices)
    else:
        model.to(devices[0])


def device_of(config: RunConfig) -> torch.device:
    """Returns the configured device, of several the first; raises as `devices_named` does."""
    return devices_named(config.device)[0]


def devices_named(name: str) -> list[torch.device]:
    """Returns the devices of a name: cpu, cuda, cuda:N, auto, or several GPUs as in cuda:0+cuda:1.

    Raises:
        UsageError: the name says CUDA, but there is none, or not this one.
    """
    if name == "auto":
        return [torch.device("cuda" if torch.cuda.is_available() else "cpu")]
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"device={name}: this machine has no CUDA device; use device=cpu")
    devices = [torch.device(part) for part in name.split("+")]
    count = torch.cuda.device_count()
    if any(device.type == "cuda" and (device.index or 0) >= count for device in devices):
        raise UsageError(f"device={name}: this machine has {count} CUDA devices, which are numbered from cuda:0")
    return devices


def _class_of(config: Any) -> Any:
    """The class that the config's schema names; the config itself cannot name another one, as composition checks."""
    schema_default = getattr(type(config), "_target_", None)
    if config._target_ != schema_default:
        raise UsageError(f"_target_={config._target_}: the schema says {schema_default}; a config cannot name another")
    return get_class(config._target_)


def _instance(config: Any) -> Any:
    values: Mapping[str, Any] = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    arguments = {name: _parts(value) for name, value in values.items() if name != "_target_"}
    return _class_of(config)(**arguments)


def _parts(value: Any) -> Any:
    """Builds the objects of a mapping whose values are configs of objects, such as the tasks of a run of several."""
    if not isinstance(value, Mapping) or not value or not all(hasattr(part, "_target_") for part in value.values()):
        return value
    return {name: _instance(part) for name, part in value.items()}
