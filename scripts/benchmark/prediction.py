"""The memory that a training needs on a GPU, predicted without one, beside that of thesis Table 7.4."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.table import Table

from benchmark.hollow import hollow
from benchmark.ledger import CATEGORIES, Peak, peaks_of
from xlt.console import Terminal
from xlt.engine.training import Trainer

_FEW, _MORE = 2, 4  # layers of the models that are trained; all that is counted grows by the same bytes with each layer

STEPS = ("train.max_steps=5",)
SETTINGS: dict[str, tuple[str, ...]] = {
    "lt_sft": ("method.dense_max_steps=3",),
    "spiel_ag": ("method.update_interval=4", "method.estimation_steps=3"),
    "spiel_ma": ("method.update_interval=4",),
}
"""Overrides with which every kind of step of a method is among the first three of its last phase.

SpIEL-AG chooses candidates in the second and has their averages in the third; the replacement after the fourth, where
no activations are left, needs less.
"""


def predicted(make: Callable[[int], Trainer], layers: int) -> Peak:
    """Predicts the peak of a training on a GPU from the ledgers of two models of few layers.

    In a deeper model another moment can be the one that needs most, so each is predicted by itself.

    Args:
        make: returns a trainer of a model with so many layers.
        layers: of the model to predict.
    """
    few, more = (_ledger(make, count) for count in (_FEW, _MORE))
    extra = (layers - _FEW) / (_MORE - _FEW)

    def grown(fewer: int, larger: int) -> int:
        return round(fewer + extra * (larger - fewer))

    peaks = [
        Peak(
            {name: grown(few[moment].parts[name], peak.parts[name]) for name in CATEGORIES},
            moment,
            grown(few[moment].trained, peak.trained),
        )
        for moment, peak in more.items()
    ]
    return max(peaks, key=lambda peak: peak.total)


def _ledger(make: Callable[[int], Trainer], layers: int) -> dict[str, Peak]:
    with hollow() as ledger:
        trainer = make(layers)
        return peaks_of(trainer, ledger, (trainer.phases[-1].name, 3))


def record(peak: Peak, thesis: float | None) -> dict[str, Any]:
    """The row of a prediction in the JSON record: bytes by category, and the thesis's GB if it has the column."""
    about = {"moment": peak.moment, "tuned": peak.trained, "thesis_gb": thesis}
    return {"bytes": peak.total, "parts": peak.parts, **about}


def show(rows: dict[str, dict[str, Any]]) -> None:
    """Prints the table of the records; in a narrow terminal its last column is broken into lines."""
    largest = max((row["bytes"] for row in rows.values() if "failed" not in row), default=0)
    unit, name_of_unit = (2**30, "GiB") if largest >= 2**30 else (2**20, "MiB")
    table = Table("method", name_of_unit, "thesis", "of which", box=None, pad_edge=False)
    for column in table.columns[:3]:
        column.no_wrap = True
    for name, row in rows.items():
        if "failed" in row:
            table.add_row(name, "", "", row["failed"])
            continue
        parts = sorted(row["parts"].items(), key=lambda part: -part[1])
        text = ", ".join(f"{part} {size / unit:.2f}" for part, size in parts if size >= unit / 200)
        thesis = "" if row["thesis_gb"] is None else f"{row['thesis_gb']:.0f}"
        table.add_row(name, f"{row['bytes'] / unit:.2f}", thesis, text)
    Terminal().print(table)
