"""Parameter ages (thesis Figure 7.4): the share of a module's entries that each update grew."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xlt.errors import UsageError
from xlt.plan.store import RunStore
from xlt.tables.config import FigureConfig
from xlt.tables.figures.figure import Runs, SeriesStyles, one_panel_size, system_labels

if TYPE_CHECKING:
    from matplotlib.figure import FigureBase

    from xlt.tables.grid import Grid

labels = system_labels
size = one_panel_size


def gather(config: FigureConfig, runs: Runs, store: RunStore, grid: Grid) -> dict[str, Any]:
    """Returns system -> step -> percent of the entries that were grown then, mean over seeds; they add up to 100."""
    numbers: dict[str, Any] = {}
    for label, system_runs in runs.items():
        shares: dict[int, float] = {}
        for run in system_runs:
            grown = store.module(run.fingerprint).header.provenance.get("entries_grown_at_step")
            if grown is None:
                raise UsageError(f"table.figure.kind=ages: {label} has no entries that grow; leave its system out")
            for step, count in grown.items():
                share = 100 * count / sum(grown.values()) / len(system_runs)
                shares[int(step)] = shares.get(int(step), 0) + share
        numbers[label] = {str(step): share for step, share in sorted(shares.items())}
    return numbers


def draw(config: FigureConfig, numbers: dict[str, Any], figure: FigureBase, styles: SeriesStyles) -> None:
    from matplotlib.ticker import MaxNLocator

    axes = figure.subplots()
    for label, shares in numbers.items():
        steps = [int(step) for step in shares]
        axes.plot(steps, list(shares.values()), label=label, **styles(label))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))  # entries grow only at whole steps
    axes.set_xlabel("step at which an entry was last grown")
    axes.set_ylabel("entries of the module (%)")
    axes.set_ylim(bottom=0)
    axes.legend()
