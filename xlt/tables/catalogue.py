"""Lists the tables, which are files of `conf/table`, and the published tables and figures that they stand for."""

from __future__ import annotations

import difflib
import re
import weakref
from dataclasses import dataclass
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from xlt.compose import group_options
from xlt.compose.loading import folder_of
from xlt.compose.renamed import RENAMED_TABLES
from xlt.errors import UsageError

_NUMBER = re.compile(r"(?:(table|figure|thesis)[ _])?([1-9A-E])[._](\d+)([a-z]?)", re.IGNORECASE)
_NEAR_NAMES = 3
_CATALOGUES: weakref.WeakKeyDictionary[Any, list[TableEntry]] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class TableEntry:
    """A file of `conf/table`.

    Attributes:
        name: of the file.
        title: one line.
        stands_for: the published tables and figures, as `Table 4.2`.
        has_figure: the file has a picture.
    """

    name: str
    title: str
    stands_for: tuple[str, ...]
    has_figure: bool


@dataclass(frozen=True)
class NamedTable:
    """The table that a user has named.

    Attributes:
        file: name in `conf/table`.
        published: the key of `stands_for` that the user named; None if the user named the file.
    """

    file: str
    published: str | None = None


def catalogue() -> list[TableEntry]:
    """Returns all tables in the order of their names. Hydra must be ready (`xlt.compose.hydra_ready`).

    The files are read once for each initialisation of Hydra.
    """
    loader: Any = GlobalHydra.instance().config_loader()
    if loader not in _CATALOGUES:
        _CATALOGUES[loader] = sorted(map(_entry, group_options("table")), key=lambda entry: entry.name)
    return _CATALOGUES[loader]


def _entry(name: str) -> TableEntry:
    content: Any = OmegaConf.to_container(config_file("table", name), resolve=False)
    parts = [content, *(content.get("parts") or {}).values()]
    has_figure = any(part.get("figure") is not None for part in parts)
    return TableEntry(name, str(content.get("title", "")), tuple(map(str, content.get("stands_for") or ())), has_figure)


def config_file(group: str, name: str) -> DictConfig:
    """Returns the content of one file of a config group; its defaults list is not followed.

    Raises:
        UsageError: there is no such file.
    """
    loader: Any = GlobalHydra.instance().config_loader()
    file = loader.repository.load_config(f"{group}/{name}")
    if file is None:
        raise UsageError(f"{name}: no such file in conf/{group}{_near(name, group_options(group))}")
    content = file.config
    OmegaConf.set_struct(content, False)
    return content


def find_table(name: str, word: str = "table") -> NamedTable:
    """Returns the table that a user names by its file, by its number (4.2, B.2) or as figure_4.2.

    Args:
        name: the value after `table=` or `figure=`.
        word: "table" or "figure"; with "figure", a number is that of a figure.
    Raises:
        UsageError: there is no such table; the message has similar names, or the new name of a renamed table.
    """
    if name in group_options("table"):  # then the files need not be read, which takes a second
        return NamedTable(name)
    if (number := _NUMBER.fullmatch(name)) is not None:
        kind, chapter, place, letter = number.groups()
        kinds = ["Figure"] if "figure" in (word, (kind or "").lower()) else ["Table", "Figure"]
        for published in (f"{kind} {chapter.upper()}.{place}{letter}" for kind in kinds):
            for option in group_options("table"):
                if _mentions(option, f"{chapter.upper()}.{place}") and published in _entry(option).stands_for:
                    return NamedTable(option, published)
    if name in RENAMED_TABLES:
        raise UsageError(f"{word}={name}: this table is {RENAMED_TABLES[name]} now")
    entries = catalogue()
    numbers = [p for e in entries for p in e.stands_for if word == "table" or p.startswith("Figure")]
    options = [entry.name for entry in entries if word == "table" or entry.has_figure]
    options += [published.rpartition(" ")[2] for published in numbers]
    near = _near(name, options)
    raise UsageError(f"{word}={name}: no such {word}{f'{near} ' if near else '; '}--list prints all")


def _mentions(option: str, published: str) -> bool:
    """Returns whether the file of a table has a text in it; True if its place is not known, as in an archive.

    To read a text takes much less time than to read YAML.
    """
    loader: Any = GlobalHydra.instance().config_loader()
    folders = [folder for source in loader.repository.get_sources() if (folder := folder_of(source)) is not None]
    files = [file for folder in folders if (file := folder / "table" / f"{option}.yaml").is_file()]
    return not files or published in files[0].read_text(encoding="utf-8", errors="replace")


def _near(name: str, options: list[str]) -> str:
    options = list(dict.fromkeys(options))  # a table and a figure may have one number
    near = difflib.get_close_matches(name, options, n=_NEAR_NAMES, cutoff=0.5)
    near = near or [option for option in options if name and name in option][:_NEAR_NAMES]
    return f"; did you mean {' or '.join(near)}?" if near else ""
