"""Renderings written out by hand, and babel's own formatter as an independent witness."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from babel.dates import format_date, format_skeleton, format_time
from babel.units import format_unit

from xlt.data.locale_expressions import LANGUAGES
from xlt.data.locale_expressions.inventory import inventory
from xlt.data.locale_expressions.pieces import assemble
from xlt.data.locale_expressions.values import moment

MAY = moment(2019, (5, 7), (15, 4), 9)  # a Tuesday
JUNE = moment(2019, (6, 18), (15, 40), 9)

SHORT = {
    "W": "weekday",
    "M": "month",
    "D": "day",
    "Y": "year",
    "G": "era",
    "h": "hour",
    "m": "minute",
    "s": "second",
    "p": "period",
    "n": "number",
    "c": "currency",
    "u": "unit",
    "o": "other",
}


def rendered(language: str, key: str, value: Any) -> tuple[str, str]:
    """Text, and words joined to their labels, such as "7/D May/M"."""
    text, words, labels = assemble(inventory(LANGUAGES[language].locale).by_key[key].render(value))
    letters = {label: letter for letter, label in SHORT.items()}
    return text, " ".join(f"{word}|{letters[label]}" for word, label in zip(words, labels, strict=True))


@pytest.mark.parametrize(
    ("language", "key", "value", "text", "tagged"),
    [
        ("eng", "date:full", MAY, "Tuesday, May 7, 2019", "Tuesday|W ,|o May|M 7|D ,|o 2019|Y"),
        ("eng", "date:short", MAY, "5/7/19", "5|M /|o 7|D /|o 19|Y"),
        ("eng", "time:short", MAY, "3:04\u202fPM", "3|h :|o 04|m PM|p"),
        ("eng", "date:yQQQQ", MAY, "2nd quarter 2019", "2nd|o quarter|o 2019|Y"),
        (
            "eng",
            "interval:yMMMd:M",
            (MAY, JUNE),
            "May 7\u2009–\u2009Jun 18, 2019",
            "May|M 7|D –|o Jun|M 18|D ,|o 2019|Y",
        ),
        ("eng", "amount:name:USD", "1", "1 US dollar", "1|n US|c dollar|c"),
        ("eng", "amount:name:USD", "1.00", "1.00 US dollars", "1.00|n US|c dollars|c"),
        ("eng", "amount:code:USD", "1234567.50", "USD\u00a01,234,567.50", "USD|c 1,234,567.50|n"),
        ("eng", "amount:symbol:EUR", "12.00", "€12.00", "€|c 12.00|n"),
        ("eng", "compact:long:6", "12", "1.2 million", "1.2|n million|n"),
        ("deu", "date:full", MAY, "Dienstag, 7. Mai 2019", "Dienstag|W ,|o 7|D .|o Mai|M 2019|Y"),
        ("deu", "amount:name:CHF", "1234.50", "1.234,50 Schweizer Franken", "1.234,50|n Schweizer|c Franken|c"),
        ("deu", "percent", "12.5", "12,5\u00a0%", "12,5|n %|u"),
        ("fao", "date:full", MAY, "týsdagur, 7. mai 2019", "týsdagur|W ,|o 7|D .|o mai|M 2019|Y"),
        ("fao", "measure:long:duration-day", "1", "1 dagur", "1|n dagur|u"),
        ("fao", "measure:long:duration-day", "3", "3 dagar", "3|n dagar|u"),
        ("fao", "date:GyMMM", MAY, "mai 2019 e.Kr.", "mai|M 2019|Y e.Kr.|G"),
        ("jpn", "date:full", MAY, "2019年5月7日火曜日", "2019|Y 年|o 5|M 月|o 7|D 日|o 火曜日|W"),
        ("jpn", "compact:short:7", "12", "1200万", "1200|n 万|n"),
        ("ara", "date:full", MAY, "الثلاثاء، 7 مايو 2019", "الثلاثاء|W ،|o 7|D مايو|M 2019|Y"),
        ("ara", "date:short", MAY, "7\u200f/5\u200f/2019", "7|D \u200f/|o 5|M \u200f/|o 2019|Y"),
        ("ara", "measure:short:duration-day", "2", "يومان", "يومان|u"),
        ("ara", "measure:short:duration-day", "3", "3 أيام", "3|n أيام|u"),
        ("fas", "date:long", MAY, "۷ مهٔ ۲۰۱۹", "۷|D مهٔ|M ۲۰۱۹|Y"),
        ("hin", "amount:code:INR", "1234567.00", "INR\u00a012,34,567.00", "INR|c 12,34,567.00|n"),
        ("mlt", "date:long", MAY, "7 ta’ Mejju 2019", "7|D ta’|o Mejju|M 2019|Y"),
        ("eus", "date:long", MAY, "2019(e)ko maiatzaren 7(a)", "2019|Y (e)ko|o maiatza|M ren|o 7|D (a)|o"),
        ("eus", "percent", "47.6", "%\u00a047,6", "%|u 47,6|n"),
        ("eus", "interval:yMMM:M", (MAY, JUNE), "2019(e)ko mai.–eka.", "2019|Y (e)ko|o mai.|M –|o eka.|M"),
        ("pol", "date:long", MAY, "7 maja 2019", "7|D maja|M 2019|Y"),
        ("pol", "date:yMMMM", MAY, "maj 2019", "maj|M 2019|Y"),
        ("pol", "number", "1234", "1234", "1234|n"),
        ("pol", "number", "12345", "12\u00a0345", "12|n 345|n"),
        ("zul", "measure:long:duration-month", "2", "2 izinyanga", "2|n izinyanga|u"),
        ("hau", "measure:long:length-meter", "7", "mitoci 7", "mitoci|u 7|n"),
        ("yor", "date:yMMMM", MAY, "Oṣù Ẹ̀bibi 2019", "Oṣù|M Ẹ̀bibi|M 2019|Y"),
        ("sme", "measure:long:duration-hour", "2", "2 diimmur", "2|n diimmur|u"),
    ],
)
def test_renderings_and_labels_are_those_written_by_hand(
    language: str, key: str, value: Any, text: str, tagged: str
) -> None:
    assert rendered(language, key, value) == (text, tagged)


@pytest.mark.parametrize(
    "language", ["deu", "eng", "fao", "isl", "rus", "tur", "fin", "cym", "hun", "hsb", "zho", "eus"]
)
def test_dates_and_times_agree_with_babel(language: str) -> None:
    locale = LANGUAGES[language].locale
    forms = inventory(locale).by_key
    compared = 0
    for value in (MAY, moment(1987, (12, 31), (0, 5), 7), moment(2000, (2, 29), (12, 0), 0)):
        when = datetime.datetime(value.year, value.month, value.day, value.hour, value.minute, value.second)
        for width in ("full", "long", "medium", "short"):
            if f"date:{width}" in forms:
                text = rendered(language, f"date:{width}", value)[0]
                assert text == format_date(when.date(), width, locale=locale)
                compared += 1
            if f"time:{width}" in forms:
                assert rendered(language, f"time:{width}", value)[0] == format_time(when, width, locale=locale)
        for skeleton in ("yMMMEd", "MMMMd", "yMMM", "MEd", "GyMMMd"):
            if f"date:{skeleton}" in forms:
                text = rendered(language, f"date:{skeleton}", value)[0]
                assert text == format_skeleton(skeleton, when, locale=locale)
                compared += 1
    assert compared >= 12


@pytest.mark.parametrize("language", ["eng", "fao", "rus", "pol", "cym", "slv", "lit", "zul", "eus", "que"])
def test_units_agree_with_babel_in_every_plural_category(language: str) -> None:
    locale = LANGUAGES[language].locale
    compared = 0
    for key, form in inventory(locale).by_key.items():
        if form.kind == "measure":
            _, width, unit = key.split(":")
            for number in (0, 1, 2, 3, 5, 6, 11, 21, 22, 103):
                expected = format_unit(number, unit, width, locale=locale)  # type: ignore[arg-type]
                assert rendered(language, key, str(number))[0] == expected.strip()
                compared += 1
    assert compared >= 200


@pytest.mark.parametrize(
    ("hour", "minute", "text"),
    [
        (0, 0, "12:00 midnight"),
        (0, 30, "12:30 in the morning"),
        (8, 5, "8:05 in the morning"),
        (12, 0, "12:00 noon"),
        (12, 1, "12:01 in the afternoon"),
        (23, 59, "11:59 at night"),
    ],
)
def test_periods_of_the_day_follow_the_language_and_name_noon_and_midnight(hour: int, minute: int, text: str) -> None:
    assert rendered("eng", "time:Bhm", moment(2019, (5, 7), (hour, minute), 0))[0] == text
