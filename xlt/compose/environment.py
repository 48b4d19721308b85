"""Environment variables in configs: where `${oc.env:NAME}` may stand, and how it is written down.

A config comes from other people, and an environment holds passwords. A variable may stand for a place, such as
`data_dir` or `model.path`, and for the account of a tracker or a cluster. Elsewhere it is refused, and what is written
down of a config (manifests, Weights & Biases) has the reference, not the value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import Container, DictConfig, ListConfig, OmegaConf
from omegaconf.resolvers import oc

from xlt.errors import UsageError

_PLACES = {"data_dir", "output_dir", "path", "folder", "typology"}
_ACCOUNTS = {"tracker.project", "tracker.entity", "tracker.group", "launcher.partition", "launcher.account"}
_SECRET = re.compile(r"token|secret|passw|credential|api_?key|private|auth", re.IGNORECASE)
_ATTRIBUTE = "_from_environment"
_USUAL_DEFAULT = "_DEFAULT_MARKER_"

_asked: list[str] = []
"""Names of the variables that have been resolved, in order."""


def register_environment() -> None:
    """Replaces OmegaConf's resolver `oc.env` by one that keeps a list of what it was asked for."""

    def environment(name: str, default: Any = _USUAL_DEFAULT, *, _parent_: Container) -> str | None:
        _asked.append(str(name))
        return oc.env(name) if default == _USUAL_DEFAULT else oc.env(name, default)

    OmegaConf.register_new_resolver("oc.env", environment, replace=True)


def count_asked() -> int:
    """Returns how many variables have been resolved so far in this process."""
    return len(_asked)


def refuse_environment(config: DictConfig, before: int) -> dict[str, tuple[str, list[str]]]:
    """Refuses a resolved config in which environment variables stand where they may not.

    Args:
        config: composed.
        before: `count_asked()` before the config was resolved.
    Returns:
        The references that may stand; see `environment_references`.
    Raises:
        UsageError: a line for each that may not.
    """
    references = environment_references(config) if count_asked() > before else {}
    if lines := list(environment_faults(references)):
        raise UsageError(*lines)
    return references


def environment_references(config: DictConfig) -> dict[str, tuple[str, list[str]]]:
    """Returns key -> its unresolved text and the variables that it needs, for each value that comes from some.

    A value that copies another key's value comes from the other's variables.
    """
    return {key: (text, names) for key, text, names in _references(config, "")}


def _references(config: Any, prefix: str) -> Iterator[tuple[str, str, list[str]]]:
    keys = config.keys() if isinstance(config, DictConfig) else range(len(config))
    for name in keys:
        node = config._get_node(name)
        key = f"{prefix}{name}"
        if node._is_interpolation():
            start = len(_asked)
            value = config[name]
            if names := list(dict.fromkeys(_asked[start:])):
                yield key, str(node._value()), names
            elif isinstance(value, (DictConfig, ListConfig)) and not value._is_none():
                yield from _references(value, f"{key}.")
        elif isinstance(node, (DictConfig, ListConfig)) and not node._is_none():
            yield from _references(node, f"{key}.")


def environment_faults(references: Mapping[str, tuple[str, list[str]]]) -> Iterator[str]:
    """Yields a line for each environment variable that stands where it may not."""
    for key, (text, names) in references.items():
        if secret := next((name for name in names if _SECRET.search(name)), None):
            yield f"{key}={text}: by its name the environment variable {secret} is a secret, which no config may read"
        elif not _may_stand(key):
            yield (
                f"{key}={text}: the environment variable {names[0]} cannot stand here; it can in paths (data_dir, "
                "output_dir, model.path, ...) and in tracker.project, entity and group"
            )


def _may_stand(key: str) -> bool:
    parts = key.split(".")
    return parts[-1] in _PLACES or "paths" in parts[-2:-1] or key in _ACCOUNTS


def remember_references(config: Any, references: Mapping[str, tuple[str, list[str]]]) -> None:
    """Keeps with a typed config, which is not frozen yet, the text of values that come from the environment."""
    if references:
        config.__dict__[_ATTRIBUTE] = {key: text for key, (text, _) in references.items()}


def written_down(config: Any, values: Any) -> Any:
    """Returns a config as JSON values for a file or a tracker: references to the environment are not resolved.

    Args:
        config: a checked `RunConfig`.
        values: the same config as JSON values; it is not changed.
    """
    for key, text in getattr(config, "__dict__", {}).get(_ATTRIBUTE, {}).items():
        values = _with(values, key.split("."), text)
    return values


def _with(values: Any, steps: list[str], text: str) -> Any:
    first, rest = steps[0], steps[1:]
    if isinstance(values, list):
        place = int(first)
        return [*values[:place], _with(values[place], rest, text) if rest else text, *values[place + 1 :]]
    if first not in values:  # a source of several languages has been replaced by one for each
        return values
    return {**values, first: _with(values[first], rest, text) if rest else text}
