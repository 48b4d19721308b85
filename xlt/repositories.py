"""Finds modules on the Hugging Face hub by the names of their repositories, `ORG/NAME` or `ORG/NAME@REVISION`.

A snapshot that is in the hub's cache is used without a network, too. In the cache, the path of a file has the commit
of its snapshot, so that a path says which version of a repository a file is from.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from xlt.errors import UsageError

REPOSITORY_FILE = "module.safetensors"
"""Name of the module's file in a repository of xlt."""

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w./-]+)?")
_SPARSE, _ADAPTER = ("pytorch_diff.bin",), ("adapter_config.json",)
_ADAPTER_WEIGHTS = ("adapter.safetensors", "adapter_model.safetensors", "pytorch_adapter.bin")
PUBLISHED_FILES = (*_SPARSE, *_ADAPTER, *_ADAPTER_WEIGHTS)
"""Names of the files of modules of other libraries."""
_OF_FILES = (".safetensors", ".bin", ".npz")
_SNAPSHOT = re.compile(r".*/models--([^/]+)/snapshots/([0-9a-f]{40})(/[^/]+)?")


def is_repository(name: str) -> bool:
    """Returns whether a name is one of a repository and not of a file or folder.

    A name that ends as files of modules do is one of a file, also if there is none.
    """
    return (
        REPOSITORY.fullmatch(name) is not None and not name.endswith(_OF_FILES) and not Path(name).expanduser().exists()
    )


def module_path(name: str) -> Path:
    """Returns the path of a module's file: of a local one, or of the one in a repository, which is downloaded.

    In one process, a repository has one version: what its branch names when it is first asked for.

    Args:
        name: path of a file, or ORG/NAME, or ORG/NAME@REVISION with a branch, tag or commit.
    Raises:
        UsageError: the repository cannot be read, or has no module of xlt.
    """
    return _module_in(name) if is_repository(name) else Path(name).expanduser()


def published_module(name: str) -> Path | None:
    """Returns the path of a module of another library; None if the name is one of something else.

    Args:
        name: folder, file `pytorch_diff.bin`, or repository, which is downloaded.
    Raises:
        UsageError: the repository cannot be read, or has no module.
    """
    if is_repository(name):
        return _published_in(name)
    path = Path(name).expanduser()
    if path.is_dir():
        return path if any((path / file).is_file() for file in (*_SPARSE, *_ADAPTER)) else None
    return path if path.name in _SPARSE and path.is_file() else None


def published_weights(path: Path) -> Path:
    """Returns the file with the tensors of a module of another library, given what `published_module` returns."""
    if path.is_file():
        return path
    files = _ADAPTER_WEIGHTS if (path / _ADAPTER[0]).is_file() else _SPARSE
    return path / next((file for file in files if (path / file).is_file()), files[0])


def published_folder(name: str) -> Path:
    """Downloads a module of composable-sft, AdapterHub or peft; returns the folder that has its files.

    Args:
        name: ORG/NAME, or ORG/NAME@REVISION.
    Raises:
        UsageError: the repository cannot be read, or has no such module.
    """
    settings = _downloaded(name, _ADAPTER)
    if settings is None:
        difference = _downloaded(name, _SPARSE)
        if difference is None:
            raise UsageError(f"{name}: {_refusal(name)}; it has neither {_SPARSE[0]} nor {_ADAPTER[0]}")
        return difference.parent
    repository = name.partition("@")[0]
    if _downloaded(f"{repository}@{settings.parent.name}", _ADAPTER_WEIGHTS) is None:
        raise UsageError(f"{name}: it has {_ADAPTER[0]}, but none of {', '.join(_ADAPTER_WEIGHTS)}")
    return settings.parent


def pinned_name(path: Path) -> str | None:
    """Returns ORG/NAME@COMMIT for a file or snapshot in the hub's cache; None for any other path."""
    match = _SNAPSHOT.fullmatch(path.absolute().as_posix())
    return None if match is None else f"{match[1].replace('--', '/')}@{match[2]}"


def forget_versions() -> None:
    """Lets the next call ask the hub anew what the branches name; a new command in the same process begins so."""
    _module_in.cache_clear()
    _published_in.cache_clear()


@lru_cache(maxsize=4096)
def _module_in(name: str) -> Path:
    path = _downloaded(name, (REPOSITORY_FILE,))
    if path is not None:
        return path
    if _downloaded(name, (*_SPARSE, *_ADAPTER)) is not None:
        raise UsageError(f"{name}: is a module of another library, of which xlt import makes a module file")
    raise UsageError(f"{name}: {_refusal(name)}; a repository of a module has the file {REPOSITORY_FILE}")


@lru_cache(maxsize=4096)
def _published_in(name: str) -> Path | None:
    return None if _downloaded(name, (REPOSITORY_FILE,)) is not None else published_folder(name)


def _downloaded(name: str, files: tuple[str, ...]) -> Path | None:
    """Returns the path of the first of some files that a repository has; None if it has none of them.

    Without a network, a file that is not in the cache counts as one that the repository does not have.

    Raises:
        UsageError: there is no such repository or revision, or it may not be read.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

    repository, _, revision = name.partition("@")
    for file in files:
        try:
            return Path(hf_hub_download(repository, file, revision=revision or None))
        except EntryNotFoundError:  # also of a cache without the file
            continue
        except RevisionNotFoundError as error:
            raise UsageError(f"{name}: the repository {repository} has no revision {revision}") from error
        except RepositoryNotFoundError as error:
            raise UsageError(f"{name}: no such file or folder, and no repository of the hub that you may read"
                             ) from error  # fmt: skip
        except Exception as error:  # of the network, of rights, of names that the hub does not accept
            line = str(error).strip().split("\n")[0]
            raise UsageError(f"{name}: no such file or folder, and not to be read from the hub: {line}") from error
    return None


def _refusal(name: str) -> str:
    """Returns why a repository has no module: whether the hub was asked decides what can be said."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "no such file or folder, and not in the cache of the hub, which is offline (HF_HUB_OFFLINE)"
    return "no such file or folder, and the hub has no module of this name, or cannot be reached"
