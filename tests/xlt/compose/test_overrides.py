"""Overrides that fit no config."""

from __future__ import annotations

import pytest

from xlt.compose import compose, hydra_ready, word_faults
from xlt.errors import UsageError

GROUPS = ("data", "task", "train", "method", "model", "tracker", "launcher", "seed", "language_modules")


@pytest.mark.parametrize("name", GROUPS)
def test_what_every_run_has_is_not_deleted(name: str) -> None:
    (line,) = word_faults(["experiment=pos", f"~{name}"])
    assert line == f"~{name}: every run has {name}, so it is not to be deleted; give {name}=... instead"
    assert word_faults([f"~{name}@x=y"]) != []
    assert word_faults([f"{name}=y", f"~{name}.part", "~table.reference", "~sead", "~data.evaluation"]) == []


def test_a_key_that_no_file_system_takes_is_one_short_line() -> None:
    for word in ("9" * 5000, f"+{'9' * 300}=3", f"~{'9' * 300}", f"train.{'9' * 300}=3", f"+source@{'9' * 300}=ud"):
        with hydra_ready(), pytest.raises(UsageError) as error:
            compose(["experiment=nano_fields", word])
        (line,) = error.value.lines
        assert "characters; none has more than 255" in line and len(line) < 120
    assert word_faults([f"output_dir={'9' * 5000}"]) == []
