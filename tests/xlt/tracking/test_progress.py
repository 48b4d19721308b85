from __future__ import annotations

import pytest

from xlt.tracking.progress import ProgressBar


def test_words_in_brackets_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    progress = ProgressBar("pos languages=[fao,mlt]")
    progress.begin_phase("sparse", 3, 10)
    progress.note("eng [test]: accuracy 90")
    progress.close()
    said = capsys.readouterr().err.splitlines()
    assert said == ["pos languages=[fao,mlt] phase sparse: 10 steps, resumed at step 3", "  eng [test]: accuracy 90"]


def test_what_is_counted_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    progress = ProgressBar("predict", unit="example")
    progress.begin_phase("", 64, 100)
    progress.close()
    assert capsys.readouterr().err.splitlines() == ["predict: 100 examples, resumed at example 64"]
