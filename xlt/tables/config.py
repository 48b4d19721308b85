"""The schema of tables: the keys of `conf/table`, `conf/system` and `conf/published`, and the config of a grid."""

from __future__ import annotations

import dataclasses
import itertools
import pkgutil
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xlt.config import LauncherConfig, key, optional
from xlt.data.listing import EVERY

AVERAGE = "avg"
AVERAGES, LANGUAGES, FIGURE = "averages", "languages", "figure"


@dataclass
class FigureConfig:
    """The figure that is drawn for a table."""

    kind: str = key("kind of figure; name of a file in xlt/tables/figures")
    metric: str | None = optional("metric on the vertical axis, for kinds that can show several", None)

    def faults(self, prefix: str) -> Iterator[str]:
        if self.kind not in kinds():
            yield f"{prefix}.kind={self.kind}: no such figure; there are {', '.join(kinds())}"


def kinds() -> list[str]:
    """Returns the names of the kinds of figures, which are the files in `xlt/tables/figures`."""
    loaded = sys.modules.get(f"{__package__}.figures")  # plug-ins extend it
    places = [str(Path(__file__).parent / "figures")] if loaded is None else loaded.__path__
    names = (info.name for info in pkgutil.iter_modules(places))
    return sorted(name for name in names if name != "figure" and not name.startswith("_"))


@dataclass
class ScoreboardConfig:
    """How a grid of very many languages is shown: languages as rows with facts about each, and means of groups.

    Languages are grouped by script, by family, and by whether the encoder's tokenizer knows their text.
    """

    unknown_share: float = optional(
        "least share of unknown pieces of a language whose script the tokenizer does not know", 0.1, low=0, high=1
    )
    pieces_per_word: float = optional("least number of pieces a word of a language that is cut small", 3.0, low=1)


@dataclass
class SearchConfig:
    """A search over settings of one system; every combination is a row of the table."""

    over: dict[str, list[str]] = key("config key -> values to try; they are added to the system's overrides")
    best: str | None = optional("best combination of the published search, written as the name of its row", None)

    def faults(self, prefix: str) -> Iterator[str]:
        for name, values in self.over.items():
            if len(set(values)) < max(len(values), 1):
                yield f"{prefix}.over.{name}={values}: must be different values, at least one"


@dataclass
class SystemConfig:
    """A system, which is a row of a table: an experiment with overrides, and the composition that is evaluated."""

    label: str = key("name in the table")
    experiment: str | None = optional("file of conf/experiment; null: that of the table's part", None)
    overrides: list[str] = optional(
        "Hydra overrides; {experiment}, {scale} are replaced; with {column}, each column has its own run",
        [],
    )
    composition: str = optional("file of conf/composition: the modules in the evaluated model", "task+language")
    with_data_of: str | None = optional(
        "file of conf/source: the row has only columns of languages that this source has; null: all columns", None
    )


@dataclass
class EntryConfig:
    """An entry of a table: a system, and the table's changes to it."""

    system: str | None = optional("file of conf/system; null: the file with the name of this entry", None)
    label: str | None = optional("name in the table; null: that of the system", None)
    experiment: str | None = optional("file of conf/experiment; null: that of the system, else that of the part", None)
    overrides: list[str] = optional("further Hydra overrides, after those of the system", [])
    by_metric: dict[str, list[str]] = optional("heading -> further overrides of the runs that are shown under it", {})
    composition: str | None = optional("another composition; null: the system's", None)
    search: SearchConfig | None = optional("settings that are searched over: a row for each", None)
    published: str | None = optional("row of the published numbers; null: the one named as this entry", None)
    with_data_of: str | None = optional("another value of the system's key; null: the system's", None)


