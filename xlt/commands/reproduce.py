"""From `table=NAME` to the rendered table: what `scripts/reproduce_table.py` does."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf, SCMode
from rich.console import Console

from xlt.commands.cli import FAILURE, guarded, is_stray
from xlt.compose import compose, hydra_ready, strangers
from xlt.config import faults
from xlt.engine.training import Interrupted
from xlt.errors import UsageError
from xlt.execution.execution import Outcome, carry_out
from xlt.execution.workers import make_workers
from xlt.plan.planner import Plan
from xlt.plan.store import RunStore
from xlt.tables.figures import FigureConfig, Panel, save_panels
from xlt.tables.page import save_page
from xlt.tables.table import Grid, ReproductionConfig, SystemConfig, Table, TableConfig, averages
from xlt.tables.terminal import JobReport, duration, print_plan, print_table, table_markdown
from xlt.tracking.wandb import name_in_table
from xlt.tracking.watch import send_unsent, watch

_OWN = ("table", "seeds", "launcher", "output_dir", "scale")
_OPTIONS = ("--plan", "--show")
_USAGE = (
    "usage: reproduce_table.py table=NAME [seeds=[1,2,3]] [launcher=NAME] [--plan | --show] [override of every run ...]"
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the script."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    guarded(lambda: reproduce(words))


def reproduce(words: list[str]) -> int:
    """Plans, does what is missing, renders; returns the exit code.

    Raises:
        UsageError: wrong overrides or faulty configs, all together.
        Interrupted: a signal came; what was running saved its state, and the table was shown as it stands.
    """
    if not words or "--help" in words or "-h" in words:
        print(_USAGE)
        return 0
    plan_only, show_only = (option in words for option in _OPTIONS)
    if plan_only and show_only:
        raise UsageError(f"{' '.join(_OPTIONS)}: take one of them")
    own, others = split_overrides([word for word in words if word not in _OPTIONS])
    console = Console(stderr=True)
    with hydra_ready():
        config, name = compose_table(own)
        plan = Plan(RunStore(config.output_dir))
        others = [f"tracker.group={name}", *others, f"scale={config.scale}", f"output_dir={config.output_dir}"]
        tables, faulty = make_tables(name, config, own, others, plan)
    if faulty:
        raise UsageError(*faulty)
    name_in_table(name, tables.values(), plan.runs.values())
    started = time.monotonic()
    remaining = len(plan.to_train()) + len(plan.to_evaluate())
    if show_only:
        show(name, config, tables, plan, {}, console)
        console.print(f"{remaining} jobs to do" if remaining else "nothing to do", highlight=False)
        return 0
    if remaining or plan_only:
        plan.preflight()
        print_plan(plan, console)
    if plan_only:
        return 0
    workers = make_workers(config.launcher, plan.store.root / "cluster")
    outcome = Outcome()
    try:
        carry_out(plan, workers, watch, JobReport(console, remaining, plan), outcome)
    except Interrupted:
        show(name, config, tables, plan, outcome.failures, console)
        raise
    grids = show(name, config, tables, plan, outcome.failures, console)
    if config.table.figure is not None:
        picture, _ = save_panels(name, config.table.title, panels(config.table.figure, tables, grids), plan.store)
        if picture is not None:
            console.print(f"figure: {picture}", highlight=False, markup=False, soft_wrap=True)
    send_unsent(plan.runs.values(), plan.store)
    done = f"{len(outcome.done)} jobs in {duration(time.monotonic() - started)}" if outcome.done else "nothing to do"
    console.print(done, highlight=False)
    return FAILURE if outcome.failures else 0


def show(
    name: str,
    config: ReproductionConfig,
    tables: Mapping[str, Table],
    plan: Plan,
    failures: Mapping[str, str],
    console: Console,
) -> dict[str, Grid]:
    """Prints the tables with what there is of them now, saves them with their pages, and says where.

    Returns:
        Heading -> the cells of that table.
    """
    folder = plan.store.root / "tables"
    grids = {column: table.grid(plan.store, failures) for column, table in tables.items()}
    shown = list(grids.values())
    if config.table.parts:
        shown.append(averages(name, config.table, config.seeds, grids))
    for grid in shown:
        grid.save(table_markdown(grid), folder)
        if grid.columns:
            print_table(grid, Console())
        behind = [table for table in tables.values() if table.name == grid.name]
        _save_page(grid, behind or list(tables.values()), plan, failures)
    console.print(f"{folder / name}.md, .json and .html", highlight=False, markup=False, soft_wrap=True)
    return grids


def panels(figure: FigureConfig, tables: Mapping[str, Table], grids: Mapping[str, Grid]) -> dict[str, Panel]:
    """Heading -> what a table's picture is drawn from; parts with a picture of their own are drawn as that is."""
    return {
        column: Panel(table.config.figure or figure, table.runs(), grids[column]) for column, table in tables.items()
    }


