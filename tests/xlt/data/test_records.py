from __future__ import annotations

from typing import Any

import pytest

from tests.source_configs import source_config
from xlt.data.examples import Answer, Example
from xlt.data.records import check_answers, example_of, fields_of
from xlt.errors import UsageError

TAGGED = {"words": "tokens", "ner": "tags"}
ASKED = {"text": "question", "pair": "context", "answers": "answers"}


def test_every_role_takes_its_column_and_other_columns_are_left_alone() -> None:
    record = {"q": "who?", "c": "a b", "l": 3, "n": 7, "a": {"text": ["b"], "answer_start": [2]}, "more": object()}
    fields = {"text": "q", "pair": "c", "label": "l", "id": "n", "answers": "a"}
    wanted = Example("here", text="who?", pair="a b", label="3", id="7", answers=(Answer("b", 2),))
    assert example_of(record, fields, "here") == wanted


def test_a_role_that_is_no_other_is_a_column_of_word_labels() -> None:
    example = example_of(
        {"tokens": ["a", "b"], "tags": ("O", "B"), "heads": [2, 0]}, TAGGED | {"head": "heads"}, "here"
    )
    assert (example.words, example.columns) == (("a", "b"), {"ner": ("O", "B"), "head": ("2", "0")})


@pytest.mark.parametrize(
    ("record", "fields", "fault"),
    [
        ({"a": "x"}, {"text": "b"}, r"here: no column 'b' \(fields.text\).* a$"),
        ({}, {"text": "b"}, r"here: no column 'b' \(fields.text\).* none"),
        ({"a": None}, {"label": "a"}, r"here: column 'a' \(fields.label\) holds NoneType, not text"),
        ({"a": True}, {"label": "a"}, r"here: column 'a' \(fields.label\) holds bool, not text"),
        ({"a": ["x"]}, {"text": "a"}, r"here: column 'a' \(fields.text\) holds list, not text"),
        ({"tokens": "x", "tags": ["O"]}, TAGGED, r"here: column 'tokens' \(fields.words\) holds str, not a list"),
        ({"tokens": ["x", None], "tags": ["O", "O"]}, TAGGED, r"'tokens' \(fields.words\) holds NoneType, not text"),
        ({"tokens": ["x", ""], "tags": ["O", "O"]}, TAGGED, r"here: word 2 in column 'tokens' is empty"),
        ({"tokens": ["x"], "tags": ["O", "O"]}, TAGGED, r"here: 2 labels .*'tags'.* 1 words"),
        ({"tags": ["O"]}, {"ner": "tags"}, r"here: 1 labels .*'tags'.* 0 words"),
    ],
)
def test_a_record_that_does_not_fit_is_refused(record: dict[str, Any], fields: dict[str, str], fault: str) -> None:
    with pytest.raises(UsageError, match=fault):
        example_of(record, fields, "here")


@pytest.mark.parametrize(
    "answers",
    [None, "b", {"text": ["b"]}, {"text": ["b", "c"], "answer_start": [2]}, [{"text": "b"}], [3], {"text": 1}],
)
def test_answers_of_another_shape_are_refused(answers: Any) -> None:
    with pytest.raises(UsageError, match=r"here: column 'answers' must hold equally long lists text and answer_start"):
        example_of({"question": "?", "context": "a b", "answers": answers}, ASKED, "here")


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (Answer("b", 1), r"here: .*answer_start=1 .*' '.*'b'"),
        (Answer("b", 3), r"answer_start=3 of answer 'b' is outside of the context, which has 3 characters"),
        (Answer("b", -1), r"answer_start=-1 of answer 'b' is outside"),
        (Answer("", 0), r"here: an answer is empty"),
    ],
)
def test_an_answer_has_to_stand_where_it_says(answer: Answer, fault: str) -> None:
    check_answers([Answer("a", 0), Answer("b", 2)], "a b", "here")
    with pytest.raises(UsageError, match=fault):
        check_answers([Answer("a", 0), answer], "a b", "here")


def test_fields_are_needed_and_can_hold_the_code_of_the_language() -> None:
    with pytest.raises(UsageError, match=r"fields=\{\}: reader csv "):
        fields_of(source_config("csv", "ace", "x"))
    made = source_config("csv", "ace", "x", fields={"text": "id", "pair": "to_{code}"}, codes={"ace": "acehnese"})
    assert fields_of(made) == {"text": "id", "pair": "to_acehnese"}
