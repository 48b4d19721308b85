"""From the command line or a reference to a checked config: Hydra composes, the schema and the fault lists judge."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import importlib
import pkgutil
import re
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, SCMode, open_dict
from omegaconf.errors import OmegaConfBaseException

from xlt import config as shared
from xlt.config import RunConfig, RunReference, UsageError, faults

CONFIG_MODULE = "xlt_conf"
VERSION_BASE = "1.3"

_SHARED_SCHEMAS = {
    "model/base_model": shared.ModelConfig,
    "source/base_source": shared.SourceConfig,
    "data/base_data": shared.DataConfig,
    "train/base_train": shared.TrainConfig,
    "language_modules/base_language_modules": shared.LanguageModulesConfig,
    "tracker/base_tracker": shared.TrackerConfig,
    "launcher/base_launcher": shared.LauncherConfig,
    "base_run": shared.RunConfig,
}
# What a run hands down to the runs it stands on.
_SETTINGS = ("data_dir", "output_dir", "device", "tracker", "launcher")
_ADAPTATION = ("model", "method", "threads")
_OPTIONS_SHOWN = 20

_COMPOSED: weakref.WeakKeyDictionary[Any, dict[tuple[str, ...], DictConfig]] = weakref.WeakKeyDictionary()


def register_schemas() -> None:
    """Puts every schema into Hydra's store; those of methods and tasks are found by walking their packages.

    A file `xlt/methods/NAME.py` with a dataclass called `SCHEMA` is `method/base_NAME`.
    """
    store = ConfigStore.instance()
    for path, node in _SHARED_SCHEMAS.items():
        group, _, name = path.rpartition("/")
        store.store(group=group or None, name=name, node=node)
    for package, group in (("xlt.methods", "method"), ("xlt.tasks", "task")):
        for found in pkgutil.iter_modules(importlib.import_module(package).__path__):
            module = importlib.import_module(f"{package}.{found.name}")
            if hasattr(module, "SCHEMA"):
                store.store(group=group, name=f"base_{found.name}", node=module.SCHEMA)


@contextmanager
def hydra_ready() -> Iterator[None]:
    """Makes composition possible outside of the `xlt` command; inside it, uses its search path."""
    register_schemas()
    if GlobalHydra.instance().is_initialized():
        yield
        return
    with hydra.initialize_config_module(CONFIG_MODULE, version_base=VERSION_BASE):
        yield


def compose(overrides: Sequence[str], config_name: str = "config") -> DictConfig:
    """Composes a config from overrides as on the command line; the caller may change what it gets.

    Composing takes tenths of a second where there are many sources, so the same words are composed once.

    Raises:
        UsageError: one line for every override that does not fit, each tried for itself.
    """
    known = _COMPOSED.setdefault(GlobalHydra.instance().config_loader(), {})
    words = (config_name, *overrides)
    if words not in known:
        try:
            known[words] = hydra.compose(config_name, overrides=list(overrides))
        except (HydraException, OmegaConfBaseException) as error:
            raise UsageError(*(override_faults(overrides, config_name) or [one_line(error)])) from error
    return copy.deepcopy(known[words])


def override_faults(overrides: Sequence[str], config_name: str = "config") -> list[str]:
    """What is wrong with each of the overrides, given the ones before it that are right."""
    right: list[str] = []
    lines = []
    for override in overrides:
        try:
            hydra.compose(config_name, overrides=[*right, override])
            right.append(override)
        except (HydraException, OmegaConfBaseException) as error:
            lines.append(f"{override}: {one_line(error)}")
    return lines


def checked(config: DictConfig) -> RunConfig:
    """The typed config, if nothing is wrong with it.

    Raises:
        UsageError: all faults together, one line each.
    """
    try:
        result = OmegaConf.to_container(
            config, resolve=True, throw_on_missing=False, structured_config_mode=SCMode.INSTANTIATE
        )
    except OmegaConfBaseException as error:
        raise UsageError(one_line(error)) from error
    found = list(faults(result))
    if found:
        raise UsageError(*found)
    assert isinstance(result, RunConfig)
    return result


def compose_model_run(parent: DictConfig, reference: RunReference) -> DictConfig:
    """The run that makes the parent's base model."""
    return _compose_child(parent, reference.experiment, reference.overrides, _SETTINGS)