@dataclass
class PartConfig:
    """A part of a table, mostly one task: systems by columns, for one or more metrics of the same runs."""

    experiment: str = key("file of conf/experiment, for the runs of this part")
    metrics: dict[str, str] = key("heading -> metric of the evaluation; each heading is a separate grid")
    title: str | None = optional("title, one line; null: the table's title with the heading", None)
    overrides: list[str] = optional("Hydra overrides for every run of the part", [])
    systems: dict[str, EntryConfig] = optional("name of a row -> its system; rows are in this order", {})
    columns: list[str] = optional(
        "names in data.evaluation or data.benchmarks, or in groups; '*': all names in data.evaluation", []
    )
    groups: dict[str, list[str]] = optional("column -> names in data.evaluation whose mean it shows", {})
    average: list[str] = optional("columns that the average is over; empty: all", [])
    published: str | None = optional("file of conf/published; null: nothing is published", None)
    note: str = optional("a line under the part's grids", "")
    figure: FigureConfig | None = optional("the part's picture; null: the table's", None)
    scoreboard: ScoreboardConfig | None = optional("show very many languages as rows with facts; null: do not", None)

    def faults(self, prefix: str) -> Iterator[str]:
        if not self.metrics:
            yield f"{prefix}.metrics: empty; give a heading and its metric, as {{POS: accuracy}}"
        yield from _repeated(self, ("columns", "average"), prefix)
        for name, members in self.groups.items():
            if len({*members}) < len(members):
                yield f"{prefix}.groups.{name}={list(members)}: a name is there twice, so it would count twice"
        for name in self.average:
            if name not in self.columns and EVERY not in self.columns:
                yield f"{prefix}.average: {name} is not in {prefix}.columns"
        for name, members in self.groups.items():
            if name not in self.columns or not members:
                yield f"{prefix}.groups.{name}: must have members and be in {prefix}.columns"
        for name, entry in self.systems.items():
            for heading in entry.by_metric.keys() - self.metrics.keys():
                headings = ", ".join(self.metrics)
                yield f"{prefix}.systems.{name}.by_metric.{heading}: no such heading; there are {headings}"


@dataclass
class ShownConfig:
    """The way in which a table file reproduces a published table or figure."""

    show: str = optional(
        "one column of averages per heading, one grid of languages per heading, or the figure",
        LANGUAGES,
        choices=(AVERAGES, LANGUAGES, FIGURE),
    )
    of: list[str] = optional("headings that are shown; empty: all", [])


@dataclass
class TableConfig:
    """The content of a table; a file of conf/table. At each scale, `mini` or `thesis` overrides the other keys."""

    title: str = key("title, one line")
    stands_for: dict[str, ShownConfig] = optional(
        "published table or figure, for example Table 4.2 -> how it is shown", {}
    )
    parts: dict[str, PartConfig] = optional("name -> part of the table; mostly one part for each task", {})
    figure: FigureConfig | None = optional("figure for all headings that have no own figure; null: none", None)
    note: str = optional("a line under the table", "")
    measured_by: str | None = optional("the script whose measurements it shows; nothing is trained for it", None)
    published: str | None = optional("file of conf/published, for a table that is measured", None)
    without: dict[str, str] = optional("part that this scale lacks -> why", {})
    headings: list[str] = optional("show only these headings; empty: all", [])
    rows: list[str] = optional("show only these systems; empty: all", [])
    columns: list[str] = optional("show only these columns, where a part has them; empty: all", [])
    average: list[str] = optional("average over these columns; empty: as each part says", [])
    mini: Any = optional("what is otherwise at this scale", None)
    thesis: Any = optional("what is otherwise at this scale", None)

    def faults(self, prefix: str) -> Iterator[str]:
        yield from _repeated(self, ("headings", "rows", "columns", "average"), prefix)
        if self.columns and (others := [column for column in self.average if column not in self.columns]):
            yield f"{prefix}.average: {', '.join(others)} not in {prefix}.columns={list(self.columns)}"
        known = [heading for part in self.parts.values() for heading in part.metrics]
        for heading in (heading for heading, count in Counter(known).items() if count > 1):
            yield f"{prefix}.parts: {heading} is a heading of two parts; give each a heading of its own"
        for name, shown in self.stands_for.items():
            for heading in shown.of:
                if heading not in known:
                    yield f"{prefix}.stands_for.{name}.of: no heading {heading}; there are {', '.join(known)}"
        for heading in self.headings:
            if heading not in known:
                yield f"{prefix}.headings: no heading {heading}; there are {', '.join(known)}"
        rows = [name for part in self.parts.values() for name in part.systems]
        for name in self.rows:
            if name not in rows:
                yield f"{prefix}.rows: no system {name}; there are {', '.join(dict.fromkeys(rows))}"
        columns = [
            column
            for part in self.parts.values()
            for column in (*part.columns, *itertools.chain.from_iterable(part.groups.values()))
        ]
        for where in ("columns", "average"):
            for column in getattr(self, where):
                if column not in columns and EVERY not in columns:
                    known_columns = ", ".join(dict.fromkeys(columns))
                    yield f"{prefix}.{where}: no part has a column {column}; there are {known_columns}"


