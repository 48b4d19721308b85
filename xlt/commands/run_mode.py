"""Saves the first of Hydra's two compositions of a command's config, which only reads `hydra.mode`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from hydra._internal.hydra import Hydra

# A search path adds folders, whose files could set a mode, too.
_CAN_SET_A_MODE = re.compile(r"\b(mode|searchpath)['\"]?\s*:")


@contextmanager
def mode_from_command_line(config_module: str, *own_folders: str | Path | None) -> Iterator[None]:
    """Makes Hydra take `hydra.mode` as unset, without composing the config, where nothing can set it.

    A command runs one job, or several with `-m`, unless `hydra.mode` says otherwise. To read this key Hydra composes
    the whole config, and then composes it again for the job, which nearly doubles the time until a job begins. The key
    can be set by an override of `hydra` or by a config file; if there is either, Hydra does what it always does.

    Args:
        config_module: package whose files are the configs.
        own_folders: the user's folders of configs (`--config-dir`, `--config-path`, plug-ins); None: not given.
    """
    original = Hydra.get_mode
    folders = [Path(path) for path in import_module(config_module).__path__]
    folders += [Path(folder) for folder in own_folders if folder is not None]

    def get_mode(self: Hydra, config_name: str | None, overrides: list[str]) -> Any:
        if _can_set_a_mode(overrides, folders):
            return original(self, config_name, overrides)
        return None

    Hydra.get_mode = get_mode
    try:
        yield
    finally:
        Hydra.get_mode = original


def _can_set_a_mode(overrides: Sequence[str], folders: Sequence[Path]) -> bool:
    if any(override.lstrip("+~").startswith("hydra") for override in overrides):
        return True
    if not all(folder.is_dir() for folder in folders):  # a package, or a folder that only Hydra can find
        return True
    files = (file for folder in folders for file in folder.rglob("*.yaml"))
    return any(_CAN_SET_A_MODE.search(file.read_text(encoding="utf-8", errors="replace")) for file in files)
