"""Composes a run, and from its config the runs that it needs."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from xlt.compose.composing import composed, keep, kept, one_source_per_language, with_values
from xlt.compose.instantiating import unresolved
from xlt.compose.merging import replace_content
from xlt.compose.messages import COMPOSITION_ERRORS, is_composition_error, one_line
from xlt.compose.overrides import override_faults, word_faults
from xlt.config import RunReference, SourceConfig
from xlt.errors import UsageError

# Keys whose values a run passes on to the runs that it needs.
_SETTINGS = ("data_dir", "output_dir", "device", "tracker", "launcher", "other_code")
_ADAPTATION = ("model", "method", "threads")
# Groups for which the child chooses the parent's file, so that the recipe of the child's own task applies to it. The
# child then takes over those of the parent's settings that no recipe sets.
_CHOSEN = ("model", "method")
_GENERATOR = (*_SETTINGS, "model", "threads")
_BUT_DATA = (
    *_SETTINGS,
    *_ADAPTATION,
    "experiment_name",
    "task",
    "train",
    "language_modules",
    "start",
    "target",
    "seed",
)


def compose(overrides: Sequence[str], config_name: str = "config") -> DictConfig:
    """Composes a config from overrides as on the command line; the caller may change the result.

    Raises:
        UsageError: some overrides do not fit; one line for each.
    """
    if lines := word_faults(overrides):
        raise UsageError(*lines)
    words = ("whole", config_name, *overrides)
    try:
        return kept(words) or keep(words, one_source_per_language(composed(config_name, overrides)))
    except COMPOSITION_ERRORS as error:
        if not is_composition_error(error):
            raise
        if "You must specify" in str(error):  # then no overrides compose
            raise UsageError(one_line(error)) from error
        raise UsageError(*(override_faults(overrides, config_name) or [one_line(error)])) from error


def compose_model_run(parent: DictConfig, reference: RunReference) -> DictConfig:
    """Composes the run that makes the parent's base model."""
    return _compose_child(parent, "model.run", reference.experiment, reference.overrides, _SETTINGS)


def compose_language_run(parent: DictConfig, language: str) -> DictConfig:
    """Composes the run that makes the parent's language module for one language.

    The run has the model and the method of the parent, and the recipe of its own task. It has its own method instead if
    the parent also uses a generator, or if the parent's method makes a student. Its module is always for the whole
    model, never for a student. It may start from the module that the generator makes.
    """
    reference = parent.language_modules
    overrides = [override.replace("{language}", language) for override in reference.overrides]
    makes_student = parent.model.student is not None and parent.model.student.run is None
    inherited = _SETTINGS + _ADAPTATION if reference.generator is None and not makes_student else _GENERATOR
    child = _compose_child(parent, "language_modules", reference.experiment, overrides, inherited)
    child.language = language
    child.model.student = None
    if reference.start_from_generator:
        child.start.run = reference.generator
    if language in reference.texts:
        for source in child.data.sources.values():
            source.path, source.reader, source.hub, source.files = reference.texts[language], "text", None, {}
    if language in reference.learned_from:
        _learn_from(child, list(reference.learned_from[language]))
    if reference.cap_words is not None:
        for source in child.data.sources.values():
            source.cap_words = reference.cap_words
    return child


def _learn_from(child: DictConfig, languages: Sequence[str]) -> None:
    """Replaces each training source of a language run by one for each of several languages; changes `child`."""
    given = {name: child.data.sources._get_node(name) for name in child.data.sources}
    child.data.other_languages = True
    with open_dict(child.data.sources):
        for name, source in given.items():
            del child.data.sources[name]
            for language in languages:
                own = copy.deepcopy(source)
                own.language = language
                child.data.sources[language if len(given) == 1 else f"{name}_{language}"] = own


def compose_start_run(parent: DictConfig) -> DictConfig:
    """Composes the run whose module the parent starts from: the same model, with its own method."""
    reference = parent.start.run
    return _compose_child(parent, "start.run", reference.experiment, reference.overrides, _GENERATOR)


def compose_added_run(parent: DictConfig, name: str) -> DictConfig:
    """Composes a run whose module is added to the parent's for evaluation: it differs from the parent only in data."""
    return _compose_child(parent, f"task_modules.runs.{name}", None, parent.task_modules.runs[name], _BUT_DATA)


def compose_varied_run(parent: DictConfig, name: str) -> DictConfig:
    """Composes a run whose module compositions of the parent name: the parent with other values of some keys.

    Raises:
        UsageError: an override that does not fit, or that is no value of a key.
    """
    key, words = f"evaluation.runs.{name}", list(parent.evaluation.runs[name])
    try:
        child = with_values(parent, words)
    except UsageError as error:
        raise UsageError(*(f"{key}: {line}" for line in error.lines)) from error
    except COMPOSITION_ERRORS as error:
        if not is_composition_error(error):
            raise
        raise UsageError(f"{key}: {one_line(error)}") from error
    child.evaluation.paths, child.evaluation.runs = {}, {}
    return child


def compose_generator_run(parent: DictConfig) -> DictConfig:
    """Composes the run whose generator makes the parent's language modules: the same model, with its own method."""
    reference = parent.language_modules.generator
    return _compose_child(parent, "language_modules.generator", reference.experiment, reference.overrides, _GENERATOR)


