from __future__ import annotations

from pathlib import Path

import pytest

from tests.source_configs import source_config
from xlt.config import SourceConfig
from xlt.data.sources import read_source, source_identity
from xlt.errors import UsageError


def source(folder: Path, words: list[str], **changes: object) -> SourceConfig:
    (folder / "x.txt").write_text("".join(f"{word} O\n" for word in words), encoding="utf-8")
    return source_config("conll", "eng", str(folder / "x.txt"), fields={"words": "0", "ner": "1"}, **changes)


def words_of(source: SourceConfig) -> tuple[str, ...]:
    (example,) = read_source("data.sources.x", source, 1)
    return example.words or ()


WIKIANN = ["en:London", "en:is", "en:en:big"]


def test_a_prefix_of_every_word_is_asked_about(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"data.sources.x: every word begins with 'en:'.* word_prefix='en:' .*''"):
        words_of(source(tmp_path, WIKIANN))
    with pytest.raises(UsageError, match=r"every word begins with '▁'"):
        words_of(source(tmp_path, [f"▁w{number}" for number in range(20)] + ["▁x"]))


def test_a_prefix_that_is_given_is_removed_once_and_an_empty_one_stays(tmp_path: Path) -> None:
    assert words_of(source(tmp_path, WIKIANN, word_prefix="en:")) == ("London", "is", "en:big")
    assert words_of(source(tmp_path, WIKIANN, word_prefix="{code}:", codes={"eng": "en"})) == ("London", "is", "en:big")
    assert words_of(source(tmp_path, WIKIANN, word_prefix="")) == tuple(WIKIANN)
    assert source_identity(source(tmp_path, WIKIANN, word_prefix="")) != source_identity(source(tmp_path, WIKIANN))


@pytest.mark.parametrize("word", ["London", "en:"])
def test_a_word_without_the_prefix_or_without_more_is_refused_with_its_place(word: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"x.txt:1: word 2 '{word}'.*'en:'"):
        words_of(source(tmp_path, ["en:a", word], word_prefix="en:"))


@pytest.mark.parametrize("words", [["a"], ["ab", "ac"], ["en:London"], ["en:a", "b:c"], ["x"] * 50])
def test_few_words_that_begin_alike_have_no_prefix(words: list[str], tmp_path: Path) -> None:
    assert words_of(source(tmp_path, words)) == tuple(words)
