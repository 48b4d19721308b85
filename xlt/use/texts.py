"""Reads texts to annotate, in the formats that people have them in, and keeps what else stands beside them.

Labels in the input are not looked at. Standard input is read as it comes, so that a command can stand in a pipe.
"""

from __future__ import annotations

import io
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import regex

from xlt.data.examples import Example
from xlt.data.files import bare, opened, whole_lines
from xlt.data.readers import conll, conllu, squad
from xlt.data.records import example_of, whole_characters
from xlt.data.tables import quoted_cells
from xlt.data.where import columns_in, value_of
from xlt.data.words import word_spans
from xlt.errors import UsageError
from xlt.languages import language_fault

STANDARD = "-"
"""The name of standard input and output."""

_WITH_LANGUAGES = ("conllu", "jsonl", "tsv", "csv")  # formats that can say the language of each example
FORMATS = ("text", "words", "conllu", "conll", "jsonl", "tsv", "csv", "squad")
_BY_ENDING = {
    ".txt": "text",
    ".conllu": "conllu",
    ".conll": "conll",
    ".iob2": "conll",
    ".bio": "conll",
    ".jsonl": "jsonl",
    ".tsv": "tsv",
    ".csv": "csv",
    ".json": "squad",
}
# Names of columns that are taken for a part of an example if no option says which column it is; the first one counts.
_USUAL_NAMES = {
    "words": ("words", "tokens"),
    "text": ("text", "sentence", "premise", "sentence1", "passage", "question", "source", "prompt"),
    "pair": ("pair", "hypothesis", "sentence2", "context", "question"),
    "messages": ("messages", "conversation"),
    "id": ("id",),
}
_CHOICE = regex.compile(r"choice_\d+")
_COMMENT = regex.compile(r"#\s*([^=]*?)\s*=\s*(.*?)\s*")
# It separates words as a blank does, but is none to `str.split`.
_ZERO_WIDTH_SPACE = "\u200b"
# A word, or a punctuation mark or symbol at either side of one.
_OUTER = regex.compile(r"[^\p{L}\p{M}\p{N}]")


@dataclass(frozen=True)
class Layout:
    """How the input is written, which the output follows where both have one format.

    Attributes:
        format: one of `FORMATS`.
        names: of the columns of a table; numbers if it has no header.
        header: whether the table has a header.
        delimiter: between the cells of a table, or the columns of CoNLL.
    """

    format: str
    names: tuple[str, ...] = ()
    header: bool = True
    delimiter: str = "\t"


@dataclass(frozen=True)
class Entry:
    """A part of the input: an example, or lines around examples, which stay as they are.

    Attributes:
        example: to annotate; None for other lines.
        language: of the example, an ISO 639-3 code; None if nothing says it.
        lines: as they are in the file, with their ends; empty for formats without such lines.
        words_at: numbers of the lines that hold the words.
        record: column or key -> value, for tables and JSON.
        was_split: whether the words of the example were split from its text.
    """

    example: Example | None
    language: str | None = None
    lines: Sequence[str] = ()
    words_at: Sequence[int] = ()
    record: Mapping[str, Any] = field(default_factory=dict)
    was_split: bool = False


@dataclass(frozen=True)
class Reading:
    """The settings with which an input is read.

    Attributes:
        format: one of `FORMATS`.
        reads: parts of an example that the task reads, as `Task.reads` has them.
        fields: part of an example -> column, where the usual names do not say it.
        language: of all examples; None: `language_field` says it, or nothing does.
        language_field: column or key with the language of each example; in CoNLL-U, a comment `# NAME = CODE`.
        into: for translation, the language into which each text is translated.
        separator: between the cells of a table; None: the usual one of the format.
    """

    format: str
    reads: tuple[str, ...]
    fields: Mapping[str, str] = field(default_factory=dict)
    language: str | None = None
    language_field: str | None = None
    into: str | None = None
    separator: str | None = None


def language_field_fault(field: str | None, format: str) -> str | None:
    """Returns why a format cannot say the language of each example; None if it can, or is not asked to."""
    if field is None or format in _WITH_LANGUAGES:
        return None
    return (
        f"--language-field={field}: {format} says no language of an example; the formats that do are "
        f"{', '.join(_WITH_LANGUAGES)}"
    )


