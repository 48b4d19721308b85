"""Composes configs with Hydra: registers schemas and resolvers, and caches the composed, still unchecked configs."""

from __future__ import annotations

import copy
import gc
import importlib
import pickle
import pkgutil
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf, flag_override, open_dict

from xlt import config as shared
from xlt import plug_ins
from xlt.compose.environment import register_environment
from xlt.compose.kept_configs import composed_before
from xlt.compose.light_schemas import LightGroup
from xlt.compose.loading import compose_faster, refuse_emptied
from xlt.compose.recipes import register_recipes
from xlt.compose.trusted import class_of, guard_hydra, refuse_foreign_classes
from xlt.config.data import TASK
from xlt.data.listing import EVERY, languages_in
from xlt.errors import UsageError
from xlt.tracebacks import error_line

CONFIG_MODULE = "xlt_conf"
VERSION_BASE = "1.3"
_SHARED_SCHEMAS = {
    "model/base_model": shared.ModelConfig,
    "source/base_source": shared.SourceConfig,
    "data/base_data": shared.DataConfig,
    "benchmark/base_benchmark": shared.BenchmarkConfig,
    "language_modules/base_language_modules": shared.LanguageModulesConfig,
    "task_modules/base_task_modules": shared.TaskModulesConfig,
    "start/base_start": shared.StartConfig,
    "teacher/base_teacher": shared.TeacherConfig,
    "tracker/base_tracker": shared.TrackerConfig,
    "launcher/base_launcher": shared.LauncherConfig,
    "base_run": shared.RunConfig,
}

_RARELY = (100_000, 50, 1000)  # thresholds of Python's garbage collector
_GROUPS = {"xlt.methods": "method", "xlt.tasks": "task", "xlt.modules.composition": "composition"}
"""Package whose files have schemas -> their config group."""

_FEWEST = 2  # examples of a training source: one to learn from, one to hold out

import_failures: dict[str, str] = {}
"""Path of a schema in Hydra's store, for example "method/base_mine" -> why its file cannot be imported."""

_own_folder: str | None = None
_are_light = False

_KEPT: weakref.WeakKeyDictionary[Any, dict[tuple[str, ...], bytes]] = weakref.WeakKeyDictionary()


def register_schemas() -> None:
    """Puts every schema into Hydra's store, and registers the resolvers that `conf/` uses.

    The packages of methods, tasks and operators are searched: the dataclass `SCHEMA` of a file `xlt/methods/NAME.py`
    becomes `method/base_NAME`. Plug-ins bring more (`xlt.plug_ins`), and installed packages: the entry point NAME of a
    group that is named as the package, such as `xlt.methods`, names a module with a `SCHEMA`. A file that cannot be
    imported is left out, and the reason is kept in `import_failures`. It is reported only if a config uses the schema.

    Raises:
        UsageError: a plug-in is unusable.
    """
    plug_ins.activate()
    compose_faster()
    Plugins.instance().register(_PlugInConfigs)
    OmegaConf.register_new_resolver("data", _in_data_dir, replace=True)
    OmegaConf.register_new_resolver("data_if_there", _in_data_dir_if_there, replace=True)
    OmegaConf.register_new_resolver("by_resource", _by_resource, replace=True)
    OmegaConf.register_new_resolver("by_scale", _by_scale, replace=True)
    OmegaConf.register_new_resolver("by_metric", _by_metric, replace=True)
    register_environment()
    guard_hydra()
    for path, node in _SHARED_SCHEMAS.items():
        register_schema(path, node)
    for package, group in _GROUPS.items():
        if _are_light:
            entries: Any = ConfigStore.instance().repo
            if not isinstance(entries.get(group), LightGroup):
                entries[group] = LightGroup(package, group)
        else:
            for module_info in pkgutil.iter_modules(importlib.import_module(package).__path__):
                _register(group, module_info.name, f"{package}.{module_info.name}")
        for entry in plug_ins.installed_entries(package):
            _register(group, entry.name, entry.module)


@contextmanager
def light_schemas() -> Iterator[None]:
    """Makes `register_schemas` take the schemas of methods and tasks without importing these, and so without torch.

    For what only looks at configs: completion, and messages about wrong keys. What is composed meanwhile is no run's.
    """
    global _are_light
    _are_light = True
    try:
        yield
    finally:
        _are_light = False
        repository: Any = ConfigStore.instance().repo
        for group in [name for name, entries in repository.items() if isinstance(entries, LightGroup)]:
            del repository[group]


