"""Writes annotated texts: CoNLL-U, CoNLL columns, JSON lines, tables, or plain lines.

An input that is written in its own format stays as it is, byte for byte, but for the columns of the task.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from xlt.data.files import bare
from xlt.data.running_text import running_text
from xlt.errors import UsageError
from xlt.tasks.task import Annotation
from xlt.use.texts import Entry, Layout

FORMATS = ("conllu", "conll", "jsonl", "tsv", "csv", "text")
_BY_ENDING = {f".{name}": name for name in FORMATS} | {".txt": "text"}
CONLLU_COLUMNS = {"lemma": 2, "upos": 3, "xpos": 4, "feats": 5, "head": 6, "deprel": 7}
MISC = 9
_DIGITS = 7  # of probabilities


def format_of(path: str, given: str | None, layout_format: str, columns: bool, writes_text: bool) -> str:
    """Returns the format of an output: the given one, that of the file's ending, or the one that suits the input.

    Args:
        path: of the output.
        given: a format; None: not given.
        layout_format: of the input.
        columns: whether the task labels words.
        writes_text: whether the task writes texts.
    """
    ending = re.search(r"\.\w+$", path)
    if given is not None:
        return given
    if ending is not None and ending[0].lower() in _BY_ENDING:
        return _BY_ENDING[ending[0].lower()]
    if layout_format in ("text", "words"):
        return "conllu" if columns else "text" if writes_text else "tsv"
    return "jsonl" if layout_format == "squad" else layout_format


class AnnotatedText:
    """The writer of one output.

    Args:
        layout: of the input.
        format: of the output, one of `FORMATS`.
        name: of the task; its label or text gets this name.
        columns: names of the columns of the task's labels of words; empty if it labels none.
        fields: part of an example, or column of labels -> column of the input, as the user gave them.
        scores: whether tables have scores; JSON lines always do.
    Raises:
        UsageError: the format cannot hold what the task predicts.
    """

    def __init__(
        self,
        layout: Layout,
        format: str,
        name: str,
        columns: Sequence[str] = (),
        fields: Mapping[str, str] | None = None,
        *,
        scores: bool = False,
    ) -> None:
        self._layout, self._format, self._name, self._columns = layout, format, name, tuple(columns)
        self._fields, self._scores = dict(fields or {}), scores
        if format == "conll" and not columns:
            raise UsageError(f"--to=conll: task {name} labels no words; give tsv or jsonl")
        self._write: Callable[[Entry, Annotation], str] = {
            "conllu": self._conllu,
            "conll": self._conll,
            "jsonl": self._jsonl,
            "tsv": self._table,
            "csv": self._table,
            "text": self._text,
        }[format]

    def head(self) -> str:
        """Returns what stands before the first entry: the header of a table."""
        if self._format not in ("tsv", "csv") or not self._layout.header:
            return ""
        given = self._layout.names if self._is_table() else self._plain_names()
        return self._row([*given, *(name for name in self._own_names() if name not in given)])

    def entry(self, entry: Entry, annotation: Annotation | None) -> str:
        """Returns what stands for an entry; `annotation` is None for lines that are no example."""
        if annotation is None or entry.example is None:
            same = self._format == self._layout.format or (self._format, self._layout.format) == ("text", "words")
            return "".join(entry.lines) if same else ""
        return self._write(entry, annotation)

    def _conllu(self, entry: Entry, annotation: Annotation) -> str:
        lines = list(entry.lines) if self._layout.format == "conllu" else self._new_conllu(entry)
        at = (
            entry.words_at
            if self._layout.format == "conllu"
            else [n for n, line in enumerate(lines) if line[0] != "#"][:-1]
        )
        if not annotation.columns:
            value = " ".join(str(annotation.label if annotation.text is None else annotation.text).split())
            return "".join(_with_comment(lines, self._name, value))
        for number, place in enumerate(at):
            body = lines[place].rstrip("\r\n")
            fields, end = body.split("\t"), lines[place][len(body) :]
            for column, labels in annotation.columns.items():
                if (position := CONLLU_COLUMNS.get(column)) is not None:
                    fields[position] = labels[number]
                else:
                    fields[MISC] = _with_feature(fields[MISC], feature_name(column), labels[number])
            lines[place] = "\t".join(fields) + end
        return "".join(lines)

    def _new_conllu(self, entry: Entry) -> list[str]:
        """Returns the lines of a sentence that comes from another format."""
        example = entry.example
        assert example is not None
        if example.words is None:
            raise UsageError(f"{example.place}: --to=conllu: the text is not split into words; give tsv or jsonl")
        text, starts = running_text(example.words, example.text)
        lines = [f"# text = {' '.join(text.split())}\n"]
        for number, (word, start) in enumerate(zip(example.words, starts, strict=True)):
            following = starts[number + 1] if number + 1 < len(starts) else None
            joined = start is not None and following == start + len(word)
            fields = [str(number + 1), word, *["_"] * 7, "SpaceAfter=No" if joined else "_"]
            lines.append("\t".join(fields) + "\n")
        return [*lines, "\n"]

    def _conll(self, entry: Entry, annotation: Annotation) -> str:
        example = entry.example
        assert example is not None
        if self._layout.format != "conll":
            words = example.words or ()
            cells = zip(words, *annotation.columns.values(), strict=True)
            return "".join("\t".join(row) + "\n" for row in cells) + "\n"
        lines = list(entry.lines)
        for number, place in enumerate(entry.words_at):
            body = bare(lines[place], 0)
            end, labels = lines[place][len(body) :], {name: of[number] for name, of in annotation.columns.items()}
            for column, label in labels.items():
                given = self._fields.get(column)
                body = _with_cell(body, label, None if given is None else int(given), self._layout.delimiter)
            lines[place] = body + end
        return "".join(lines)

    def _jsonl(self, entry: Entry, annotation: Annotation) -> str:
        example = entry.example
        assert example is not None
        record = dict(entry.record)
        if not record:
            record = {"text": example.text} if example.text is not None else {}
            if entry.language is not None:
                record["language"] = entry.language
        if annotation.columns and "words" not in record:
            record["words"] = list(example.words or ())
            if example.text is not None:
                record.setdefault("text", example.text)  # in which the words stand, under the name that is looked for
        for column, labels in annotation.columns.items():
            record[column] = [int(label) for label in labels] if column == "head" else list(labels)
            record[f"{column}_scores"] = [round(score, _DIGITS) for score in annotation.scores[column]]
        if annotation.label is not None:
            record[self._name] = annotation.label
            record[f"{self._name}_scores"] = {label: round(p, _DIGITS) for label, p in annotation.scores.items()}
        if annotation.text is not None:
            record[self._name] = annotation.text
            if annotation.start is not None:
                score = annotation.scores["answer"]
                record[f"{self._name}_start"] = annotation.start
                record[f"{self._name}_score"] = round(score, _DIGITS) if math.isfinite(score) else None
        return json.dumps(record, ensure_ascii=False) + "\n"

    def _table(self, entry: Entry, annotation: Annotation) -> str:
        example = entry.example
        assert example is not None
        values = self._own_values(annotation)
        if self._is_table():
            kept = [str(values.get(name, entry.record[name])) for name in self._layout.names]
            return self._row([*kept, *(value for name, value in values.items() if name not in entry.record)])
        else:
            given = {"id": example.id, "text": example.text, "question": example.text, "context": example.pair}
            kept = [str(given[name] or "") for name in self._plain_names() if name != "words"]
            if "words" in self._plain_names():
                kept.append(" ".join(example.words or ()))
        return self._row([*kept, *values.values()])

    def _text(self, entry: Entry, annotation: Annotation) -> str:
        value = " ".join(str(annotation.label if annotation.text is None else annotation.text).split())
        if annotation.columns:
            value = " ".join(next(iter(annotation.columns.values())))
        return value + "\n"

    def _is_table(self) -> bool:
        return self._layout.format in ("tsv", "csv")

    def _plain_names(self) -> list[str]:
        """Returns the names of the columns of an input that is no table."""
        if self._layout.format == "squad":
            return ["id", "question", "context"]
        if not self._columns:
            return ["text"]
        return ["words"] if self._layout.format == "conll" else ["text", "words"]

    def _own_names(self) -> list[str]:
        names = list(self._columns) or [self._name]
        return [*names, f"{names[0]}_score"] if self._scores and not self._columns else names

    def _own_values(self, annotation: Annotation) -> dict[str, str]:
        values = {column: " ".join(labels) for column, labels in annotation.columns.items()}
        if not values:
            values = {self._name: str(annotation.label if annotation.text is None else annotation.text)}
            if self._scores:
                score = annotation.scores.get("answer", annotation.scores.get(str(annotation.label)))
                values[f"{self._name}_score"] = "" if score is None else f"{score:.{_DIGITS}g}"
        return values

    def _row(self, cells: Sequence[str]) -> str:
        delimiter = (
            self._layout.delimiter if self._format == self._layout.format else {"tsv": "\t", "csv": ","}[self._format]
        )
        if self._format == "tsv":
            return delimiter.join(" ".join(re.split(r"[\t\r\n]+", cell)) for cell in cells) + "\n"
        out = io.StringIO()
        csv.writer(out, delimiter=delimiter, lineterminator="\n").writerow(cells)
        return out.getvalue()


def _with_comment(lines: Sequence[str], name: str, value: str) -> list[str]:
    """Returns a block of CoNLL-U with the comment `# NAME = VALUE`, in place of an earlier one of this name."""
    lines = list(lines)
    end = "\r\n" if lines[0].endswith("\r\n") else "\n"
    comment, earlier = f"# {name} = {value}{end}", re.compile(rf"#\s*{re.escape(name)}\s*=")
    for at, line in enumerate(lines):
        if earlier.match(line):
            lines[at] = comment
            return lines
        if not line.startswith("#") and line.strip():
            return [*lines[:at], comment, *lines[at:]]
    return lines


def feature_name(column: str) -> str:
    """Returns the name in MISC of a column that CoNLL-U does not have: `ner` becomes NER, `field` Field."""
    return column.upper() if len(column) <= 3 else column.title().replace("_", "")


def _with_feature(misc: str, name: str, value: str) -> str:
    """Returns the MISC column with `NAME=VALUE`, in place of an earlier value."""
    parts = [] if misc == "_" else misc.split("|")
    new = f"{name}={value}"
    for at, part in enumerate(parts):
        if part.partition("=")[0] == name:
            parts[at] = new
            return "|".join(parts)
    return "|".join([*parts, new])


def _with_cell(body: str, label: str, column: int | None, delimiter: str) -> str:
    """Returns a line of CoNLL with a label as its last column, or in place of what stands in a column."""
    if column is None:
        return f"{body.rstrip(' ')}{delimiter}{label}" if delimiter == " " else f"{body}{delimiter}{label}"
    parts: list[Any] = re.split(r"(\t)" if "\t" in body else r"( +)", body)
    places = range(0, len(parts), 2)
    parts[places[column]] = label
    return "".join(parts)
