from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.source_configs import source_config
from xlt.config.where import where_faults
from xlt.data.sources import read_source, source_identity
from xlt.data.where import row_count, rows_where
from xlt.errors import UsageError

ROWS: list[dict[str, Any]] = [
    {"text": "one two three", "label": -1, "words": ["a", "b"], "translation": {"en": "cat"}, "score": 0.5},
    {"text": "ຂ້ອຍຮັກເຈົ້າ", "label": 0, "words": ["a", ""], "translation": {"en": " "}, "score": 2},
    {"text": "caf\u00e9", "label": 1, "words": [], "translation": {"en": "dog"}, "score": None},
]


def kept(**where: Any) -> list[int]:
    """The numbers of the rows that the rules keep."""
    source = source_config("jsonl", "eng", "x", where=where)
    rows = ((str(number), row) for number, row in enumerate(ROWS))
    return [int(place) for place, _ in rows_where(source, rows)]


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ({"label": "-1"}, [0]),
        ({"label": -1}, [0]),
        ({"label": [0, "1"]}, [1, 2]),
        ({"label": {"not": -1}}, [1, 2]),
        ({"label": {"not": ["-1", 1]}}, [1]),
        ({"text": "cafe\u0301"}, [2]),
        ({"text": {"min_words": 2}}, [0, 1]),
        ({"text": {"max_words": 2}}, [2]),
        ({"text": {"matches": "^(one|caf)"}}, [0, 2]),
        ({"words": {"min_words": 1}}, [0, 1]),
        ({"words": {"not": ""}}, [0, 2]),
        ({"words": {"not_empty": True}}, [0]),
        ({"words": {"contains": "b"}}, [0]),
        ({"score": {"at_least": 1}}, [1]),
        ({"score": {"at_most": 1}}, [0]),
        ({"score": {"not_empty": True}}, [0, 1]),
        ({"score": None}, [2]),
        ({"translation.en": "cat"}, [0]),
        ({"translation": {"en": {"not_empty": True}}}, [0, 2]),
        ({"label": {"not": -1}, "words": {"not_empty": True}}, []),
    ],
)
def test_rules_choose_rows(where: dict[str, Any], rows: list[int]) -> None:
    assert kept(**where) == rows


def test_the_rows_left_out_are_counted_by_the_first_rule_that_they_do_not_meet() -> None:
    where = {"label": {"not": -1}, "words": {"not_empty": True}}
    kept(**where)
    count = row_count(source_config("jsonl", "eng", "x", where=where))
    assert count is not None and (count.rows, dict(count.left_out)) == (3, {"label": 1, "words": 2})
    assert row_count(source_config("jsonl", "eng", "y", where=where)) is None


@pytest.mark.parametrize(
    ("where", "fault"),
    [
        ({"lable": 1}, r"0: no column 'lable' \(where\); there are text, label, words, translation.en, score"),
        ({"label": {"nott": 1}}, r"no column 'label.nott' .*; rules are not, contains"),
        ({"text": False}, r"0: where.text=false: .*'one two three'.* YAML reads yes, no, on, off.* quotes"),
        ({"words": "a"}, r"where.words: the column holds a list.* contains"),
        ({"label": {"contains": 1}}, r"where.label.contains=1: the column holds int, not a list"),
        ({"text": {"at_least": 1}}, r"where.text.at_least=1: the column holds 'one two three', not a number"),
    ],
)
def test_a_rule_that_does_not_suit_the_column_is_refused(where: dict[str, Any], fault: str) -> None:
    with pytest.raises(UsageError, match=fault):
        kept(**where)


@pytest.mark.parametrize(
    ("where", "fault"),
    [
        ({"a": {"not_empty": False}}, "s.where.a.not_empty=False: must be true"),
        ({"a": {"min_words": "3"}}, "s.where.a.min_words=3: must be a whole number"),
        ({"a": {"min_words": -1}}, "s.where.a.min_words=-1"),
        ({"a": {"at_most": True}}, "s.where.a.at_most=True: must be a number"),
        ({"a": {"matches": "("}}, "s.where.a.matches=(: not a regular expression"),
        ({"a": {"not": 1, "nott": 2}}, "s.where.a.nott=2: no such rule; there are not, contains"),
        ({"a": []}, "s.where.a=[]: "),
        ({"a": {}}, "s.where.a={}: no rule"),
    ],
)
def test_a_rule_of_the_wrong_form_is_found_in_the_config(where: dict[str, Any], fault: str) -> None:
    (line,) = where_faults(where, "s.where")
    assert line.startswith(fault)
    assert not list(where_faults({"a": 1, "b": {"not": [1, 2], "min_words": 0}, "c": {"d": {"not": None}}}, "s.where"))


@pytest.mark.parametrize(
    ("reader", "content", "where", "texts"),
    [
        ("text", "one\none two\n", {"text": {"min_words": 2}}, ["one two"]),
        ("csv", "text,n\na,1\nb,2\n", {"n": {"not": 1}}, ["b"]),
        ("tsv", "text\tn\na\t1\nb\t2\n", {"n": [2, 3]}, ["b"]),
        ("jsonl", '{"text": "a", "n": NaN}\n{"text": "b", "n": 2}\n', {"n": {"not_empty": True}}, ["b"]),
        (
            "conllu",
            "1\ta\t_\tX\t_\t_\t0\tr\t_\t_\n\n1\tb\t_\tY\t_\t_\t0\tr\t_\t_\n",
            {"upos": {"contains": "Y"}},
            ["b"],
        ),
        ("conll", "a\tO\n\tO\n\nb\tO\n", {"words": {"not_empty": True}}, ["b"]),
    ],
)
def test_every_reader_leaves_rows_out(
    reader: str, content: str, where: dict[str, Any], texts: list[str], tmp_path: Path
) -> None:
    file = tmp_path / f"x.{reader}"
    file.write_text(content, encoding="utf-8")
    fields = {"words": "0", "ner": "1"} if reader == "conll" else {"text": "text"}
    source = source_config(reader, "eng", str(file), fields=fields, where=where)
    examples = list(read_source("s", source, seed=1))
    assert [example.text or " ".join(example.words or ()) for example in examples] == texts
    count = row_count(source)
    assert count is not None and (count.rows, sum(count.left_out.values())) == (2, 1)
    assert source_identity(source) != source_identity(source_config(reader, "eng", str(file), fields=fields))


def test_a_source_of_which_no_row_is_left_is_refused_with_the_number_of_its_rows(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text("\n".join(json.dumps({"text": str(n)}) for n in range(3)), encoding="utf-8")
    source = source_config("jsonl", "eng", str(tmp_path / "x.jsonl"), fields={"text": "text"}, where={"text": "a"})
    with pytest.raises(UsageError, match=r"has no examples; where leaves out all 3 rows"):
        list(read_source("s", source, seed=1))
