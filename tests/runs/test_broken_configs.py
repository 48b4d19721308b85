"""A config file of the user that is no config is refused in a line that names it."""

from __future__ import annotations

from pathlib import Path

import pytest

from xlt.compose import compose, hydra_ready
from xlt.errors import UsageError


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"task: {max{_length: 40}\n", "line 1"),
        (b"# \x91\n", "utf-8"),
        (b"task: \x01\n", "special characters"),
        (b"defaults: null\n", "defaults"),
    ],
)
def test_a_config_of_the_user_that_is_no_config_is_named_in_one_line(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_bytes(content)
    with hydra_ready(str(tmp_path)), pytest.raises(UsageError, match="experiment/mine") as refused:
        compose(["experiment=mine"])
    (line,) = refused.value.lines
    assert said in line and "\n" not in line
