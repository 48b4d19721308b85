"""Converts the records of a data set to examples; the source's `fields` say which column has which role."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

from xlt.config import SourceConfig
from xlt.data.entities import entities_of_spans
from xlt.data.examples import Answer, Example, Turn
from xlt.data.where import columns_in, rows_where, value_of
from xlt.errors import UsageError

_TEXTS = ("text", "pair", "label", "id", "title")
_PROMPTS = ("prompt", "input", "completion")
_RULE = "to leave out such questions, give the source where.answers.not_empty=true"
# Number of faults of one file that are listed; the others are counted.
_MOST_LINES = 50
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
    records: Iterable[tuple[str, Mapping[str, Any]]], fields: Mapping[str, str], source: SourceConfig
) -> Iterator[Example]:
    """Converts the records that meet the source's `where` to examples.

    Args:
        records: place and columns of each.
        fields: role -> column; `translation.en` is the part `en` of a nested column.
        source: its `where` says what records are read.
    Raises:
        UsageError: a record has no column of `where`, or `example_of` raises it. Faults of answers are raised together,
            after the last record.
    """
    faults = AnswerFaults()
    for place, record in rows_where(source, records):
        with faults:
            yield example_of(record, fields, place)
    faults.refuse()


class AnswerFaultError(UsageError):
    """A question whose answers cannot be used."""


class AnswerFaults:
    """The faults of the answers in a file. `with faults: ...` keeps a fault; `refuse` raises all as one error."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if isinstance(error, AnswerFaultError):
            self._lines += error.lines
        return isinstance(error, AnswerFaultError)

    def refuse(self) -> None:
        """Raises a UsageError with a line for each fault, if there was one; after many lines the rest is counted."""
        if len(self._lines) > _MOST_LINES:
            more = len(self._lines) - _MOST_LINES
            self._lines[_MOST_LINES:] = [f"{more} more faults of answers in the same file"]
        if self._lines:
            raise UsageError(*self._lines)


def example_of(record: Mapping[str, Any], fields: Mapping[str, str], place: str) -> Example:
    """Converts a record to an example.

    Args:
        record: column -> value.
        fields: role -> column. Roles are `text`, `pair`, `label`, `id`, `title` (strings or numbers), `words` (list of
            strings), `spans` (entities by bytes of the text, see `xlt.data.entities`) and `answers` (lists `text` and
            `answer_start` in a mapping, or a list of such pairs); for conversations `messages` (a list of mappings
            `role` and `content`), or `prompt`, `completion` and optionally `input`, which is put below the prompt;
            `choice_1`, `choice_2` and so on for the answers to choose from. Any other role is a column of word labels,
            a list as long as `words`.
        place: of the record, for messages.
    Raises:
        UsageError: a column is missing or has another type or length, or an answer is not in `pair` at its place; the
            message names the place.
    """
    values: dict[str, Any] = {}
    columns: dict[str, tuple[str, ...]] = {}
    prompts: dict[str, str] = {}
    choices: dict[int, str] = {}
    spans: Any = None
    for role, column in fields.items():
        try:
            value = value_of(record, column)
        except KeyError as error:
            message = f"{place}: no column {column!r} (fields.{role}); the columns are {columns_in(record)}"
            raise UsageError(message) from error
        if role in _TEXTS:
            values[role] = _text(value, role, column, place)
        elif role == "answers":
            values[role] = _answers(value, column, place)
        elif role == "spans":
            spans = value
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
    if "spans" in fields:
        if "text" not in values:
            raise UsageError(f"{place}: fields.spans: needs fields.text, in which the spans are")
        values["entities"] = entities_of_spans(values["text"], spans, fields["spans"], place)
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
    if "answers" in values:
        check_possible(record.get("is_impossible"), values["answers"], place)
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
    lines = [] if answers else [f"{place}: there are no answers, but each question must have one; {_RULE}"]
    for answer in answers:
        if not answer.text.strip():
            lines.append(f"{place}: an answer is empty; {_RULE}")
        elif not 0 <= answer.start <= len(context) - len(answer.text):
            lines.append(
                f"{place}: answer_start={answer.start} of answer {answer.text!r} is outside of the context, "
                f"which has {len(context)} characters"
            )
        elif (actual := context[answer.start : answer.start + len(answer.text)]) != answer.text:
            form = " in another Unicode form" if _normal(actual) == _normal(answer.text) else ""
            lines.append(
                f"{place}: at answer_start={answer.start} the context has {actual!r}{form}, "
                f"not the answer {answer.text!r}"
            )
    if lines:
        raise AnswerFaultError(*lines)


def check_possible(is_impossible: Any, answers: Sequence[Answer], place: str) -> None:
    """Refuses a question that is marked as having no answer (SQuAD 2.0) but has some.

    Raises:
        UsageError: the message names the place and the answers.
    """
    if is_impossible is True and answers:
        texts = ", ".join(repr(answer.text) for answer in answers[:3])
        raise AnswerFaultError(
            f"{place}: is_impossible=true, but there are answers ({texts}); correct the file, or leave out such "
            "questions: give the source where.is_impossible=false"
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


class Unnamed(int):
    """The number of a class that the data set has no name for, such as -1 for a row without a label."""


def _text(value: Any, role: str, column: str, place: str) -> str:
    if isinstance(value, Unnamed):
        raise UsageError(
            f"{place}: column {column!r} has {value}, which is none of its classes; to leave out such rows, give the "
            f"source where.{column}.not={value}"
        )
    infinite = isinstance(value, float) and not math.isfinite(value)
    if not isinstance(value, (str, int, float)) or isinstance(value, bool) or infinite:
        kind = f"{type(value).__name__}, not text"
        if infinite:
            kind = f"{value}, not text (pandas writes NaN for an empty cell)"
        leaves_out = (value is None or infinite) and role not in ("messages", "answers")
        remedy = f"; to leave out such rows, give the source where.{column}.not_empty=true" if leaves_out else ""
        raise UsageError(f"{place}: column {column!r} (fields.{role}) holds {kind}{remedy}")
    return whole_characters(str(value), place)


def _strings(value: Any, role: str, column: str, place: str) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        kind = type(value).__name__
        raise UsageError(f"{place}: column {column!r} (fields.{role}) holds {kind}, not a list of strings")
    return tuple(_text(item, role, column, place) for item in value)


def _turns(value: Any, column: str, place: str) -> tuple[Turn, ...]:
    try:
        messages = [(str(message["role"]), message["content"]) for message in value]
    except (TypeError, KeyError) as error:
        raise UsageError(f"{place}: column {column!r} must hold a list of mappings role and content") from error
    for role, _ in messages:
        if role not in ROLES:
            raise UsageError(f"{place}: role {role!r} in column {column!r} is unknown; roles are {', '.join(ROLES)}")
    return tuple(Turn(role, _text(content, "messages", f"{column}.content", place)) for role, content in messages)


def _answers(value: Any, column: str, place: str) -> tuple[Answer, ...]:
    try:
        if isinstance(value, Mapping):
            pairs = list(zip(value["text"], value["answer_start"], strict=True))
        else:
            pairs = [(answer["text"], answer["answer_start"]) for answer in value]
        if any(isinstance(start, bool) or int(start) != float(start) for _, start in pairs):
            raise ValueError(f"{column}: a start is no whole number")
        return tuple(Answer(_text(text, "answers", f"{column}.text", place), int(start)) for text, start in pairs)
    except (TypeError, KeyError, ValueError, IndexError, OverflowError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{place}: column {column!r} must hold equally long lists text and answer_start") from error


def _normal(text: str) -> str:
    return unicodedata.normalize("NFC", text)
