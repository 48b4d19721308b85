"""Texts that have all words of a sentence, in their order."""

from __future__ import annotations

import random

import pytest

from xlt.data.running_text import joined, running_text


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["the", "cat", "."], "the cat ."),
        (["今天", "天气", "很", "好", "，", "好"], "今天天气很好，好"),
        (["私", "は", "ケーキ", "を"], "私はケーキを"),
        (["在", "YouTube", "上", "5", "月"], "在YouTube上5月"),
        (["ọjọ́", "武汉", "肺炎", "tí", "a"], "ọjọ́ 武汉肺炎 tí a"),
        (["“", "你好", "”", "。"], "“你好”。"),
        (["你", "，", "b"], "你，b"),
        (["วันนี้", "อากาศ", "ดี"], "วันนี้อากาศดี"),
        (["ใช้", "iPhone", "5", "เครื่อง"], "ใช้ iPhone 5 เครื่อง"),
        (["ຂ້ອຍ", "ໄປ"], "ຂ້ອຍໄປ"),
        (["ខ្ញុំ", "ទៅ"], "ខ្ញុំទៅ"),
        (["ကျွန်တော်", "သွား"], "ကျွန်တော်သွား"),
        (["བོད་", "ཡིག"], "བོད་ཡིག"),
        (["한국", "은"], "한국 은"),  # Korean has spaces
        (["ọ̀rọ̀", "tí"], "ọ̀rọ̀ tí"),
        (["a\n今\nb", "c"], "a\n今\nb c"),
        (["one"], "one"),
        ([], ""),
    ],
)
def test_words_are_joined_as_their_scripts_are_written(words: list[str], text: str) -> None:
    assert joined(words) == text


@pytest.mark.parametrize(
    ("words", "text", "expected"),
    [
        ("the mat , ok", "the mat, ok", "the mat, ok"),
        ("can not go", "cannot go", "cannot go"),
        ("5 kg", "5\u00a0kg", "5\u00a0kg"),
        ("the cat", " the  cat ", " the  cat "),
        ("cat sat", "mat, cat sat!", "mat, cat sat!"),  # words need not be all of the text
        # Words that the text does not spell stand in place of what it has instead.
        ("di la casa", "della casa", "di la casa"),
        ("in dem Haus in", "im Haus in", "in dem Haus in"),
        ("a el mar .", "al mar.", "a el mar."),
        ("de les gens", "des gens", "de les gens"),
        ("-LRB- hi -RRB-", "(hi)", "-LRB- hi -RRB-"),
        ("天 氣", "天 气", "天氣"),
        ("x y", "b", "x y"),
        ("x", "", "x"),
    ],
)
def test_a_text_that_does_not_spell_a_word_gets_it_in_its_place(words: str, text: str, expected: str) -> None:
    found = running_text(words.split(), text)
    assert found.text == expected
    for word, start in zip(words.split(), found.starts, strict=True):
        assert start is not None and found.text.startswith(word, start)


def test_white_space_within_words_and_marks_apart_from_them_do_not_matter() -> None:
    assert running_text(["10 000", "kg"], "10\u00a0000kg") == ("10\u00a0000kg", [0, 6])
    assert running_text(["\u200f5", "a"], "\u200f 5 a") == ("\u200f 5 a", [0, 4])
    assert running_text(["a", "\u3000", "b"], "a \u3000 b") == ("a \u3000 b", [0, None, 4])
    assert running_text(["a", "\u3000", "b"], None) == ("a b", [0, None, 2])


def test_every_word_is_in_the_text_in_its_place_whatever_the_text() -> None:
    draw = random.Random(1)
    for _ in range(500):
        words = ["".join(draw.choice("abc天ก") for _ in range(draw.randint(1, 4))) for _ in range(draw.randint(0, 7))]
        text = "".join(draw.choice(["", "", " ", "x", *words]) for _ in range(draw.randint(0, 12)))
        found = running_text(words, draw.choice([text, None]))
        end = 0
        for word, start in zip(words, found.starts, strict=True):
            assert start is not None and start >= end
            end = start + len(word)
            assert "".join(found.text[start : start + 9].split()).startswith(word)
