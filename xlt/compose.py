"""From the command line or a reference to a checked config: Hydra composes, the schema and the fault lists judge."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import importlib
import pickle
import pkgutil
import re
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, SCMode, open_dict
from omegaconf.errors import OmegaConfBaseException

from xlt import config as shared
from xlt.config import RunConfig, RunReference, SourceConfig, UsageError, faults
from xlt.data.sources import PARTS

CONFIG_MODULE = "xlt_conf"
VERSION_BASE = "1.3"

_SHARED_SCHEMAS = {
    "model/base_model": shared.ModelConfig,
    "source/base_source": shared.SourceConfig,
    "data/base_data": shared.DataConfig,
    "benchmark/base_benchmark": shared.BenchmarkConfig,
    "train/base_train": shared.TrainConfig,
    "language_modules/base_language_modules": shared.LanguageModulesConfig,
    "start/base_start": shared.StartConfig,
    "teacher/base_teacher": shared.TeacherConfig,
    "tracker/base_tracker": shared.TrackerConfig,
    "launcher/base_launcher": shared.LauncherConfig,
    "base_run": shared.RunConfig,
}
# What a run hands down to the runs it stands on.
_SETTINGS = ("data_dir", "output_dir", "device", "tracker", "launcher")
_ADAPTATION = ("model", "method", "threads")
_GENERATOR = (*_SETTINGS, "model", "threads")
_OPTIONS_SHOWN = 20
_NO_OPTION = "Config group override must be a string"
_INSIDE_NULL = "Unexpected type for root: NoneType"  # an assertion of OmegaConf's
COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, ValueError, AssertionError)

_COMPOSED: weakref.WeakKeyDictionary[Any, dict[tuple[str, ...], bytes]] = weakref.WeakKeyDictionary()


def register_schemas() -> None:
    """Puts every schema into Hydra's store; those of methods and tasks are found by walking their packages.

    A file `xlt/methods/NAME.py` with a dataclass called `SCHEMA` is `method/base_NAME`.
    """
    OmegaConf.register_new_resolver("data", _in_data_dir, replace=True)
    OmegaConf.register_new_resolver("data_if_there", _in_data_dir_if_there, replace=True)
    store = ConfigStore.instance()
    for path, node in _SHARED_SCHEMAS.items():
        group, _, name = path.rpartition("/")
        store.store(group=group or None, name=name, node=node)
    for package, group in (("xlt.methods", "method"), ("xlt.tasks", "task")):
        for found in pkgutil.iter_modules(importlib.import_module(package).__path__):
            module = importlib.import_module(f"{package}.{found.name}")
            if hasattr(module, "SCHEMA"):
                store.store(group=group, name=f"base_{found.name}", node=module.SCHEMA)


def _in_data_dir(path: str, *, _root_: DictConfig) -> str | None:
    """`${data:PATH}`: PATH in `data_dir`; null where there is none, for sources that then come from the hub."""
    return None if _root_.data_dir is None else f"{_root_.data_dir}/{path}"


def _in_data_dir_if_there(path: str, *, _root_: DictConfig) -> str | None:
    """`${data_if_there:PATH}`: PATH in `data_dir`; null where there is no such file, for what a package has as well."""
    whole = _in_data_dir(path, _root_=_root_)
    return whole if whole is not None and Path(whole).expanduser().exists() else None


@contextmanager
def hydra_ready(config_dir: str | None = None) -> Iterator[None]:
    """Makes composition possible outside of the `xlt` command; inside it, uses its search path.

    Args:
        config_dir: a folder of the user's that is searched first, as after `--config-dir`.
    """
    register_schemas()
    if GlobalHydra.instance().is_initialized():
        yield
        return
    search_path = create_config_search_path(f"pkg://{CONFIG_MODULE}")
    if config_dir is not None:
        folder = f"file://{Path(config_dir).absolute()}"
        search_path.prepend(provider="command-line", path=folder, anchor=SearchPathQuery(provider="schema"))
    Hydra.create_main_hydra2(task_name="xlt", config_search_path=search_path)
    try:
        yield
    finally:
        GlobalHydra.instance().clear()


def compose(overrides: Sequence[str], config_name: str = "config") -> DictConfig:
    """Composes a config from overrides as on the command line; the caller may change what it gets.

    Raises:
        UsageError: one line for every override that does not fit, each tried for itself.
    """
    known = _known()
    words = (config_name, *overrides)
    if words not in known:
        try:
            known[words] = pickle.dumps(a_source_each(_composed(config_name, overrides)))
        except COMPOSITION_ERRORS as error:
            if not is_of_composition(error):
                raise
            if "You must specify" in str(error):  # then nothing composes, whatever the words
                raise UsageError(one_line(error)) from error
            raise UsageError(*(override_faults(overrides, config_name) or [one_line(error)])) from error
    return pickle.loads(known[words])


def _composed(config_name: str, overrides: Sequence[str]) -> DictConfig:
    """What `hydra.compose` gives. Group choices take it a second where there are many sources, so they are kept.

    Values are written over them as Hydra writes them. Configs are kept pickled: OmegaConf copies at half that speed.
    """
    loader = GlobalHydra.instance().config_loader()
    values: list[Override] = []
    chosen: list[str] = []
    for word, override in zip(overrides, OverridesParser.create(loader).parse_overrides(list(overrides)), strict=True):
        if _gives_value(override, loader):
            values.append(override)
        else:
            chosen.append(word)
    known = _known()
    words = (config_name, *chosen, "")  # no override is empty: not to be taken for what `compose` keeps
    if words not in known:
        known[words] = pickle.dumps(hydra.compose(config_name, overrides=chosen))
    config: DictConfig = pickle.loads(known[words])
    ConfigLoaderImpl._apply_overrides_to_config(values, config)
    return config


def _gives_value(override: Override, loader: Any) -> bool:
    """Whether it comes after all groups are composed; a sweep, which cannot be composed, is left to Hydra to refuse."""
    if override.is_sweep_override() or override.key_or_group.startswith("hydra"):
        return False
    return isinstance(override.value(), dict) or not loader.repository.group_exists(override.key_or_group)


def _known() -> dict[tuple[str, ...], bytes]:
    return _COMPOSED.setdefault(GlobalHydra.instance().config_loader(), {})


def a_source_each(config: DictConfig) -> DictConfig:
    """Puts sources named by their codes in the place of one that stands for several `languages`; changes `config`.

    Hydra could compose them one by one, but needs half a minute for a hundred. A source that has such a name already
    is left as it is.
    """
    for part in PARTS if "data" in config else ():
        sources = config.data[part]
        if not any(source.languages for source in sources.values()):
            continue
        found: dict[str, DictConfig] = {}
        for name in sources:
            node = sources._get_node(name)
            if not node.languages:
                found[name] = node
            for language, one in _one_each(node):
                if language not in sources:
                    found[language] = one
        with open_dict(sources):
            for name in list(sources):
                del sources[name]
            for name, node in found.items():
                sources[name] = node
    return config


def _one_each(source: DictConfig) -> Iterator[tuple[str, DictConfig]]:
    """Language and a copy for it, with only its own codes."""
    frame = copy.deepcopy(source)
    frame.languages = []
    holders = [name for name in ("", "hub.") if OmegaConf.select(source, f"{name}codes") is not None]
    codes = {f"{name}codes": dict(OmegaConf.select(source, f"{name}codes")) for name in holders}
    for name in codes:
        OmegaConf.update(frame, name, {}, merge=False)
    for language in source.languages:
        one = copy.deepcopy(frame)
        one.language = language
        for name, of in codes.items():
            if language in of:
                OmegaConf.update(one, name, {language: of[language]}, merge=False)
        yield language, one


def override_faults(overrides: Sequence[str], config_name: str = "config", sweep: bool = False) -> list[str]:
    """What is wrong with each of the overrides, given the ones before it that are right.

    Args:
        overrides: as on the command line.
        config_name: of the primary config.
        sweep: several values for a key are alternatives, each tried for itself.
    """
    lines = []
    remaining: list[tuple[str, list[str]]] = []
    for override in overrides:
        try:
            remaining.append((override, _alternatives(override) if sweep else [override]))
        except HydraException as error:
            lines.append(f"{override}: {one_line(error)}")
    right: list[tuple[str, list[str]]] = []
    words: list[str] = []
    while remaining:
        sound = _sound_prefix(words, [alternatives[0] for _, alternatives in remaining], config_name)
        right += remaining[:sound]
        words += [alternatives[0] for _, alternatives in remaining[:sound]]
        if sound < len(remaining):
            override, alternatives = remaining[sound]
            refusal = _refusal([*words, alternatives[0]], config_name)
            assert refusal is not None
            lines.append(f"{override}: {one_line(refusal, words)}")
        remaining = remaining[sound + 1 :]
    for number, (override, alternatives) in enumerate(right):
        for other in alternatives[1:]:
            if (refusal := _refusal([*words[:number], other, *words[number + 1 :]], config_name)) is not None:
                lines.append(f"{override}: {one_line(refusal, words)}")
    if lines and words:
        lines += _faults_of_given_keys(words, config_name)
    return lines


def _sound_prefix(words: Sequence[str], more: Sequence[str], config_name: str) -> int:
    """How many of `more`, from the first on, compose on top of `words`; by bisection, for composing takes time."""
    low, high = 0, len(more)
    if _refusal([*words, *more], config_name) is None:
        return high
    while high - low > 1:  # the first `low` compose, the first `high` do not
        middle = (low + high) // 2
        if _refusal([*words, *more[:middle]], config_name) is None:
            low = middle
        else:
            high = middle
    return low


def _refusal(overrides: Sequence[str], config_name: str) -> Exception | None:
    """Why overrides do not compose; None if they do."""
    try:
        _composed(config_name, overrides)
    except COMPOSITION_ERRORS as error:
        if not is_of_composition(error):
            raise
        return error
    return None


def _alternatives(override: str) -> list[str]:
    (parsed,) = OverridesParser.create().parse_overrides([override])
    if not parsed.is_sweep_override():
        return [override]
    if not parsed.is_discrete_sweep():
        raise HydraException("a sweep takes a list or a range, for instance seed=1,2 or 'seed=range(1,3)'")
    return [f"{parsed.get_key_element()}={value}" for value in parsed.sweep_string_iterator()]


def _faults_of_given_keys(overrides: Sequence[str], config_name: str) -> list[str]:
    """Faults in values that overrides give. Others may come from the overrides that did not compose."""
    given = {override.partition("=")[0].lstrip("+~") for override in overrides}
    try:
        checked(_composed(config_name, overrides))
    except UsageError as error:
        return [line for line in error.lines if line.partition("=")[0] in given]
    except (HydraException, OmegaConfBaseException):
        pass
    return []


def checked(config: DictConfig) -> RunConfig:
    """The typed config, if nothing is wrong with it.

    Raises:
        UsageError: all faults together, one line each.
    """
    _refuse_absent_data_dir(config)
    try:
        result = OmegaConf.to_container(
            config, resolve=True, throw_on_missing=False, structured_config_mode=SCMode.INSTANTIATE
        )
    except OmegaConfBaseException as error:
        raise UsageError(_interpolation_fault(error)) from error
    found = [*strangers(config), *faults(result)]
    if found:
        raise UsageError(*_without_echoes(found, config))
    assert isinstance(result, RunConfig)
    return result


def strangers(config: DictConfig, prefix: str = "") -> Iterator[str]:
    """Keys that no schema has: Hydra's `+` adds them anywhere, and nothing would ever read them."""
    schema = OmegaConf.get_type(config)
    known = {item.name for item in dataclasses.fields(schema)} if dataclasses.is_dataclass(schema) else None
    for name in config:
        node = config._get_node(name)
        if known is not None and name not in known:
            near = _suggestion(str(name), sorted(known - {"_target_"}))
            yield f"{prefix}{name}={node}: no such key in {schema.__name__}{near}"
        elif isinstance(node, DictConfig) and not node._is_none() and not node._is_interpolation():
            yield from strangers(node, f"{prefix}{name}.")


