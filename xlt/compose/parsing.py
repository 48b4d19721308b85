"""Makes OmegaConf parse faster: YAML with libyaml, and no interpolation twice."""

from __future__ import annotations

from functools import cache
from typing import Any

import omegaconf._utils as omegaconf_utils
import omegaconf.base as omegaconf_base
import yaml
from omegaconf import grammar_parser

_HYDRAS_LOADER = omegaconf_utils.get_yaml_loader
_HYDRAS_PARSE = grammar_parser.parse
_MOST_TREES = 2000
_LONGEST_TEXT = 500

_trees: dict[str, Any] = {}
"""Text with interpolations -> its parse tree, which is only read."""


def parse_faster() -> None:
    """Replaces OmegaConf's parsers; each gives what OmegaConf's own one gives."""
    if yaml.__with_libyaml__:
        omegaconf_utils.get_yaml_loader = _yaml_loader
    omegaconf_base.parse = grammar_parser.parse = _parsed


def _parsed(value: str, *rule: str) -> Any:
    """Parses a text with interpolations, as OmegaConf's `parse` does."""
    if rule or len(value) > _LONGEST_TEXT:
        return _HYDRAS_PARSE(value, *rule)
    tree = _trees.get(value)
    if tree is None:
        tree = _HYDRAS_PARSE(value)
        if len(_trees) < _MOST_TREES:
            _trees[value] = tree
    return tree


def _yaml_loader() -> Any:
    return _Loader


class _Loader:
    """A loader for `yaml.load`. What libyaml refuses goes to OmegaConf's own loader, whose messages are known."""

    def __init__(self, stream: Any) -> None:
        self.text = stream.read() if hasattr(stream, "read") else stream

    def get_single_data(self) -> Any:
        for kind in (_fast_loader(), _HYDRAS_LOADER()):
            loader = kind(self.text)
            try:
                return loader.get_single_data()
            except (yaml.YAMLError, ValueError):
                if kind is not _fast_loader():
                    raise
            finally:
                loader.dispose()
        raise AssertionError

    def dispose(self) -> None: ...


@cache
def _fast_loader() -> Any:
    """Returns a loader that reads with libyaml, and makes values of what it reads as OmegaConf's own loader does."""
    own = _HYDRAS_LOADER()

    class FastLoader(yaml.cyaml.CParser, own):  # type: ignore[misc, valid-type]
        def __init__(self, text: Any) -> None:
            yaml.cyaml.CParser.__init__(self, text)
            yaml.constructor.SafeConstructor.__init__(self)
            yaml.resolver.Resolver.__init__(self)

        dispose = yaml.cyaml.CParser.dispose

    return FastLoader
