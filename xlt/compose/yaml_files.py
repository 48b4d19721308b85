"""Checks the config files of a folder from elsewhere before Hydra reads them.

A file of a kilobyte can name a part of itself so often that all of it fills the memory ("billion laughs"), and YAML has
tags that make objects of Python. Both are recognised in the file's nodes, from which nothing has been made yet.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import yaml

from xlt.errors import UsageError

_MOST_BYTES = 4_000_000
_MOST_NODES = 20_000  # of all nodes, with those that stand for others; claims.yaml, the largest config, has some 10,000
_MOST_DIGITS = 300
_TAG = "tag:yaml.org,2002:"
_PLAIN = {
    f"{_TAG}{name}" for name in ("map", "seq", "str", "int", "float", "bool", "null", "timestamp", "merge", "set")
}


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """PyYAML's safe loader, in C if available."""


def check_config_folder(folder: str | Path) -> None:
    """Refuses a folder of configs with files that cannot be read safely.

    Args:
        folder: of the user; every `.yaml` file in it and its subfolders is checked, but for links to nothing, which
            editors leave.
    Raises:
        UsageError: a line for each file with a fault, with the number of the line.
    """
    found = sorted(path for ending in ("yaml", "yml") for path in Path(folder).rglob(f"*.{ending}"))
    files = [path for path in found if path.exists() or not path.is_symlink()]
    if lines := [line for file in files if (line := config_file_fault(file)) is not None]:
        raise UsageError(*lines)


def config_file_fault(file: Path) -> str | None:
    """Returns a line about a config file that cannot be read safely; None if it can be, or if it is no YAML at all.

    Faults of the syntax are left to Hydra, which knows whether the file is needed.
    """
    try:
        state = file.stat()
        if stat.S_ISDIR(state.st_mode):
            return None
        if not stat.S_ISREG(state.st_mode):
            return f"{file}: is a pipe or a device, not a file"
        if state.st_size > _MOST_BYTES:
            return f"{file}: has {state.st_size} bytes; a config file has at most {_MOST_BYTES}"
        root = yaml.compose(file.read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        return f"{file}: cannot be read ({error.strerror})"
    except RecursionError:
        return f"{file}: its lists and mappings are nested too deep"
    except (yaml.YAMLError, UnicodeDecodeError, ValueError):
        return None
    try:
        return None if root is None else _fault(file, root)
    except RecursionError:
        return f"{file}: its lists and mappings are nested too deep"


def _fault(file: Path, root: yaml.Node) -> str | None:
    sizes: dict[int, int | None] = {}
    for node in _nodes(root):
        line = f"{file}:{node.start_mark.line + 1}"
        if node.tag not in _PLAIN:
            return f"{line}: the tag {_shown_tag(node.tag)} is not allowed; a config holds plain values only"
        if node.tag == f"{_TAG}int" and len(node.value) > _MOST_DIGITS:
            return f"{line}: an integer of {len(node.value)} digits; a number of this size fits no setting"
    if _size(root, sizes) > _MOST_NODES:
        return (
            f"{file}: has more than {_MOST_NODES} values if its aliases (*NAME) are written out; a config repeats "
            "less, or is several files"
        )
    return None


def _nodes(root: yaml.Node) -> Iterator[yaml.Node]:
    """Yields every node of a file once, also if aliases stand for it."""
    seen, waiting = set(), [root]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        waiting += _parts(node)


def _parts(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _size(node: yaml.Node, sizes: dict[int, int | None]) -> int:
    """Returns the number of values below a node if all aliases are written out; of a node in itself, too many."""
    if id(node) not in sizes:
        sizes[id(node)] = None  # while its parts are counted
        sizes[id(node)] = min(1 + sum(_size(part, sizes) for part in _parts(node)), _MOST_NODES + 1)
    size = sizes[id(node)]
    return _MOST_NODES + 1 if size is None else size


def _shown_tag(tag: str) -> str:
    return f"!!{tag.removeprefix(_TAG)}" if tag.startswith(_TAG) else tag