def _refuse_absent_data_dir(config: DictConfig) -> None:
    if config.data_dir is not None:
        return
    raw = OmegaConf.to_container(config.data, resolve=False)
    assert isinstance(raw, dict)
    starting = [
        f"data.{part}.{name}.path={source['path']}"
        for part in PARTS
        for name, source in (raw.get(part) or {}).items()
        if "${data_dir}" in str(source.get("path"))
        or ("${data:" in str(source.get("path")) and source.get("hub") is None)
    ]
    if starting:
        others = f" and {len(starting) - 1} more" if len(starting) > 1 else ""
        raise UsageError(f"data_dir=null: {starting[0]}{others} start from it; give data_dir=FOLDER")


def _interpolation_fault(error: OmegaConfBaseException) -> str:
    where = f"{error.full_key}: " if getattr(error, "full_key", None) else ""
    null = re.search(r"dereferencing interpolation '\$\{(.*?)\}'.*Incompatible value 'None'", str(error), re.DOTALL)
    if null is not None:
        return f"{where}takes the value of {null.group(1)}, which is null; give {null.group(1)}=..."
    return where + one_line(error)


def _without_echoes(lines: Sequence[str], config: DictConfig) -> list[str]:
    """Leaves out the fault of a value that is only taken over from another key, whose fault is reported."""
    reported = {line.partition("=")[0] for line in lines}

    def echoes(line: str) -> bool:
        name, given, _ = line.partition("=")
        parent, _, last = name.rpartition(".")
        node = OmegaConf.select(config, parent) if parent else config
        raw = node._get_node(last)._value() if given and isinstance(node, DictConfig) and last in node else None
        return isinstance(raw, str) and raw.startswith("${") and raw[2:-1] in reported

    return [line for line in lines if not echoes(line)]


