"""Finds faults of a run's config, model and modules before any training, without loading weights."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from xlt.config import LanguageModulesConfig, ModelConfig, RunConfig
from xlt.config.data import TASK
from xlt.data.encoding import Encoder
from xlt.data.sources import parallel_languages
from xlt.engine.build import (
    build_method,
    build_task,
    method_class,
    method_name,
    task_class,
    task_configs,
    task_name,
)
from xlt.engine.export import module_header
from xlt.errors import UsageError
from xlt.languages import near_languages
from xlt.models.checkpoint import load_config
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
from xlt.modules import ModuleArtefact, ModuleFileError, ModuleHeader, load_module, same_base
from xlt.modules.adapter import Adapter
from xlt.modules.generator import Generator
from xlt.repositories import module_path

_NO_WORD = 300  # size of a vocabulary that has all bytes but no words


def task_module_faults(path: str) -> list[str]:
    """Returns why a file is no task module: it is damaged, or a language module; a line each."""
    try:
        header = load_module(module_path(path)).header
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
            header = load_module(module_path(path)).header
        except ModuleFileError as error:
            lines.append(str(error))
            continue
        if header.language is None and header.task is not None:
            lines.append(f"{path}: a module of task {header.task}, wanted the language module of {language}")
        elif header.language not in (None, language):
            lines.append(_other_language(path, header.language, language))
    return lines


def user_file_faults(config: RunConfig) -> list[str]:
    """Returns why module files of the user cannot be used together, or by the run's method; a line for each fault.

    Files that are missing or damaged are left to `module_faults`, except those of `start.path` and `teacher.path`.
    """
    headers: dict[str, ModuleHeader] = {}
    lines = []
    for key, path in _user_files(config).items():
        try:
            module = load_module(module_path(path))
        except ModuleFileError as error:
            if key in ("start.path", "teacher.path"):
                lines.append(f"{key}={error}")
            continue
        headers[key] = module.header
        if key == "teacher.path" and (fault := module.whole_fault()) is not None:
            lines.append(f"{key}={path}: {module.header}: {fault}, so that it is no teacher's")
        if key.startswith("task_modules.paths.") and (fault := _fault_for_examples(module, config)) is not None:
            lines.append(f"{key}={path}: {fault}")
        if key == "start.path" and not isinstance(module, (Adapter, Generator)):
            lines.append(f"{key}={path}: {module.header} is no adapter, from which alone a method can start")
    if config.model.student is not None:  # a student starts from a module of its own model, not of its teacher's
        headers.pop("start.path", None)
    first = next(iter(headers), "")
    lines += [
        f"{key}={_user_files(config)[key]}: is for the base model {header.base_model} ({header.base_hash:.12}), but "
        f"{first} is for {headers[first].base_model} ({headers[first].base_hash:.12}); all must be for one base model"
        for key, header in headers.items()
        if not same_base(header.base_hash, headers[first].base_hash)
    ]
    return lines


def _fault_for_examples(module: ModuleArtefact, config: RunConfig) -> str | None:
    """Returns why a module cannot be used for the examples of an evaluation source; None if it can be for all."""
    if module.whole_fault() is None:
        return None
    for name, source in config.data.evaluation.items():
        try:
            module.for_features(**source.features_of_examples(task_name(config.task)))
        except ValueError as error:
            return f"for data.evaluation.{name}: {error}"
    return None


def _user_files(config: RunConfig) -> dict[str, str]:
    """Returns key -> path, for all module files of the user that a run applies to its base model."""
    files = {f"language_modules.paths.{language}": path for language, path in config.language_modules.paths.items()}
    files |= {f"task_modules.paths.{name}": path for name, path in config.task_modules.paths.items()}
    files |= {f"evaluation.paths.{name}": path for name, path in config.evaluation.paths.items()}
    given = {"start.path": config.start.path, "teacher.path": config.teacher.path}
    return files | {key: path for key, path in given.items() if path is not None}


def division_faults(config: RunConfig, processes: int) -> list[str]:
    """Returns a line if the run's method cannot learn in so many processes."""
    method, micro_batches = build_method(config.method), config.train.micro_batch_size is not None
    return [fault] if (fault := method.division_fault(processes, micro_batches=micro_batches)) is not None else []


