"""From a table's runs to a picture: the kind gathers the numbers and draws them; both are kept."""

from __future__ import annotations

import importlib
import pkgutil
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from xlt.config import key
from xlt.engine.run import write_json
from xlt.results.planner import Run
from xlt.results.store import RunStore

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from xlt.results.table import Grid

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_STYLE = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "savefig.dpi": 200,
}
Runs = Mapping[str, Sequence[Run]]
"""System's label -> its finished runs, in order of their seeds."""


@dataclass
class FigureConfig:
    """The picture that goes with a table."""

    kind: str = key("what is drawn: a file of xlt/results/figures")
    metric: str | None = key("what is on the vertical axis, where the kind has a choice")

    def faults(self, prefix: str) -> Iterator[str]:
        if self.kind not in kinds():
            yield f"{prefix}.kind={self.kind}: no such figure; there are {', '.join(kinds())}"


class Kind(Protocol):
    """What a file of this package offers."""

    def gather(self, config: FigureConfig, runs: Runs, store: RunStore, grid: Grid) -> dict[str, Any]:
        """The numbers, as JSON values; `grid` has the table's cells.

        Raises:
            UsageError: these runs have nothing of the kind to show.
        """

    def draw(self, config: FigureConfig, numbers: dict[str, Any]) -> Figure:
        """The picture of what `gather` returned."""


def kinds() -> list[str]:
    """Names of the figures there are."""
    package = Path(__file__).parent
    return sorted(info.name for info in pkgutil.iter_modules([str(package)]) if info.name != "figure")


def save_figure(config: FigureConfig, runs: Runs, store: RunStore, grid: Grid) -> Path | None:
    """Writes `NAME.png`, `NAME.pdf` and `NAME.figure.json` (the numbers, and the runs behind them) beside the tables.

    Returns:
        The PNG; None if no run is finished.
    Raises:
        UsageError: as `Kind.gather`.
    """
    finished = {label: [run for run in of if store.is_trained(run.fingerprint)] for label, of in runs.items()}
    finished = {label: of for label, of in finished.items() if of}
    if not finished:
        return None
    import matplotlib
    from cycler import cycler

    kind = cast(Kind, importlib.import_module(f"xlt.results.figures.{config.kind}"))
    numbers = kind.gather(config, finished, store, grid)
    folder, name, title = store.root / "tables", grid.name, grid.config.title
    folder.mkdir(parents=True, exist_ok=True)
    backed_by = {label: [run.fingerprint for run in of] for label, of in finished.items()}
    write_json(folder / f"{name}.figure.json", {"title": title, "runs": backed_by, "numbers": numbers})
    with matplotlib.rc_context({**_STYLE, "axes.prop_cycle": cycler(color=_COLOURS)}):
        figure = kind.draw(config, numbers)
        figure.suptitle(title, fontsize=10)
        for suffix in ("pdf", "png"):
            temporary = folder / f".{name}.{secrets.token_hex(6)}.{suffix}"
            figure.savefig(temporary)
            temporary.replace(folder / f"{name}.{suffix}")
    return folder / f"{name}.png"