def _repeated(config: Any, names: Sequence[str], prefix: str) -> Iterator[str]:
    """Yields a line for each list of names in which one is repeated: it would be shown, or count in a mean, twice."""
    for name in names:
        if twice := [one for one, count in Counter(getattr(config, name)).items() if count > 1]:
            yield f"{prefix}.{name}: {', '.join(twice)} more than once; give each once"


@dataclass
class PublishedConfig:
    """The numbers of a published table; a file of conf/published."""

    name: str = key("name of the published table, with the model that was used")
    numbers: dict[str, dict[str, dict[str, float]]] = optional(
        "heading -> system -> column (or avg, the printed average) -> number", {}
    )
    over: dict[str, list[str]] = optional(
        "heading -> columns that the printed average is over; else all that the row has", {}
    )
    facts: dict[str, dict[str, float]] = optional("system or column -> what else is published of it, for a figure", {})


@dataclass
class GridConfig:
    """One grid of a table at one scale: systems by columns, for one metric, together with published numbers.

    Attributes:
        title: one line.
        metric: of every cell, named as in the evaluations.
        overrides: Hydra overrides for every run.
        systems: name -> system, in order; each has its experiment.
        searches: system -> settings to search over.
        columns: names in data.evaluation or data.benchmarks, or names of groups; "*" until `list_columns` lists them.
        columns_of: system -> its columns, for systems that have fewer; what is not in it has all.
        groups: column -> its members.
        average: columns over which the average is taken; empty: all.
        reference: system -> column (or avg) -> published number.
        reference_name: name of the published table.
        facts: system or column -> name of a further published number -> number.
        note: a line under the grid.
        figure: the figure of the grid.
        scoreboard: how languages are shown as rows; None: they are columns.
    """

    title: str
    metric: str
    systems: dict[str, SystemConfig]
    columns: list[str]
    overrides: list[str] = dataclasses.field(default_factory=list)
    searches: dict[str, SearchConfig] = dataclasses.field(default_factory=dict)
    groups: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    average: list[str] = dataclasses.field(default_factory=list)
    reference: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    reference_name: str = ""
    facts: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    note: str = ""
    figure: FigureConfig | None = None
    columns_of: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    scoreboard: ScoreboardConfig | None = None

    @property
    def sources(self) -> list[str]:
        """The evaluation sources and benchmarks of the columns; groups are replaced by their members."""
        return list(dict.fromkeys(name for column in self.columns for name in self.groups.get(column, [column])))

    def sources_of(self, system: str) -> list[str]:
        """Returns the evaluation sources and benchmarks of a system's row."""
        own = self.columns_of.get(system)
        return [name for name in self.sources if own is None or name in own]

    def searched(self) -> GridConfig:
        """Returns the grid with a system for each combination of a search, named `SYSTEM KEY=VALUE ...`.

        Published numbers of other settings are left out.
        """
        systems: dict[str, SystemConfig] = {}
        for name, system in self.systems.items():
            over = self.searches[name].over if name in self.searches else {}
            for values in itertools.product(*over.values()):
                pairs = list(zip(over, values, strict=True))
                words = [f"{word}={value}" for word, value in pairs]
                setting = "".join(f" {word.rpartition('.')[2]}={value}" for word, value in pairs)
                systems[name + setting] = dataclasses.replace(
                    system, label=system.label + setting, overrides=[*system.overrides, *words]
                )
        reference = {name: numbers for name, numbers in self.reference.items() if name in systems}
        return dataclasses.replace(self, systems=systems, reference=reference)


@dataclass
class ReproductionConfig:
    """The settings of the command `scripts/reproduce_table.py`."""

    table: TableConfig = key("the table to reproduce")
    seeds: list[int] = key("seeds; every system has one run for each")
    launcher: LauncherConfig = key("how and where the runs are executed")
    output_dir: str = key("folder for runs and tables")
    scale: str = key("scale of the table and its runs: mini or thesis", choices=("mini", "thesis"))

    def faults(self, prefix: str) -> Any:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            yield f"seeds={self.seeds}: must be different numbers from 0, at least one; for instance seeds=[1,2,3]"