def compose_model_run(parent: DictConfig, reference: RunReference) -> DictConfig:
    """The run that makes the parent's base model."""
    return _compose_child(parent, "model.run", reference.experiment, reference.overrides, _SETTINGS)


def compose_language_run(parent: DictConfig, language: str) -> DictConfig:
    """The run that makes the parent's language module for one language: same model and method, its own recipe.

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
    return _unresolved(parent, (*_SETTINGS, *_ADAPTATION, "language_modules", "scale"))


def _unresolved(config: DictConfig, names: Sequence[str]) -> dict[str, Any]:
    whole = {name: config._get_node(name) for name in names}
    return {
        n: OmegaConf.to_container(node) if OmegaConf.is_config(node) else node._value() for n, node in whole.items()
    }


def _compose_child(
    parent: DictConfig, name: str, experiment: str, overrides: Sequence[str], inherited: Sequence[str]
) -> DictConfig:
    try:
        child = compose([f"experiment={experiment}", f"scale={parent.scale}", *overrides])
    except UsageError as error:
        raise UsageError(*(f"{name}: {line}" for line in error.lines)) from error
    with open_dict(child):
        for name in inherited:
            # Not resolved: what the parent's subtree takes from elsewhere (train.density) it takes from the child.
            child[name] = parent._get_node(name)
    return child


def is_of_composition(error: Exception) -> bool:
    """Whether one of COMPOSITION_ERRORS is about the user's words; Hydra has a plain ValueError among them."""
    if isinstance(error, AssertionError):
        return _INSIDE_NULL in str(error)
    return not isinstance(error, ValueError) or isinstance(error, OmegaConfBaseException) or _NO_OPTION in str(error)


