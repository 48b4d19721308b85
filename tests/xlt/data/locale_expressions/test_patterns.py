from __future__ import annotations

import pytest

from xlt.data.locale_expressions.cldr import OwnData
from xlt.data.locale_expressions.digits import NumberWriter
from xlt.data.locale_expressions.patterns import date_tokens, number_shape, slot_tokens
from xlt.data.locale_expressions.pieces import assemble, piece


def test_date_patterns_split_into_fields_and_literals() -> None:
    assert date_tokens("EEEE, d 'ta'’ MMMM y") == (
        ("field", "EEEE"),
        ("literal", ", "),
        ("field", "d"),
        ("literal", " ta’ "),
        ("field", "MMMM"),
        ("literal", " "),
        ("field", "y"),
    )
    assert date_tokens("h 'o''clock' a ''") == (
        ("field", "h"),
        ("literal", " o'clock "),
        ("field", "a"),
        ("literal", " '"),
    )
    assert date_tokens("yMMdd") == (("field", "y"), ("field", "MM"), ("field", "dd"))


def test_an_open_quote_is_an_error() -> None:
    with pytest.raises(ValueError, match="not closed"):
        date_tokens("d 'de MMMM")


def test_slots_keep_apostrophes_unless_they_quote() -> None:
    assert slot_tokens("{0} a'r {1}") == (0, " a'r ", 1)
    assert slot_tokens("{1} 'at' {0}", quoted=True) == (1, " at ", 0)


def test_number_patterns_give_affixes_grouping_and_zeros() -> None:
    shape = number_shape("#,##,##0.00\u00a0¤;(#,##,##0.00)")
    assert (shape.prefix, shape.suffix, shape.primary, shape.secondary, shape.zeros) == ("", "\u00a0¤", 3, 2, 1)
    assert number_shape("00\u00a0mió'.'").suffix == "\u00a0mió."
    with pytest.raises(ValueError, match="one run of digits"):
        number_shape("tausend")


@pytest.mark.parametrize(
    ("locale", "number", "written"),
    [
        ("en", "1234567.5", "1,234,567.5"),
        ("hi", "1234567", "12,34,567"),
        ("es", "1234", "1234"),
        ("es", "12345", "12.345"),
        ("fo", "-5", "−5"),
        ("fa", "1234.5", "۱٬۲۳۴٫۵"),
        ("sat", "2035", "᱒,᱐᱓᱕"),
        ("se", "1679234", "1\u00a0679\u00a0234"),
    ],
)
def test_numbers_are_in_the_languages_digits_and_groups(locale: str, number: str, written: str) -> None:
    assert NumberWriter(OwnData(locale)).write(number) == written


def test_lone_directional_marks_join_the_next_word() -> None:
    text, words, labels = assemble(
        [piece("\u200f", "other"), piece("12", "number"), piece("\u00a0$\u200f", "currency")]
    )
    assert (text, words, labels) == ("\u200f12\u00a0$\u200f", ("\u200f12", "$\u200f"), ("number", "currency"))
    assert assemble([piece("12", "number"), piece(" \u200f", "other")])[1] == ("12\u200f",)
