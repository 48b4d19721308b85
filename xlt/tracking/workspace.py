"""A W&B workspace for a table: what it shows, in words and as W&B's own objects."""

from __future__ import annotations

import netrc
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from omegaconf import DictConfig, OmegaConf, SCMode

from xlt.compose import compose, compose_language_run
from xlt.engine.benchmarks import SCORE
from xlt.engine.build import build_method, build_task
from xlt.engine.run import BASE, COMPOSED
from xlt.errors import UsageError
from xlt.methods.method import Budget
from xlt.plan.planner import unusual_modules
from xlt.tables.table import SystemConfig, TableConfig
from xlt.tracking.wandb import SYSTEMS, score_name, table_tag

_SERVER = "https://api.wandb.ai"


@dataclass(frozen=True)
class Panel:
    """A picture. `kind`: bars (of summaries), lines (over `x`), both by system with seeds as spread, or table."""

    kind: str
    title: str
    metrics: tuple[str, ...]
    x: str | None = None

    def __str__(self) -> str:
        over = f" over {self.x}" if self.x is not None else ""
        return f"{self.kind}: {self.title} [{', '.join(self.metrics)}]{over}"


@dataclass
class Workspace:
    """What a workspace shows, and of which runs.

    Attributes:
        name, project, entity: where it is; no entity: the account's own.
        table: whose runs it shows.
        columns: pinned in the list of runs.
        sections: heading -> its panels.
    """

    name: str
    project: str
    entity: str | None
    table: str
    columns: list[str] = field(default_factory=list)
    sections: dict[str, list[Panel]] = field(default_factory=dict)

    def lines(self) -> Iterator[str]:
        """All of it in words."""
        yield f"workspace {self.name!r} in {self.entity or 'your entity'}/{self.project}"
        yield f"  runs: tagged {table_tag(self.table)!r}, grouped by job type; columns {', '.join(self.columns)}"
        for heading, panels in self.sections.items():
            yield f"  section {heading!r}, {len(panels)} panels"
            yield from (f"    {panel}" for panel in panels)


def table_workspace(name: str, tables: Sequence[TableConfig], overrides: Sequence[str]) -> Workspace:
    """The workspace for a table's runs.

    Args:
        name: of the table.
        tables: the table, or its parts.
        overrides: the user's, for every run.
    Raises:
        UsageError: an override does not compose, or the table has no runs.
    """
    scores: dict[str, Panel] = {}
    curves: dict[str, dict[str, Panel]] = {"Learning curves": {}, "Learning curves of language modules": {}}
    columns: dict[str, None] = {}
    tracker: Any = None
    for table in tables:
        for system in table.systems.values():
            words = [f"experiment={system.experiment}", *table.overrides, *system.overrides, *overrides]
            column = table.sources[0] if table.sources else ""  # a table may have curves only
            config = compose([word.replace("{column}", column) for word in words])
            tracker = config.tracker
            columns[f"summary:best/{_part(config, 'task').metric}"] = None
            for panel in _curves(config):
                curves["Learning curves"][panel.title] = panel
            if config.language_modules.experiment is not None:
                language = next((source.language for source in config.data.sources.values()), None)
                for panel in _curves(compose_language_run(config, str(language))):
                    curves["Learning curves of language modules"][panel.title] = panel
            for column in table.sources:
                metric = SCORE if column in config.data.benchmarks else table.metric
                title, own = f"{column} {metric}", score_name(column, _composition(config, system, column), metric)
                before = scores[title].metrics if title in scores else ()
                scores[title] = Panel("bars", title, tuple(dict.fromkeys((*before, own))))
    if tracker is None:
        raise UsageError(f"table={name}: it has no runs; there is nothing to show")
    sections = {name: list(of.values()) for name, of in curves.items() if of}
    if scores:
        sections = {"Scores": [Panel("table", "every evaluation", ("evaluation",)), *scores.values()], **sections}
    return Workspace(f"xlt {name}", tracker.project, tracker.entity, name, list(columns), sections)


def _composition(config: DictConfig, system: SystemConfig, column: str) -> str:
    """The composition that a system shows of a column, by the name that its scores bear at W&B."""
    if system.composition == BASE:
        return BASE
    sources = config.data.evaluation
    language = sources[column].language if system.composition == COMPOSED and column in sources else None
    unusual = unusual_modules(config, language)
    return f"{system.composition} ({unusual})" if unusual else system.composition


def _curves(config: DictConfig) -> Iterator[Panel]:
    """Validation and loss of each phase that the method has."""
    metric = _part(config, "task").metric
    for phase in _part(config, "method").phases(Budget(1, 1.0, 1, 1.0)):
        for name in (f"validation/{metric}", "loss"):
            yield Panel("lines", f"{phase.name}: {name}", (f"{phase.name}/{name}",), f"{phase.name}/step")


def _part(config: DictConfig, name: str) -> Any:
    node = OmegaConf.to_container(config[name], resolve=True, structured_config_mode=SCMode.INSTANTIATE)
    return {"task": build_task, "method": build_method}[name](node)


def has_account() -> bool:
    """Whether there is a key for W&B, in the environment or where `wandb login` leaves it; nobody is asked."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", _SERVER)).hostname
    file = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        return host is not None and netrc.netrc(file).authenticators(host) is not None
    except (FileNotFoundError, netrc.NetrcParseError):
        return False


def create(workspace: Workspace) -> str:
    """Creates the workspace at W&B; returns its address.

    Raises:
        UsageError: the client is not installed, or W&B refuses.
        OSError: W&B cannot be reached.
    """
    try:
        import wandb
        import wandb_workspaces.workspaces  # noqa: F401
    except ImportError as error:
        raise UsageError("wandb_dashboard: W&B's client is not installed; pip install 'xlt[wandb]'") from error
    try:
        made = as_wandb(workspace, workspace.entity or str(wandb.Api().default_entity))
        made.save()
    except wandb.errors.Error as error:
        raise UsageError(f"wandb_dashboard: W&B refused: {error}") from error
    return str(made.url)


def as_wandb(workspace: Workspace, entity: str) -> Any:
    """The same as an object of W&B's workspace API, not yet saved."""
    import wandb_workspaces.workspaces as ws

    sections = [
        ws.Section(name=heading, panels=[_as_wandb(panel, workspace.table) for panel in panels], is_open=number == 0)
        for number, (heading, panels) in enumerate(workspace.sections.items())
    ]
    runs = ws.RunsetSettings(
        filters=[ws.Tags().isin([table_tag(workspace.table)])],
        groupby=[ws.Metric("JobType")],
        pinned_columns=list(workspace.columns),
    )
    return ws.Workspace(
        entity=entity, project=workspace.project, name=workspace.name, sections=sections, runset_settings=runs
    )


def _as_wandb(panel: Panel, table: str) -> Any:
    import wandb_workspaces.reports.v2 as wr

    if panel.kind == "table":
        return wr.WeavePanelSummaryTable(table_name=panel.metrics[0])
    by = wr.Config(f"{SYSTEMS}.{table}")
    shared = {"title": panel.title, "groupby": by, "groupby_aggfunc": "mean", "groupby_rangefunc": "stddev"}
    if panel.kind == "bars":
        return wr.BarPlot(metrics=list(panel.metrics), **shared)
    return wr.LinePlot(x=panel.x, y=list(panel.metrics), **shared)