def _register(group: str, name: str, module: str) -> None:
    """Puts the schema of a method, task or operator, if its module has one, into Hydra's store."""
    path = f"{group}/base_{name}"
    import_failures.pop(path, None)
    try:
        imported = importlib.import_module(module)
        if hasattr(imported, "SCHEMA"):
            register_schema(path, imported.SCHEMA)
    except Exception as error:  # a broken file can raise anything
        import_failures[path] = f"{module.replace('.', '/')} cannot be imported: {error_line(error)}"


def register_schema(path: str, schema: type) -> None:
    """Puts a dataclass into Hydra's store, unless the same one is there: a new entry would empty the cache of `Loader`.

    Args:
        path: group and name, for example "method/base_mine".
    """
    group, _, name = path.rpartition("/")
    entries: Any = ConfigStore.instance().repo
    for part in filter(None, group.split("/")):
        entries = entries.get(part, {})
    entry = entries.get(f"{name}.yaml")
    if entry is None or OmegaConf.get_type(entry.node) is not schema:
        ConfigStore.instance().store(group=group or None, name=name, node=schema)


def _in_data_dir(path: str, *, _root_: DictConfig) -> str | None:
    """Resolves `${data:PATH}` to PATH in `data_dir`; null if `data_dir` is null, so that a source uses the hub."""
    folder = _root_.get("data_dir")  # a file of conf/data that is composed alone has none
    return None if folder is None else f"{folder}/{path}"


def _by_resource(key: str, high: Any, low: Any, *, _root_: DictConfig) -> Any:
    """Resolves `${by_resource:KEY,HIGH,LOW}`: HIGH if the language at KEY is in `data.held_out_fractions`, else LOW."""
    language = OmegaConf.select(_root_, key)
    return high if language in (OmegaConf.select(_root_, "data.held_out_fractions") or {}) else low


def _by_scale(mini: Any, thesis: Any, *, _root_: DictConfig) -> Any:
    """Resolves `${by_scale:MINI,THESIS}` to the value for the config's scale; one file then serves both scales."""
    return thesis if _root_.scale == "thesis" else mini


def _by_metric(greater: Any, less: Any, *, _root_: DictConfig) -> Any:
    """Resolves `${by_metric:GREATER,LESS}`: GREATER if a greater validation metric is better, else LESS."""
    losses = _root_.teacher.losses
    if losses and "prediction" not in losses:  # the student's validation metric is its distance from the teacher
        return less
    return greater if class_of(_root_.task, "task").greater_is_better else less


def _in_data_dir_if_there(path: str, *, _root_: DictConfig) -> str | None:
    """Resolves `${data_if_there:PATH}` to PATH in `data_dir` if it exists, else to null, for data with a default."""
    whole = _in_data_dir(path, _root_=_root_)
    try:
        return whole if whole is not None and Path(whole).expanduser().exists() else None
    except (RuntimeError, OSError):  # an unknown user after ~, or a name that is too long: `data_dir` is then refused
        return None


