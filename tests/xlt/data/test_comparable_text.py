"""The form in which texts are compared."""

from __future__ import annotations

import unicodedata

import pytest

from xlt.data.examples import Example
from xlt.data.leaks import EvaluationTexts
from xlt.data.overlap import Overlap
from xlt.data.words import letters, words

TEXTS = [
    "Tất cả mọi người sinh ra đều được hưởng tự do",
    "Ẹ̀kọ́ ni kọ́kọ́rọ́ sí ọjọ́ iwájú rere",
    "모든 인간은 태어날 때부터 자유롭다",
    "सभी मनुष्यों को गौरव और अधिकारों के ख़याल",
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
def test_a_text_in_another_normal_form_is_the_same_text(text: str, form: str) -> None:
    other = unicodedata.normalize(form, text)
    assert words(other) == words(text) and letters(other) == letters(text)
    assert Overlap([text]).holds(Example("t", other))
    edited = Overlap([text + " " + text[:9]])  # not equal: the shared trigrams decide
    assert edited.holds(Example("t", other))
    leaks = EvaluationTexts({"e": [Example("e:1", text)]}).leaks([Example("t:1", other)])
    assert list(leaks) == [("t:1", "e (e:1)")]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ＡＢＣ１２３", "abc123"),  # width
        ("ｶﾞｷﾞｸﾞ", "ガギグ"),
        ("\ufee3\ufeae\ufea3\ufe92\ufe8e", "مرحبا"),  # presentation forms
        ("\ufb01n", "fin"),
        ("co\u00adoperate", "cooperate"),  # soft hyphen
        ("می\u200cخواهم", "میخواهم"),  # zero-width non-joiner
        ("\u200eשלום", "שלום"),  # direction mark
        ("e\u034f\u0301", "é"),  # grapheme joiner
        ("☺\ufe0fa", "☺a"),  # variation selector
        ("مـــرحبا", "مرحبا"),  # tatweel
        ("അവ\u0d7b", "അവന\u0d4d\u200d"),  # chillu
        ("KIZIL", "kızıl"),  # Turkish capitals
        ("İSTANBUL", "istanbul"),
        ("ΣΊΣΥΦΟΣ", "σίσυφος"),
        ("STRASSE", "straße"),
    ],
)
def test_what_does_not_matter_to_a_reader_does_not_matter(one: str, other: str) -> None:
    assert letters(one) == letters(other) and words(one) == words(other)


def test_the_letter_and_the_sign_of_an_apostrophe_are_alike() -> None:
    assert letters("oʻzbek") == letters("o‘zbek") == letters("o'zbek")


@pytest.mark.parametrize(("one", "other"), [("bété", "bete"), ("बेटी", "बेटा"), ("ba", "bà"), ("は", "ば")])
def test_marks_still_tell_words_apart(one: str, other: str) -> None:
    assert letters(one) != letters(other)
