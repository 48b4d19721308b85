"""Composing a run, and from its config the runs that it stands on."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from xlt.compose.composing import composed, keep, kept, one_source_per_language
from xlt.compose.messages import COMPOSITION_ERRORS, is_composition_error, one_line
from xlt.compose.overrides import override_faults
from xlt.config import RunReference, SourceConfig
from xlt.errors import UsageError

# What a run hands down to the runs it stands on.
_SETTINGS = ("data_dir", "output_dir", "device", "tracker", "launcher", "other_code")
_ADAPTATION = ("model", "method", "threads")
# What a run hands down by choosing the same file, so that the recipe of the child's own task is the one for it; of its
# settings the child then takes those that no recipe gives.
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
    """Composes a config from overrides as on the command line; the caller may change what it gets.

    Raises:
        UsageError: one line for every override that does not fit, each tried for itself.
    """
    words = ("whole", config_name, *overrides)
    try:
        return kept(words) or keep(words, one_source_per_language(composed(config_name, overrides)))
    except COMPOSITION_ERRORS as error:
        if not is_composition_error(error):
            raise
        if "You must specify" in str(error):  # then nothing composes, whatever the words
            raise UsageError(one_line(error)) from error
        raise UsageError(*(override_faults(overrides, config_name) or [one_line(error)])) from error


def compose_model_run(parent: DictConfig, reference: RunReference) -> DictConfig:
    """The run that makes the parent's base model."""
    return _compose_child(parent, "model.run", reference.experiment, reference.overrides, _SETTINGS)


def compose_language_run(parent: DictConfig, language: str) -> DictConfig:
    """The run that makes the parent's language module for one language: same model and method, its own task's recipe.

    Beside a generator it has a method of its own, and perhaps goes on from what the generator makes; also where the
    parent's method makes a student. The modules are of the whole model, never of a student.
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
    if reference.cap_words is not None:
        for source in child.data.sources.values():
            source.cap_words = reference.cap_words
    return child


def compose_start_run(parent: DictConfig) -> DictConfig:
    """The run whose module the parent begins with: same model, a method of its own."""
    reference = parent.start.run
    return _compose_child(parent, "start.run", reference.experiment, reference.overrides, _GENERATOR)


def compose_added_run(parent: DictConfig, name: str) -> DictConfig:
    """A run whose module is added to the parent's in evaluation: as the parent in all but its data."""
    return _compose_child(parent, f"task_modules.runs.{name}", None, parent.task_modules.runs[name], _BUT_DATA)


def compose_generator_run(parent: DictConfig) -> DictConfig:
    """The run whose generator makes the parent's language modules: same model, a method of its own."""
    reference = parent.language_modules.generator
    return _compose_child(parent, "language_modules.generator", reference.experiment, reference.overrides, _GENERATOR)


def compose_student_run(parent: DictConfig, reference: RunReference) -> DictConfig:
    """The run that trains the parent's student: of the same model, with a recipe of its own.

    Raises:
        UsageError: {source} or {target} is to be filled in, and the parent has no or several such languages.
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
    """The run whose module the teacher of the parent's student has: the parent itself, on the whole model."""
    child = copy.deepcopy(parent)
    child.model.student = None
    child.teacher = compose(["teacher=none"]).teacher
    return child


def compose_translator_run(parent: DictConfig, name: str, source: SourceConfig) -> DictConfig:
    """The run whose model translates a source of the parent's: wholly its own but for where things lie.

    Args:
        name: of the source's key, for messages.
        source: with a translation.
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
    """All that `compose_model_run` takes from the parent: parents that agree in it share their model run."""
    return _unresolved(parent, (*_SETTINGS, "model", "scale"))


def language_run_settings(parent: DictConfig) -> Any:
    """All that `compose_language_run` takes from the parent: parents that agree in it share their language runs."""
    settings = _unresolved(parent, (*_SETTINGS, *_ADAPTATION, "choices", "language_modules", "scale"))
    for name in _of_recipe(parent.method):
        settings["method"].pop(name)
    return settings


def _unresolved(config: DictConfig, names: Sequence[str]) -> dict[str, Any]:
    whole = {name: config._get_node(name) for name in names}
    return {
        n: OmegaConf.to_container(node) if OmegaConf.is_config(node) else node._value() for n, node in whole.items()
    }


def _compose_child(
    parent: DictConfig, name: str, experiment: str | None, overrides: Sequence[str], inherited: Sequence[str]
) -> DictConfig:
    """A run that another one stands on.

    It chooses the parent's model and method where it inherits them, so that the lines of its own recipe apply that are
    for these. Then it takes over the parent's settings; of the method only those that are not a recipe's, unless it
    takes over `train` too, and none if its own overrides choose another method.

    Args:
        parent: the run that needs it.
        name: of the parent's key that asks for it, for messages.
        experiment: file in conf/experiment; None: none.
        overrides: its own.
        inherited: keys of the parent that it takes over.
    Raises:
        UsageError: an override that does not fit.
    """
    begin = [] if experiment is None else [f"experiment={experiment}"]
    chosen = [f"{group}={parent.choices[group]}" for group in _CHOSEN if group in inherited]
    try:
        child = compose([*begin, f"scale={parent.scale}", *chosen, *overrides])
    except UsageError as error:
        raise UsageError(*(f"{name}: {line}" for line in error.lines)) from error
    own_method = child.choices.method != parent.choices.method
    with open_dict(child):
        for key in inherited:
            if key == "method" and own_method:
                continue
            # Not resolved: what the parent's settings take from elsewhere in the config they take from the child's.
            before, child[key] = child._get_node(key), parent._get_node(key)
            if key == "method" and "train" not in inherited:
                _keep_recipe(child.method, before)
        if "model" in inherited:
            child.choices.model = parent.choices.model
        if "method" in inherited and not own_method:
            child.choices.method = parent.choices.method
    return child


def _keep_recipe(method: DictConfig, own: DictConfig) -> None:
    """Puts what a recipe says back into a method's settings that came from another run; changes `method`."""
    for name in _of_recipe(own):
        method[name] = own._get_node(name)


def _of_recipe(method: DictConfig) -> list[str]:
    """A method's keys of which recipes give the value."""
    schema = OmegaConf.get_type(method)
    items = dataclasses.fields(schema) if dataclasses.is_dataclass(schema) else ()
    return [item.name for item in items if item.metadata.get("recipe")]
