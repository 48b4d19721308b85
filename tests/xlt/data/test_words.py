"""Counts of words in scripts with and without spaces."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from xlt.data.words import word_count, word_spans


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("the cat, the mat.", 4),
        ("Hún sang ì kvøld", 4),
        ("ọ̀rọ̀ tí a kọ", 4),
        ("한국어 문장", 2),
        ("今天天气很好", 3),
        ("好", 1),
        ("今天 iPhone 好", 3),
        ("ข้าวผัดกุ้งกับไข่ดาว", 4),
        ("ดี", 1),
        ("!? …", 0),
        ("", 0),
    ],
)
def test_words_are_counted_in_every_script(text: str, count: int) -> None:
    assert word_count(text) == count


def test_words_have_their_places_and_letters_are_the_words_of_a_script_without_spaces() -> None:
    text = "a  (cat), 今天5kg ดี"
    assert [text[start:end] for start, end in word_spans(text)] == ["a", "(cat),", "今", "天", "5kg", "ดี"]
    assert word_spans(" ") == []


@pytest.mark.real
@pytest.mark.parametrize(
    "code", ["zho_Hans", "zho_Hant", "yue_Hant", "jpn_Jpan", "lao_Laoo", "khm_Khmr", "mya_Mymr", "bod_Tibt"]
)
def test_a_translation_into_a_script_without_spaces_has_about_as_many_words(code: str) -> None:
    if not (folder := os.environ.get("XLT_DATA_DIR")):
        pytest.skip("XLT_DATA_DIR is not set: the folder of real data")
    english, other = (
        sum(
            word_count(line.split("\t")[-1])
            for split in ("train", "dev", "test")
            for line in (Path(folder) / "sib200" / name / f"{split}.tsv").read_text(encoding="utf-8").splitlines()[1:]
        )
        for name in ("eng_Latn", code)
    )
    assert 0.7 < other / english < 1.3
