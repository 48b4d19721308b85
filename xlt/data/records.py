"""From a data set's records to examples: which column plays which part is said by the source's `fields`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from xlt.config import SourceConfig
from xlt.data.examples import Answer, Example, Turn
from xlt.errors import UsageError

_TEXTS = ("text", "pair", "label", "id")
_PROMPTS = ("prompt", "input", "completion")
ROLES = ("system", "user", "assistant")


def fields_of(source: SourceConfig) -> dict[str, str]:
    """Role -> column of a source's own files, `{code}` filled in.

    Raises:
        UsageError: none is named.
    """
    if not source.fields:
        raise UsageError(f"fields={{}}: reader {source.reader} needs to know the columns; give for instance text=...")
    return {role: column.replace("{code}", source.code) for role, column in source.fields.items()}


def examples_of(
    records: Iterable[tuple[str, Mapping[str, Any]]], fields: Mapping[str, str], where: Mapping[str, str]
) -> Iterator[Example]:
    """The examples of those records that have the wanted values.

    Args:
        records: place and columns of each.
        fields: role -> column.
        where: column -> wanted value.
    Raises:
        UsageError: as `example_of`, or a column of `where` is not there.
    """
    for place, record in records:
        for column in where:
            if column not in record:
                raise UsageError(f"{place}: no column {column!r} (where); there are {', '.join(map(str, record))}")
        if all(str(record[column]) == value for column, value in where.items()):
            yield example_of(record, fields, place)


def example_of(record: Mapping[str, Any], fields: Mapping[str, str], place: str) -> Example:
    """The example that a record holds.

    Args:
        record: column -> value.
        fields: role -> column. Roles are `text`, `pair`, `label`, `id` (strings or numbers), `words` (list of strings)
            and `answers` (lists `text` and `answer_start` in a mapping, or a list of such pairs); for conversations
            `messages` (a list of mappings `role` and `content`), or `prompt`, `completion` and perhaps `input`, which
            stands below the prompt; any other role is a column of word labels, a list as long as `words`.
        place: of the record, for messages.
    Raises:
        UsageError: a column is not there, of another type, or of another length, or an answer does not stand in `pair`
            where it should; names the place.
    """
    values: dict[str, Any] = {}
    columns: dict[str, tuple[str, ...]] = {}
    said: dict[str, str] = {}
    for role, column in fields.items():
        if column not in record:
            there = ", ".join(map(str, record)) or "none"
            raise UsageError(f"{place}: no column {column!r} (fields.{role}); there are {there}")
        value = record[column]
        if role in _TEXTS:
            values[role] = _text(value, role, column, place)
        elif role == "answers":
            values[role] = _answers(value, column, place)
        elif role == "messages":
            values["turns"] = _turns(value, column, place)
        elif role in _PROMPTS:
            said[role] = _text(value, role, column, place)
        else:
            listed = _strings(value, role, column, place)
            if role == "words":
                values[role] = listed
            else:
                columns[role] = listed
    if said:
        values["turns"] = prompted(said.get("prompt", ""), said.get("input", ""), said.get("completion", ""), place)
    words = values.get("words", ())
    for role, labels in columns.items():
        if len(labels) != len(words):
            raise UsageError(f"{place}: {len(labels)} labels in column {fields[role]!r}, {len(words)} words")
    if "words" in values and not all(words):
        raise UsageError(f"{place}: word {words.index('') + 1} in column {fields['words']!r} is empty")
    if "answers" in values and "pair" in values:
        check_answers(values["answers"], values["pair"], place)
    return Example(place, columns=columns, **values)


def prompted(prompt: str, below: str, completion: str, place: str) -> tuple[Turn, ...]:
    """A conversation of a prompt, with more text below it if there is any, and its completion.

    Raises:
        UsageError: prompt or completion is empty; names the place.
    """
    if not prompt.strip() or not completion.strip():
        raise UsageError(f"{place}: an empty {'completion' if prompt.strip() else 'prompt'}")
    return Turn("user", f"{prompt}\n\n{below}" if below.strip() else prompt), Turn("assistant", completion)


def check_answers(answers: Sequence[Answer], context: str, place: str) -> None:
    """Refuses a question without answers, and answers that do not stand where they say.

    Raises:
        UsageError: names the place, the answer, and what stands there instead.
    """
    if not answers:
        raise UsageError(f"{place}: no answers; SQuAD v1.1 has at least one for each question")
    for answer in answers:
        if not answer.text:
            raise UsageError(f"{place}: an answer is empty")
        if not 0 <= answer.start <= len(context) - len(answer.text):
            raise UsageError(
                f"{place}: answer_start={answer.start} of answer {answer.text!r} is outside of the context, "
                f"which has {len(context)} characters"
            )
        stands = context[answer.start : answer.start + len(answer.text)]
        if stands != answer.text:
            raise UsageError(f"{place}: at answer_start={answer.start} stands {stands!r}, not answer {answer.text!r}")


def whole_characters(text: str, place: str) -> str:
    r"""The text, unless it holds half of a surrogate pair, as an escape in JSON can (`\ud83d` on its own).

    Raises:
        UsageError: it does; names the place and the character.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        half = f"{text[error.start]!a} at character {error.start + 1} of {text[:40]!a}"
        raise UsageError(f"{place}: {half} is half of a surrogate pair, not a character") from error
    return text


def _text(value: Any, role: str, column: str, place: str) -> str:
    if not isinstance(value, (str, int, float)) or isinstance(value, bool):
        raise UsageError(f"{place}: column {column!r} (fields.{role}) holds {type(value).__name__}, not text")
    return whole_characters(str(value), place)


def _strings(value: Any, role: str, column: str, place: str) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        kind = type(value).__name__
        raise UsageError(f"{place}: column {column!r} (fields.{role}) holds {kind}, not a list of strings")
    return tuple(_text(item, role, column, place) for item in value)


def _turns(value: Any, column: str, place: str) -> tuple[Turn, ...]:
    try:
        turns = tuple(Turn(str(message["role"]), whole_characters(str(message["content"]), place)) for message in value)
    except (TypeError, KeyError) as error:
        raise UsageError(f"{place}: column {column!r} must hold a list of mappings role and content") from error
    for turn in turns:
        if turn.role not in ROLES:
            raise UsageError(f"{place}: role {turn.role!r} in column {column!r}; there are {', '.join(ROLES)}")
    return turns


def _answers(value: Any, column: str, place: str) -> tuple[Answer, ...]:
    try:
        if isinstance(value, Mapping):
            pairs = list(zip(value["text"], value["answer_start"], strict=True))
        else:
            pairs = [(answer["text"], answer["answer_start"]) for answer in value]
        return tuple(Answer(whole_characters(str(text), place), int(start)) for text, start in pairs)
    except (TypeError, KeyError, ValueError, IndexError) as error:
        raise UsageError(f"{place}: column {column!r} must hold equally long lists text and answer_start") from error
