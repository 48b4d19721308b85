from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.source_configs import source_config
from xlt.config import SourceConfig
from xlt.data.readers.parallel import files, read
from xlt.errors import UsageError

FIELDS = {"text": "es", "pair": "{code}"}
Sides = Callable[..., SourceConfig]


@pytest.fixture
def sides(tmp_path: Path) -> Sides:
    """A Spanish and an Aymara file of these texts."""

    def make(spanish: str, aymara: str, **changes: object) -> SourceConfig:
        (tmp_path / "train.es").write_bytes(spanish.encode())
        (tmp_path / "train.ay").write_bytes(aymara.encode())
        return source_config("parallel", "aym", str(tmp_path), **({"fields": FIELDS, "codes": {"aym": "ay"}} | changes))

    return make


def test_lines_of_the_same_number_are_a_pair(sides: Sides) -> None:
    first, second = read(sides("uno\n\n dos\u2028tres \r\n", "maya\n\npaya"))
    assert (first.text, first.pair) == ("uno", "maya")
    assert (second.text, second.pair) == ("dos\u2028tres", "paya")
    assert second.place.endswith("train.es:3")


def test_a_pair_with_an_empty_side_is_passed_over(sides: Sides) -> None:
    assert [example.pair for example in read(sides("uno\n \ntres\n", "\npaya\nkimsa\n"))] == ["kimsa"]


def test_the_direction_is_that_of_the_fields(sides: Sides) -> None:
    (example,) = read(sides("uno\n", "maya\n", fields={"text": "{code}", "pair": "es"}))
    assert (example.text, example.pair) == ("maya", "uno")


@pytest.mark.parametrize(
    ("spanish", "aymara", "fault"),
    [
        ("uno\ndos\ntres\n", "maya\npaya\n", r"train.es:3: .*train.ay ends after 2 lines"),
        ("", "maya\n", r"train.ay:1: .*train.es ends after 0 lines"),
    ],
)
def test_files_of_unequal_length_are_refused(spanish: str, aymara: str, fault: str, sides: Sides) -> None:
    with pytest.raises(UsageError, match=fault):
        list(read(sides(spanish, aymara)))


def test_bytes_that_are_not_utf_8_are_refused_with_their_line(sides: Sides, tmp_path: Path) -> None:
    made = sides("uno\ndos\n", "maya\npaya\n")
    (tmp_path / "train.ay").write_bytes(b"maya\n\xff\n")
    with pytest.raises(UsageError, match=r"train.ay:2: not UTF-8"):
        list(read(made))


def test_both_files_and_their_folder_have_to_be_there(sides: Sides, tmp_path: Path) -> None:
    made = sides("uno\n", "maya\n", files={"dev": "valid"})
    assert files(made) == [tmp_path / "train.es", tmp_path / "train.ay"]
    made.split = "dev"
    with pytest.raises(UsageError, match=r"no file valid.es for split dev; it has train.ay, train.es"):
        files(made)
    made.path = str(tmp_path / "train.es")
    with pytest.raises(UsageError, match=r"train.es: no such folder"):
        files(made)
    made.fields = {"text": "es"}
    with pytest.raises(UsageError, match=r"fields=.*: reader parallel .*fields.text and fields.pair"):
        files(made)
