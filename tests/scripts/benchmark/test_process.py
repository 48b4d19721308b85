"""Measurements in processes of their own."""

from __future__ import annotations

import os
import signal
import sys

import pytest
import torch
from benchmark.process import MeasurementError, in_own_process, rounds_of_processes


def facts(number: int) -> tuple[int, int, int, str | None]:
    print("a line of the measurement")
    return number, os.getpid(), torch.get_num_threads(), os.environ.get("XLT_BENCHMARK")


def fail(how: str) -> None:
    if how == "raise":
        raise ValueError("first line\n  second line")
    if how == "exit":
        sys.exit("the two differ")
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_measurement_has_its_own_process_threads_and_environment(capfd: pytest.CaptureFixture[str]) -> None:
    number, process, threads, variable = in_own_process(facts, 3, threads=2, environment={"XLT_BENCHMARK": "yes"})
    assert (number, threads, variable) == (3, 2, "yes")
    assert process != os.getpid()
    assert "XLT_BENCHMARK" not in os.environ
    out, err = capfd.readouterr()
    assert out == "" and "a line of the measurement" in err


def test_every_round_measures_every_contender_in_a_new_process() -> None:
    results = rounds_of_processes(facts, {"a": (1,), "b": (2,)}, rounds=2)
    assert {name: [number for number, *_ in rounds] for name, rounds in results.items()} == {"a": [1, 1], "b": [2, 2]}
    assert len({process for rounds in results.values() for _, process, *_ in rounds}) == 4


@pytest.mark.parametrize(
    ("how", "facts"),
    [
        ("raise", ["fail", "ValueError", "first line second line"]),
        ("exit", ["fail", "the two differ"]),
        ("kill", ["fail", "-9"]),
    ],
)
def test_a_failure_is_one_line_that_names_its_cause(how: str, facts: list[str]) -> None:
    with pytest.raises(MeasurementError) as raised:
        in_own_process(fail, how)
    assert "\n" not in str(raised.value)
    assert all(fact in str(raised.value) for fact in facts)
    notes = getattr(raised.value, "__notes__", [])
    assert ["Traceback" in note and "raise ValueError" in note for note in notes] == ([True] if how == "raise" else [])
