from __future__ import annotations

import unicodedata
from collections import Counter

from xlt.data.examples import Example, Turn
from xlt.data.source_report import SourceReport, form_note

TEXT = "Tiếng Việt rất đẹp"


def report(*forms: str) -> SourceReport:
    made = SourceReport()
    for form in forms:
        made.count_form(Example("f:1", unicodedata.normalize(form, TEXT)))
    return made


def test_the_form_of_nearly_all_texts_is_the_form_of_a_source() -> None:
    assert report("NFC").form == "NFC" and report("NFD").form == "NFD"
    assert report(*["NFC"] * 19, "NFD").form == "NFC"
    assert report("NFC", "NFD").form == "mixed"
    half = SourceReport()
    half.count_form(Example("f:1", TEXT + unicodedata.normalize("NFD", TEXT)))
    assert half.form == "mixed"


def test_texts_that_are_alike_in_both_forms_tell_nothing() -> None:
    made = SourceReport()
    for text in ("plain", "今天", "Привет", "ọ\u0300"[1:]):
        made.count_form(Example("f:1", text))
    assert made.form is None and made.sample is None


def test_words_pairs_and_turns_count() -> None:
    made = SourceReport()
    made.count_form(Example("f:1", words=("é",)))
    made.count_form(Example("f:1", "a", pair="e\u0301"))
    made.count_form(Example("f:1", turns=(Turn("user", "e\u0301"),)))
    assert made.forms == {"NFC": 1, "NFD": 2}


def test_the_user_is_told_which_sources_have_which_form() -> None:
    same = {"data.sources.a": report("NFC"), "data.evaluation.b": report("NFC"), "data.evaluation.c": SourceReport()}
    assert form_note(same) is None
    note = form_note(same | {"data.evaluation.d": report("NFD")})
    assert note is not None and "NFC: data.sources.a, data.evaluation.b; NFD: data.evaluation.d" in note
    assert "mixed: x" in str(form_note({"x": report("NFC", "NFD")}))
    many = {f"s{number}": report("NFC") for number in range(190)} | {"t": report("NFD")}
    assert "(NFC: s0, s1, s2, s3, s4 and 185 more; NFD: t)" in str(form_note(many))


def test_rows_left_out_and_schemes_are_said_in_a_line_each() -> None:
    made = SourceReport(rows=5000, left_out={"label": 12, "text": 1}, scheme="IOB1")
    left_out, converted = made.notes("data.sources.x")
    assert left_out == "data.sources.x: where leaves out 13 of 5,000 rows (label: 12, text: 1)"
    assert converted.startswith("data.sources.x: ") and "IOB1" in converted
    assert list(SourceReport(rows=3).notes("x")) == ["x: where leaves out 0 of 3 rows"]
    assert list(SourceReport(cap=500, examples=300).notes("data.sources.x")) == [
        "data.sources.x.cap=500: the source has only 300 examples; all are used"
    ]
    assert list(SourceReport(scheme="IOB2").notes("x")) == []


def test_a_report_is_kept_as_json() -> None:
    made = SourceReport(3, {"a": 1}, "IO", Counter(NFC=2), "é")
    assert SourceReport.from_json(made.as_json()) == made
    assert SourceReport.from_json({"other": 1}) == SourceReport() and SourceReport().as_json() == {}
