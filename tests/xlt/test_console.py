from __future__ import annotations

import pytest

from xlt.console import duration


@pytest.mark.parametrize(("seconds", "text"), [(7.4, "7 s"), (99.0, "99 s"), (600, "10 min"), (7200, "2.0 h")])
def test_durations_are_said_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text
