"""Keeps what Hydra composed in the cache of a store, so that a later command need not compose the same again.

A composition depends on the words, on all files of the search path, on the schemas and the code that composes, and on
Hydra and OmegaConf. What is kept counts only as long as all of them are the same: files by size, times and number. If
nobody can know, as with plug-ins, whose schemas are code of others, nothing is kept; nor is it if a file has changed
since this process began.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

import xlt
from xlt.code_state import are_older, code_state, files_in
from xlt.compose.environment import count_asked
from xlt.compose.loading import folder_of
from xlt.compose.written_configs import CannotBeWrittenError, read_again, written
from xlt.files import atomic_text

_LIBRARIES = ("hydra-core", "omegaconf", "antlr4-python3-runtime", "PyYAML")
_COMPILED = ("__pycache__", ".pyc")

_folder: Path | None = None


@contextlib.contextmanager
def configs_kept_in(cache_folder: Path) -> Iterator[None]:
    """Keeps compositions in a folder while tables are planned; if there is no such folder, none is made.

    Args:
        cache_folder: the cache of a store.
    """
    global _folder
    before, _folder = _folder, cache_folder / "composed" if cache_folder.is_dir() else None
    try:
        yield
    finally:
        _folder = before


def composed_before(
    words: Sequence[str], faults: Sequence[str], compose: Callable[[], tuple[DictConfig, bool]]
) -> DictConfig:
    """Returns the config that `compose` returns, from the folder of `configs_kept_in` if it is there.

    Args:
        words: all that distinguishes this composition: name of the config, and overrides.
        faults: schemas that could not be imported.
        compose: returns the config, and whether it has files only from the search path that Hydra began with.
    """
    state = None if _folder is None else _state(faults)
    if _folder is None or state is None or any(word.lstrip("+~").startswith("hydra") for word in words):
        return compose()[0]
    file = _folder / f"{_digest(words)}.json"
    if (known := _read(file, state)) is not None:
        return known
    before = count_asked()
    config, may_be_kept = compose()
    if may_be_kept and count_asked() == before and _state(faults) == state:  # no file was changed meanwhile
        _write(file, state, config)
    return config


def _read(file: Path, state: str) -> DictConfig | None:
    """Reads a config that was kept in the same state; None if there is none, or the file is damaged."""
    try:
        about, _, text = file.read_text(encoding="utf-8").partition("\n")
        if about != f"{state} {_digest(text)}":
            return None
        return read_again(json.loads(text))
    except (OSError, ValueError):  # a config that cannot be read is a ValueError
        return None


def _write(file: Path, state: str, config: DictConfig) -> None:
    with contextlib.suppress(OSError, CannotBeWrittenError):  # the store may be read-only
        text = json.dumps(written(config))
        file.parent.mkdir(exist_ok=True)
        with atomic_text(file) as lines:
            lines.write(f"{state} {_digest(text)}\n{text}")


def _state(faults: Sequence[str]) -> str | None:
    """Returns a digest of all that a composition depends on besides its words; None if nobody can know."""
    code = code_state()
    if code is None:
        return None
    places = []
    for source in GlobalHydra.instance().config_loader().get_sources():
        if source.scheme() == "structured":
            continue
        if (folder := folder_of(source)) is None:
            return None
        states = [state for state in files_in(folder) if not str(state[0]).endswith(_COMPILED)]
        if not are_older(states):
            return None
        places.append([str(folder), states])
    return _digest([code, _libraries(), places, sorted(faults)])


@cache
def _libraries() -> list[str]:
    return [platform.python_version(), xlt.__version__, *map(version, _LIBRARIES)]


def _digest(value: Any) -> str:
    return hashlib.blake2b(
        json.dumps(value, ensure_ascii=False).encode(errors="surrogatepass"), digest_size=16
    ).hexdigest()
