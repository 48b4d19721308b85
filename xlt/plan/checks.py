"""Finds faults of a run's config and modules before any training; those of its model are in `model_checks`."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

from xlt.config import LanguageModulesConfig, RunConfig
from xlt.config.data import TASK
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
from xlt.languages import near_languages
from xlt.modules import ModuleArtefact, ModuleFileError, ModuleHeader, load_module, same_base
from xlt.modules.adapter import Adapter
from xlt.modules.generator import Generator
from xlt.modules.sparse_delta import is_head
from xlt.plan.leavings import fresh_fault
from xlt.repositories import module_path


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
        if key == "start.path" and not is_head(module):
            if not method_class(config.method).starts_from_modules:
                lines.append(f"{key}={path}: {fresh_fault(config)}")
            elif not isinstance(module, (Adapter, Generator)):
                lines.append(
                    f"{key}={path}: {module.header} is no adapter and no head, from which alone runs can start"
                )
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
    """Returns a line if the run's method cannot learn in so many processes, or on several devices."""
    method, micro_batches = build_method(config.method), config.train.micro_batch_size is not None
    fault = method.division_fault(processes, micro_batches=micro_batches)
    lines = [] if fault is None else [fault]
    if "+" in config.device:
        if processes > 1:
            lines.append(f"device={config.device}: {processes} processes share this run; give each a GPU of its own")
        if config.model.student is not None:
            lines.append(f"device={config.device}: a student is trained on one device; give device=cuda:0")
        elif not method.spreads:
            lines.append(
                f"device={config.device}: method={method.name} needs the whole model on one device; lora, ia3, "
                "spiel_ag and spiel_ma can be trained on several"
            )
    return lines


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
    if getattr(method, "leaves_head", False) and not task.has_head:
        return [f"method {method_name(config.method)}: task {task_name(config.task)} has no head of its own to train"]
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
