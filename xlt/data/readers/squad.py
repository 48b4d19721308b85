"""Reads SQuAD v1.1 JSON (SQuAD, XQuAD, MLQA): articles of paragraphs, each a context with questions about it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from xlt.config import SourceConfig
from xlt.data.examples import Answer, Example
from xlt.data.files import lines_of, split_file
from xlt.data.records import check_answers, whole_characters
from xlt.errors import UsageError


def files(source: SourceConfig) -> list[Path]:
    """Returns the file at `path`, or `SPLIT.json` in the folder `path`."""
    return [split_file(source, ("{split}.json",))]


def read(source: SourceConfig) -> Iterator[Example]:
    """Yields one example per question, which is its `text`; the context is its `pair`.

    The file is one JSON value and is in memory while it is read.

    Raises:
        UsageError: the file is not JSON (the message names the line), or a paragraph or question is broken (the message
            names it by its number, from 1, or its id).
    """
    (file,) = files(source)
    try:
        whole = json.loads("\n".join(line for _, line in lines_of(file)))
    except (json.JSONDecodeError, RecursionError) as error:
        where = f"{file}:{error.lineno}" if isinstance(error, json.JSONDecodeError) else f"{file}"
        raise UsageError(f"{where}: not JSON: {error}") from error
    seen: set[str] = set()
    for article_number, article in enumerate(_part(whole, "data", list, f"{file}"), start=1):
        place = f"{file}: article {article_number}"
        for number, paragraph in enumerate(_part(article, "paragraphs", list, place), start=1):
            for example in _questions(paragraph, file, f"{place} paragraph {number}"):
                if example.id in seen:
                    raise UsageError(f"{example.place}: an earlier question has the same id")
                seen.add(str(example.id))
                yield example


def _questions(paragraph: Any, file: Path, place: str) -> Iterator[Example]:
    context = _part(paragraph, "context", str, place)
    for number, question in enumerate(_part(paragraph, "qas", list, place), start=1):
        id = _part(question, "id", str, f"{place} question {number}")
        named = f"{file}: question {id}"
        answers = tuple(
            Answer(_part(answer, "text", str, named), _part(answer, "answer_start", int, named))
            for answer in _part(question, "answers", list, named)
        )
        check_answers(answers, context, named)
        yield Example(named, text=_part(question, "question", str, named), pair=context, answers=answers, id=id)


def _part(whole: Any, name: str, kind: type, place: str) -> Any:
    if not isinstance(whole, dict) or name not in whole:
        content = f"has {', '.join(whole) or 'nothing'}" if isinstance(whole, dict) else f"is a {type(whole).__name__}"
        raise UsageError(f"{place}: there is no {name!r}; it {content}")
    value = whole[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise UsageError(f"{place}: {name!r} is a {type(value).__name__}, expected a {kind.__name__}")
    return whole_characters(value, place) if isinstance(value, str) else value
