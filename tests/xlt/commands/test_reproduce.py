"""`scripts/reproduce_table.py`: what of its words is refused before anything is planned."""

from __future__ import annotations

from pathlib import Path

import pytest

from xlt.commands.reproduce import main


@pytest.mark.parametrize("second", ["table=4.4", "+table=4.4", "table=4.2"])
def test_two_tables_are_refused_before_one_is_written_under_the_others_name(
    second: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["table=4.2", second, f"output_dir={tmp_path}", "--show"])
    assert stop.value.code == 2
    assert capfd.readouterr().err == f"xlt: table=4.2 {second}: give one table\n"
    assert list(tmp_path.iterdir()) == []
