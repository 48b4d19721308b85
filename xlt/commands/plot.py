"""The command `xlt plot`, which draws a figure."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from xlt.commands.ending import guarded
from xlt.commands.help_texts import help_of
from xlt.commands.reproduce import figure_panels
from xlt.compose import command_line, hydra_ready
from xlt.console import Terminal
from xlt.engine.run import RESULT_FILE
from xlt.errors import UsageError
from xlt.plan.planner import Plan
from xlt.plan.store import RunStore
from xlt.tables.figures import save_panels
from xlt.tables.request import request_table


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command; the entry point of the script."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    with command_line(words):
        guarded(lambda: plot(words))


def plot(words: list[str]) -> int:
    """Draws a figure from the finished runs and prints what is missing; trains nothing. Returns the exit code.

    Raises:
        UsageError: overrides are wrong, there is no such figure, or none of its runs is finished.
    """
    if not words or "--help" in words or "-h" in words:
        print(help_of("plot"))
        return 0
    figures = [word.partition("=")[2] for word in words if word.startswith("figure=")]
    if len(figures) != 1:
        raise UsageError("figure: give one, for instance figure=4.2")
    (figure,) = figures
    if tables_named := [word for word in words if word.lstrip("+").startswith("table=")]:
        raise UsageError(f"{' '.join(tables_named)}: figure={figure} is given too; give one of them, as figure=")
    console = Terminal(stderr=True)
    with hydra_ready():
        request = request_table(words, "figure")
        if not request.figures:
            raise UsageError(f"figure={figure}: this table has no picture; xlt table --list prints all figures")
        store = RunStore(request.config.output_dir)
        overrides = " ".join(word for word in words if not word.startswith("figure="))
        command = f"xlt table table={request.file} {overrides}".strip()
        if next(store.runs.glob(f"*/{RESULT_FILE}"), None) is None:  # to plan the figure's runs takes some seconds
            raise UsageError(
                f"figure={figure}: nothing to draw yet: no run is finished in {store.runs}; {command} makes those of "
                "the figure"
            )
        plan = Plan(store)
        tables, faulty = request.tables(plan)
    if not tables:
        raise UsageError(*faulty)
    grids = {heading: table.grid(store, {}) for heading, table in tables.items()}
    remaining = {run.fingerprint for run in (*plan.to_train(), *plan.to_evaluate())}
    missing = f"{len(remaining)} of {len(plan.runs)} runs are missing; {command} makes them"
    panels = figure_panels(request, tables, grids)
    try:
        picture, left_out = save_panels(request.picture_name, request.config.table.title, panels, store)
    except UsageError as error:
        raise UsageError(f"figure={figure}: nothing to draw: {'; '.join([*error.lines, missing])}") from error
    if picture is None:
        raise UsageError(f"figure={figure}: nothing to draw yet: {missing}")
    left_out += faulty
    for line in (*left_out, *([missing] if remaining else [])):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    print(picture)
    return 0
