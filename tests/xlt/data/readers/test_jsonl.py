from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.source_configs import source_config
from xlt.config import SourceConfig
from xlt.data.readers.jsonl import read
from xlt.errors import UsageError

Lines = Callable[..., SourceConfig]


@pytest.fixture
def lines(tmp_path: Path) -> Lines:
    """A file of these lines."""

    def make(*lines: str, **fields: str) -> SourceConfig:
        (tmp_path / "train.jsonl").write_text("\n".join(lines), encoding="utf-8")
        return source_config("jsonl", "eng", str(tmp_path), fields=fields or {"text": "t", "label": "l"})

    return make


def test_an_object_a_line_is_an_example(lines: Lines) -> None:
    first, second = read(lines('{"t": "a\\u2028b", "l": 1, "x": null}', "", '{"l": "no", "t": "c"}'))
    assert (first.text, first.label) == ("a\u2028b", "1")
    assert (second.text, second.label) == ("c", "no")
    assert [example.place.rpartition(":")[2] for example in (first, second)] == ["1", "3"]


def test_words_and_their_labels_are_lists(lines: Lines) -> None:
    (example,) = read(lines('{"tokens": ["a", "b"], "tags": ["O", "B-LOC"]}', words="tokens", ner="tags"))
    assert (example.words, example.columns) == (("a", "b"), {"ner": ("O", "B-LOC")})


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ('{"t": "a", "l": ', r"train.jsonl:2: not JSON: Expecting value"),
        ('{"t": "a"} {"t": "b"}', r"train.jsonl:2: not JSON: Extra data"),
        ('["a", "b"]', r"train.jsonl:2: .*JSON list.* object"),
        ("null", r"train.jsonl:2: .*JSON NoneType.* object"),
        (
            r'{"t": "ha\ud83d!", "l": "b"}',
            r"train.jsonl:2: '\\ud83d' at character 3 of 'ha\\ud83d!' is half of a surrogate pair, not a character",
        ),
        ('{"t": "a"}', r"train.jsonl:2: no column 'l' \(fields.label\).* t"),
        ('{"t": null, "l": "x"}', r"train.jsonl:2: column 't' \(fields.text\) holds NoneType, not text"),
        ("[" * 100_000, r"train.jsonl:2: not JSON: "),
    ],
)
def test_a_broken_line_is_refused_with_its_place(line: str, fault: str, lines: Lines) -> None:
    with pytest.raises(UsageError, match=fault):
        list(read(lines('{"t": "a", "l": "x"}', line)))
