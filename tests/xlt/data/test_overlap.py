from __future__ import annotations

from pathlib import Path

import pytest

from tests.source_configs import source_config
from xlt.data.examples import Example
from xlt.data.overlap import Overlap, texts_of
from xlt.data.sources import read_source

TEXT = "makanan di warung ini enak sekali dan harganya murah"


def held(text: str, *index: str) -> bool:
    return Overlap(index or (TEXT,)).holds(Example("here", text=text))


@pytest.mark.parametrize("text", [TEXT, TEXT.upper(), f"  {TEXT} !!!", TEXT.replace(" ", "  ,"), TEXT.replace(" ", "")])
def test_the_same_letters_are_the_same_text(text: str) -> None:
    assert held(text)


def test_an_edited_copy_is_found_by_a_fifth_of_its_word_triples() -> None:
    # TEXT has 7 triples. Two of them shared, of 10 in all: exactly a fifth. One shared, of 10: a tenth.
    assert held("di warung ini enak begitu saja katanya")  # 5 triples: 2 shared, 7 + 5 - 2 = 10
    assert not held("warung ini enak begitu kata orang")  # 4 triples: 1 shared, 7 + 4 - 1 = 10


def test_texts_of_few_words_are_equal_or_different() -> None:
    assert held("enak !", "enak", "enak sekali")
    assert held("enak sekali", "enak sekali")
    assert not held("enak", "enak sekali")
    assert not held("sekali", "")


def test_scripts_without_spaces_are_compared_letter_by_letter() -> None:
    text = "今天天气很好我们一起去公园散步吧"
    assert held(text.replace("一", ""), text) and held(f"{text}。", text)
    assert not held("明天我想在家里看书写信给朋友们", text)


def test_marks_of_a_letter_are_part_of_it() -> None:
    """Hindi for "the son" and "the daughter" "came from the city yesterday"."""
    assert not held("बेटी कल शहर से आयी थी", "बेटा कल शहर से आया था")


def test_of_another_language_or_an_empty_index_nothing_is_found() -> None:
    assert not held("the food at this stall is very good and cheap too")
    assert not Overlap([]).holds(Example("here", text=TEXT))


def test_each_text_of_an_example_counts_and_words_do_where_there_is_none() -> None:
    assert texts_of(Example("here", text="a", pair="b")) == ["a", "b"]
    assert texts_of(Example("here", words=("a", "b"))) == ["a b"]
    assert Overlap([TEXT]).holds(Example("here", text="baik", pair=TEXT))
    assert Overlap([TEXT]).holds(Example("here", words=tuple(TEXT.split())))


def test_a_source_is_read_without_what_overlaps_and_capped_afterwards(tmp_path: Path) -> None:
    lines = [f"kalimat nomor {number} tentang hal yang lain sama sekali {number}" for number in range(6)]
    (tmp_path / "t.txt").write_text("\n".join([lines[0], TEXT, *lines[1:], TEXT.upper()]), encoding="utf-8")
    source = source_config("text", "ind", str(tmp_path / "t.txt"), split="text", cap=6)
    assert [example.text for example in read_source("s", source, 1, Overlap([TEXT]))] == lines


def test_examples_gone_through_once_are_not_compared_again(monkeypatch: pytest.MonkeyPatch) -> None:
    overlap = Overlap([TEXT])
    examples = [Example("a", text="baik"), Example("b", text=TEXT), Example("c", text="sekali")]
    assert next(overlap.apart("x", examples)).place == "a"  # left unfinished: nothing is known yet
    assert [example.place for example in overlap.apart("x", examples)] == ["a", "c"]
    monkeypatch.setattr(overlap, "holds", lambda example: example.place == "a")
    assert [example.place for example in overlap.apart("x", examples)] == ["a", "c"]
    assert [example.place for example in overlap.apart("another", examples)] == ["b", "c"]
