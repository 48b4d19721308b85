"""The command `xlt table`, which carries out the runs of a table and prints the table."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence

from rich.padding import Padding
from rich.text import Text

from xlt.commands.ending import FAILURE, guarded
from xlt.commands.help_texts import help_of
from xlt.commands.subcommands import PLAN
from xlt.compose import collected_less, command_line, hydra_ready
from xlt.console import Terminal, duration
from xlt.engine.training import Interrupted
from xlt.errors import UsageError
from xlt.execution.execution import Outcome, carry_out
from xlt.execution.workers import make_workers
from xlt.plan.planner import Plan
from xlt.plan.store import RunStore
from xlt.plan.unheeded import unheeded_by_all
from xlt.tables.catalogue import catalogue
from xlt.tables.figures import FigurePanel, save_panels
from xlt.tables.grid import Grid, averages
from xlt.tables.page import save_page
from xlt.tables.request import TableRequest, request_table
from xlt.tables.table import Table
from xlt.tables.terminal import print_notes, print_plan, print_table, table_markdown
from xlt.tracking.job_report import JobReport
from xlt.tracking.wandb import check_account, name_in_table
from xlt.tracking.watch import send_unsent

_OPTIONS = (PLAN, "--show", "--list")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command; the entry point of the script."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    with command_line(words):
        guarded(lambda: reproduce(words))


def reproduce(words: list[str]) -> int:
    """Plans a table's runs, carries out the missing ones and prints the table; returns the exit code.

    Raises:
        UsageError: overrides or configs are wrong; a line for each fault.
        Interrupted: a signal came; running jobs saved their state, and the table was printed if it has any numbers.
    """
    if not words or "--help" in words or "-h" in words:
        print(help_of("table"))
        return 0
    options = [word for word in words if word in _OPTIONS]
    if len(options) > 1:
        raise UsageError(f"{' '.join(options)}: give one of them")
    console = Terminal(stderr=True)
    with collected_less():
        with hydra_ready():
            if "--list" in options:
                print_catalogue(Terminal())
                return 0
            key = "figure" if any(word.startswith("figure=") for word in words) else "table"
            request = request_table([word for word in words if word not in _OPTIONS], key)
            plan = Plan(RunStore(request.config.output_dir))
            tables, faulty = request.tables(plan)
        if faulty:
            raise UsageError(*faulty)
        name_in_table(request.name, tables.values(), plan.runs.values())
        started = time.monotonic()
        remaining = len(plan.to_do())
        if "--show" in options:
            show(request, tables, plan, {}, console)
            console.print(_runs(remaining, "to do") if remaining else "nothing to do", highlight=False)
            return 0
        if remaining or PLAN in options:
            firsts = (runs[0].config for table in tables.values() for runs in table.runs().values())
            print_notes([*plan.preflight(), *unheeded_by_all(firsts, request.overrides)], console)
        if PLAN in options:
            print_plan(plan, Terminal())
            return 0
        if remaining:
            print_plan(plan, console, short=True)
    check_account(plan.to_do())
    workers = make_workers(request.config.launcher, plan.store.root / "cluster")
    outcome = Outcome()
    try:
        with JobReport(console, plan, request.config.launcher) as report:
            carry_out(plan, workers, report.watcher_for, report, outcome)
    except Interrupted:
        if any(table.grid(plan.store, {}).has_values for table in tables.values()):
            show(request, tables, plan, outcome.failures, console)
        raise
    grids = show(request, tables, plan, outcome.failures, console)
    if request.figures:
        panels = figure_panels(request, tables, grids)
        picture, lines = save_panels(request.name, request.config.table.title, panels, plan.store)
        for line in [*lines, *([f"figure: {picture}"] if picture is not None else [])]:
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    send_unsent(plan.runs.values(), plan.store)
    done = len({fingerprint for _, fingerprint in outcome.done})
    passed = duration(time.monotonic() - started)
    console.print(_runs(done, f"in {passed}") if done else "nothing to do", highlight=False)
    return FAILURE if outcome.failures else 0


def _runs(count: int, what: str) -> str:
    return f"{count} {'run' if count == 1 else 'runs'} {what}"


def print_catalogue(console: Terminal) -> None:
    """Prints every table and figure: its name, the published tables and figures that it reproduces, its title."""
    for entry in catalogue():
        stands_for = f" ({', '.join(entry.stands_for)})" if entry.stands_for else ""
        console.print(Text.assemble((entry.name, "bold"), stands_for))
        console.print(Padding(Text(entry.title), (0, 0, 0, 4)))


def show(
    request: TableRequest, tables: Mapping[str, Table], plan: Plan, failures: Mapping[str, str], console: Terminal
) -> dict[str, Grid]:
    """Prints the grids as far as their runs are finished, saves them with their pages, and prints the file names.

    Returns:
        Heading -> its grid.
    """
    folder = plan.store.root / "tables"
    grids = {heading: table.grid(plan.store, failures) for heading, table in tables.items()}
    grids_and_tables = [(grid, [tables[heading]]) for heading, grid in grids.items()]
    if request.has_averages:
        title = request.config.table.title
        grids_and_tables.append((averages(request.name, title, request.note, grids), list(tables.values())))
    names = []
    for grid, grid_tables in grids_and_tables:
        names.append(grid.save(table_markdown(grid), folder))
        if grid.columns:
            print_table(grid, Terminal())
        _save_page(names[-1], grid, grid_tables, plan, failures)
        if names[-1] != grid.name:
            line = f"{folder / grid.name}: has more values than this table and is kept; this one is {names[-1]}"
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print(
        f"{', '.join(str(folder / name) for name in names)}: .md, .json and .html",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    return grids


def figure_panels(
    request: TableRequest, tables: Mapping[str, Table], grids: Mapping[str, Grid]
) -> dict[str, FigurePanel]:
    """Returns heading -> the panel of the table's picture for this heading."""
    figures = request.figures
    return {
        heading: FigurePanel(figures[heading], table.runs(), grids[heading])
        for heading, table in tables.items()
        if heading in figures
    }


def _save_page(name: str, grid: Grid, tables: Sequence[Table], plan: Plan, failures: Mapping[str, str]) -> None:
    """Writes `NAME.html`, with the runs of all tables from which the grid is made."""
    labels: dict[str, list[str]] = {}
    for table in tables:
        for label, system_runs in table.runs().items():
            for run in system_runs:
                labels.setdefault(run.fingerprint, []).append(label)
    runs = [plan.runs[fingerprint] for fingerprint in labels]
    names = {}
    for run in runs:
        systems = ", ".join(dict.fromkeys(labels[run.fingerprint]))
        names[run.fingerprint] = f"{systems}, seed {run.config.seed}"
    path = plan.store.root / "tables" / f"{name}.html"
    save_page(path, grid.config.title, runs, plan.store, failures, grid, plan, names)
