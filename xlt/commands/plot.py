"""From `figure=4.2` to the picture: what `scripts/plot.py` does."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence

from hydra.core.global_hydra import GlobalHydra
from rich.console import Console

from xlt.commands.cli import guarded
from xlt.commands.reproduce import compose_table, make_tables, panels, split_overrides
from xlt.compose import hydra_ready
from xlt.errors import UsageError
from xlt.plan.planner import Plan
from xlt.plan.store import RunStore
from xlt.tables.figures import save_panels

_NUMBER = re.compile(r"[\dA-E]\.\d+")
_FIGURE = re.compile(r"figure_([\dA-E])_(\d+)")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the script."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    guarded(lambda: plot(words))


def plot(words: list[str]) -> int:
    """Plans, draws what is in the store, says what is missing; returns the exit code.

    Raises:
        UsageError: wrong overrides, no such figure, or no run to draw.
    """
    if not words or "--help" in words or "-h" in words:
        print("usage: plot.py figure=NUMBER [seeds=[1,2,3]] [output_dir=outputs] [override of every run ...]")
        return 0
    named = [word.partition("=")[2] for word in words if word.startswith("figure=")]
    if len(named) != 1:
        raise UsageError("figure: give one, for instance figure=4.2")
    (figure,) = named
    if beside := [word for word in words if word.lstrip("+").startswith("table=")]:
        raise UsageError(f"{' '.join(beside)}: figure={figure} is given already; give one of them, as figure=")
    table = f"figure_{figure.replace('.', '_')}" if _NUMBER.fullmatch(figure) else figure
    console = Console(stderr=True)
    own, others = split_overrides([f"table={table}" if word.startswith("figure=") else word for word in words])
    shown = " ".join([*own, *others])
    with hydra_ready():
        tables_there = GlobalHydra.instance().config_loader().get_group_options("table")
        numbers = ", ".join(f"{at[1]}.{at[2]}" for at in map(_FIGURE.fullmatch, tables_there) if at)
        there = f"there are {numbers}; or name a table with a picture, for instance sizes_ner_mini"
        if table not in tables_there:
            raise UsageError(f"figure={figure}: no such figure; {there}")
        try:
            config, name = compose_table(own)
        except UsageError as error:
            raise UsageError(*(line.replace(f"table={table}:", f"figure={figure}:") for line in error.lines)) from error
        if config.table.figure is None:
            raise UsageError(f"figure={figure}: a table without a picture; {there}")
        store = RunStore(config.output_dir)
        plan = Plan(store)
        others += [f"scale={config.scale}", f"output_dir={config.output_dir}"]
        tables, faulty = make_tables(name, config, own, others, plan)
    if not tables:
        raise UsageError(*faulty)
    grids = {column: made.grid(store, {}) for column, made in tables.items()}
    remaining = {run.fingerprint for run in (*plan.to_train(), *plan.to_evaluate())}
    makes = f"python scripts/reproduce_table.py {shown} makes them"
    missing = f"{len(remaining)} of {len(plan.runs)} runs are missing; {makes}"
    try:
        picture, left_out = save_panels(name, config.table.title, panels(config.table.figure, tables, grids), store)
    except UsageError as error:
        raise UsageError(f"figure={figure}: nothing to draw: {'; '.join([*error.lines, missing])}") from error
    if picture is None:
        raise UsageError(f"figure={figure}: nothing to draw yet: {missing}")
    left_out += faulty
    for line in (*left_out, *([missing] if remaining else [])):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    print(picture)
    return 0
