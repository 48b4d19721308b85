from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.source_configs import source_config
from xlt.config import SourceConfig
from xlt.data.examples import Answer
from xlt.data.readers.squad import read
from xlt.errors import UsageError

CONTEXT = "Tórshavn 𝒯 is the capital."
Written = Callable[[Any], SourceConfig]


def question(**changes: Any) -> dict[str, Any]:
    return {"id": "q1", "question": "What is Tórshavn?", "answers": [{"text": "capital", "answer_start": 18}]} | changes


def articles(*questions: Any, **changes: Any) -> dict[str, Any]:
    return {"data": [{"title": "Faroes", "paragraphs": [{"context": CONTEXT, "qas": list(questions)} | changes]}]}


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """A file of this value, or of this text."""

    def make(value: Any) -> SourceConfig:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=1)
        (tmp_path / "dev.json").write_text(text, encoding="utf-8")
        return source_config("squad", "eng", str(tmp_path), split="dev")

    return make


def test_a_question_has_its_context_and_its_answers_by_code_point(written: Written) -> None:
    both = [{"text": "the capital", "answer_start": 14}, {"text": "𝒯", "answer_start": 9}]
    first, second = read(written(articles(question(), question(id="q2", answers=both))))
    assert (first.text, first.pair, first.id) == ("What is Tórshavn?", CONTEXT, "q1")
    assert first.answers == (Answer("capital", 18),)
    assert second.answers == (Answer("the capital", 14), Answer("𝒯", 9))
    assert second.place.endswith("dev.json: question q2")


def answer(text: Any, start: Any) -> dict[str, Any]:
    return articles(question(answers=[{"text": text, "answer_start": start}]))


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ('{"data": [\n{"paragraphs": [', r"dev.json:2: not JSON: Expecting value"),
        ("", r"dev.json:1: not JSON"),
        ([], r"dev.json: .*no 'data'; it is a list"),
        ({"version": "1.1"}, r"dev.json: .*no 'data'; it has version"),
        ({"data": {}}, r"dev.json: 'data' is a dict, expected a list"),
        ({"data": [{}]}, r"dev.json: article 1: .*no 'paragraphs'; it has nothing"),
        (articles(context=None), r"dev.json: article 1 paragraph 1: 'context' is a NoneType, expected a str"),
        (articles(question(id=7)), r"article 1 paragraph 1 question 1: 'id' is a int, expected a str"),
        (articles(question(question=None)), r"dev.json: question q1: 'question' is a NoneType"),
        (articles(question(answers={"text": ["capital"]})), r"question q1: 'answers' is a dict, expected a list"),
        (articles(question(answers=[])), r"question q1: .*no answers"),
        (articles(question(), question()), r"question q1: .*same id"),
        (answer("capital", "18"), r"question q1: 'answer_start' is a str, expected a int"),
        (answer("capital", True), r"question q1: 'answer_start' is a bool, expected a int"),
        (answer("capital", 17), r"question q1: at answer_start=17 .*' capita'.*'capital'"),
        (answer("capital", 20), r"question q1: answer_start=20 of answer 'capital' is outside .* has 26 characters"),
        (answer("capital", -8), r"question q1: answer_start=-8 of answer 'capital' is outside"),
        (answer("", 3), r"question q1: an answer is empty"),
    ],
)
def test_a_broken_file_is_refused_with_its_line_or_question(value: Any, fault: str, written: Written) -> None:
    with pytest.raises(UsageError, match=fault):
        list(read(written(value)))


def test_bytes_that_are_not_utf_8_are_refused_with_their_line(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_bytes(b'{"data":\n["\xff"]}')
    with pytest.raises(UsageError, match=r"train.json:2: not UTF-8"):
        list(read(source_config("squad", "eng", str(tmp_path))))


def test_all_faulty_questions_of_a_file_are_listed_at_once(written: Written) -> None:
    wrong = [{"text": "capital", "answer_start": 17}]
    questions = [question(), question(id="q2", answers=[]), question(id="q3", answers=wrong)]
    with pytest.raises(UsageError) as refused:
        list(read(written(articles(*questions))))
    assert [line.partition("question ")[2][:2] for line in refused.value.lines] == ["q2", "q3"]


def test_of_many_faults_fifty_are_listed_and_the_others_counted(written: Written) -> None:
    with pytest.raises(UsageError) as refused:
        list(read(written(articles(*(question(id=f"q{n}", answers=[]) for n in range(60))))))
    assert len(refused.value.lines) == 51 and refused.value.lines[-1].startswith("10 more")


def test_an_impossible_question_with_answers_is_refused(written: Written) -> None:
    with pytest.raises(UsageError, match=r"question q1: is_impossible=true, but there are answers \('capital'\)"):
        list(read(written(articles(question(is_impossible=True)))))


@pytest.mark.parametrize("where", [{"is_impossible": False}, {"answers": {"not_empty": True}}])
def test_questions_without_answers_can_be_left_out(where: dict[str, Any], written: Written) -> None:
    impossible = question(id="q2", answers=[], is_impossible=True, plausible_answers=[])
    source = written(articles(question(), impossible))
    source.where = where
    assert [example.id for example in read(source)] == ["q1"]


def test_an_answer_in_another_unicode_form_is_named_as_such(written: Written) -> None:
    """U+212B, the sign of Ångström, is another character than the letter, with the same look and the same NFC."""
    made = articles(question(answers=[{"text": "\u212b", "answer_start": 0}]), context="\u00c5 is")
    with pytest.raises(UsageError, match=r"question q1: at answer_start=0 .* in another Unicode form"):
        list(read(written(made)))
