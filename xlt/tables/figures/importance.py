"""The typological features with the largest weights in a MAD-G generator (thesis §3.5.4), block by block."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from xlt.errors import UsageError
from xlt.modules.generator import Generator
from xlt.plan.store import RunStore
from xlt.tables.config import FigureConfig
from xlt.tables.figures.figure import Runs, SeriesStyles

if TYPE_CHECKING:
    from matplotlib.figure import FigureBase

    from xlt.tables.grid import Grid

_SHOWN = 25


def gather(config: FigureConfig, runs: Runs, store: RunStore, grid: Grid) -> dict[str, Any]:
    """Returns system -> `features`, most important first, and `blocks`, (blocks, features) norms of WV's columns.

    Norms are means over seeds. Features are ordered by the norm over all blocks together.
    """
    numbers: dict[str, Any] = {}
    for label, system_runs in runs.items():
        norms = []
        for run in system_runs:
            generator = store.module(run.fingerprint)
            if not isinstance(generator, Generator):
                raise UsageError(f"table.figure.kind=importance: {label} left no generator; show runs of method=mad_g")
            norms.append(generator.network.importance())
            features = generator.features
        mean = torch.stack(norms).mean(0)
        order = mean.square().sum(0).argsort(descending=True, stable=True).tolist()
        numbers[label] = {
            "features": [features[column] for column in order],
            "blocks": [[round(float(row[column]), 6) for column in order] for row in mean],
        }
    return numbers


def labels(grid: Grid) -> list[str]:
    return []


def size(numbers: dict[str, Any]) -> tuple[float, float]:
    return 1.0 + 4.4 * len(numbers), 5.2


def draw(config: FigureConfig, numbers: dict[str, Any], figure: FigureBase, styles: SeriesStyles) -> None:
    all_axes = figure.subplots(1, len(numbers), squeeze=False)[0]
    for axes, (label, result) in zip(all_axes, numbers.items(), strict=True):
        names = result["features"][:_SHOWN]
        shown = [[row[at] for row in result["blocks"]] for at in range(len(names))]
        image = axes.imshow(shown, aspect="auto", cmap="viridis", vmin=0)
        axes.grid(False)
        axes.set_yticks(range(len(names)), names, fontsize=6)
        axes.set_xticks(range(len(shown[0])), [str(block + 1) for block in range(len(shown[0]))], fontsize=7)
        axes.set_xlabel("block")
        axes.set_title(label)
        figure.colorbar(image, ax=axes, label="norm of the column of WV", fraction=0.05)