class _PlugInConfigs(SearchPathPlugin):
    """Adds the configs of plug-ins to those that Hydra finds, behind those of xlt."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder in plug_ins.config_folders():
            search_path.append(provider="xlt-plug-in", path=f"file://{folder}")


@contextmanager
def own_configs(config_dir: str | None) -> Iterator[None]:
    """Makes a folder of the user that of `hydra_ready`, wherever it is called, while a command is carried out.

    Args:
        config_dir: value of `--config-dir`; None: there is none.
    Raises:
        UsageError: there is no such folder.
    """
    global _own_folder
    if config_dir is not None and not Path(config_dir).expanduser().is_dir():
        raise UsageError(f"--config-dir={config_dir}: no such folder")
    before, _own_folder = _own_folder, config_dir
    try:
        yield
    finally:
        _own_folder = before


@contextmanager
def hydra_ready(config_dir: str | None = None) -> Iterator[None]:
    """Prepares Hydra for composition; inside the `xlt` command it uses the search path that Hydra already has.

    Args:
        config_dir: the user's folder of configs, searched first; None: that of `own_configs`, if there is one.
    Raises:
        UsageError: a recipe cannot be read.
    """
    config_dir = _own_folder if config_dir is None else config_dir
    register_schemas()
    if GlobalHydra.instance().is_initialized():
        with collected_less():
            yield
        return
    register_recipes(CONFIG_MODULE, config_dir)
    search_path = create_config_search_path(f"pkg://{CONFIG_MODULE}")
    if config_dir is not None:
        folder = f"file://{Path(config_dir).absolute()}"
        search_path.prepend(provider="command-line", path=folder, anchor=SearchPathQuery(provider="schema"))
    Hydra.create_main_hydra2(task_name="xlt", config_search_path=search_path)
    try:
        with collected_less():
            yield
    finally:
        GlobalHydra.instance().clear()


@contextmanager
def collected_less() -> Iterator[None]:
    """Makes Python look for garbage less often, while configs are composed and runs are planned.

    A config has ten thousand objects, and a plan keeps those of all its runs; to go through them again and again takes
    half of the time.
    """
    before = gc.get_threshold()
    if before == _RARELY:
        yield
        return
    gc.freeze()
    gc.set_threshold(*_RARELY)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def composed(config_name: str, overrides: Sequence[str]) -> DictConfig:
    """Composes a config as `hydra.compose` does, but faster.

    With many sources, Hydra needs a second to compose the choices of groups. The result of this step is cached; the
    values in `overrides` are then set as Hydra sets them.
    """
    loader = GlobalHydra.instance().config_loader()
    refuse_emptied(overrides)
    values: list[Override] = []
    chosen: list[str] = []
    for word, override in zip(overrides, OverridesParser.create(loader).parse_overrides(list(overrides)), strict=True):
        if _gives_value(override, loader):
            values.append(override)
        else:
            chosen.append(word)
    words = ("groups", config_name, *chosen)
    config = kept(words)
    if config is None:
        config = keep(
            words, composed_before((config_name, *chosen), [*import_failures], partial(_choose, config_name, chosen))
        )
    ConfigLoaderImpl._apply_overrides_to_config(values, config)
    refuse_foreign_classes(config)
    return config


def _choose(config_name: str, chosen: Sequence[str]) -> tuple[DictConfig, bool]:
    """Composes the choices of groups; also returns whether the config names no further places of configs."""
    config = hydra.compose(config_name, list(chosen), return_hydra_config=True)
    adds_places = bool(config.hydra.searchpath)
    return _with_choices(config), not adds_places


def _with_choices(config: DictConfig) -> DictConfig:
    """Fills in `config.choices`, in place. Hydra's own resolver works only inside the `xlt` command."""
    chosen = config.hydra.runtime.choices
    with open_dict(config):
        del config["hydra"]
    for group in config.get("choices", ()):
        config.choices[group] = chosen[group]
    return config


def with_values(config: DictConfig, words: Sequence[str]) -> DictConfig:
    """Returns a copy of a composed config with other values of some keys.

    Raises:
        UsageError: a word is no override, or chooses a file of a group, for which the config is composed already.
    """
    loader = GlobalHydra.instance().config_loader()
    overrides = OverridesParser.create(loader).parse_overrides(list(words))
    if chosen := [word for word, one in zip(words, overrides, strict=True) if not _gives_value(one, loader)]:
        raise UsageError(*(f"{word}: chooses a file of a group; give values of keys, as seed=2" for word in chosen))
    changed = copy.deepcopy(config)
    ConfigLoaderImpl._apply_overrides_to_config(overrides, changed)
    refuse_foreign_classes(changed)
    return changed


def _gives_value(override: Override, loader: Any) -> bool:
    """Returns whether an override sets a value, not a group; False for a sweep, which Hydra itself then refuses."""
    if override.is_sweep_override() or override.key_or_group.startswith("hydra"):
        return False
    return isinstance(override.value(), dict) or not loader.repository.group_exists(override.key_or_group)


def kept(words: tuple[str, ...]) -> DictConfig | None:
    """Returns a copy of a config that `keep` has cached since Hydra was prepared; None if there is none.

    Args:
        words: cache key: stage, config name and overrides.
    """
    known = _KEPT.get(GlobalHydra.instance().config_loader(), {}).get(words)
    return None if known is None else pickle.loads(known)


def keep(words: tuple[str, ...], config: DictConfig) -> DictConfig:
    """Caches a pickled copy of a config, because OmegaConf's own copy takes twice as long. Returns the config."""
    _KEPT.setdefault(GlobalHydra.instance().config_loader(), {})[words] = pickle.dumps(config)
    return config


