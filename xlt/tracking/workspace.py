"""Builds a W&B workspace for a table, and describes it in words."""

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
from xlt.config.run import LANGUAGE, TASK
from xlt.engine.benchmarks import SCORE
from xlt.engine.build import build_method, build_task
from xlt.errors import UsageError
from xlt.methods.method import Budget
from xlt.modules.composition.expression import leaves
from xlt.plan.modules import unusual_modules
from xlt.tables.columns import run_words, shown_expression
from xlt.tables.config import GridConfig
from xlt.tracking.wandb import SYSTEMS, score_name, table_tag

_SERVER = "https://api.wandb.ai"


@dataclass(frozen=True)
class WorkspacePanel:
    """A panel of a workspace.

    Attributes:
        kind: "bars" (of summaries) or "lines" (over `x`), both by system with the spread over seeds; or "table".
        title: above the panel.
        metrics: names of what it shows.
        x: name of the x axis of lines.
    """

    kind: str
    title: str
    metrics: tuple[str, ...]
    x: str | None = None

    def __str__(self) -> str:
        over = f" over {self.x}" if self.x is not None else ""
        return f"{self.kind}: {self.title} [{', '.join(self.metrics)}]{over}"


@dataclass
class Workspace:
    """The content of a W&B workspace.

    Attributes:
        name, project, entity: its place at W&B; without entity it is the account's own.
        table: name of the table whose runs it shows.
        columns: pinned columns in the list of runs.
        sections: heading -> panels.
    """

    name: str
    project: str
    entity: str | None
    table: str
    columns: list[str] = field(default_factory=list)
    sections: dict[str, list[WorkspacePanel]] = field(default_factory=dict)

    def lines(self) -> Iterator[str]:
        """Yields a description of the workspace, line by line."""
        yield f"workspace {self.name!r} in {self.entity or 'your entity'}/{self.project}"
        yield f"  runs: tagged {table_tag(self.table)!r}, grouped by job type; columns {', '.join(self.columns)}"
        for heading, panels in self.sections.items():
            yield f"  section {heading!r}, {len(panels)} panels"
            yield from (f"    {panel}" for panel in panels)


def table_workspace(name: str, tables: Sequence[GridConfig], overrides: Sequence[str]) -> Workspace:
    """Builds the workspace for a table's runs.

    Args:
        name: of the table.
        tables: the table, or its parts.
        overrides: of the user, for every run.
    Raises:
        UsageError: an override is not valid, or the table has no runs.
    """
    scores: dict[str, WorkspacePanel] = {}
    curves: dict[str, dict[str, WorkspacePanel]] = {"Learning curves": {}, "Learning curves of language modules": {}}
    columns: dict[str, None] = {}
    tracker: Any = None
    for table in tables:
        for name_in_table, system in table.systems.items():
            column = table.sources[0] if table.sources else ""  # a table may have curves only
            config = compose(run_words(table, system, overrides, column))
            tracker = config.tracker
            columns[f"summary:best/{_part(config, 'task').metric}"] = None
            for panel in _curves(config):
                curves["Learning curves"][panel.title] = panel
            if config.language_modules.experiment is not None:
                language = next((source.language for source in config.data.sources.values()), None)
                for panel in _curves(compose_language_run(config, str(language))):
                    curves["Learning curves of language modules"][panel.title] = panel
            for column in table.sources_of(name_in_table):
                metric = SCORE if column in config.data.benchmarks else table.metric
                title = f"{column} {metric}"
                name_at_wandb = score_name(column, _composition(config, column), metric)
                before = scores[title].metrics if title in scores else ()
                scores[title] = WorkspacePanel("bars", title, tuple(dict.fromkeys((*before, name_at_wandb))))
    if tracker is None:
        raise UsageError(f"table={name}: the table has no runs, so there is nothing to show; choose another table")
    sections = {name: list(of.values()) for name, of in curves.items() if of}
    if scores:
        sections = {
            "Scores": [WorkspacePanel("table", "every evaluation", ("evaluation",)), *scores.values()],
            **sections,
        }
    return Workspace(f"xlt {name}", tracker.project, tracker.entity, name, list(columns), sections)


def _composition(config: DictConfig, column: str) -> str:
    """Returns the composition that a system shows for a column, by the name that its scores have at W&B."""
    shown = shown_expression(config)
    names, sources = leaves(shown), config.data.evaluation
    language = sources[column].language if LANGUAGE in names and column in sources else None
    unusual = unusual_modules(config, language, TASK in names)
    return f"{shown} ({unusual})" if unusual else str(shown)


def _curves(config: DictConfig) -> Iterator[WorkspacePanel]:
    """Yields the panels of validation metric and loss for each phase of the method."""
    metric = _part(config, "task").metric
    for phase in _part(config, "method").phases(Budget(1, 1, None, 1, 1.0)):
        for name in (f"validation/{metric}", "loss"):
            yield WorkspacePanel("lines", f"{phase.name}: {name}", (f"{phase.name}/{name}",), f"{phase.name}/step")


def _part(config: DictConfig, name: str) -> Any:
    node = OmegaConf.to_container(config[name], resolve=True, structured_config_mode=SCMode.INSTANTIATE)
    return {"task": build_task, "method": build_method}[name](node)


def has_account() -> bool:
    """Returns whether there is a key for W&B, in the environment or where `wandb login` stores it; it asks no one."""
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
        raise UsageError("wandb_dashboard: W&B's client is not installed; run pip install 'xlt[wandb]'") from error
    try:
        remote = as_wandb(workspace, workspace.entity or str(wandb.Api().default_entity))
        remote.save()
    except wandb.errors.Error as error:
        raise UsageError(f"wandb_dashboard: W&B refused the workspace: {error}") from error
    return str(remote.url)


def as_wandb(workspace: Workspace, entity: str) -> Any:
    """Converts a workspace to an object of W&B's API, without saving it."""
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


def _as_wandb(panel: WorkspacePanel, table: str) -> Any:
    import wandb_workspaces.reports.v2 as wr

    if panel.kind == "table":
        return wr.WeavePanelSummaryTable(table_name=panel.metrics[0])
    by = wr.Config(f"{SYSTEMS}.{table}")
    shared = {"title": panel.title, "groupby": by, "groupby_aggfunc": "mean", "groupby_rangefunc": "stddev"}
    if panel.kind == "bars":
        return wr.BarPlot(metrics=list(panel.metrics), **shared)
    return wr.LinePlot(x=panel.x, y=list(panel.metrics), **shared)
