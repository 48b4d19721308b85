"""Finds modules on the Hugging Face hub by the names of their repositories."""

from __future__ import annotations

import re
from pathlib import Path

from xlt.engine.run import MODULE_FILE
from xlt.errors import UsageError

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w./-]+)?")


def is_repository(name: str) -> bool:
    """Returns whether a name is one of a repository, ORG/NAME or ORG/NAME@REVISION, and not of a file or folder."""
    return REPOSITORY.fullmatch(name) is not None and not Path(name).expanduser().exists()


def hub_file(name: str) -> str:
    """Downloads the module in a repository, unless it was downloaded before; returns the path of its file.

    Args:
        name: ORG/NAME, or ORG/NAME@REVISION with a branch, tag or commit.
    Raises:
        UsageError: the repository cannot be read, or has no module of xlt.
    """
    from huggingface_hub import hf_hub_download

    repository, _, revision = name.partition("@")
    try:
        return str(hf_hub_download(repository, MODULE_FILE, revision=revision or None))
    except Exception as error:  # of the network, of rights, of a cache without the file
        line = str(error).strip().split("\n")[0]
        raise UsageError(
            f"{name}: no such file or folder, and not to be read from the hub either: {line}; a repository of a module "
            f"has the file {MODULE_FILE}, modules of other libraries are read by xlt import"
        ) from error
