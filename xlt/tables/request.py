"""Reads a command's request for a table: the file, the grids to make, and the overrides of the runs."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, SCMode

from xlt.compose import COMPOSITION_ERRORS, compose, is_composition_error, one_line, register_schema, strangers
from xlt.compose.environment import count_asked, refuse_environment
from xlt.compose.kept_configs import configs_kept_in
from xlt.compose.messages import suggestion
from xlt.compose.overrides import key_of
from xlt.config import faults
from xlt.errors import UsageError
from xlt.plan.kept_digests import digests_kept_in
from xlt.plan.planner import Plan
from xlt.tables.catalogue import NamedTable, find_table
from xlt.tables.columns import list_columns
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

# Keys of the command itself; all other words are overrides of the runs.
_COMMAND_KEYS = ("table", "seeds", "launcher", "output_dir", "scale")
# Overrides that do not change what the table shows: they only say where files are and how runs are executed.
_NEUTRAL = ("data_dir", "output_dir", "device", "threads", "tracker", "launcher")
_USUAL_SCALE = "mini"
_DIGITS = 6


@dataclass
class TableRequest:
    """A command's request for a table.

    Attributes:
        file: name of the file in `conf/table`.
        name: name of the saved files: that of the table, with a digest added if the request changes the table.
        config: the command's settings, which include the table at its scale.
        grids: heading -> its grid.
        published: key of `stands_for` that the command named; None if it named the file.
        overrides: Hydra overrides for every run.
        changes: the words of the command that change what the table shows; its note has them as they are shown.
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
        """Whether a further grid shows the averages, with one column for each heading."""
        if len(self.grids) < 2:
            return False
        stands_for = self.config.table.stands_for
        if self.published is not None:
            return stands_for[self.published].show == AVERAGES
        return any(shown.show == AVERAGES for shown in stands_for.values())

    @property
    def note(self) -> str:
        """The line under the grid of averages: what the command changes, and the table's note."""
        return _noted(self.changes, self.config.table.note)

    @property
    def figures(self) -> dict[str, FigureConfig]:
        """Heading -> the figure of its grid, for headings with a figure."""
        whole = self.config.table.figure
        return {h: figure for h, grid in self.grids.items() if (figure := grid.figure or whole) is not None}

    @property
    def picture_name(self) -> str:
        """The name of the files of the picture that was asked for, which shows only some of the table's headings."""
        changes = self.name.removeprefix(self.file)  # a digest, if the request changes the table
        return (self.published or self.file).lower().replace(" ", "_").replace(".", "_") + changes

    def grid_name(self, heading: str) -> str:
        """Returns the name of the files in which a heading's grid is saved."""
        several = sum(len(part.metrics) for part in self.config.table.parts.values()) > 1
        return f"{self.name}_{re.sub(r'[^0-9A-Za-z]+', '_', heading).strip('_')}" if several else self.name

    def tables(self, plan: Plan) -> tuple[dict[str, Table], list[str]]:
        """Lists the columns of all headings, and adds their runs to a plan.

        Returns:
            Heading -> its runs; and one line for each fault in the runs of headings that cannot be composed.
        """
        tables: dict[str, Table] = {}
        faulty: list[str] = []
        cache = plan.store.root / "cache"
        with configs_kept_in(cache), digests_kept_in(cache):
            for heading, grid in self.grids.items():
                try:
                    grid = self.grids[heading] = list_columns(grid, self.overrides)
                    tables[heading] = Table(self.grid_name(heading), grid, self.config.seeds, self.overrides, plan)
                except UsageError as error:
                    faulty += error.lines
        return tables, faulty


def request_table(words: Sequence[str], word: str = "table") -> TableRequest:
    """Reads the words of a command about a table. Hydra must be prepared (`hydra_ready`).

    Args:
        words: `table=NAME` (or `figure=NAME`), settings of the table and of the command, and overrides for every run.
        word: the key that names the table, "table" or "figure".
    Raises:
        UsageError: there is no such table, overrides or values are wrong, or another script makes the table.
    """
    _register()
    words = [_renamed_key(one, word) for one in words]
    _refuse_non_overrides(words, word)
    naming = [one for one in words if one.lstrip("+").startswith("table=")]
    if len(naming) > 1:
        raise UsageError(f"{' '.join(naming)}: give one {word}")
    if not naming:
        keys = [one.partition("=")[0] for one in words]
        near = difflib.get_close_matches(word, keys, n=1, cutoff=0.7)
        raise UsageError(f"{near[0]}: did you mean {word}=?" if near else f"{word}: give one, as {word}=4.2")
    named_table = find_table(naming[0].partition("=")[2], word)
    settings = [one for one in words if key_of(one).split(".")[0] in _COMMAND_KEYS and one != naming[0]]
    run_words = [one for one in words if one not in settings and one != naming[0]]
    config = _checked(named_table, settings, word)
    table = config.table
    if table.measured_by is not None:
        raise UsageError(
            f"{word}={naming[0].partition('=')[2]}: measured, not trained; run python {table.measured_by} --help"
        )
    headings = table.stands_for[named_table.published].of if named_table.published is not None else []
    grids = grids_of(table, config.scale, headings)
    if not grids:
        why = "; ".join(f"{part}: {reason}" for part, reason in table.without.items())
        raise UsageError(
            f"{word}={named_table.file}: nothing to show at scale={config.scale}{'; ' + why if why else ''}"
        )
    changes = [one for one in (*settings, *run_words) if changes_table(one)]
    digest = hashlib.blake2b("\n".join(sorted(changes)).encode(), digest_size=8).hexdigest()[:_DIGITS]
    name = f"{named_table.file}-{digest}" if changes else named_table.file
    for grid in grids.values():
        grid.note = _noted(changes, grid.note)
    overrides = [f"tracker.group={name}", *run_words, f"scale={config.scale}", f"output_dir={config.output_dir}"]
    return TableRequest(named_table.file, name, config, grids, named_table.published, overrides, changes)


