"""What a command asks of a table: which file, which grids of it, and what is told to every run."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, SCMode

from xlt.compose import COMPOSITION_ERRORS, compose, is_composition_error, one_line, strangers
from xlt.compose.messages import suggestion
from xlt.config import faults
from xlt.errors import UsageError
from xlt.plan.planner import Plan
from xlt.tables.catalogue import NamedTable, find_table
from xlt.tables.config import (
    AVERAGES,
    FigureConfig,
    GridConfig,
    ReproductionConfig,
    SystemConfig,
    TableConfig,
)
from xlt.tables.resolving import at_scale, grids_of
from xlt.tables.table import Table

_OWN = ("table", "seeds", "launcher", "output_dir", "scale")
# Overrides of every run that leave its numbers what the table's title says: where things lie, and how they are done.
_NEUTRAL = ("data_dir", "output_dir", "model.path", "model.revision", "device", "threads", "tracker", "launcher")
_DIGITS = 6


@dataclass
class TableRequest:
    """A table as a command asks for it.

    Attributes:
        file: name in `conf/table`.
        name: of what is saved: the file's, with a mark of its own where the table is asked for differently.
        config: the command's settings, the table at its scale among them.
        grids: heading -> what it shows.
        published: the key of `stands_for` that was named; None where the file was.
        overrides: Hydra overrides of every run.
        changes: those words that ask for another table than the file's, for people.
    """

    file: str
    name: str
    config: ReproductionConfig
    grids: dict[str, GridConfig]
    published: str | None
    overrides: list[str]
    changes: list[str]

    @property
    def has_averages(self) -> bool:
        """Whether a grid with a column of averages for each heading is shown too."""
        if len(self.grids) < 2:
            return False
        stands_for = self.config.table.stands_for
        if self.published is not None:
            return stands_for[self.published].show == AVERAGES
        return any(shown.show == AVERAGES for shown in stands_for.values())

    @property
    def figures(self) -> dict[str, FigureConfig]:
        """Heading -> the picture of its grid, for those that have one."""
        whole = self.config.table.figure
        return {h: figure for h, grid in self.grids.items() if (figure := grid.figure or whole) is not None}

    def grid_name(self, heading: str) -> str:
        """The name of the files that a heading's grid is saved in."""
        several = sum(len(part.metrics) for part in self.config.table.parts.values()) > 1
        return f"{self.name}_{re.sub(r'[^0-9A-Za-z]+', '_', heading).strip('_')}" if several else self.name

    def tables(self, plan: Plan) -> tuple[dict[str, Table], list[str]]:
        """Heading -> its runs, added to a plan; and the faults of the headings whose runs cannot be composed."""
        tables: dict[str, Table] = {}
        faulty: list[str] = []
        for heading, grid in self.grids.items():
            try:
                tables[heading] = Table(self.grid_name(heading), grid, self.config.seeds, self.overrides, plan)
            except UsageError as error:
                faulty += error.lines
        return tables, faulty


def request_table(words: Sequence[str], word: str = "table") -> TableRequest:
    """Reads the overrides of a command about a table. Needs Hydra to be ready.

    Args:
        words: `table=NAME` (or `figure=NAME`), what is said of the table and its making, and overrides of every run.
        word: the key that names it, "table" or "figure".
    Raises:
        UsageError: no such table, wrong overrides or values, or a table that a script measures.
    """
    _register()
    words = [_renamed_key(one, word) for one in words]
    _refuse_strays(words)
    named = [one for one in words if one.lstrip("+").startswith("table=")]
    if len(named) != 1:
        raise UsageError(f"{' '.join(named)}: give one {word}" if named else f"{word}: give one, as {word}=4.2")
    found = find_table(named[0].partition("=")[2], word)
    own = [one for one in words if one.partition("=")[0].lstrip("+~").split(".")[0] in _OWN and one != named[0]]
    others = [one for one in words if one not in own and one != named[0]]
    config = _checked(found, own, word)
    table = config.table
    if table.measured_by is not None:
        raise UsageError(
            f"{word}={named[0].partition('=')[2]}: measured, not trained; run python {table.measured_by} --help"
        )
    headings = table.stands_for[found.published].of if found.published is not None else []
    grids = grids_of(table, config.scale, headings)
    if not grids:
        why = "; ".join(f"{part}: {reason}" for part, reason in table.without.items())
        raise UsageError(f"{word}={found.file}: nothing to show at scale={config.scale}{'; ' + why if why else ''}")
    changes = [one for one in (*own, *others) if _asks_differently(one)]
    mark = hashlib.blake2b("\n".join(sorted(changes)).encode(), digest_size=8).hexdigest()[:_DIGITS]
    name = f"{found.file}-{mark}" if changes else found.file
    for grid in grids.values() if changes else ():
        grid.note = "\n".join(filter(None, [f"Asked for with {' '.join(changes)}", grid.note]))
    overrides = [f"tracker.group={name}", *others, f"scale={config.scale}", f"output_dir={config.output_dir}"]
    return TableRequest(found.file, name, config, grids, found.published, overrides, changes)


