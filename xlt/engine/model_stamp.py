"""What tells that nothing has changed for a check of a model: its files, and the libraries that read them."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from xlt.config import ModelConfig
from xlt.models.checkpoint import expanded

_LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "peft", "bitsandbytes")


def model_stamp(model: ModelConfig) -> Any:
    """Returns the state of a local model's files and the versions of the libraries that read them, as JSON values.

    Returns:
        None if nobody can know what has changed: the model is one of the hub or random, or it runs code of its own.
    """
    if model.path is None or model.trust_remote_code:
        return None
    folder = Path(expanded(model.path))
    try:
        files = [(file.name, file.stat()) for file in sorted(folder.iterdir())]
    except OSError:
        return None
    states = [[name, state.st_size, state.st_mtime_ns, state.st_ino] for name, state in files]
    return {"files": states, "libraries": _versions()}


@cache
def _versions() -> dict[str, str | None]:
    return {name: _version(name) for name in _LIBRARIES}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