def format_of(path: str, given: str | None) -> str:
    """Returns the format of an input: the given one, or the one that the file's ending says.

    Raises:
        UsageError: nothing says it.
    """
    if given is not None:
        return given
    endings = [suffix for suffix in Path(path).suffixes if suffix != ".gz"]
    found = _BY_ENDING.get(endings[-1].lower()) if endings else None
    if found is None and Path(path).is_dir():
        raise UsageError(f"--input={path}: is a folder; give a file, or - for standard input")
    if found is None:
        where = "standard input" if path == STANDARD else f"{path}"
        raise UsageError(f"--input={path}: the name does not say the format of {where}; give --from, one of "
                         f"{', '.join(FORMATS)}")  # fmt: skip
    return found


@contextmanager
def texts(path: str, reading: Reading) -> Iterator[tuple[Layout, Iterator[Entry]]]:
    """Opens an input; gives its layout and its entries, which are read as they are asked for.

    Args:
        path: of the file, which may be compressed by gzip; `STANDARD` for standard input.
        reading: the settings.
    Raises:
        UsageError: the input has a fault; the message names file and line.
    """
    if path == STANDARD:
        stream = sys.stdin.buffer
        assert isinstance(stream, io.BufferedReader)
        yield _entries(stream, "standard input", reading)
        return
    if not Path(path).is_file():
        raise UsageError(f"--input={path}: there is no such file; - stands for standard input")
    with opened(Path(path)) as file:
        yield _entries(file, path, reading)


def _entries(stream: io.BufferedReader, name: str, reading: Reading) -> tuple[Layout, Iterator[Entry]]:
    lines = whole_lines(stream, name)
    if reading.format in ("text", "words"):
        layout, found = Layout(reading.format), _of_lines(lines, name, reading)
    elif reading.format == "conllu":
        layout, found = Layout("conllu"), _of_conllu(lines, name, reading)
    elif reading.format == "conll":
        layout, found = _of_conll(lines, name, reading)
    elif reading.format == "jsonl":
        layout, found = Layout("jsonl"), _of_jsonl(lines, name, reading)
    elif reading.format == "squad":
        layout, found = Layout("squad"), _of_squad(lines, name, reading)
    else:
        layout, found = _of_table(lines, name, reading)
    return layout, _translated(found, reading)


def _translated(entries: Iterable[Entry], reading: Reading) -> Iterator[Entry]:
    """Yields the entries; for translation, with the two languages of each example."""
    for entry in entries:
        if entry.example is None or reading.into is None:
            yield entry
            continue
        if entry.language is None:
            raise UsageError(f"{entry.example.place}: nothing says the language of the text; give --language=CODE")
        yield replace(entry, example=replace(entry.example, languages=(entry.language, reading.into)))


def _of_lines(lines: Iterable[tuple[int, str]], name: str, reading: Reading) -> Iterator[Entry]:
    """Reads a text or, in format `words`, the words of a sentence with blanks between them, on each line."""
    _only(reading, "a text on each line", ("words", "text", "turns"))
    for number, line in lines:
        text = bare(line, number).strip()
        if not text:
            yield Entry(None, lines=(line,))
            continue
        words = tuple(text.split()) if reading.format == "words" else None
        example = Example(f"{name}:{number}", text=text, words=words)
        whole = _with_words(example, reading)
        yield Entry(whole, reading.language, (line,), was_split=whole is not example)


def _of_conllu(lines: Iterable[tuple[int, str]], name: str, reading: Reading) -> Iterator[Entry]:
    _only(reading, "sentences", ("words", "text", "turns"))
    for block in _blocks(lines):
        given = [(number, bare(line, number)) for number, line in block]
        example = next(conllu.sentences(given, name), None)
        whole = [line for _, line in block]
        if example is None:
            yield Entry(None, lines=whole)
            continue
        at = [place for place, (_, text) in enumerate(given) if text.partition("\t")[0].isdecimal()]
        language = reading.language
        if reading.language_field is not None:
            comments = (found for _, text in given if (found := _COMMENT.fullmatch(text)))
            language = next((found[2] for found in comments if found[1] == reading.language_field), None)
            if language is None:
                raise UsageError(
                    f"{example.place}: the sentence has no comment '# {reading.language_field} = CODE', which "
                    "--language-field names"
                )
            language = _checked(language, example.place)
        if example.text is None:
            example = replace(example, text=None if "words" in reading.reads else " ".join(example.words or ()))
        yield Entry(example, language, whole, at)


def _of_conll(lines: Iterable[tuple[int, str]], name: str, reading: Reading) -> tuple[Layout, Iterator[Entry]]:
    _only(reading, "words", ("words",))
    column = reading.fields.get("words", "0")
    if not column.removeprefix("-").isdecimal():
        raise UsageError(f"--field=words={column}: must be the number of a column, from 0, or -1 for the last")
    at = int(column)
    first, rest = _peek(lines, lambda line: conll.cells_of(line.rstrip("\r\n")) not in ([""],))
    delimiter = "\t" if (first is not None and "\t" in first) or first is None else " "
    return Layout("conll", delimiter=delimiter), _sentences(rest, name, at, reading)