def make_tables(
    name: str, config: ReproductionConfig, own: list[str], others: list[str], plan: Plan
) -> tuple[dict[str, Table], list[str]]:
    """The table itself, or the parts of a table of averages by their columns; and the faults of those not made."""
    tables: dict[str, Table] = {}
    faulty: list[str] = []
    for column, part in (config.table.parts or {name: name}).items():
        words = [f"table={part}" if word.startswith("table=") else word for word in own]
        try:
            table, part_name = (config.table, name) if part == name else _named_table(words)
            tables[column] = Table(part_name, table, config.seeds, others, plan)
        except UsageError as error:
            faulty += error.lines
    return tables, faulty


def _named_table(own: list[str]) -> tuple[TableConfig, str]:
    config, name = compose_table(own)
    return config.table, name


def _save_page(grid: Grid, tables: Sequence[Table], plan: Plan, failures: Mapping[str, str]) -> None:
    """Writes `NAME.html`, with the runs of all the tables that the grid is of."""
    labels: dict[str, list[str]] = {}
    for table in tables:
        for label, of in table.runs().items():
            for run in of:
                labels.setdefault(run.fingerprint, []).append(label)
    runs = [plan.runs[fingerprint] for fingerprint in labels]
    names = {}
    for run in runs:
        systems = ", ".join(dict.fromkeys(labels[run.fingerprint]))
        names[run.fingerprint] = f"{systems}, seed {run.config.seed}"
    path = plan.store.root / "tables" / f"{grid.name}.html"
    save_page(path, grid.config.title, runs, plan.store, failures, grid, plan, names)


def split_overrides(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """What is said of the table and its making, and what of every run; a table may be named by its number.

    Raises:
        UsageError: a word is no override, or two name a table.
    """
    # A table by its number in the thesis: table=4.2, table=D.4; a figure is table=figure_7_4.
    numbered = [re.sub(r"^table=([\dA-E])\.(\d+)$", r"table=thesis_\1_\2", word) for word in words]
    if stray := [word for word in numbered if is_stray(word)]:
        raise UsageError(*(f"{word}: neither an option nor an override; write KEY=VALUE" for word in stray))
    named = [word for word in words if word.lstrip("+").startswith("table=")]
    if len(named) > 1:
        raise UsageError(f"{' '.join(named)}: give one table")
    own = [word for word in numbered if word.partition("=")[0].lstrip("+~").split(".")[0] in _OWN]
    return own, [word for word in numbered if word not in own]


def compose_table(own: list[str]) -> tuple[ReproductionConfig, str]:
    """The checked config of a table and its name, another's where it is an alias; `own` as from `split_overrides`.

    Raises:
        UsageError: wrong overrides or values, or a table that a script measures.
    """
    ConfigStore.instance().store(name="base_reproduction", node=ReproductionConfig)
    ConfigStore.instance().store(group="table", name="base_table", node=TableConfig)
    ConfigStore.instance().store(group="table", name="base_system", node=SystemConfig)
    composed = compose(own, config_name="reproduction")
    config = OmegaConf.to_container(
        composed, resolve=True, throw_on_missing=False, structured_config_mode=SCMode.INSTANTIATE
    )
    found = [*strangers(composed), *faults(config)]
    if found:
        raise UsageError(*found)
    assert isinstance(config, ReproductionConfig)
    name = next(word.partition("=")[2] for word in own if word.startswith("table="))
    if config.table.same_as is not None:
        return compose_table([word.replace(f"table={name}", f"table={config.table.same_as}") for word in own])
    if config.table.measured_by is not None:
        raise UsageError(f"table={name}: measured, not trained; run python {config.table.measured_by} --help")
    config.table = config.table.searched()
    return config, Path(name).name
