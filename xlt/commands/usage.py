"""Makes the parts of `xlt --help` that list config groups and keys, from the groups and the schema themselves."""

from __future__ import annotations

import dataclasses
import importlib.resources
import textwrap
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from xlt.commands.subcommands import SUBCOMMANDS
from xlt.config import LauncherConfig, ModelConfig, RunConfig, TrackerConfig, TrainConfig
from xlt.errors import UsageError
from xlt.escapes import terminal_line
from xlt.plug_ins import config_folders

CONFIG_MODULE = "xlt_conf"

_HYDRAS_GROUPS = Hydra.format_config_groups
_WIDTH = 79
_NAME_WIDTH = 22
_LONG, _FAMILY = 18, 2
_SHARED: dict[str, Any] = {
    "": RunConfig,
    "model": ModelConfig,
    "train": TrainConfig,
    "tracker": TrackerConfig,
    "launcher": LauncherConfig,
}


def plain_help() -> str | None:
    """Returns what `xlt --help` shows if nothing else is on the command line, in a fifth of the time.

    It consists of file names and of the schema, so that no config needs to be composed, nor torch to be imported.
    Returns None where plug-ins may add to the groups, or cannot be used.
    """
    try:
        if config_folders():
            return None
    except UsageError:
        return None
    folder = Path(str(importlib.resources.files(CONFIG_MODULE)))
    register_help(shown=True)
    OmegaConf.register_new_resolver(
        "xlt_groups", lambda *names: groups_help(names, lambda name: _files_of(folder, name)), replace=True
    )
    with (folder / "config.yaml").open(encoding="utf-8") as file:
        template = yaml.load(file, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))["hydra"]["help"]["template"]
    return str(OmegaConf.create({"help": template}).help)


def _files_of(folder: Path, group: str) -> list[str]:
    return sorted(file.stem for file in (folder / {"recipe": "recipes"}.get(group, group)).glob("*.yaml"))


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


def groups_help(names: tuple[str, ...], options_of: Callable[[str], list[str]] | None = None) -> str:
    """Lists config groups, each with its options, in wrapped lines.

    Args:
        names: of the groups.
        options_of: returns the options of a group; None: Hydra knows them.
    """
    options_of = options_of or GlobalHydra.instance().config_loader().get_group_options
    lines = []
    for name in names:
        options = [terminal_line(o) for o in options_of(name) if not o.startswith(("base_", "_"))]
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
    """Shortens a long list: more than two names with the same first word become one, `locale_...`."""
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
