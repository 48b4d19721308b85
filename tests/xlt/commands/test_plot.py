"""`scripts/plot.py`: what it draws, what it says is missing, what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xlt.commands.plot import main, plot
from xlt.commands.reproduce import compose_table, make_tables
from xlt.compose import hydra_ready
from xlt.errors import UsageError
from xlt.plan.planner import Plan
from xlt.plan.store import RunStore

FIGURES = ["3.2", "3.3", "4.2", "4.3", "4.4", "5.1", "6.1", "6.2", "6.3", "7.3", "7.4", "E.1", "E.2"]
OWN = ["table=bistil_nano", "table.columns=[fao]"]


@pytest.fixture
def stored(tmp_path: Path) -> Callable[..., None]:
    """`stored(*systems)`: runs of these systems of a nano table, and nothing else, are in the store."""

    def store_them(*systems: str) -> None:
        with hydra_ready():
            config, name = compose_table(OWN)
            plan = Plan(RunStore(tmp_path))
            tables, _ = make_tables(name, config, OWN, [f"output_dir={tmp_path}", "scale=mini"], plan)
        for number, system in enumerate(systems):
            run = tables[name].run(system, 1, "fao")
            folder = plan.store.folder(run.fingerprint)
            folder.mkdir(parents=True)
            (folder / "result.json").write_text("{}")
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
    stored("lt_sft", "tf_2")
    assert plot(["figure=bistil_nano", "table.columns=[fao]", f"output_dir={tmp_path}"]) == 0
    out, err = capfd.readouterr()
    assert out.split() == [str(tmp_path / "tables" / "bistil_nano.png")]
    (said,) = err.splitlines()
    assert "runs are missing; python scripts/reproduce_table.py table=bistil_nano" in said and said.endswith(
        "makes them"
    )
    record = json.loads((tmp_path / "tables" / "bistil_nano.figure.json").read_text())
    assert {label: point["score"] for label, point in record["numbers"].items()} == {
        "LtSft": 60.0, "BiStil-TF, lrf = 2": 59.0,
    }  # fmt: skip
    assert not (tmp_path / "tables" / "bistil_nano.md").exists()


def test_an_empty_store_has_nothing_to_draw(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^figure=bistil_nano: nothing to draw yet: (\d+) of \1 runs are missing;"):
        plot(["figure=bistil_nano", "table.columns=[fao]", f"output_dir={tmp_path}"])
    assert not (tmp_path / "tables").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["figure=9.9"], f"xlt: figure=9.9: no such figure; there are {', '.join(FIGURES)}; or name"),
        (["figure="], f"xlt: figure=: no such figure; there are {', '.join(FIGURES)}; or name a table with a picture"),
        (["figure=sizes_ner_min"], f"xlt: figure=sizes_ner_min: no such figure; there are {', '.join(FIGURES)}; or"),
        (["figure=pos_mini"], f"figure=pos_mini: a table without a picture; there are {', '.join(FIGURES)}; or name"),
        (["figure=thesis_5_7"], "figure=thesis_5_7: measured, not trained; run python scripts/bench_student.py --help"),
        (["seeds=[1]"], "figure: give one, for instance figure=4.2"),
        (["figure=4.2", "figure=5.1"], "figure: give one, for instance figure=4.2"),
        (["figure=4.2", "table=4.4"], "table=4.4: figure=4.2 is given already; give one of them, as figure="),
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


@pytest.mark.parametrize("figure", FIGURES)
@pytest.mark.parametrize("scale", ["mini", "thesis"])
def test_every_figure_of_results_has_a_picture_in_all_its_parts(figure: str, scale: str) -> None:
    with hydra_ready():
        config, _ = compose_table([f"table=figure_{figure.replace('.', '_')}", f"scale={scale}"])
        parts = [compose_table([f"table={part}", f"scale={scale}"])[0].table for part in config.table.parts.values()]
    assert config.table.figure is not None
    assert all(part.figure is not None and part.figure.kind == config.table.figure.kind for part in parts)