def compose_student_run(parent: DictConfig, reference: RunReference) -> DictConfig:
    """Composes the run that trains the parent's student: the same model, with its own recipe.

    Raises:
        UsageError: {source} or {target} must be replaced, but the parent has none or several of these languages.
    """
    overrides = list(reference.overrides)
    sources = sorted({source.language for source in parent.data.sources.values()})
    if any("{source}" in override for override in overrides) and len(sources) != 1:
        raise UsageError(f"model.student: made for one source language; data.sources has {', '.join(sources)}")
    if any("{target}" in override for override in overrides) and parent.target is None:
        raise UsageError("target=null: a student is made for one target language; give target=CODE")
    overrides = [o.replace("{target}", str(parent.target)).replace("{source}", sources[0]) for o in overrides]
    child = _compose_child(parent, "model.student.run", reference.experiment, overrides, _GENERATOR)
    child.model.student.run = None
    return child


def compose_teacher_run(parent: DictConfig) -> DictConfig:
    """Composes the run that makes the teacher's task module: the parent, with the whole model instead of a student."""
    child = copy.deepcopy(parent)
    child.model.student = None
    child.teacher = compose(["teacher=none"]).teacher
    return child


def compose_translator_run(parent: DictConfig, name: str, source: SourceConfig) -> DictConfig:
    """Composes the run whose model translates a source of the parent; only folders and the like are the parent's.

    Args:
        parent: the run that has the source.
        name: key of the source, for messages.
        source: a source with `translation`.
    """
    assert source.translation is not None
    reference = source.translation.run
    filled = {"{source}": source.translation.source_language, "{target}": source.language}
    overrides = list(reference.overrides)
    for placeholder, code in filled.items():
        overrides = [override.replace(placeholder, code) for override in overrides]
    settings = (*_SETTINGS, "threads")
    return _compose_child(parent, f"{name}.translation.run", reference.experiment, overrides, settings)


def model_run_settings(parent: DictConfig) -> Any:
    """Returns all settings that `compose_model_run` uses; parents with equal ones share one model run."""
    return _unresolved(parent, (*_SETTINGS, "model", "scale")) | {"debug": parent.choices.get("debug", "none")}


def language_run_settings(parent: DictConfig) -> Any:
    """Returns all settings that `compose_language_run` uses; parents with equal ones share their language runs."""
    settings = _unresolved(parent, (*_SETTINGS, *_ADAPTATION, "choices", "language_modules", "scale"))
    for name in _of_recipe(parent.method):
        settings["method"].pop(name)
    return settings


def _unresolved(config: DictConfig, names: Sequence[str]) -> dict[str, Any]:
    return {name: unresolved(config._get_node(name)) for name in names}


def _compose_child(
    parent: DictConfig, name: str, experiment: str | None, overrides: Sequence[str], inherited: Sequence[str]
) -> DictConfig:
    """Composes a run that another run, the parent, needs.

    If the parent is debugged, the child takes a few steps only (debug=fast).

    If the child inherits `model` or `method`, it chooses the parent's config file of that group, so that the child's
    own recipe applies to them. Then it takes over the parent's settings. If it does not inherit `train`, it takes over
    only those settings of the method that no recipe sets. If the child's own overrides choose another method, it takes
    over none of the method's settings.

    Args:
        parent: the run that needs the child.
        name: key of the parent that asks for the child, for messages.
        experiment: file in conf/experiment; None: none.
        overrides: the child's own.
        inherited: keys of the parent that the child takes over.
    Raises:
        UsageError: an override that does not fit.
    """
    begin = [] if experiment is None else [f"experiment={experiment}"]
    chosen = [f"{group}={parent.choices[group]}" for group in _CHOSEN if group in inherited]
    if parent.choices.get("debug", "none") != "none":
        chosen.append("debug=fast")
    try:
        child = compose([*begin, f"scale={parent.scale}", *chosen, *overrides])
    except UsageError as error:
        raise UsageError(*(f"{name}: {line}" for line in error.lines)) from error
    own_method = child.choices.method != parent.choices.method
    with open_dict(child):
        for key in inherited:
            if key == "method" and own_method:
                continue
            # Interpolations stay unresolved: in the child they then refer to the child's config.
            before, own = child._get_node(key), parent._get_node(key)
            if not replace_content(child, key, own):
                child[key] = own
            if key == "method" and "train" not in inherited:
                _keep_recipe(child.method, before)
        if "model" in inherited:
            child.choices.model = parent.choices.model
        if "method" in inherited and not own_method:
            child.choices.method = parent.choices.method
    return child


def _keep_recipe(method: DictConfig, own: DictConfig) -> None:
    """Restores, in settings of a method taken from another run, the values that a recipe sets; changes `method`."""
    for name in _of_recipe(own):
        method[name] = own._get_node(name)


def _of_recipe(method: DictConfig) -> list[str]:
    """Returns the keys of a method whose values recipes set."""
    schema = OmegaConf.get_type(method)
    items = dataclasses.fields(schema) if dataclasses.is_dataclass(schema) else ()
    return [item.name for item in items if item.metadata.get("recipe")]