def _noted(changes: Sequence[str], note: str) -> str:
    """Returns the note of a grid, after a line with the words of the command that change what it shows."""
    return "\n".join(filter(None, [f"Asked for with {' '.join(map(as_shown, changes))}" if changes else "", note]))


def as_shown(word: str) -> str:
    """Returns a word of a command as a table shows it: of the folder of a model, the last part of the path."""
    key, _, value = word.partition("=")
    is_hub_id = value.count("/") <= 1 and not value.startswith(("/", ".", "~"))
    return word if key.lstrip("+~") != "model.path" or is_hub_id else f"{key}={PurePath(value).name}"


def _register() -> None:
    register_schema("base_reproduction", ReproductionConfig)
    register_schema("table/base_table", TableConfig)
    register_schema("system/base_system", SystemConfig)


def _renamed_key(word: str, key: str) -> str:
    return f"table={word.partition('=')[2]}" if word.startswith(f"{key}=") else word


def _refuse_non_overrides(words: Sequence[str], key: str) -> None:
    wrong = [word for word in words if word.startswith(("=", "-")) or ("=" not in word and not word.startswith("~"))]
    if wrong:
        raise UsageError(*(f"{one}: {_instead_of(one, key)}" for one in wrong))
    for one in words:
        name, _, value = one.lstrip("+~").partition("=")
        if name == "seed":
            raise UsageError(f"{one}: a table has a run for each of several seeds; write seeds=[{value or 1}]")


def _instead_of(word: str, key: str) -> str:
    """Says of a word that is no override what would be right."""
    try:
        find_table(word, key)
    except UsageError:
        return "neither an option nor an override; write KEY=VALUE"
    return f"write {key}={word}"


def changes_table(word: str) -> bool:
    """Returns whether a word of a command changes what a table shows, not only where files are or how runs are done."""
    key, _, value = word.lstrip("+~").partition("=")
    if key.partition(".")[0] in _COMMAND_KEYS:
        return key.startswith("table.") or (key == "scale" and value != _USUAL_SCALE)
    return not any(key == neutral or key.startswith(f"{neutral}.") for neutral in _NEUTRAL)


def _checked(named_table: NamedTable, settings: Sequence[str], word: str) -> ReproductionConfig:
    """Returns the command's settings, with the table at its scale and the user's changes applied to it."""
    table_changes = [one for one in settings if one.lstrip("+~").startswith("table.")]
    composed = compose(
        [f"table={named_table.file}", *(one for one in settings if one not in table_changes)],
        config_name="reproduction",
    )
    at_scale(composed.table, str(composed.scale))
    _apply(table_changes, composed)
    before = count_asked()
    config = OmegaConf.to_container(
        composed, resolve=True, throw_on_missing=False, structured_config_mode=SCMode.INSTANTIATE
    )
    refuse_environment(composed, before)
    if lines := [*strangers(composed), *faults(config)]:
        raise UsageError(*(line.replace("table=", f"{word}=", 1) for line in lines))
    assert isinstance(config, ReproductionConfig)
    return config


def _apply(words: Sequence[str], composed: DictConfig) -> None:
    """Applies `table.KEY=VALUE` words as Hydra applies overrides.

    Raises:
        UsageError: words do not fit; a line for each.
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
            lines.append(f"{word}: {_no_such_key(word, composed) or one_line(error, written=word)}")
    if lines:
        raise UsageError(*lines)


def _no_such_key(word: str, composed: DictConfig) -> str | None:
    """Returns what is wrong with the key of a word if the table has no such key; None if it has."""
    node: Any = composed
    path = key_of(word)
    for number, name in enumerate(path.split(".")):
        if not isinstance(node, DictConfig) or name not in node:
            keys = [str(key) for key in node] if isinstance(node, DictConfig) else []
            upper = ".".join(path.split(".")[:number])
            return f"no such key {name} in {upper}{suggestion(name, keys)}"
        node = node[name]
    return None