def one_source_per_language(config: DictConfig) -> DictConfig:
    """Replaces each source that has several `languages` by one source for each; changes `config`.

    The new source is named by the code of its language; if the source names its task, by task and code: `ner_hau`.

    The language `*` stands for every language of which the source has data. A source that already has such a name is
    not replaced. Hydra could compose the sources one by one, but it would need half a minute for a hundred.

    Raises:
        UsageError: the languages of a source cannot be listed, or two sources have a language and no task to tell them
            apart; the line names their keys.
    """
    for part in shared.ALL_PARTS if "data" in config else ():
        sources = config.data[part]
        for name, source in sources.items():
            if EVERY in _listed_languages(source):
                taken = [other for other in sources.values() if other is not source]
                try:
                    source.languages = _every_language(source, taken)
                except UsageError as error:
                    raise UsageError(*(f"data.{part}.{name}.{line}" for line in error.lines)) from error
        if not any(map(_listed_languages, sources.values())):
            continue
        sources_by_name: dict[str, DictConfig] = {}
        listed_by: dict[str, str] = {}
        for name in sources:
            node = sources._get_node(name)
            if not _listed_languages(node):
                sources_by_name[name] = node
                continue
            task = None if OmegaConf.is_missing(node, "features") else node.features.get(TASK)
            for language, own_source in _one_per_language(node):
                own_name = language if task is None else f"{task}_{language}"
                if own_name in sources:
                    continue
                if (other := listed_by.setdefault(own_name, name)) != name:
                    raise UsageError(
                        f"data.{part}.{name}.languages: {language} is also in data.{part}.{other}.languages, and both "
                        f"would be named {own_name}; name their tasks in features.task, or list it once"
                    )
                sources_by_name[own_name] = own_source
        with open_dict(sources), flag_override(sources, "no_deepcopy_set_nodes", True):
            for name in list(sources):
                del sources[name]
            for name, node in sources_by_name.items():
                sources[name] = node
    if "data" in config and config.data.get("cap") is not None:
        _cap_sources(config.data)
    return config


def _listed_languages(source: DictConfig) -> Sequence[str]:
    """Returns the languages of a source; empty if only some of its keys are given, which the check will say."""
    return [] if OmegaConf.is_missing(source, "languages") else source.languages


def _cap_sources(data: DictConfig) -> None:
    """Lowers the caps of all sources to what `data.cap` allows, in place."""
    for part in shared.ALL_PARTS:
        most = max(_FEWEST, data.cap // max(len(data[part]), 1)) if part == "sources" else data.cap
        for source in data[part].values():
            given = None if OmegaConf.is_missing(source, "cap") else source.cap
            source.cap = most if given is None else min(most, given)


def _every_language(source: DictConfig, others: Sequence[DictConfig]) -> list[str]:
    """Returns the languages of which a source has data, without those in places that other sources read.

    Args:
        source: with the language `*`, and possibly others.
        others: the other sources of its part.
    Raises:
        UsageError: there are none, or nobody can know.
    """
    if source.path is not None:
        places = [
            Path(other.path.replace("{code}", other.codes.get(other.language, other.language))).expanduser()
            for other in others
            if not OmegaConf.is_missing(other, "language") and not other.languages and other.path is not None
        ]
        return languages_in(source.path, source.codes, places)
    if source.hub is None or not source.hub.codes:
        raise UsageError(f"languages=[{EVERY}]: path is null and hub.codes names no language; list the languages")
    return list(source.hub.codes)


def _one_per_language(source: DictConfig) -> Iterator[tuple[str, DictConfig]]:
    """Yields each language of a source with a copy of the source for it, which has only this language's codes."""
    frame = copy.deepcopy(source)
    frame.languages = []
    holders = [name for name in ("", "hub.") if OmegaConf.select(source, f"{name}codes") is not None]
    codes = {f"{name}codes": dict(OmegaConf.select(source, f"{name}codes")) for name in holders}
    for name in codes:
        OmegaConf.update(frame, name, {}, merge=False)
    frame._set_parent(None)  # the pickle would have the whole config otherwise
    pickled = pickle.dumps(frame)
    for language in source.languages:
        own_source = pickle.loads(pickled)  # OmegaConf's own copy takes five times as long
        own_source.language = language
        for name, own_codes in codes.items():
            if language in own_codes:
                OmegaConf.update(own_source, name, {language: own_codes[language]}, merge=False)
        yield language, own_source
