"""Converts the records of a data set to examples; the source's `fields` say which column has which role."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from xlt.config import SourceConfig
from xlt.data.examples import Answer, Example, Turn
from xlt.errors import UsageError

_TEXTS = ("text", "pair", "label", "id")
_PROMPTS = ("prompt", "input", "completion")
_CHOICE = "choice_"  # followed by a number, from 1
ROLES = ("system", "user", "assistant")


def fields_of(source: SourceConfig) -> dict[str, str]:
    """Returns role -> column of a source's files, with `{code}` replaced.

    Raises:
        UsageError: the source names no column.
    """
    if not source.fields:
        raise UsageError(f"fields={{}}: reader {source.reader} needs the names of columns; set for example fields.text")
    return {role: column.replace("{code}", source.code) for role, column in source.fields.items()}


def examples_of(
    records: Iterable[tuple[str, Mapping[str, Any]]], fields: Mapping[str, str], where: Mapping[str, str]
) -> Iterator[Example]:
    """Converts those records to examples that have the values in `where`.

    Args:
        records: place and columns of each.
        fields: role -> column.
        where: column -> value that a record must have.
    Raises:
        UsageError: a record has no column of `where`, or `example_of` raises it.
    """
    for place, record in records:
        for column in where:
            if column not in record:
                raise UsageError(f"{place}: no column {column!r} (where); there are {', '.join(map(str, record))}")
        if all(str(record[column]) == value for column, value in where.items()):
            yield example_of(record, fields, place)


def example_of(record: Mapping[str, Any], fields: Mapping[str, str], place: str) -> Example:
    """Converts a record to an example.

    Args:
        record: column -> value.
        fields: role -> column. Roles are `text`, `pair`, `label`, `id` (strings or numbers), `words` (list of strings)
            and `answers` (lists `text` and `answer_start` in a mapping, or a list of such pairs); for conversations
            `messages` (a list of mappings `role` and `content`), or `prompt`, `completion` and optionally `input`,
            which is put below the prompt; `choice_1`, `choice_2` and so on for the answers to choose from. Any other
            role is a column of word labels, a list as long as `words`.
        place: of the record, for messages.
    Raises:
        UsageError: a column is missing or has another type or length, or an answer is not in `pair` at its place; the
            message names the place.
    """
    values: dict[str, Any] = {}
    columns: dict[str, tuple[str, ...]] = {}
    prompts: dict[str, str] = {}
    choices: dict[int, str] = {}
    for role, column in fields.items():
        if column not in record:
            names = ", ".join(map(str, record)) or "none"
            raise UsageError(f"{place}: no column {column!r} (fields.{role}); the columns are {names}")
        value = record[column]
        if role in _TEXTS:
            values[role] = _text(value, role, column, place)
        elif role == "answers":
            values[role] = _answers(value, column, place)
        elif role == "messages":
            values["turns"] = _turns(value, column, place)
        elif role in _PROMPTS:
            prompts[role] = _text(value, role, column, place)
        elif role.startswith(_CHOICE) and role.removeprefix(_CHOICE).isdecimal():
            choices[int(role.removeprefix(_CHOICE))] = _text(value, role, column, place)
        else:
            listed = _strings(value, role, column, place)
            if role == "words":
                values[role] = listed
            else:
                columns[role] = listed
    if prompts:
        prompt, below, completion = (prompts.get(role, "") for role in ("prompt", "input", "completion"))
        values["turns"] = prompted(prompt, below, completion, place)
    words = values.get("words", ())
    for role, labels in columns.items():
        if len(labels) != len(words):
            raise UsageError(
                f"{place}: {len(labels)} labels in column {fields[role]!r}, but {len(words)} words: must be as many"
            )
    if "words" in values and not all(words):
        raise UsageError(f"{place}: word {words.index('') + 1} in column {fields['words']!r} is empty")
    if "answers" in values and "pair" in values:
        check_answers(values["answers"], values["pair"], place)
    ordered = tuple(choices[number] for number in sorted(choices))
    return Example(place, columns=columns, choices=ordered, **values)


def prompted(prompt: str, below: str, completion: str, place: str) -> tuple[Turn, ...]:
    """Returns a conversation of a prompt, with the text `below` under it, and its completion.

    Raises:
        UsageError: prompt or completion is empty; the message names the place.
    """
    if not prompt.strip() or not completion.strip():
        raise UsageError(f"{place}: the {'completion' if prompt.strip() else 'prompt'} is empty; remove the example")
    return Turn("user", f"{prompt}\n\n{below}" if below.strip() else prompt), Turn("assistant", completion)


def check_answers(answers: Sequence[Answer], context: str, place: str) -> None:
    """Refuses a question without answers, and answers that are not at their places in the context.

    Raises:
        UsageError: the message names the place, the answer, and the text that is there instead.
    """
    if not answers:
        raise UsageError(f"{place}: there are no answers; SQuAD v1.1 has at least one for each question")
    for answer in answers:
        if not answer.text:
            raise UsageError(f"{place}: an answer is empty")
        if not 0 <= answer.start <= len(context) - len(answer.text):
            raise UsageError(
                f"{place}: answer_start={answer.start} of answer {answer.text!r} is outside of the context, "
                f"which has {len(context)} characters"
            )
        actual = context[answer.start : answer.start + len(answer.text)]
        if actual != answer.text:
            raise UsageError(
                f"{place}: at answer_start={answer.start} the context has {actual!r}, not the answer {answer.text!r}"
            )


def whole_characters(text: str, place: str) -> str:
    r"""Returns the text if it has no half of a surrogate pair, which an escape in JSON can be (`\ud83d` on its own).

    Raises:
        UsageError: it has one; the message names the place and the character.
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
            raise UsageError(
                f"{place}: role {turn.role!r} in column {column!r} is unknown; roles are {', '.join(ROLES)}"
            )
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
