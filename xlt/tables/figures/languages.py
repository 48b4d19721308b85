"""Overlap of language SFTs (thesis Figure 4.4): the share of entries that two languages have in common."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from xlt.errors import UsageError
from xlt.plan.store import RunStore
from xlt.tables.config import FigureConfig
from xlt.tables.figures.figure import Runs, SeriesStyles
from xlt.tables.figures.overlap import chosen_entries

if TYPE_CHECKING:
    from matplotlib.figure import FigureBase

    from xlt.tables.grid import Grid


def gather(config: FigureConfig, runs: Runs, store: RunStore, grid: Grid) -> dict[str, Any]:
    """Returns `languages`, the percent of common entries of each pair, and that expected by chance; first seed only."""
    first = {language_runs[0].config.language or "": language_runs[0] for language_runs in runs.values()}
    if len(first) < 2:
        raise UsageError("table.figure.kind=languages: the overlap takes two finished language runs at least")
    chosen, chance = zip(*(chosen_entries(store, run.fingerprint, name) for name, run in first.items()), strict=True)
    pairs = [[100.0] * len(chosen) for _ in chosen]
    is_chosen = torch.zeros(1 + max(int(positions.max()) for positions in chosen), dtype=torch.bool)
    for row, entries in enumerate(chosen):
        is_chosen[entries] = True
        for column, other_entries in enumerate(chosen[:row]):
            common = 100 * int(is_chosen[other_entries].sum()) / min(entries.numel(), other_entries.numel())
            pairs[row][column] = pairs[column][row] = common
        is_chosen[entries] = False
    return {"languages": list(first), "pairs": pairs, "chance": max(chance)}


def labels(grid: Grid) -> list[str]:
    return []


def size(numbers: dict[str, Any]) -> tuple[float, float]:
    across = 1.6 + 0.36 * len(numbers["languages"])
    return max(across, 4.4), max(across - 0.5, 3.9)


def draw(config: FigureConfig, numbers: dict[str, Any], figure: FigureBase, styles: SeriesStyles) -> None:
    languages, pairs = numbers["languages"], numbers["pairs"]
    axes = figure.subplots()
    shown = [
        [value if row != column else math.nan for column, value in enumerate(values)]
        for row, values in enumerate(pairs)
    ]
    known = [value for values in shown for value in values if not math.isnan(value)]
    low, high = min(known), max(known)
    image = axes.imshow(shown, vmin=low, vmax=high, cmap="Blues")
    for row, values in enumerate(shown):
        for column, value in enumerate(values):
            if row != column:
                ink = "white" if value > low + 0.6 * (high - low) else "black"
                axes.text(column, row, f"{value:.1f}", ha="center", va="center", color=ink, fontsize=6.5)
    axes.set_xticks(range(len(languages)), languages, rotation=90)
    axes.set_yticks(range(len(languages)), languages)
    axes.grid(visible=False)
    axes.set_title(f"by chance to two languages {numbers['chance']:.1f}%", fontsize=8)
    figure.colorbar(image, ax=axes, label="common entries (%)", shrink=0.85)
