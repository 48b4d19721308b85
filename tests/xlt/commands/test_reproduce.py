"""`scripts/reproduce_table.py`: what of its words is refused before anything is planned."""

from __future__ import annotations

from pathlib import Path

import pytest

from xlt.commands.reproduce import main
from xlt.errors import UsageError
from xlt.plan.planner import Plan
from xlt.tables.request import TableRequest


@pytest.mark.parametrize("second", ["table=4.4", "+table=4.4", "table=4.2"])
def test_two_tables_are_refused_before_one_is_written_under_the_others_name(
    second: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["table=4.2", second, f"output_dir={tmp_path}", "--show"])
    assert stop.value.code == 2
    assert capfd.readouterr().err == f"xlt: table=4.2 {second}: give one table\n"
    assert list(tmp_path.iterdir()) == []


def test_the_number_of_a_figure_names_the_table_of_its_runs(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = []

    def no_plan(request: TableRequest, plan: Plan) -> None:
        requests.append((request.file, request.published))
        raise UsageError("no plan")

    monkeypatch.setattr(TableRequest, "tables", no_plan)
    for word in ("table=4.4", "figure=4.4", "table=figure_4.4"):
        with pytest.raises(SystemExit):
            main([word, f"output_dir={tmp_path}", "--show"])
    assert requests == [
        ("multi_source", "Table 4.4"),
        ("language_overlap", "Figure 4.4"),
        ("language_overlap", "Figure 4.4"),
    ]
    with pytest.raises(SystemExit):
        main(["figure=4.99"])
    assert "figure=4.99: no such figure" in capfd.readouterr().err
