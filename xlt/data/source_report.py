"""What was noticed while a source was read: rows left out, the scheme of its tags, the Unicode form of its texts."""

from __future__ import annotations

import dataclasses
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from xlt.data.examples import Example
from xlt.data.overlap import texts_of

# Share of the texts whose form can be told that must have one form, so that it is the form of the source.
_NEARLY_ALL = 0.95
# A line lists all keys if they are few, otherwise only some of them.
_MOST_KEYS, _SOME_KEYS = 8, 5


@dataclass
class SourceReport:
    """What was noticed while a source was read. It changes no example; the user is told about it.

    Attributes:
        rows: number of rows in the file, with those that `where` leaves out; 0 if the source has no `where`.
        left_out: column of `where` -> number of rows that are left out because of its rules.
        cap: `cap` of a training source that has fewer examples; 0 if it has as many.
        examples: number of examples of such a source; 0 for others.
        scheme: scheme that was recognised in the tags of entities; None if there are none, or it was declared.
        forms: number of texts in NFC and not in NFD, in NFD and not in NFC, and in neither.
        sample: a text that is different in NFC and NFD.
    """

    rows: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    cap: int = 0
    examples: int = 0
    scheme: str | None = None
    forms: Counter[str] = field(default_factory=Counter)
    sample: str | None = None

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> SourceReport:
        """Makes a report from the result of `as_json`; unknown parts are ignored."""
        known = {item.name for item in dataclasses.fields(cls)}
        report = cls(**{name: value for name, value in values.items() if name in known})
        report.forms = Counter(report.forms)
        return report

    def as_json(self) -> dict[str, Any]:
        """Returns the parts that are not empty, as JSON values."""
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return {name: dict(value) if isinstance(value, Counter) else value for name, value in values.items() if value}

    def count_form(self, example: Example) -> None:
        """Counts the Unicode forms of the texts of an example."""
        for text in (*texts_of(example), *(turn.text for turn in example.turns)):
            if text.isascii():
                continue
            composed, decomposed = (unicodedata.is_normalized(form, text) for form in ("NFC", "NFD"))
            if composed and decomposed:
                continue  # no character of the text has two forms
            self.forms["NFC" if composed else "NFD" if decomposed else "neither"] += 1
            self.sample = self.sample or text[:200]

    @property
    def form(self) -> str | None:
        """NFC, NFD or "mixed": the form of nearly all texts that can tell; None if no text can."""
        total = sum(self.forms.values())
        most = max(("NFC", "NFD"), key=lambda form: self.forms[form])
        return None if not total else most if self.forms[most] >= _NEARLY_ALL * total else "mixed"

    def notes(self, key: str) -> Iterator[str]:
        """Yields lines for the user about rows left out, about a cap of more examples than there are, and about tags
        that were converted.

        Args:
            key: of the source.
        """
        if self.rows:
            count = sum(self.left_out.values())
            reasons = ", ".join(f"{column}: {number:,}" for column, number in self.left_out.items())
            about = f" ({reasons})" if reasons else ""
            yield f"{key}: where leaves out {count:,} of {self.rows:,} rows{about}"
        if self.cap:
            yield f"{key}.cap={self.cap}: the source has only {self.examples:,} examples; all are used"
        if self.scheme not in (None, "IOB2"):
            scheme = "IO or IOB1, which are the same here" if self.scheme == "IO" else self.scheme
            yield f"{key}: the tags of entities are in {scheme}; they are read as IOB2"


def form_note(reports: Mapping[str, SourceReport]) -> str | None:
    """Returns a line about sources whose texts are in different Unicode forms; None if all are in the same form.

    Args:
        reports: key of the source -> its report.
    """
    forms: dict[str, list[str]] = {}
    for key, report in reports.items():
        if report.form is not None:
            forms.setdefault(report.form, []).append(key)
    if len(forms) < 2 and "mixed" not in forms:
        return None
    listed = "; ".join(f"{form}: {_first(keys)}" for form, keys in sorted(forms.items()))
    return (
        f"texts are in different Unicode forms ({listed}); the tokenizer cuts the same letters differently in each, "
        "as if they were of two languages; convert the files to one form, for instance with: uconv -x any-nfc"
    )


def _first(keys: list[str]) -> str:
    """Lists the keys, but only the first ones if there are many: a table of all languages has hundreds."""
    if len(keys) <= _MOST_KEYS:
        return ", ".join(keys)
    return f"{', '.join(keys[:_SOME_KEYS])} and {len(keys) - _SOME_KEYS} more"
