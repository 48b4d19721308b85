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


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
def test_what_is_no_number_is_no_text_either(value: str, lines: Lines) -> None:
    with pytest.raises(UsageError, match=r"train.jsonl:1: column 't' \(fields.text\) holds -?(nan|inf), not text"):
        list(read(lines(f'{{"t": {value}, "l": "x"}}')))
    with pytest.raises(UsageError, match=r"column 'w' \(fields.words\) holds -?(nan|inf)"):
        list(read(lines(f'{{"w": ["a", {value}]}}', words="w")))


@pytest.mark.parametrize("content", ["null", "NaN", "true", '[{"type": "text"}]'])
def test_a_turn_without_text_is_refused(content: str, lines: Lines) -> None:
    with pytest.raises(UsageError, match=r"train.jsonl:1: column 'm.content' .* holds \w+, not text"):
        list(read(lines(f'{{"m": [{{"role": "user", "content": {content}}}]}}', messages="m")))


def test_a_part_of_a_nested_column_can_be_read(lines: Lines) -> None:
    line = '{"translation": {"en": "cat", "fr": "chat"}, "a.b": {"c": "x"}, "d": {"e": {"f": "y"}}}'
    (example,) = read(lines(line, text="translation.en", pair="translation.fr", label="a.b.c", id="d.e.f"))
    assert (example.text, example.pair, example.label, example.id) == ("cat", "chat", "x", "y")
    with pytest.raises(UsageError, match=r"no column 'translation.de' .* translation.en, translation.fr, a.b.c, d.e.f"):
        list(read(lines(line, text="translation.de")))


ASKED = {"text": "q", "pair": "c", "answers": "a"}


def test_all_faults_of_answers_are_listed_at_once(lines: Lines) -> None:
    rows = [
        '{"q": "?", "c": "ab", "a": {"text": ["b", "c"], "answer_start": [0, 9]}}',
        '{"q": "?", "c": "ab", "a": {"text": ["b"], "answer_start": [1]}}',
        '{"q": "?", "c": "ab", "a": {"text": [], "answer_start": []}}',
        '{"q": "?", "c": "ab", "a": {"text": ["b"], "answer_start": [1]}, "is_impossible": true}',
    ]
    with pytest.raises(UsageError) as refused:
        list(read(lines(*rows, **ASKED)))
    places = [line.partition("train.jsonl:")[2].partition(":")[0] for line in refused.value.lines]
    assert places == ["1", "1", "3", "4"]


@pytest.mark.parametrize("start", ["1.5", "true", "null", "NaN"])
def test_a_start_that_is_no_whole_number_is_refused(start: str, lines: Lines) -> None:
    with pytest.raises(UsageError, match=r"column 'a' must hold equally long lists"):
        list(read(lines(f'{{"q": "?", "c": "ab", "a": {{"text": ["b"], "answer_start": [{start}]}}}}', **ASKED)))
