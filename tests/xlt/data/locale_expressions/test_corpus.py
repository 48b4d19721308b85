from __future__ import annotations

import hashlib
import re
from decimal import Decimal
from random import Random

import babel
import pytest

from xlt.data import locale_expressions
from xlt.data.locale_expressions import (
    CORPUS_VERSION,
    LABELS,
    LANGUAGES,
    available_languages,
    expressions,
    parallel_expressions,
)
from xlt.data.locale_expressions.cldr import OwnData
from xlt.data.locale_expressions.corpus import MOST_EXPRESSIONS, _distinct_sentences
from xlt.data.locale_expressions.forms import KINDS
from xlt.data.locale_expressions.inventory import inventory, is_rich_enough, shared_inventory
from xlt.data.locale_expressions.moments import shown
from xlt.data.locale_expressions.values import SPLITS, Moment, days_of, minutes_of

NAMED_IN_THE_ISSUE = (
    *("fao", "mlt", "hsb", "wol", "yor", "ibo", "hau", "zul"),
    *("que", "mri", "uig", "sme", "eus", "cym", "bre", "eng"),
)
DIVERSE = [*NAMED_IN_THE_ISSUE, "ara", "jpn", "tha", "zho", "hin", "fas", "heb", "rus", "sat"]

DIGEST = "b929718bbbda0fcd"
GOLDEN = [
    "16:03:53",
    "19. mar. 2006\u2009–\u20091. okt. 2039 e.Kr. og 60",
    "3.206, 17.01.2029, og 100\xa0%",
    "30. mar. 2005",
    "1.904, 1 mnð., 4 d., og 05.02.1996 e.Kr.",
]


def test_more_than_200_languages_are_available_under_iso_639_3_codes() -> None:
    codes = available_languages()
    assert len(codes) > 200
    assert list(codes) == sorted(set(codes))
    assert all(re.fullmatch("[a-z]{3}", code) for code in codes)
    assert set(NAMED_IN_THE_ISSUE) <= set(codes)
    assert len({entry.locale for entry in LANGUAGES.values()}) == len(codes)


def test_the_table_holds_exactly_the_languages_that_cldr_knows_well() -> None:
    rich = {name for name in babel.localedata.locale_identifiers() if "_" not in name and is_rich_enough(name)}
    assert {entry.locale for entry in LANGUAGES.values()} == rich


@pytest.mark.parametrize("language", DIVERSE)
@pytest.mark.parametrize("split", SPLITS)
def test_words_are_the_text_and_labels_fit(language: str, split: str) -> None:
    made = expressions(language, split, 150)
    assert len({expression.text for expression in made}) == 150
    for expression in made:
        assert "".join(expression.words) == "".join(expression.text.split())
        assert len(expression.labels) == len(expression.words)
        assert set(expression.labels) <= set(LABELS)
        assert 4 <= len(expression.words) <= 16
        assert set(expression.kind.split("+")) <= set(KINDS)


def test_all_labels_and_kinds_occur_in_english() -> None:
    made = expressions("eng", "train", 2000)
    assert {label for expression in made for label in expression.labels} == set(LABELS)
    assert {kind for expression in made for kind in expression.kind.split("+")} == set(KINDS)


def test_digits_alone_do_not_give_the_label_away() -> None:
    labels: dict[str, set[str]] = {}
    for expression in expressions("eng", "train", 4000):
        for word, label in zip(expression.words, expression.labels, strict=True):
            labels.setdefault(word, set()).add(label)
    assert {"day", "month", "hour", "number"} <= labels["11"]
    assert {"hour", "minute", "second", "year"} <= labels["07"]


def _values(language: str, split: str, count: int) -> set[tuple[object, ...]]:
    """Everything the expressions show, in terms that do not depend on the language or the pattern."""
    seen: set[tuple[object, ...]] = set()
    locale = LANGUAGES[language].locale
    forms = inventory(locale)
    for sentence in _distinct_sentences(Random(f"{language}/{split}/0"), split, forms, count):
        for key, value in sentence.items:
            shows = forms.by_key[key].shows
            moments = [value] if isinstance(value, Moment) else value if isinstance(value[0], Moment) else []
            for one in moments:
                if {"M", "d"} <= shows:
                    seen.add(("day", one.month, one.day))
                if {"h", "m"} <= shows:
                    seen.add(("minute", one.hour, one.minute))
                if not {"M", "d"} <= shows and not {"h", "m"} <= shows and {"y"} <= shows:
                    seen.add(shown(one, shows))
            if not moments:
                numbers = (value,) if isinstance(value, str) else value
                seen.add((key.split(":")[0], key.split(":")[-1], *map(Decimal, numbers)))
    return seen


def test_no_value_is_in_two_splits_whatever_the_language() -> None:
    by_split = {
        split: set().union(*(_values(language, split, 400) for language in ("eng", "fao", "jpn", "ara", "zul")))
        for split in SPLITS
    }
    assert all(len(values) > 500 for values in by_split.values())
    for split in SPLITS:
        for other in SPLITS:
            assert split == other or not by_split[split] & by_split[other]


def test_no_text_is_in_two_splits() -> None:
    for language in DIVERSE:
        texts = [{expression.text for expression in expressions(language, split, 300)} for split in SPLITS]
        assert len(set().union(*texts)) == sum(map(len, texts))