def compose_language_run(parent: DictConfig, language: str) -> DictConfig:
    """The run that makes the parent's language module for one language: same model and method, its own recipe."""
    reference = parent.language_modules
    overrides = [override.replace("{language}", language) for override in reference.overrides]
    child = _compose_child(parent, reference.experiment, overrides, _SETTINGS + _ADAPTATION)
    child.language = language
    return child


def model_run_settings(parent: DictConfig) -> Any:
    """All that `compose_model_run` takes from the parent: parents that agree in it share their model run."""
    return _unresolved(parent, (*_SETTINGS, "model", "scale"))


def language_run_settings(parent: DictConfig) -> Any:
    """All that `compose_language_run` takes from the parent: parents that agree in it share their language runs."""
    return _unresolved(parent, (*_SETTINGS, *_ADAPTATION, "language_modules", "scale"))


def _unresolved(config: DictConfig, names: Sequence[str]) -> dict[str, Any]:
    whole = {name: config._get_node(name) for name in names}
    return {
        n: OmegaConf.to_container(node) if OmegaConf.is_config(node) else node._value() for n, node in whole.items()
    }


def _compose_child(
    parent: DictConfig, experiment: str, overrides: Sequence[str], inherited: Sequence[str]
) -> DictConfig:
    child = compose([f"experiment={experiment}", f"scale={parent.scale}", *overrides])
    with open_dict(child):
        for name in inherited:
            # Not resolved: what the parent's subtree takes from elsewhere (train.density) it takes from the child.
            child[name] = parent._get_node(name)
    return child


def one_line(error: BaseException) -> str:
    """An error of Hydra or OmegaConf in one line, with what may have been meant."""
    text = str(error)
    if (found := re.search(r"In '.*?': Could not find '(.*?)'", text)) is not None:
        group, _, name = found.group(1).rpartition("/")
        return f"no {found.group(1)} in conf/{_suggestion(name, _options(group))}"
    if (found := re.search(r"Could not override '(.*?)'", text)) is not None:
        return f"no such key {found.group(1)}{_suggestion(found.group(1), _keys())}"
    if (found := re.search(r"Key '(.*?)' not in '(.*?)'.*?full_key: (\S+)", text, re.DOTALL)) is not None:
        return f"{found.group(3)}: no such key in {found.group(2)}"
    if error.__cause__ is not None and text.startswith("Error merging override"):
        return one_line(error.__cause__)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith(("object_type", "reference_type", "full_key", "Set the"))]
    return " ".join(kept) or type(error).__name__


def _suggestion(word: str, options: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, options, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; there are {', '.join(options)}" if 0 < len(options) <= _OPTIONS_SHOWN else ""


def _options(group: str) -> list[str]:
    names = GlobalHydra.instance().config_loader().get_group_options(group)
    return [name for name in names if not name.startswith(("base_", "_"))]


def _keys() -> list[str]:
    """Every key of the default config, dotted."""

    def walk(node: Any, prefix: str) -> Iterator[str]:
        for name, value in node.items():
            yield f"{prefix}{name}"
            if isinstance(value, dict):
                yield from walk(value, f"{prefix}{name}.")

    return list(walk(OmegaConf.to_container(hydra.compose("config"), resolve=False), ""))


def plain(config: Any) -> Any:
    """A config object as JSON values, keys in order."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {item.name: plain(getattr(config, item.name)) for item in dataclasses.fields(config)}
    if isinstance(config, dict):
        return {str(name): plain(value) for name, value in config.items()}
    if isinstance(config, (list, tuple)):
        return [plain(value) for value in config]
    return config