def package_faults(config: RunConfig, *, trains: bool) -> list[str]:
    """Returns a line for each optional package that the run's method or model needs and that is not installed.

    Args:
        config: of the run.
        trains: whether the run is to be trained, not only to be evaluated, for which no method is needed.
    """
    packages = method_class(config.method).packages if trains else {}
    wanted = [(f"method={method_name(config.method)}", *pair) for pair in packages.items()]
    if config.model.quantise is not None:
        wanted.append((f"model.quantise={config.model.quantise}", "bitsandbytes", "4bit"))
    return [
        f"{key}: the package {package} is not installed; run pip install 'xlt[{extra}]'"
        for key, package, extra in wanted
        if importlib.util.find_spec(package) is None
    ]


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
            encoder = Encoder(load_tokenizer(path, given.revision, trust_remote_code=given.trust_remote_code))
            if faults := list(_pretrained_faults(config, given, shape, encoder)):
                return faults
            if task.translates and made_by is config:  # a run's model has tokens for the languages of its data, too
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
    if config.model.path is None:
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
    if faults := list(_task_faults(config)):  # the lines below would only repeat them
        return faults
    if faults := [*_feature_faults(config), *_weight_faults(config), *_mixing_faults(config)]:
        return faults
    if config.teacher.losses and config.teacher.knows_task and config.teacher.path is None:
        learned = [source.features_of_examples(task_name(config.task)) for source in config.data.sources.values()]
        if (fault := build_method(config.method).whole_fault(learned)) is not None:
            name = method_name(config.method)
            return [f"teacher.knows_task=true: method {name}: {fault}, so that its module is no teacher's; give false"]
    if (config.start.path is not None or config.start.run is not None) and not method.starts_from_modules:
        name = method_name(config.method)
        return [f"start: method {name} begins with fresh values; leave start out, or take an adapter method"]
    if config.train.averaging != "none" and not method.averages:
        return [
            f"train.averaging={config.train.averaging}: method {method_name(config.method)} changes which entries it "
            "trains, so that the weights of several steps have no mean; give none"
        ]
    if (most := config.train.max_steps) is not None and (fault := build_method(config.method).steps_fault(most)):
        return [fault]
    if config.language is not None and not task.adapts_language:
        return [
            f"language={config.language}: task {task_name(config.task)} leaves a task module; "
            "leave language out, or learn a language module with experiment=language"
        ]
    return []


def _task_faults(config: RunConfig) -> Iterator[str]:
    """Yields a line for each source that names no task of a run of several, and for what such a run cannot do."""
    task = build_task(config.task)
    names = [name for name, one in task_configs(config.task).items() if one is not config.task]
    if not names:
        return
    there: dict[str, set[str]] = {}
    for part in ("sources", "validation", "evaluation"):
        for name, source in getattr(config.data, part).items():
            named = source.features.get(TASK)
            there.setdefault(part, set()).add(named or "")
            if named not in names:
                given = "not named" if named is None else f"{named}: not among the tasks of the run"
                yield f"data.{part}.{name}.features.task: {given}; task {task.name} has {', '.join(names)}"
    for name in names:
        if name not in there.get("sources", {name}):
            yield f"task.tasks.{name}: no source in data.sources has features.task={name}, so it would not be learned"
        if name in task_class(config.task).selecting(config.task) and name not in there.get("validation", {name}):
            yield f"task.tasks.{name}: no source in data.validation has features.task={name} to select by"
    if config.teacher.losses:
        yield f"teacher.losses: a teacher explains one task; task {task.name} has {', '.join(names)}; give teacher=none"


def _weight_faults(config: RunConfig) -> Iterator[str]:
    """Yields a line for each weight of a feature that no training source has."""
    if config.data.sampling.by != "given":
        return
    described = [source.features_of_examples(task_name(config.task)) for source in config.data.sources.values()]
    for name, weights in config.data.sampling.weights.items():
        known = sorted({one[name] for one in described if name in one})
        for value in weights:
            if value not in known:
                have = f"they have {', '.join(known)}" if known else f"none has a feature {name}"
                yield f"data.sampling.weights.{name}.{value}: no training source has this feature; {have}"


def _feature_faults(config: RunConfig) -> list[str]:
    """Returns a line for each feature of the run's examples that the method cannot learn from or be used for."""
    task = task_name(config.task)
    learned = [source.features_of_examples(task) for source in config.data.sources.values()]
    asked = {
        f"data.{part}.{name}": source.features_of_examples(task)
        for part, sources in (("validation", config.data.validation), ("evaluation", config.data.evaluation))
        for name, source in sources.items()
    } | {f"data.benchmarks.{name}": {"task": task} for name in config.data.benchmarks}
    return build_method(config.method).feature_faults(learned, asked)


def _mixing_faults(config: RunConfig) -> Iterator[str]:
    """Yields a line for each reason why a batch of the run cannot have examples in several languages."""
    languages = sorted({source.language for source in config.data.sources.values()})
    if not config.data.sampling.mixed_batches or len(languages) < 2:
        return
    key, modules = "data.sampling.mixed_batches=true", config.language_modules
    if not method_class(config.method).mixes_languages():
        yield f"{key}: method {method_name(config.method)} learns from one language at a time; give false"
    if modules.experiment is not None or modules.generator is not None or modules.paths:
        yield f"{key}: language modules are applied for batches of one language; give false, or language_modules=none"
    if config.teacher.losses:
        yield f"{key}: a teacher explains batches of one language; give false, or teacher=none"


def header_faults(config: RunConfig) -> list[str]:
    """Returns why the header of the run's module could not be written, as it is otherwise only when the run ends."""
    task, method = build_task(config.task), build_method(config.method)
    try:
        header = module_header(
            config, method, task.name, base_model="-", base_hash="-", provenance={"labels": task.labels()}
        )
        header.check_writable()
    except ValueError as error:
        key = str(error).partition("=")[0]
        named = {"task": "task.name", "method": "method.name", "language": "language"}.get(key)
        return [str(error).replace(key, named, 1) if named is not None else f"the run's module: {error}"]
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
