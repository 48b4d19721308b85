"""Plug-ins: folders of others whose methods, tasks, readers and configs are used as if they were files of xlt.

A plug-in folder has some of these parts:

    methods/NAME.py  tasks/NAME.py  readers/NAME.py  transforms/NAME.py  figures/NAME.py  composition/NAME.py
    conf/GROUP/NAME.yaml

`methods/NAME.py` is imported as `xlt.methods.NAME`, and so on: these folders extend the packages of xlt. A file
can therefore move into xlt, or out of it, as it is. Plug-in folders are named by the user (`--plugins FOLDER`, or the
environment variable `XLT_PLUGINS`), or are installed packages: the entry point of group `xlt.plug_ins` names one. Their
Python code is run, so no config can name them.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import pkgutil
import sys
from collections.abc import Iterable, Sequence
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from xlt.errors import UsageError

VARIABLE = "XLT_PLUGINS"
CONFIG_FOLDER = "conf"
_OPTION = "--plugins"
_GROUP = "xlt.plug_ins"
_PACKAGES = {
    "methods": "xlt.methods",
    "tasks": "xlt.tasks",
    "readers": "xlt.data.readers",
    "transforms": "xlt.data.transforms",
    "figures": "xlt.tables.figures",
    "composition": "xlt.modules.composition",
}
"""Part of a plug-in folder -> the package that it extends."""


def use_plug_ins(folders: Sequence[str]) -> None:
    """Adds folders to the plug-ins of this process and of the processes that it starts.

    Raises:
        UsageError: a folder does not exist, is no plug-in folder, or has a file of which xlt has one.
    """
    known = os.environ.get(VARIABLE, "").split(os.pathsep)
    added = [str(Path(folder).expanduser().absolute()) for folder in folders]
    faults = [f"{_OPTION}={folder}: {fault}" for folder in folders if (fault := _fault(Path(folder).expanduser()))]
    if faults:
        raise UsageError(*faults)
    os.environ[VARIABLE] = os.pathsep.join(dict.fromkeys(filter(None, [*known, *added])))
    activate()


def activate() -> None:
    """Makes the Python files of all plug-ins importable; does nothing for those that are already.

    Raises:
        UsageError: a folder of `XLT_PLUGINS`, or an installed plug-in, is unusable.
    """
    for folder in plug_in_folders():
        for part, name in _PACKAGES.items():
            if (folder / part).is_dir():
                package = importlib.import_module(name)
                if str(folder / part) not in package.__path__:
                    package.__path__.append(str(folder / part))


def plug_in_folders() -> list[Path]:
    """Returns the folders of all plug-ins: those that the user named, then those of installed packages.

    Raises:
        UsageError: one of them is unusable.
    """
    named = [Path(folder).expanduser() for folder in os.environ.get(VARIABLE, "").split(os.pathsep) if folder]
    if faults := [f"{VARIABLE}: {folder}: {fault}" for folder in named if (fault := _fault(folder))]:
        raise UsageError(*faults)
    return list(dict.fromkeys([*(folder.absolute() for folder in named), *_installed()]))


def config_folders() -> list[Path]:
    """Returns the folders of configs that plug-ins have.

    Raises:
        UsageError: a plug-in is unusable.
    """
    return [folder / CONFIG_FOLDER for folder in plug_in_folders() if (folder / CONFIG_FOLDER).is_dir()]


def installed_entries(group: str) -> list[EntryPoint]:
    """Returns the entry points of a group that installed packages have."""
    return list(_entries(tuple(sys.path)).select(group=group))


@lru_cache(maxsize=4)
def _entries(places: tuple[str, ...]) -> Any:
    """Looks all entry points up, which takes a twentieth of a second, once for each search path of a process."""
    return entry_points()


def _installed() -> list[Path]:
    folders = []
    for entry in installed_entries(_GROUP):
        try:
            spec = importlib.util.find_spec(entry.value)
        except (ImportError, ValueError):
            spec = None
        places = [] if spec is None else list(spec.submodule_search_locations or ())
        fault = "there is no such package" if not places else _fault(Path(places[0]))
        if fault is not None:
            raise UsageError(f"the installed plug-in {entry.name} ({entry.value}): {fault}")
        folders.append(Path(places[0]))
    return folders


def fault_of_name(part: str, name: str) -> str | None:
    """Returns why a plug-in cannot have a file of this name; None if it can.

    Args:
        part: of the plug-in's folder, such as "methods".
        name: of the file, without its ending.
    """
    package = _PACKAGES[part]
    if name in _names(_own_folder(package)):
        return f"{part}/{name}.py: xlt has {package}.{name}; give the file another name"
    return None


def _fault(folder: Path) -> str | None:
    """Returns why a folder cannot be a plug-in; None if it can."""
    if not folder.is_dir():
        return "no such folder"
    if not any((folder / part).is_dir() for part in (*_PACKAGES, CONFIG_FOLDER)):
        return f"no plug-in folder; it has none of the folders {', '.join((*_PACKAGES, CONFIG_FOLDER))}"
    return next(
        (fault for part in _PACKAGES for name in _names(folder / part) if (fault := fault_of_name(part, name))), None
    )


def _own_folder(package: str) -> Path:
    return Path(__file__).parent.joinpath(*package.split(".")[1:])


def _names(folder: Path) -> Iterable[str]:
    return (module.name for module in pkgutil.iter_modules([str(folder)]))