def _register() -> None:
    store = ConfigStore.instance()
    store.store(name="base_reproduction", node=ReproductionConfig)
    store.store(group="table", name="base_table", node=TableConfig)
    store.store(group="system", name="base_system", node=SystemConfig)


def _renamed_key(word: str, key: str) -> str:
    return f"table={word.partition('=')[2]}" if word.startswith(f"{key}=") else word


def _refuse_strays(words: Sequence[str]) -> None:
    stray = [word for word in words if word.startswith(("=", "-")) or ("=" not in word and not word.startswith("~"))]
    if stray:
        raise UsageError(*(f"{word}: neither an option nor an override; write KEY=VALUE" for word in stray))


def _asks_differently(word: str) -> bool:
    key = word.partition("=")[0].lstrip("+~")
    if key.partition(".")[0] in _OWN:
        return key.startswith("table.")
    return not any(key == neutral or key.startswith(f"{neutral}.") for neutral in _NEUTRAL)


def _checked(found: NamedTable, own: Sequence[str], word: str) -> ReproductionConfig:
    """The command's settings with the table's file at its scale, and the user's changes of it on top."""
    inside = [one for one in own if one.lstrip("+~").startswith("table.")]
    composed = compose([f"table={found.file}", *(one for one in own if one not in inside)], config_name="reproduction")
    at_scale(composed.table, str(composed.scale))
    _apply(inside, composed)
    config = OmegaConf.to_container(
        composed, resolve=True, throw_on_missing=False, structured_config_mode=SCMode.INSTANTIATE
    )
    if lines := [*strangers(composed), *faults(config)]:
        raise UsageError(*(line.replace("table=", f"{word}=", 1) for line in lines))
    assert isinstance(config, ReproductionConfig)
    return config


def _apply(words: Sequence[str], composed: DictConfig) -> None:
    """Applies `table.KEY=VALUE` words as Hydra applies overrides.

    Raises:
        UsageError: words that do not fit, a line each.
    """
    lines = []
    loader: Any = GlobalHydra.instance().config_loader()
    for word in words:
        try:
            values = OverridesParser.create(loader).parse_overrides([word])
            ConfigLoaderImpl._apply_overrides_to_config(values, composed)
        except COMPOSITION_ERRORS as error:
            if not is_composition_error(error):
                raise
            lines.append(f"{word}: {_no_such_key(word, composed) or one_line(error)}")
    if lines:
        raise UsageError(*lines)


def _no_such_key(word: str, composed: DictConfig) -> str | None:
    """What is wrong with the key of a word, if it is one that the table does not have."""
    node: Any = composed
    path = word.partition("=")[0].lstrip("+~")
    for number, name in enumerate(path.split(".")):
        if not isinstance(node, DictConfig) or name not in node:
            there = [str(key) for key in node] if isinstance(node, DictConfig) else []
            upper = ".".join(path.split(".")[:number])
            return f"no such key {name} in {upper}{suggestion(name, there)}"
        node = node[name]
    return None
