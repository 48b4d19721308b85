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


def test_a_note_about_settings_is_said_once_in_a_command_and_a_score_each_time(
    capsys: pytest.CaptureFixture[str],
) -> None:
    said: set[str] = set()
    small = "train.batch_size=32: the largest source has 30 examples, and a step has no more; " + "long " * 20
    short = "phase dense: 2 steps are fewer than the 3 between two validations"
    for label in ("cym", "fao"):
        progress = ProgressBar(label, said=said)
        for note in (small, short, "eng, task: accuracy 33.00"):
            progress.note(note)
    assert [line.strip() for line in capsys.readouterr().err.splitlines()] == [
        small.strip(),
        short,
        *["eng, task: accuracy 33.00"] * 2,
    ]