def _sentences(lines: Iterable[tuple[int, str]], name: str, at: int, reading: Reading) -> Iterator[Entry]:
    width: int | None = None
    for block in _blocks(lines, lambda line: conll.cells_of(line)[0] in ("", conll.DOCUMENT)):
        words: list[str] = []
        places: list[int] = []
        for place, (number, line) in enumerate(block):
            text = bare(line, number)
            cells = conll.cells_of(text)
            if cells == [""] or cells[0] == conll.DOCUMENT:
                continue
            if not words and text[0] == "#" and (conll.COMMENT.match(text) or (width and len(cells) != width)):
                continue
            width = width or len(cells)
            if len(cells) != width:
                raise UsageError(f"{name}:{number}: {len(cells)} columns, but the first line has {width}")
            if not -width <= at < width:
                raise UsageError(f"{name}:{number}: no column {at} (--field=words={at}); there are {width} columns")
            if not cells[at]:
                raise UsageError(f"{name}:{number}: the word is empty")
            words.append(cells[at])
            places.append(place)
        whole = [line for _, line in block]
        if not words:
            yield Entry(None, lines=whole)
            continue
        yield Entry(Example(f"{name}:{block[places[0]][0]}", words=tuple(words)), reading.language, whole, places)


def _of_jsonl(lines: Iterable[tuple[int, str]], name: str, reading: Reading) -> Iterator[Entry]:
    for number, line in lines:
        text = bare(line, number)
        if not text.strip():
            continue
        place = f"{name}:{number}"
        try:
            record = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{place}: not JSON: {error}") from error
        if not isinstance(record, dict):
            raise UsageError(f"{place}: the line is a JSON {type(record).__name__}, expected an object")
        yield _of_record(record, place, reading)


def _of_squad(lines: Iterable[tuple[int, str]], name: str, reading: Reading) -> Iterator[Entry]:
    if "pair" not in reading.reads:
        raise UsageError("--from=squad: it holds questions about contexts, which this task does not read")
    try:
        whole = json.loads("\n".join(bare(line, number) for number, line in lines))
    except (ValueError, RecursionError) as error:
        where = f"{name}:{error.lineno}" if isinstance(error, json.JSONDecodeError) else name
        raise UsageError(f"{where}: not JSON: {error}") from error
    for place, question in squad.questions(whole, Path(name)):
        asked = question.get("question")
        if not isinstance(asked, str):
            raise UsageError(f"{place}: there is no 'question', or it is no text")
        example = Example(place, text=whole_characters(asked, place), pair=question["context"], id=question["id"])
        record = {"id": question["id"], "question": asked, "context": question["context"]}
        yield Entry(example, reading.language, record=record)


def _of_table(lines: Iterable[tuple[int, str]], name: str, reading: Reading) -> tuple[Layout, Iterator[Entry]]:
    delimiter = reading.separator or {"tsv": "\t", "csv": ","}[reading.format]
    if reading.format == "tsv":
        rows: Iterator[tuple[int, list[str]]] = (
            (number, bare(line, number).split(delimiter)) for number, line in lines if bare(line, number)
        )
    else:
        rows = quoted_cells((bare(line, number) for number, line in lines), name, delimiter)
    numbered = bool(reading.fields) and all(column.removeprefix("-").isdecimal() for column in reading.fields.values())
    first = next(rows, None)
    if first is None:
        return Layout(reading.format, (), not numbered, delimiter), iter(())
    names = [str(number) for number in range(len(first[1]))] if numbered else first[1]
    if len(set(names)) < len(names):
        raise UsageError(f"{name}:{first[0]}: the header has a name more than once: {', '.join(names)}")
    if numbered:
        rows = itertools.chain([first], rows)
        places = {part: str(int(n) if int(n) >= 0 else len(names) + int(n)) for part, n in reading.fields.items()}
        reading = replace(reading, fields=places)
    layout = Layout(reading.format, tuple(names), not numbered, delimiter)
    return layout, _of_rows(rows, names, name, reading)


def _of_rows(
    rows: Iterable[tuple[int, list[str]]], names: Sequence[str], name: str, reading: Reading
) -> Iterator[Entry]:
    for number, cells in rows:
        if len(cells) != len(names):
            raise UsageError(f"{name}:{number}: the row has {len(cells)} columns, but the first has {len(names)}")
        yield _of_record(dict(zip(names, cells, strict=True)), f"{name}:{number}", reading)


