"""Makes the parts of `xlt --help` that list config groups and keys, from the groups and the schema themselves."""

from __future__ import annotations

import dataclasses
import textwrap
from collections import Counter
from typing import Any

from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from xlt.commands.subcommands import SUBCOMMANDS
from xlt.config import LauncherConfig, ModelConfig, RunConfig, TrackerConfig, TrainConfig
from xlt.escapes import terminal_line

_HYDRAS_GROUPS = Hydra.format_config_groups
_WIDTH = 79
_NAME_WIDTH = 22
_LONG, _FAMILY = 18, 3
_SHARED: dict[str, Any] = {
    "": RunConfig,
    "model": ModelConfig,
    "train": TrainConfig,
    "tracker": TrackerConfig,
    "launcher": LauncherConfig,
}


def register_help(*, shown: bool = False) -> None:
    """Registers the resolvers that conf/config.yaml uses in its help: `${xlt_commands:}` and its like.

    Args:
        shown: whether this command shows the help. Then Hydra makes no lists of all groups, which the help does not
            have, and for which it would compose every line of every recipe: half of the time of `xlt --help`.
    """
    Hydra.format_config_groups = (lambda self, predicate, compact=True: "") if shown else _HYDRAS_GROUPS
    OmegaConf.register_new_resolver("xlt_commands", commands_help, replace=True)
    OmegaConf.register_new_resolver("xlt_groups", lambda *names: groups_help(names), replace=True)
    OmegaConf.register_new_resolver("xlt_keys", lambda *names: keys_help(names), replace=True)


def commands_help() -> str:
    """Lists the subcommands in wrapped lines."""
    text = f"xlt COMMAND ..., one of {' '.join(SUBCOMMANDS)}"
    return textwrap.fill(text, _WIDTH, initial_indent=" " * 7, subsequent_indent=" " * 11)


def groups_help(names: tuple[str, ...]) -> str:
    """Lists config groups, each with its options, in wrapped lines."""
    loader = GlobalHydra.instance().config_loader()
    lines = []
    for name in names:
        options = [terminal_line(o) for o in loader.get_group_options(name) if not o.startswith(("base_", "_"))]
        lines += _entry(name, " ".join(_folded(options)))
    return "\n".join(lines)


def _folded(options: list[str]) -> list[str]:
    """Shortens names that exist for both scales: `nli_mini` and `nli_thesis` become `nli_SCALE`."""
    scaled = {name.removesuffix("_mini") for name in options if name.endswith("_mini")}
    both = {name for name in scaled if f"{name}_thesis" in options}
    ends = ("_mini", "_thesis")
    folded = [next((f"{n}_SCALE" for n in both if o in (n + ends[0], n + ends[1])), o) for o in options]
    return _by_family(list(dict.fromkeys(folded)))


def _by_family(options: list[str]) -> list[str]:
    """Shortens a long list: more than three names with the same first word become one, `locale_...`."""
    if len(options) < _LONG:
        return options
    sizes = Counter(option.partition("_")[0] for option in options)
    families = {family for family, size in sizes.items() if size > _FAMILY}
    shown = [f"{f}_..." if (f := option.partition("_")[0]) in families else option for option in options]
    return list(dict.fromkeys(shown))


def keys_help(names: tuple[str, ...]) -> str:
    """Lists config keys, each with its line of help from the schema."""
    lines = []
    for name in names:
        group, _, last = name.rpartition(".")
        (item,) = (item for item in dataclasses.fields(_SHARED[group]) if item.name == last)
        lines += _entry(name, item.metadata["help"])
    return "\n".join(lines)


def _entry(name: str, text: str) -> list[str]:
    indent = " " * _NAME_WIDTH
    return textwrap.wrap(text, _WIDTH, initial_indent=f"  {name}".ljust(_NAME_WIDTH), subsequent_indent=indent)
