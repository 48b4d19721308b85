"""Facts about languages, each by a definition of its own."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from xlt.data.encoding import Encoder
from xlt.data.language_facts import family_of, language_facts, script_name, script_of_text
from xlt.data.typology import Typology


@pytest.mark.parametrize(
    ("text", "script", "name"),
    [
        ("The Turkish sea", "Latn", "Latin"),
        ("الخبر", "Arab", "Arabic"),
        ("Привет, world", "Cyrl", "Cyrillic"),
        ("我们在这里", "Hani", "Chinese"),
        ("私たちはここにいる東京都", "Jpan", "Japanese"),
        ("우리는 여기", "Hang", "Hangul"),
        ("ⵜⴰⵎⴰⵣⵉⵖⵜ", "Tfng", "Tifinagh"),
        ("123 ...", None, "unknown"),
    ],
)
def test_the_script_is_that_of_most_letters(text: str, script: str | None, name: str) -> None:
    assert script_of_text([text]) == script
    assert script_name(script) == name


@pytest.mark.skipif(importlib.util.find_spec("urielplus") is None, reason="urielplus is not installed")
@pytest.mark.parametrize(
    ("language", "family"),
    [
        ("eng", "Indo-European"),
        ("kat", "Kartvelian"),
        ("fin", "Uralic"),
        ("yor", "Atlantic-Congo"),
        ("ace_Arab", "Austronesian"),
        ("nob", "Indo-European"),  # URIEL has Norwegian alone
        ("eus", None),
    ],
)
def test_the_family_is_the_outermost_group_of_uriel(language: str, family: str | None) -> None:
    assert family_of(language) == family


def test_pieces_and_unknown_ones_are_counted_over_words(encoder: Encoder) -> None:
    texts = ["bun lan", "mi bun lan"]
    typology = Typology(["eng", "fao"], ["S_A", "S_B"], np.array([[1, 1], [1, 0]], dtype=np.uint8), "here")
    facts = language_facts("fao", texts, encoder, typology, "eng")
    assert facts.pieces_per_word == sum(map(len, encoder.lines(texts))) / 5
    assert facts.unknown_share == 0.0
    assert facts.similarity == pytest.approx(1 / 2**0.5)
    unknown = encoder.lines(["bun"])[0][0]
    ids = [token for line in encoder.lines(texts) for token in line]
    before, encoder.tokenizer.unk_token_id = encoder.tokenizer.unk_token_id, unknown
    try:
        found = language_facts("fao", texts, encoder, None, "eng")
    finally:
        encoder.tokenizer.unk_token_id = before
    assert found.unknown_share == ids.count(unknown) / len(ids) > 0
    assert found.similarity is None