def one_line(error: BaseException, overrides: Sequence[str] = ()) -> str:
    """An error of Hydra or OmegaConf in one line, with what may have been meant.

    Args:
        error: what was raised.
        overrides: those that compose, for the keys there are.
    """
    text = str(error)
    if (found := re.search(r"In '.*?': Could not find '(.*?)'", text)) is not None:
        group, _, name = found.group(1).rpartition("/")
        return f"no {found.group(1)} in conf/{_suggestion(name, _options(group))}"
    if (found := re.search(r"Could not override '(.*?)'", text)) is not None:
        return _no_such_key(found.group(1), overrides)
    if (found := re.search(r"Could not delete from config\. '(.*?)' does not exist", text)) is not None:
        return f"nothing to delete, no such key {found.group(1)}{_suggestion(found.group(1), _keys(overrides))}"
    if (found := re.search(r"Could not append to config\. An item is already at '(.*?)'", text)) is not None:
        return f"there is {found.group(1)} already; change it without the +"
    if (found := re.search(r"Multiple values for (\S+?)\.", text)) is not None:
        return f"there is a choice of {found.group(1)} already; change it without the +"
    if "Ambiguous value for argument" in text:
        return "several values; sweep over them with -m, or write a list as KEY=[A,B]"
    if (found := re.search(r"You must specify '(.*?)'", text)) is not None:
        there = ", ".join(_options(found.group(1)))
        return f"{found.group(1)} is not given; write {found.group(1)}=..., there are {there}"
    if _INSIDE_NULL in text:
        return "it is a part of what is null here; give that first, whole: KEY={...}, or an option that has it"
    if _NO_OPTION in text:
        return "not the name of an option; leave it out for the default"
    if "is not Optional" in text:
        return "null is not allowed; give a value"
    if "requires --multirun" in text:
        return "several values; sweep over them with -m"
    if "override_grammar" in text or "LexerNoViable" in text:
        return "not to be read as key=value; a value with special characters is quoted twice: 'KEY=\"VALUE\"'"
    if (found := re.search(r"Cannot find primary config '(.*?)'", text)) is not None:
        return f"--config-name={found.group(1)}: no such file in conf/ or --config-dir"
    if (found := re.search(r"Key '(.*?)' not in '(.*?)'.*?full_key: (\S+)", text, re.DOTALL)) is not None:
        return f"{found.group(3)}: no such key in {found.group(2)}"
    if error.__cause__ is not None and text.startswith("Error merging override"):
        return one_line(error.__cause__, overrides)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith(("object_type", "reference_type", "full_key", "Set the"))]
    return " ".join(kept) or type(error).__name__