def _of_record(record: Mapping[str, Any], place: str, reading: Reading) -> Entry:
    """Makes an entry of a record; only the parts that the task reads are taken."""
    fields: dict[str, str] = {}
    given = record
    for part in (*reading.reads, "id"):
        if part == "choices":
            fields |= {name: name for name in record if _CHOICE.fullmatch(name)}
            fields |= {name: column for name, column in reading.fields.items() if name.startswith("choice_")}
            continue
        for name in ("messages", "text") if part == "turns" else ("words", "text") if part == "words" else (part,):
            taken = [column for role, column in fields.items() if role != name]
            usual = (one for one in _USUAL_NAMES.get(name, ()) if one in record and one not in taken)
            column = reading.fields.get(name) or next(usual, None)
            if column is not None:
                if name == "words" and isinstance(record.get(column), str):  # in a cell, with blanks between them
                    given = {**record, column: record[column].split()}
                fields[name] = column
                text = reading.fields.get("text", "text")
                if name == "words" and text != column and isinstance(record.get(text), str) and record[text]:
                    fields["text"] = text  # the text in which the words stand
                break
        else:
            if part != "id":
                raise UsageError(
                    f"{place}: no column for {part}; the columns are {columns_in(record)}; give --field={part}=COLUMN"
                )
    example = example_of(given, fields, place)
    if "choices" in reading.reads and isinstance(record.get("choices"), list) and not example.choices:
        example = replace(example, choices=tuple(map(str, record["choices"])))
    language = reading.language
    if reading.language_field is not None:
        try:
            language = _checked(str(value_of(record, reading.language_field)), place)
        except KeyError as error:
            raise UsageError(
                f"{place}: no column {reading.language_field!r} (--language-field); the columns are "
                f"{columns_in(record)}"
            ) from error
    whole = _with_words(example, reading)
    return Entry(whole, language, record=record, was_split=whole is not example)


def _with_words(example: Example, reading: Reading) -> Example:
    """Returns the example; with the words of its text if the task reads words and the example has none."""
    if "words" not in reading.reads or example.words is not None:
        return example
    words = words_of(str(example.text))
    if not words:
        raise UsageError(f"{example.place}: the text is empty, so it has no words")
    return replace(example, words=tuple(words))


def words_of(text: str) -> list[str]:
    """Splits a text at blanks and zero-width spaces, and takes punctuation marks off both sides of each word.

    In a script without spaces between words, each letter with its marks is a word; give such texts as words.
    """
    words = []
    spans = (text[start:end] for start, end in word_spans(text))
    for word in (part for span in spans for part in span.split(_ZERO_WIDTH_SPACE)):
        before: list[str] = []
        after: list[str] = []
        while word and _OUTER.match(word[0]):
            before.append(word[0])
            word = word[1:]
        while word and _OUTER.match(word[-1]):
            after.insert(0, word[-1])
            word = word[:-1]
        words += [*before, *([word] if word else []), *after]
    return words


def _blocks(
    lines: Iterable[tuple[int, str]], ends: Any = lambda line: not line.strip()
) -> Iterator[list[tuple[int, str]]]:
    """Yields the lines in blocks: those up to and with a line that ends a block."""
    block: list[tuple[int, str]] = []
    for number, line in lines:
        block.append((number, line))
        if ends(bare(line, number)):
            yield block
            block = []
    if block:
        yield block


def _peek(
    lines: Iterator[tuple[int, str]] | Iterable[tuple[int, str]], accepts: Any
) -> tuple[str | None, Iterator[tuple[int, str]]]:
    """Returns the first line that is accepted, and all lines."""
    seen = []
    remaining = iter(lines)
    for number, line in remaining:
        seen.append((number, line))
        if accepts(bare(line, number)):
            return line, itertools.chain(seen, remaining)
    return None, iter(seen)


def _checked(language: str, place: str) -> str:
    if (fault := language_fault(language)) is not None:
        raise UsageError(f"{place}: language {language!r}: {fault}")
    return language


def _only(reading: Reading, holds: str, parts: Sequence[str]) -> None:
    """Refuses a format that cannot hold what the task reads."""
    if missing := [part for part in reading.reads if part not in parts]:
        what = {"pair": "a second text", "choices": "answers to choose from", "text": "running text"}
        raise UsageError(
            f"--from={reading.format}: it holds {holds}, but the task reads {what.get(missing[0], missing[0])}, too; "
            "give a table (tsv, csv) or jsonl"
        )
