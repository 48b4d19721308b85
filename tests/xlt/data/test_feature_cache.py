from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from xlt.data import feature_cache
from xlt.data.feature_cache import cached
from xlt.data.mix import Features
from xlt.files import file_digest

ROWS: list[Features] = [
    {"input_ids": [1, 2, 3], "spans": [[0, 1], [2, 2]], "label": 7, "id": "æ"},
    {"input_ids": [], "spans": [], "label": -100, "id": ""},
    {"input_ids": [2**31 - 1], "spans": [[]], "label": 0, "id": "z"},
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "features" / "x.arrow"


def test_rows_come_back_as_they_were_made(file: Path) -> None:
    rows = cached(file, ROWS)
    assert len(rows) == 3
    assert [rows[number] for number in range(3)] == ROWS == list(rows)
    assert rows[1:] == ROWS[1:]
    assert rows.rows([2, 0, 2]) == [ROWS[2], ROWS[0], ROWS[2]]
    assert list(file.parent.iterdir()) == [file]


def test_what_is_there_is_not_made_again(file: Path) -> None:
    cached(file, ROWS)
    stamp = file.stat().st_mtime_ns

    def refuse() -> Iterator[Features]:
        raise AssertionError("made again")
        yield {}

    assert list(cached(file, refuse())) == ROWS
    assert file.stat().st_mtime_ns == stamp


def test_rows_are_written_as_they_come(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_cache, "_CHUNK", 4)
    made = 0

    def make() -> Iterator[Features]:
        nonlocal made
        for made in range(11):
            yield {"input_ids": [made]}

    rows = cached(file, make())
    assert made == 10
    assert list(rows) == [{"input_ids": [number]} for number in range(11)]


def test_a_column_empty_in_all_of_the_first_rows_can_hold_numbers_later(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_cache, "_CHUNK", 2)
    made: list[Features] = [{"a": []}, {"a": []}, {"a": [5]}]
    assert list(cached(file, made)) == made


def test_a_failure_leaves_no_file_and_no_rest(file: Path) -> None:
    def make() -> Iterator[Features]:
        yield ROWS[0]
        raise RuntimeError("broken line")

    with pytest.raises(RuntimeError, match="broken line"):
        cached(file, make())
    assert list(file.parent.iterdir()) == []
    assert list(cached(file, ROWS)) == ROWS


def test_nothing_to_write_is_refused(file: Path) -> None:
    with pytest.raises(ValueError, match="no features to write"):
        cached(file, [])
    assert not file.exists()


def test_of_two_that_make_the_same_at_once_both_have_it(file: Path) -> None:
    def make() -> Iterator[Features]:
        yield ROWS[0]
        assert list(cached(file, ROWS)) == ROWS  # another process was faster
        yield from ROWS[1:]

    assert list(cached(file, make())) == ROWS
    assert list(file.parent.iterdir()) == [file]


def _damages(data: bytes) -> dict[str, bytes]:
    """What -> the bytes of a file with one damage."""
    found = {f"cut at {tenth}0%": data[: len(data) * tenth // 10] for tenth in range(10)}
    for number in range(200):
        at, bit = divmod(number * 8 * len(data) // 200, 8)
        found[f"bit {bit} of byte {at}"] = data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
    return {**found, "longer": data + b"\0", "JSON": b"[]\n", "Arrow without a checksum": data[:-32]}


def test_a_damaged_file_is_set_aside_and_made_again_with_a_line(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cached(file, ROWS)
    whole = file.read_bytes()
    damages = _damages(whole)
    for number, (what, damaged) in enumerate(damages.items()):
        file.write_bytes(damaged)
        assert feature_cache._damage(file) is not None, what
        if number % 10:  # every write waits for the disk
            continue
        assert list(cached(file, ROWS)) == ROWS, what
        assert file.read_bytes() == whole, what
        (line,) = capsys.readouterr().err.splitlines()
        (kept,) = file.parent.glob("*.damaged*")
        assert str(file) in line and kept.name in line and kept.read_bytes() == damaged
        kept.unlink()
    assert len(damages) > 200


def test_the_features_of_another_source_are_not_taken(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = file.with_name("y.arrow")
    cached(other, ROWS[:1])
    file.write_bytes(other.read_bytes())
    assert list(cached(file, ROWS)) == ROWS
    assert list(cached(other, ROWS)) == ROWS[:1]
    assert capsys.readouterr().err.count("\n") == 1


def test_a_cache_that_is_a_folder_is_set_aside(file: Path) -> None:
    file.mkdir(parents=True)
    assert list(cached(file, ROWS)) == ROWS


def test_checking_a_file_runs_at_the_speed_of_memory(file: Path) -> None:
    """It takes at most eight times as long as adding up the words; SHA-256 takes ten times, BLAKE2 twenty."""
    file.parent.mkdir(parents=True)
    data = np.random.default_rng(0).bytes(1 << 26)
    file.write_bytes(data)

    def seconds(work: Callable[[], object]) -> float:
        best = float("inf")
        for _ in range(5):
            began = time.process_time()
            work()
            best = min(best, time.process_time() - began)
        return best

    assert seconds(lambda: file_digest(file)) < 8 * seconds(lambda: np.frombuffer(data, "u8").sum()) + 0.01
