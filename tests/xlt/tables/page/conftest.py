"""A plan of runs of which one is done, one failed, one is missing; what they left is made up."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xlt.files import write_json
from xlt.plan.planner import Plan, Run
from xlt.plan.store import METRICS_FILE
from xlt.tables.config import GridConfig, SystemConfig
from xlt.tables.grid import Cell, Grid
from xlt.tables.page import save_page


@pytest.fixture
def leave(plan: Plan) -> Callable[..., None]:
    """`leave(run, scores)`: what a finished run leaves, of two phases, evaluated with `scores` in the plan's order."""

    def finish(run: Run, scores: tuple[float, ...] = ()) -> None:
        folder = plan.store.folder(run.fingerprint)
        folder.mkdir(parents=True, exist_ok=True)
        records = [{"phase": p, "step": s, "loss": 2.0 / s} for p in ("dense", "sparse") for s in range(1, 41)]
        records += [{"phase": "sparse", "step": s, "validation/accuracy": 60.0 + s} for s in (10, 20, 30)]
        records.insert(80, {"phase": "sparse", "step": 40, "loss": None})
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (folder / METRICS_FILE).write_text(lines + '{"phase": "spa', encoding="utf-8")
        plan.store.module_file(run.fingerprint).write_text("weights")
        write_json(folder / "manifest.json", {"fingerprint": run.fingerprint, "identity": run.identity})
        training = {"best/accuracy": 90.0, "best/step": 30, "seconds": 180.0}
        write_json(folder / "result.json", {"metric": "accuracy", "training": training})
        done = {
            key: {"source": wanted.source, "composition": wanted.label, "metrics": {"accuracy": score}}
            for (key, wanted), score in zip(run.evaluations.items(), scores, strict=False)
        }
        if done:
            plan.store.add_evaluations(run.fingerprint, done)

    return finish


@pytest.fixture
def make_grid() -> Callable[..., Grid]:
    """`make_grid(label="LT-SFT")`: two systems on Faroese and the average, over two seeds, one with a hole."""

    def make(label: str = "LT-SFT", note: str = "a note") -> Grid:
        config = GridConfig(
            title="A table",
            metric="accuracy",
            systems={
                "ours": SystemConfig(label, "pos", [], "task"),
                "other": SystemConfig("BitFit", "pos", [], "task"),
            },
            columns=["fao"],
            reference={"ours": {"fao": 87.9, "avg": 73.8}},
            reference_name="Table 1",
            note=note,
        )
        ours = Cell([60.0, 62.0], ["a" * 32, "b" * 32])
        other = Cell([50.0], ["c" * 32], "seed 2: out of memory")
        cells = {"ours": {"fao": ours, "avg": ours}, "other": {"fao": other, "avg": Cell([50.0], ["c" * 32])}}
        return Grid("small", config, [1, 2], cells)

    return make


@pytest.fixture
def page_of(plan: Plan, tmp_path: Path) -> Callable[..., str]:
    """`page_of(runs, grid=..., failures=..., names=...)`: the text of the page, which is `outputs/tables/t.html`."""

    def save(runs: list[Run], **more: Any) -> str:
        values: dict[str, Any] = {"failures": {}, "grid": None, "plan": plan, **more}
        path = save_page(tmp_path / "outputs" / "tables" / "t.html", "A <table>", runs, plan.store, **values)
        return path.read_text(encoding="utf-8")

    return save
