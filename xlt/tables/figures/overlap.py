"""Index overlap (thesis Figure E.2): the share of entries that two runs with different seeds have in common."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING, Any

import torch

from xlt.errors import UsageError
from xlt.modules import SparseDelta
from xlt.plan.store import RunStore
from xlt.tables.config import FigureConfig
from xlt.tables.figures.figure import Runs, SeriesStyles

if TYPE_CHECKING:
    from matplotlib.figure import FigureBase

    from xlt.tables.grid import Grid


def gather(config: FigureConfig, runs: Runs, store: RunStore, grid: Grid) -> dict[str, Any]:
    """Returns for each system its seeds, and percents of common entries.

    These are the percent common to each pair of runs, to all runs, that expected by chance for a pair, and the
    published percent common to all. All modules of a system have the same number of entries, which is 100 percent.
    """
    numbers: dict[str, Any] = {}
    facts = {system.label: (grid.config.facts or {}).get(name, {}) for name, system in grid.config.systems.items()}
    for label, system_runs in runs.items():
        if len(system_runs) < 2:
            raise UsageError(f"seeds: the overlap of {label} takes two finished runs at least; give seeds=[1,2,3]")
        chosen, chance = zip(*(chosen_entries(store, run.fingerprint, label) for run in system_runs), strict=True)
        size = chosen[0].numel()
        pairs = [[100 * common_entries(a, b).numel() / size for b in chosen] for a in chosen]
        everywhere = 100 * reduce(common_entries, chosen).numel() / size
        seeds = [run.config.seed for run in system_runs]
        numbers[label] = {"seeds": seeds, "pairs": pairs, "all": everywhere, "chance": chance[0]}
        numbers[label]["published"] = facts.get(label, {}).get("common to all")
    return numbers


def labels(grid: Grid) -> list[str]:
    return []


def size(numbers: dict[str, Any]) -> tuple[float, float]:
    return 0.8 + 2.8 * len(numbers), 3.7


def draw(config: FigureConfig, numbers: dict[str, Any], figure: FigureBase, styles: SeriesStyles) -> None:
    image: Any = None
    all_axes = figure.subplots(1, len(numbers), squeeze=False)[0]
    for axes, (label, result) in zip(all_axes, numbers.items(), strict=True):
        pairs, seeds = result["pairs"], [str(seed) for seed in result["seeds"]]
        image = axes.imshow(pairs, vmin=0, vmax=100, cmap="Blues")
        for row, values in enumerate(pairs):
            for column, value in enumerate(values):
                ink = "white" if value > 55 else "black"
                axes.text(column, row, f"{value:.1f}", ha="center", va="center", color=ink, fontsize=7)
        axes.set_xticks(range(len(seeds)), seeds)
        axes.set_yticks(range(len(seeds)), seeds)
        axes.grid(visible=False)
        axes.set_xlabel("seed")
        theirs = "" if result["published"] is None else f" (thesis {result['published']:.1f}%)"
        subtitle = f"common to all runs {result['all']:.1f}%{theirs},\nby chance to two {result['chance']:.1f}%"
        axes.set_title(f"{label}\n{subtitle}", fontsize=8)
    figure.colorbar(image, ax=list(all_axes), label="common entries (%)", shrink=0.8)


def chosen_entries(store: RunStore, fingerprint: str, label: str) -> tuple[torch.Tensor, float]:
    """Returns sorted positions of a module's entries, and the percent that two random choices would share.

    Positions count through all tuned tensors, one after the other.
    """
    module = store.module(fingerprint)
    sparse = {}
    if isinstance(module, SparseDelta):
        sparse = {n: e for n, e in module.entries.items() if e.indices is not None}
    if not sparse:
        raise UsageError(f"table.figure.kind=overlap: {label} leaves no sparse delta; leave its system out")
    parts, start, expected, size = [], 0, 0.0, 0
    for name in sorted(sparse):
        indices = sparse[name].indices
        assert indices is not None
        parts.append(indices.long() + start)
        start += sparse[name].total
        expected += indices.numel() ** 2 / sparse[name].total
        size += indices.numel()
    return torch.cat(parts), 100 * expected / size


def common_entries(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return a[torch.isin(a, b, assume_unique=True)]
