"""Merges the files that make up a config as Hydra does, but the same files at a new place only once in a process.

Most files of a config are those of data sources: some of the same files are merged at `data.sources.eng`, and again at
each source of the evaluation. What they make of a place where nothing was does not depend on the rest of the config, so
it is kept and put there. A file that is merged into something that is there already is merged as Hydra merges it.
"""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable, Hashable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

from hydra.core.default_element import ResultDefault
from hydra.errors import ConfigCompositionException
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, Node, OmegaConf, flag_override
from omegaconf.basecontainer import BaseContainer
from omegaconf.errors import OmegaConfBaseException

_HAS_DEFAULTS = "HYDRA_REMOVE_TOP_LEVEL_DEFAULTS"
# Resolvers that only ever give a text or null: where they are replaced, it does not matter what they give.
_GIVE_TEXTS = ("${data:", "${data_if_there:")
_NOT_PICKLED = (pickle.PicklingError, AttributeError, TypeError)  # for instance a class within a function

RE_PARENT = BaseContainer._re_parent
"""OmegaConf's own, which `parents_set_right_at_the_end` replaces."""


def merged(
    defaults: Sequence[ResultDefault],
    load: Callable[[ResultDefault], ConfigResult],
    known: MutableMapping[Hashable, bytes],
    state: int | None,
) -> DictConfig:
    """Merges files to a config.

    Args:
        defaults: the files in their order, each with the place where its content belongs.
        load: reads a file, and puts its content at its place in an otherwise empty config.
        known: what files have made of a new place; this function adds to it.
        state: a number that changes with the files; None: nobody can know, and nothing is kept.
    Raises:
        ConfigCompositionException: a file does not fit those before it.
    """
    config = OmegaConf.create()
    with parents_set_right_at_the_end(), flag_override(config, "no_deepcopy_set_nodes", True):
        for package, group in groupby(defaults, key=lambda default: default.package):
            files = list(group)
            place = None if state is None else _new_place(config, package)
            if place is None:
                _merge(files, load, config)
                continue
            parent, last = place
            key = (state, tuple((file.config_path, file.primary) for file in files), _type_of_entries(parent))
            if key in known:
                _put(parent, last, pickle.loads(known[key]))
            elif not _merge(files, load, config) and (made := _taken(parent, last)) is not None:
                known[key] = made
    _remove_defaults(config)
    RE_PARENT(config)
    return config


def _merge(
    files: Sequence[ResultDefault], load: Callable[[ResultDefault], ConfigResult], config: DictConfig
) -> list[str]:
    """Merges files into a config; returns the interpolations whose values OmegaConf looked at meanwhile."""
    with _noting_interpolations() as looked_at:
        for file in files:
            loaded = load(file)
            try:
                config.merge_with(loaded.config)
            except OmegaConfBaseException as error:
                name = type(error).__name__
                raise ConfigCompositionException(
                    f"In '{file.config_path}': {name} raised while composing config:\n{error}"
                ) from error
    return looked_at


def _new_place(config: DictConfig, package: str | None) -> tuple[DictConfig, str] | None:
    """Returns the mapping in which a package will be a new entry, and the entry's name; None if it will not be."""
    *steps, last = (package or "").split(".")
    node: Any = config
    for step in steps:
        node = node._content.get(step) if _has_entries(node) else None
    is_new = bool(steps) and _has_entries(node) and last not in node._content and OmegaConf.get_type(node) is dict
    return (node, last) if is_new else None


def _has_entries(node: Any) -> bool:
    return isinstance(node, DictConfig) and isinstance(node._content, dict)


def _type_of_entries(mapping: DictConfig) -> Hashable:
    about = mapping._metadata
    flags = tuple(sorted((about.flags or {}).items()))
    return about.element_type, about.key_type, flags


def _taken(parent: DictConfig, name: str) -> bytes | None:
    """Pickles an entry of a mapping, without what is around it; None if it is not there or cannot be pickled."""
    node = parent._content.get(name)
    if not _has_entries(node):
        return None
    RE_PARENT(node)
    node.__dict__["_parent"] = None
    try:
        return pickle.dumps(node)
    except _NOT_PICKLED:
        return None
    finally:
        node._set_parent(parent)


def _put(parent: DictConfig, name: str, node: Node) -> None:
    node._set_key(name)
    node._set_parent(parent)
    parent._content[name] = node


def replace_content(config: DictConfig, key: str, value: Node) -> bool:
    """Sets a key to a copy of a node of another config as `config[key] = value` does, in a tenth of the time.

    OmegaConf checks each value against the schema. It need not where both nodes have the same schema.

    Returns:
        Whether it was possible; if not, nothing is changed.
    """
    before = config._content.get(key) if _has_entries(config) else None
    if before is None or not (_has_entries(before) and _has_entries(value)):
        return False
    about, other = before._metadata, value._metadata
    types = [(one.ref_type, one.object_type, one.element_type, one.key_type, one.optional) for one in (about, other)]
    if types[0] != types[1] or not dataclasses.is_dataclass(about.object_type):
        return False
    around = value.__dict__["_parent"]
    value.__dict__["_parent"] = None
    try:
        copied = pickle.loads(pickle.dumps(value))
    except _NOT_PICKLED:
        return False
    finally:
        value.__dict__["_parent"] = around
    copied._metadata.flags = {}
    _put(config, key, copied)
    return True


def _remove_defaults(node: Any) -> None:
    """Removes the lists of defaults that files have left in a config, in place."""
    if not _has_entries(node):
        return
    flags = node._metadata.flags
    if flags and flags.get(_HAS_DEFAULTS):
        node._set_flag(_HAS_DEFAULTS, None)
        node._content.pop("defaults", None)
    for value in node._content.values():
        _remove_defaults(value)


@contextmanager
def parents_set_right_at_the_end() -> Iterator[None]:
    """Leaves out the walk over the whole config that OmegaConf makes after each merge."""
    BaseContainer._re_parent = lambda self: None
    try:
        yield
    finally:
        BaseContainer._re_parent = RE_PARENT


@contextmanager
def _noting_interpolations() -> Iterator[list[str]]:
    """Gives a list of the interpolations of which OmegaConf asks what they stand for, but for harmless ones.

    A merge asks this where something replaces an interpolation: if it stands for a mapping, the mapping is merged, and
    what comes out depends on the rest of the config.
    """
    looked_at: list[str] = []
    original = Node._maybe_dereference_node

    def note(self: Node, *arguments: Any, **options: Any) -> Any:
        if self._is_interpolation() and not str(self._value()).startswith(_GIVE_TEXTS):
            looked_at.append(str(self._value()))
        return original(self, *arguments, **options)

    Node._maybe_dereference_node = note
    try:
        yield looked_at
    finally:
        Node._maybe_dereference_node = original
