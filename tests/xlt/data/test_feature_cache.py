from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from xlt.data import feature_cache
from xlt.data.feature_cache import cached
from xlt.data.mix import Features

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
    assert list(file.parent.iterdir()) == []


def test_of_two_that_make_the_same_at_once_both_have_it(file: Path) -> None:
    def make() -> Iterator[Features]:
        yield ROWS[0]
        assert list(cached(file, ROWS)) == ROWS  # another process was faster
        yield from ROWS[1:]

    assert list(cached(file, make())) == ROWS
    assert list(file.parent.iterdir()) == [file]
