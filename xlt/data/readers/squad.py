"""Reads SQuAD JSON (SQuAD, XQuAD, MLQA): articles of paragraphs, each a context with questions about it.

Every question must have an answer, as in SQuAD v1.1. Of SQuAD 2.0 the questions without one can be left out with
`where.is_impossible=false`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from xlt.config import SourceConfig
from xlt.data.examples import Answer, Example
from xlt.data.files import lines_of, split_file
from xlt.data.records import AnswerFaults, check_answers, check_possible, whole_characters
from xlt.data.where import rows_where
from xlt.errors import UsageError

CHOOSES_ROWS = True


def files(source: SourceConfig) -> list[Path]:
    """Returns the file at `path`, or `SPLIT.json` in the folder `path`."""
    return [split_file(source, ("{split}.json",))]


def read(source: SourceConfig) -> Iterator[Example]:
    """Yields one example per question, which is its `text`; the context is its `pair`.

    The file is one JSON value and is in memory while it is read.

    Raises:
        UsageError: the file is not JSON (the message names the line), or a paragraph or question is broken (the message
            names it by its number, from 1, or its id). Faults of answers are raised together, at the end.
    """
    (file,) = files(source)
    try:
        whole = json.loads("\n".join(line for _, line in lines_of(file)))
    except (ValueError, RecursionError) as error:  # also a number of thousands of digits
        where = f"{file}:{error.lineno}" if isinstance(error, json.JSONDecodeError) else f"{file}"
        raise UsageError(f"{where}: not JSON: {error}") from error
    faults = AnswerFaults()
    seen: set[str] = set()
    for place, question in rows_where(source, questions(whole, file)):
        if question["id"] in seen:
            raise UsageError(f"{place}: an earlier question has the same id")
        seen.add(question["id"])
        with faults:
            yield _example(question, place)
    faults.refuse()


def questions(whole: Any, file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields place and columns of each question: its keys in the file, `context`, and always `is_impossible`."""
    for article_number, article in enumerate(_part(whole, "data", list, f"{file}"), start=1):
        at = f"{file}: article {article_number}"
        for number, paragraph in enumerate(_part(article, "paragraphs", list, at), start=1):
            place = f"{at} paragraph {number}"
            context = _part(paragraph, "context", str, place)
            for question_number, question in enumerate(_part(paragraph, "qas", list, place), start=1):
                id = _part(question, "id", str, f"{place} question {question_number}")
                yield f"{file}: question {id}", {"is_impossible": False, **question, "context": context}


def _example(question: Mapping[str, Any], place: str) -> Example:
    answers = tuple(
        Answer(_part(answer, "text", str, place), _part(answer, "answer_start", int, place))
        for answer in _part(question, "answers", list, place)
    )
    check_possible(question["is_impossible"], answers, place)
    check_answers(answers, question["context"], place)
    text = _part(question, "question", str, place)
    return Example(place, text=text, pair=question["context"], answers=answers, id=question["id"])


def _part(whole: Any, name: str, kind: type, place: str) -> Any:
    if not isinstance(whole, dict) or name not in whole:
        content = f"has {', '.join(whole) or 'nothing'}" if isinstance(whole, dict) else f"is a {type(whole).__name__}"
        raise UsageError(f"{place}: there is no {name!r}; it {content}")
    value = whole[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise UsageError(f"{place}: {name!r} is a {type(value).__name__}, expected a {kind.__name__}")
    return whole_characters(value, place) if isinstance(value, str) else value