def _no_such_key(name: str, overrides: Sequence[str]) -> str:
    if "@" in name:
        return f"nothing is there yet to be replaced; to add it, write +{name}=..."
    if (found := re.fullmatch(r"(data\.(?:sources|validation|evaluation))\.([^.]+)\..+", name)) is not None:
        mapping, source = found.groups()
        there = [key for key in _keys(overrides) if key.rpartition(".")[0] == mapping]
        if f"{mapping}.{source}" in there:
            return f"no such key {name}{_suggestion(name, _keys(overrides))}"
        near = _suggestion(f"{mapping}.{source}", there)
        return f"no {mapping}.{source}{near}" + ("" if near else f"; add it with +source@{mapping}.{source}=...")
    if name in (keys := _keys(overrides)):
        return f"has no such entry yet; to add one, write +{name}.ENTRY=..."
    if name.rpartition(".")[0] == "model.new_languages":
        return f"nothing is there yet to be replaced; to add it, write +{name}=RELATIVE"
    if name.startswith("language_modules.paths."):
        return f"nothing is there yet to be replaced; to add it, write +{name}=FILE"
    return f"no such key {name}{_suggestion(name, keys)}"


def _suggestion(word: str, options: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, options, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; there are {', '.join(options)}" if 0 < len(options) <= _OPTIONS_SHOWN else ""


def _options(group: str) -> list[str]:
    names = GlobalHydra.instance().config_loader().get_group_options(group)
    return [name for name in names if not name.startswith(("base_", "_"))]


def _keys(overrides: Sequence[str] = ()) -> list[str]:
    """Every key of the config that overrides compose, dotted."""

    def walk(node: Any, prefix: str) -> Iterator[str]:
        for name, value in node.items():
            yield f"{prefix}{name}"
            if isinstance(value, dict):
                yield from walk(value, f"{prefix}{name}.")

    return list(walk(OmegaConf.to_container(hydra.compose("config", overrides=list(overrides)), resolve=False), ""))


def plain(config: Any) -> Any:
    """A config object as JSON values, keys in order."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {item.name: plain(getattr(config, item.name)) for item in dataclasses.fields(config)}
    if isinstance(config, dict):
        return {str(name): plain(value) for name, value in config.items()}
    if isinstance(config, (list, tuple)):
        return [plain(value) for value in config]
    return config
