"""Makes Hydra compose faster: within a process no file is parsed twice, and no choice of groups is composed twice.

Hydra reads and merges some 80 files for each composition, and composes each job of a sweep twice; one composition takes
about a second. The results here are the same as Hydra's own, and only work is saved:

- a file of a search path is parsed once for as long as the files stay as they are;
- the config that a choice of groups makes is kept, and Hydra sets the values of the overrides in a copy of it;
- while files are merged, the parents of all nodes are set right once, at the end, and not after each file.
"""

from __future__ import annotations

import copy
import importlib.resources
import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import hydra._internal.config_loader_impl as hydra_loading
import hydra._internal.defaults_list as hydra_defaults
import hydra._internal.hydra as hydra_command
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository, IConfigRepository
from hydra._internal.defaults_list import DefaultsList, Overrides, create_defaults_list
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.default_element import ConfigDefault, GroupDefault, InputDefault, ResultDefault
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import DictConfig, OmegaConf, flag_override, open_dict
from yaml import YAMLError

from xlt.code_state import files_in
from xlt.compose.merging import merged
from xlt.compose.parsing import parse_faster
from xlt.errors import UsageError


class _Recent(dict[Any, Any]):
    """A cache that forgets its oldest entry when it is full."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, value)
        if len(self) > self.size:
            del self[next(iter(self))]


_HYDRAS_APPLY = ConfigLoaderImpl._apply_overrides_to_config
HYDRAS_INTERPOLATION_MAP = hydra_defaults._create_interpolation_map

_file_states = _Recent(64)  # state of all files that a search path has -> a number for it
_read_files = _Recent(4096)  # (number of the state, name of a config) -> ConfigResult, which nobody changes
_parsed_files = _Recent(4096)  # the same key -> pickled ConfigResult
_defaults_lists = _Recent(1024)  # (number of the state, choice of groups) -> DefaultsList
_configs = _Recent(256)  # (number of the state, files to merge) -> pickled config
_entries = _Recent(1024)  # see `merged`
_states_seen = 0
_MOST_FILES = 20_000


def compose_faster() -> None:
    """Makes Hydra's command, its sweepers and `hydra.compose` use `Loader`."""
    parse_faster()
    hydra_command.ConfigLoaderImpl = Loader
    hydra_loading.create_defaults_list = _create_defaults_list
    hydra_defaults._create_interpolation_map = _create_interpolation_map
    ConfigLoaderImpl._apply_overrides_to_config = staticmethod(_apply_overrides)


def _apply_overrides(overrides: list[Override], config: DictConfig) -> None:
    """Applies overrides as Hydra does, but `~data.evaluation` empties a mapping that a schema declares.

    Hydra refuses it, and merges `data.evaluation={}` with what is there, so that nothing else empties a mapping.
    """
    for override in overrides:
        node = OmegaConf.select(config, override.key_or_group) if _deletes_whole(override) else None
        if isinstance(node, DictConfig) and OmegaConf.get_type(node) is dict and _is_typed(node._get_parent()):
            with open_dict(node):
                for name in list(node):
                    del node[name]
        else:
            _HYDRAS_APPLY([override], config)


def refuse_emptied(words: Sequence[str]) -> None:
    """Refuses to empty a mapping into which other words choose files, because these would be removed as well.

    Args:
        words: overrides of a config.
    Raises:
        UsageError: one line for each such word.
    """
    emptied = [word for word in words if word.startswith("~") and "=" not in word and "@" not in word]
    clashes = {word: [other for other in words if f"@{word[1:]}." in other] for word in emptied}
    if lines := [
        f"{word}: would also remove what {others[0]} adds; remove single entries, {word}.NAME"
        for word, others in clashes.items()
        if others
    ]:
        raise UsageError(*lines)


def _deletes_whole(override: Override) -> bool:
    return bool(override.is_delete()) and override.value() is None


def _is_typed(node: Any) -> bool:
    """Returns whether a node has a schema, whose keys cannot be deleted."""
    return isinstance(node, DictConfig) and OmegaConf.get_type(node) is not dict


class Loader(ConfigLoaderImpl):
    """Hydra's loader of configs, with a cache of what has been composed in this process."""

    def _parse_overrides_and_create_caching_repo(
        self, config_name: str | None, overrides: list[str]
    ) -> tuple[list[Override], CachingConfigRepository]:
        parsed = OverridesParser.create().parse_overrides(overrides=overrides)
        repository = _Repository(self.repository)
        self._process_config_searchpath(config_name, parsed, repository)
        return parsed, repository

    def _compose_config_from_defaults_list(self, defaults: list[ResultDefault], repo: IConfigRepository) -> DictConfig:
        key = None
        state = repo.state if isinstance(repo, _Repository) else None
        if state is not None:
            key = (state, *((item.config_path, item.package, item.primary) for item in defaults))
            if key in _configs:
                return _unpickled(_configs[key])
        with _own_copies(repo):
            config = merged(defaults, lambda default: self._load_single_config(default, repo), _entries, state)
        if key is not None and (pickled := _pickled(config)) is not None:
            _configs[key] = pickled
        return config

    @staticmethod
    def _embed_result_config(ret: ConfigResult, package_override: str | None) -> ConfigResult:
        """Puts the config of a file at its place in the whole config; needs no copy, because `_own_copies` made one."""
        package = ret.header["package"] if package_override is None else package_override
        if not package:
            return ret
        config = OmegaConf.create()
        with flag_override(config, "no_deepcopy_set_nodes", True):
            OmegaConf.update(config, package, ret.config, merge=False)
        embedded = copy.copy(ret)
        embedded.config = config
        return embedded


