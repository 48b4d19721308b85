from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.source_configs import source_config
from xlt.config import PlannedTranslation, RunReference, SourceConfig, TranslationConfig
from xlt.data.examples import Example
from xlt.data.overlap import Overlap
from xlt.data.readers import locale_expressions
from xlt.data.readers.translated import files, identity
from xlt.data.sources import read_source, reader_of, source_identity
from xlt.data.translation import save_translated
from xlt.errors import UsageError

Made = Callable[..., SourceConfig]
SETTINGS: dict[str, Any] = {
    "source_language": "ind", "run": RunReference("translation", []), "adapt": ["mad"], "fields": ["text"],
    "beams": 1, "batch_tokens": 64, "cap": None,
}  # fmt: skip
ORIGINALS = [Example(f"f:{number}", f"kalimat nomor {number} itu", label="baik") for number in range(4)]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """A source of Indonesian that is translated into Javanese, whose translation is there."""
    rows = "".join(f"{one.text}\t{one.label}\n" for one in ORIGINALS)
    (tmp_path / "train.tsv").write_text(rows, encoding="utf-8")
    save_translated(
        tmp_path / "t.jsonl", ORIGINALS, {str(one.text): f"jawa {one.place}" for one in ORIGINALS}, ["text"]
    )

    def source(**changes: Any) -> SourceConfig:
        planned = PlannedTranslation(**SETTINGS, fingerprint="abc", file=str(tmp_path / "t.jsonl"), whole=False)
        given = {"fields": {"text": "0", "label": "1"}, "origin": "translated", "translation": planned}
        return source_config("tsv", "jav", str(tmp_path), **given | changes)

    return source


def test_a_source_with_a_translation_is_read_by_this_reader(made: Made, tmp_path: Path) -> None:
    source = made()
    assert reader_of(source).__name__.endswith(".translated")
    assert files(source) == [tmp_path / "train.tsv"] and identity(source) == "abc"
    read = list(read_source("data.sources.x", source, 1))
    assert [example.text for example in read] == [f"jawa f:{number}" for number in range(4)]
    assert [example.untranslated for example in read] == [(str(one.text),) for one in ORIGINALS]


def test_labels_are_renamed_and_caps_drawn_of_the_translation(made: Made) -> None:
    read = list(read_source("x", made(labels={"baik": "positive"}, cap=2), 1))
    assert [example.label for example in read] == ["positive"] * 2


def test_a_texts_translation_is_left_out_with_it(made: Made) -> None:
    overlap = Overlap(["KALIMAT nomor 2, itu!"])
    plain = made().untranslated()
    for source, names in ((made(), "jawa f:{}"), (plain, "kalimat nomor {} itu")):
        read = [example.text for example in read_source("x", source, 1, overlap)]
        assert names.format(2) not in read
    assert list(read_source("x", made(), 1, Overlap(["lain sama sekali"])))


def test_the_untranslated_source_is_in_the_other_language_and_whole(made: Made) -> None:
    planned = PlannedTranslation(**SETTINGS | {"cap": 3}, fingerprint="abc", file="nowhere", whole=False)
    source = made(translation=planned, cap=2, upsample=5, labels={"a": "b"}).untranslated()
    assert (source.language, source.cap, source.upsample, source.labels) == ("ind", 3, 1, {})
    assert source.origin == "gold" and source.translation is None
    assert len(list(read_source("x", source, 1))) == 3


def test_a_source_is_another_where_its_translation_is(made: Made) -> None:
    other = made()
    assert isinstance(other.translation, PlannedTranslation)
    other.translation.fingerprint = "abd"
    assert source_identity(made()) != source_identity(other)
    whole = made()
    assert isinstance(whole.translation, PlannedTranslation)
    whole.translation.whole = True
    assert source_identity(made()) != source_identity(whole)
    elsewhere = made()
    assert isinstance(elsewhere.translation, PlannedTranslation)
    elsewhere.translation.file = "elsewhere"
    assert source_identity(made()) == source_identity(elsewhere)


def test_only_a_run_that_is_planned_knows_the_translation(made: Made) -> None:
    source = made(translation=TranslationConfig(**SETTINGS))
    with pytest.raises(UsageError, match=r"translation: only a run that is planned can use it"):
        list(read_source("x", source, 1))
    with pytest.raises(UsageError, match=r"no such file; the run that translates leaves it"):
        list(
            read_source(
                "x",
                made(translation=PlannedTranslation(**SETTINGS, fingerprint="abc", file="/nowhere", whole=False)),
                1,
            )
        )


def test_rows_are_chosen_where_the_original_reader_can(made: Made) -> None:
    with pytest.raises(UsageError, match=r"where=.*: reader locale_expressions reads every example"):
        files(dataclasses.replace(made(where={"a": "b"}), reader="locale_expressions"))


def test_the_embedded_corpus_is_parallel_text_without_words() -> None:
    """One value in two languages, split by split, in both directions, and beside itself."""
    given = {"text_language": "eng", "cap": 30}
    into = list(read_source("x", source_config("locale_expressions", "deu", None, **given), 1))
    assert len(into) == 30
    assert all(one.words is None and one.columns == {} and one.languages == ("eng", "deu") for one in into)
    assert all(one.text and one.pair for one in into) and sum(one.text != one.pair for one in into) > 20
    back = source_config("locale_expressions", "deu", None, pair_language="eng", cap=30)
    assert next(iter(read_source("x", back, 1))).languages == ("deu", "eng")
    copies = source_config("locale_expressions", "eng", None, text_language="eng", pair_language="eng", cap=5)
    assert all(one.text == one.pair and one.words is None for one in read_source("x", copies, 1))
    test = {
        one.text for one in read_source("x", source_config("locale_expressions", "deu", None, split="test", **given), 1)
    }
    assert not test & {one.text for one in into if len(str(one.text).split()) > 4}


def test_a_language_outside_of_the_embedded_corpus_is_named_on_either_side() -> None:
    for language, other in (("deu", "ace"), ("ace", "deu")):
        source = source_config("locale_expressions", language, None, text_language=other, cap=3)
        with pytest.raises(UsageError, match=r"language=ace: not one of the .* languages of the embedded corpus"):
            locale_expressions.files(source)
    assert locale_expressions.files(source_config("locale_expressions", "deu", None, text_language="eng", cap=3)) == []


def test_parallel_text_is_another_source_than_the_text_alone() -> None:
    plain, pairs, back = (
        source_identity(source_config("locale_expressions", "deu", None, cap=3, **more))
        for more in ({}, {"text_language": "eng"}, {"pair_language": "eng"})
    )
    assert plain != pairs != back != plain
