"""Peak memory of a part of a process."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from benchmark import memory
from benchmark.memory import PeakMemory, private_mib

# What else the process allocates between two readings, in MiB.
SLACK = 16
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux resets the high-water mark")


def test_growth_is_what_was_allocated_even_if_it_was_freed_again() -> None:
    peak = PeakMemory()
    tensor = torch.ones(64 * 2**18)  # 64 MiB
    del tensor
    assert peak.exact
    assert peak.grown_mib() == pytest.approx(64, abs=SLACK)
    assert peak.peak_mib() == peak.start_mib + peak.grown_mib()


def test_an_earlier_peak_does_not_hide_a_later_smaller_one() -> None:
    first = torch.ones(128 * 2**18)
    del first
    peak = PeakMemory()
    second = torch.ones(64 * 2**18)
    assert peak.grown_mib() == pytest.approx(64, abs=SLACK)
    del second


def test_where_the_mark_cannot_be_reset_the_result_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "_CLEAR_REFS", tmp_path / "absent" / "clear_refs")
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "absent" / "status")
    peak = PeakMemory()
    assert not peak.exact
    assert peak.peak_mib() > 10 and peak.grown_mib() >= 0


def test_private_memory_grows_by_what_is_allocated() -> None:
    before = private_mib()
    tensor = torch.ones(64 * 2**18)
    assert private_mib() - before == pytest.approx(64, abs=SLACK)
    del tensor