class _Repository(CachingConfigRepository):
    """Hydra's repository of configs, which takes what was parsed before, as long as no file has changed."""

    def __init__(self, repository: IConfigRepository) -> None:
        # Hydra copies the repository with all that it holds; only its list of sources is replaced later.
        self.delegate = copy.copy(repository)
        self.cache: dict[str, ConfigResult | None] = {}
        self.state = _state_of(self.get_sources())
        self.copies = False

    def initialize_sources(self, config_search_path: ConfigSearchPath) -> None:
        super().initialize_sources(config_search_path)
        self.state = _state_of(self.get_sources())

    def load_config(self, config_path: str) -> ConfigResult | None:
        """Reads a config of the search path; the caller may change the result only if `copies` is set.

        Raises:
            UsageError: the file is no YAML in UTF-8, or no config.
        """
        name = f"config_path={config_path}"
        key = (self.state, config_path)
        if name not in self.cache and key in _read_files:
            self.cache[name] = _read_files[key]
        known = name in self.cache
        try:
            result = super().load_config(config_path)
        except (YAMLError, UnicodeDecodeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise UsageError(f"{config_path}.yaml: the config cannot be read: {reason:.300}") from error
        if not known and self.state is not None:
            _read_files[key] = result
        if not self.copies:
            return result
        if self.state is not None and key not in _parsed_files and (pickled := _pickled(result)) is not None:
            _parsed_files[key] = pickled
        return _unpickled(_parsed_files[key]) if key in _parsed_files else copy.deepcopy(result)


@contextmanager
def _own_copies(repository: IConfigRepository) -> Iterator[None]:
    """Gives out a copy of each config, because a config may hold the same file twice, at different places."""
    if not isinstance(repository, _Repository):
        yield
        return
    repository.copies = True
    try:
        yield
    finally:
        repository.copies = False


def _create_defaults_list(
    repo: IConfigRepository,
    config_name: str | None,
    overrides_list: list[Override],
    prepend_hydra: bool,
    skip_missing: bool,
) -> DefaultsList:
    """Finds the files that make up a config; the values of overrides do not matter for it, only the choices."""
    if not isinstance(repo, _Repository) or repo.state is None:
        return create_defaults_list(repo, config_name, overrides_list, prepend_hydra, skip_missing)
    values = Overrides(repo, overrides_list).config_overrides
    choices = [one for one in overrides_list if not any(one is value for value in values)]
    key = (repo.state, config_name, prepend_hydra, skip_missing, *(one.input_line for one in choices))
    if key not in _defaults_lists:
        _defaults_lists[key] = create_defaults_list(repo, config_name, choices, prepend_hydra, skip_missing)
    known = _defaults_lists[key]
    overrides = copy.copy(known.overrides)
    overrides.config_overrides = values
    return DefaultsList(known.defaults, known.defaults_tree, values, overrides)


def _create_interpolation_map(
    overrides: Overrides, defaults_list: list[InputDefault], self_added: bool
) -> DictConfig | None:
    """Returns the choices that an interpolation in a list of defaults may use; None if the list has no interpolation.

    Hydra makes this config for every file, though few files need it.
    """
    if not any(item.is_interpolation() for item in defaults_list):
        return None
    items: list[Any] = []
    for item in defaults_list:
        if isinstance(item, GroupDefault):
            items.append({item.get_override_key(): item.value})
        elif isinstance(item, ConfigDefault) and not (self_added and item.is_self()):
            items.append(item.get_config_path())
    return OmegaConf.create({**overrides.known_choices, "defaults": items})


def _state_of(sources: Sequence[ConfigSource]) -> int | None:
    """Returns a number that is another one when anything in the sources has changed.

    Returns None, so that nothing is cached, if nobody can know, or if a folder has so many files that to look at all of
    them would take longer than to compose.
    """
    global _states_seen
    parts: list[Any] = []
    for source in sources:
        if source.scheme() == "structured":
            parts.append(tuple(_nodes(ConfigStore.instance().repo)))
        elif (folder := folder_of(source)) is not None:
            files = tuple(islice(files_in(folder), _MOST_FILES + 1)) if folder.is_dir() else ()
            if len(files) > _MOST_FILES:
                return None
            parts.append((str(folder), files))
        else:
            return None
    state = tuple(parts)
    if state not in _file_states:
        _states_seen += 1
        _file_states[state] = _states_seen
    number = _file_states[state]
    assert isinstance(number, int)
    return number


class _Same:
    """Equals only another one of the same object, which it keeps alive."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def _nodes(group: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yields the entries of Hydra's store. They are equal as long as nobody has stored others in their place."""
    for name, entry in group.items():
        yield name, tuple(_nodes(entry)) if type(entry) is dict else _Same(entry)


def folder_of(source: ConfigSource) -> Path | None:
    """Returns the folder of a source; None if it is none, for example a package in an archive."""
    if source.scheme() == "file":
        return Path(source.path)
    if source.scheme() == "pkg":
        try:
            found = importlib.resources.files(source.path)
        except (ImportError, TypeError, ValueError):
            return None
        return found if isinstance(found, Path) else None
    return None


def _pickled(value: Any) -> bytes | None:
    """Pickles a config for this process; None if it cannot be pickled, as that of a class within a function."""
    try:
        return pickle.dumps(value)
    except (pickle.PicklingError, AttributeError, TypeError):
        return None


def _unpickled(value: bytes) -> Any:
    return pickle.loads(value)
