"""The command `xlt claims`: what it refuses, and what it takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from xlt.commands.claims import check_claims, main

REFUSED = {
    "seeds=[]": "seeds=[]: must be different numbers from 0",
    "seeds=[1,1]": "seeds=[1, 1]: must be different numbers from 0",
    "stores.nano.seeds=[-1]": "stores.nano.seeds=[-1]: must be different numbers from 0",
    "enough_languages=1": "enough_languages=1: must be at least 2",
    "model.pth=7": "model.pth=7: no such key model.pth; did you mean model.path?",
    "+colour=blue": "colour=blue: no such key in RunConfig",
    "seed=3": "seed=3: claims are tested on several seeds; write seeds=[1,2,3]",
    "threads=many": "threads=many: ",
    "stores.decoder.overrides=['model.pth=7']": "with stores.decoder.overrides: model.pth=7: no such key model.pth",
}


@pytest.mark.parametrize("word", REFUSED)
def test_a_wrong_override_is_refused_in_one_line(word: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["only=[taught_students]", f"output_dir={tmp_path}", word])
    (line,) = capfd.readouterr().err.splitlines()
    assert stop.value.code == 2
    assert line.startswith(f"xlt: {REFUSED[word]}")
    assert not (tmp_path / "claims.md").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["only=[composed_instructions]", "enough_languages=4"],
        ["only=[taught_students]", "model.student.layer_reduction=2"],  # fits students, not the whole model
        ["only=[composed_instructions]", "+source@data.sources.fao=ud", "data.sources.fao.language=fao"],
    ],
)
def test_an_override_that_fits_some_of_the_runs_is_right(words: list[str], tmp_path: Path) -> None:
    assert check_claims([*words, f"output_dir={tmp_path}"]) == 0


def test_a_report_that_cannot_be_written_is_refused_in_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as stop:
        main(["only=[composed_instructions]", f"output_dir={tmp_path}/file/below"])
    assert stop.value.code == 2
    line = f"xlt: output_dir={tmp_path}/file/below: cannot be written to (Not a directory)"
    assert capfd.readouterr().err.splitlines() == [line]