def test_every_split_knows_every_month_and_hour() -> None:
    for split in SPLITS:
        assert all(len(days) >= 2 for days in days_of(split))
        assert all(len(minutes) >= 2 for minutes in minutes_of(split))
    dealt = [cell for split in SPLITS for month in days_of(split) for cell in month]
    assert len(dealt) == len(set(dealt)) == 366


def test_the_same_call_gives_the_same_list_and_a_longer_one_begins_with_it() -> None:
    short = expressions("fao", "test", 20, seed=3)
    assert expressions("fao", "test", 50, seed=3)[:20] == short
    assert expressions("fao", "test", 20, seed=4) != short
    assert [pair[0] for pair in parallel_expressions("fao", "eng", "test", 20)] == [
        pair[0] for pair in parallel_expressions("fao", "eng", "test", 20)
    ]


def test_texts_of_this_corpus_version_stay_as_they_are() -> None:
    """A change here means a new `CORPUS_VERSION`, unless babel itself changed (then: new texts here)."""
    assert CORPUS_VERSION == "1"
    assert [expression.text for expression in expressions("fao", "train", 5)] == GOLDEN
    digest = hashlib.blake2b(digest_size=8)
    for language in DIVERSE:
        for expression in expressions(language, "text", 50):
            digest.update(f"{expression.text} {expression.labels} {expression.kind}".encode())
    if babel.__version__.startswith("2.18."):
        assert digest.hexdigest() == DIGEST


def test_pairs_show_the_same_values_in_both_languages() -> None:
    pairs = parallel_expressions("eng", "deu", "text", 200)
    assert len({source.text for source, _ in pairs}) == 200
    for source, target in pairs:
        assert source.kind == target.kind

        def counts(labels: tuple[str, ...], words: tuple[str, ...]) -> dict[str, list[str]]:
            found: dict[str, list[str]] = {"year": [], "day": [], "minute": [], "second": []}
            for word, label in zip(words, labels, strict=True):
                if label in found:
                    found[label].append(word.lstrip("0"))
            return {label: sorted(set(values)) for label, values in found.items()}

        ours, theirs = counts(source.labels, source.words), counts(target.labels, target.words)
        for label in ("minute", "second"):
            assert ours[label] == theirs[label], (source, target)
        years, jahre = ({year[-2:] for year in found["year"]} for found in (ours, theirs))
        assert years == jahre, (source, target)
        assert {number(word) for word, label in zip(source.words, source.labels, strict=True) if label == "number"} == {
            number(word) for word, label in zip(target.words, target.labels, strict=True) if label == "number"
        } or "compact" in source.kind


def number(word: str) -> str:
    return re.sub(r"[^0-9]", "", word)


def test_pairs_use_only_what_both_languages_have() -> None:
    shared = shared_inventory("en", "mt")
    maltese = inventory("mt").by_key
    assert 0 < len(shared.by_key) < len(inventory("en").by_key)
    assert all(maltese[key].shows == form.shows for key, form in shared.by_key.items())
    assert "amount:name:NPR" not in shared.by_key


@pytest.mark.parametrize(
    ("locale", "key"),
    [
        ("fo", "measure:short:length-kilometer-per-hour"),
        ("mt", "amount:name:USD"),
        ("ceb", "amount:name:USD"),
        ("se", "date:full"),
        ("fo", "time:hm"),
        ("bn", "time:short"),
    ],
)
def test_what_a_language_would_inherit_is_left_out(locale: str, key: str) -> None:
    assert key not in inventory(locale).by_key


def test_bare_keys_and_english_left_overs_are_no_names() -> None:
    assert OwnData("nn").names("months", "format", "wide") is None
    assert OwnData("root").names("months", "format", "wide") is None
    assert OwnData("ug").is_foreign("{0}, and {1}")
    assert not OwnData("fo").is_foreign("{0}, og {1}")
    assert " and " not in " ".join(expression.text for expression in expressions("uig", "train", 200))


def test_own_data_do_not_disturb_babels_cache() -> None:
    OwnData("cy")
    assert babel.Locale("cy").time_zones["Etc/UTC"]
    assert babel.Locale("cy").decimal_formats


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fo", "train", 1), r"language=fo: not one of .* did you mean fao \(Faroese\)\?"),
        (("Faroes", "train", 1), r"language=Faroes: .* did you mean fao \(Faroese\)\?"),
        (("xxx", "train", 1), "language=xxx: not one of"),
        (("fao", "tests", 1), r"split=tests: must be one of train, dev, test, text; did you mean test\?"),
        (("fao", "train", -1), "count=-1: must be in"),
        (("fao", "train", MOST_EXPRESSIONS + 1), "must be in"),
    ],
)
def test_wrong_arguments_get_one_line(arguments: tuple[str, str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        expressions(*arguments)
    assert "\n" not in str(error.value)


def test_wrong_pairs_get_one_line() -> None:
    with pytest.raises(ValueError, match=r"target=de: .*deu"):
        parallel_expressions("eng", "de", "train", 1)
    with pytest.raises(ValueError, match="must differ"):
        parallel_expressions("eng", "eng", "train", 1)


def test_the_package_exports_its_public_names() -> None:
    assert set(locale_expressions.__all__) == {
        "CORPUS_VERSION",
        "LABELS",
        "LANGUAGES",
        "Expression",
        "Language",
        "available_languages",
        "expressions",
        "parallel_expressions",
    }
