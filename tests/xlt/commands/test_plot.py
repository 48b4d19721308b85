"""`scripts/plot.py`: what it draws, what it says is missing, what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xlt.commands.plot import main, plot
from xlt.compose import hydra_ready
from xlt.errors import UsageError
from xlt.plan.planner import Plan
from xlt.plan.store import RunStore
from xlt.tables.request import request_table

OWN = ["table=bistil_nano", "table.columns=[fao]"]


@pytest.fixture
def stored(tmp_path: Path) -> Callable[..., None]:
    """`stored(*systems)`: runs of these systems of a nano table, and nothing else, are in the store."""

    def store_them(*systems: str) -> None:
        with hydra_ready():
            request = request_table([*OWN, f"output_dir={tmp_path}"])
            plan = Plan(RunStore(tmp_path))
            tables, _ = request.tables(plan)
        for number, system in enumerate(systems):
            run = next(iter(tables.values())).run(system, 1, "fao")
            folder = plan.store.folder(run.fingerprint)
            folder.mkdir(parents=True)
            (folder / "result.json").write_text('{"training": {}}')
            about: dict[str, Any] = {"cost": {"flops": 8e6 / (number + 1), "parameters": 3e6}}
            done = {
                key: {"source": "fao", "composition": of.label, "metrics": {"accuracy": 60.0 - number}, **about}
                for key, of in run.evaluations.items()
            }
            plan.store.add_evaluations(run.fingerprint, done)

    return store_them


def test_what_is_there_is_drawn_and_what_is_missing_said(
    stored: Callable[..., None], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    stored("lt_sft", "bistil_tf_2")
    assert plot(["figure=bistil_nano", "table.columns=[fao]", f"output_dir={tmp_path}"]) == 0
    out, err = capfd.readouterr()
    (picture,) = map(Path, out.split())
    assert picture.parent == tmp_path / "tables" and picture.match("bistil_nano-??????.png")  # of fewer columns
    (said,) = err.splitlines()
    assert "runs are missing; xlt table table=bistil_nano" in said and said.endswith("makes them")
    record = json.loads(picture.with_suffix(".figure.json").read_text())
    assert {label: point["score"] for label, point in record["numbers"].items()} == {
        "LtSft": 60.0, "BiStil-TF, lrf = 2": 59.0,
    }  # fmt: skip
    assert not (tmp_path / "tables" / "bistil_nano.md").exists()


def test_an_empty_store_has_nothing_to_draw_and_no_run_is_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("xlt.commands.plot.Plan", None)  # whoever calls it fails
        with pytest.raises(
            UsageError, match=r"^figure=bistil_nano: nothing to draw yet: no run is finished in .*runs;"
        ):
            plot(["figure=bistil_nano", "table.columns=[fao]", f"output_dir={tmp_path}"])
    other = tmp_path / "runs" / "0123456789ab"
    other.mkdir(parents=True)
    (other / "result.json").write_text('{"training": {}}')
    with pytest.raises(UsageError, match=r"^figure=bistil_nano: nothing to draw yet: (\d+) of \1 runs are missing;"):
        plot(["figure=bistil_nano", "table.columns=[fao]", f"output_dir={tmp_path}"])
    assert not (tmp_path / "tables").exists()


def test_the_quickstart_has_a_figure() -> None:
    with hydra_ready():
        assert request_table(["figure=quickstart"], "figure").figures


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["figure=9.9"], "figure=9.9: no such figure"),
        (["figure="], "figure=: no such figure"),
        (["figure=size"], "figure=size: no such figure; did you mean sizes"),
        (["figure=pos_unseen"], "figure=pos_unseen: this table has no picture"),
        (["figure=5.7"], "figure=5.7: no such figure"),
        (["figure=student_speed"], "figure=student_speed: measured, not trained; run python scripts/bench_student.py"),
        (["seeds=[1]"], "figure: give one, for instance figure=4.2"),
        (["figure=4.2", "figure=5.1"], "figure: give one, for instance figure=4.2"),
        (["figure=4.2", "table=4.4"], "table=4.4: figure=4.2 is given too; give one of them, as figure="),
        (["figure=7.4", "seeds=[]"], "seeds=[]: must be different numbers"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_a_line(
    words: list[str], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert said in line
