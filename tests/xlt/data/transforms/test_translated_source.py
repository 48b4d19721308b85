from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.source_configs import source_config
from xlt.config import DataConfig, RunReference, SourceConfig, TranslationConfig
from xlt.data.examples import Example
from xlt.data.overlap import Overlap
from xlt.data.planned import MadeFile, PlannedSource
from xlt.data.sources import read_source, source_faults, source_identity
from xlt.data.transforms import transform_of
from xlt.data.transforms.translation import original, save_translated
from xlt.errors import UsageError

Made = Callable[..., PlannedSource]
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

    def source(**changes: Any) -> PlannedSource:
        settings = TranslationConfig(**SETTINGS)
        given = {"fields": {"text": "0", "label": "1"}, "origin": "translated", "translation": settings}
        config = source_config("tsv", "jav", str(tmp_path), **given | changes)
        return PlannedSource(config, MadeFile("abc", tmp_path / "t.jsonl"))

    return source


def test_only_a_source_with_settings_of_a_transform_has_one(made: Made) -> None:
    transform = transform_of(made().config)
    assert transform is not None and transform.READER == "translated"
    assert transform_of(original(made().config)) is None


def test_the_translation_is_read_in_place_of_the_original(made: Made) -> None:
    read = list(read_source("data.sources.x", made(), 1))
    assert [example.text for example in read] == [f"jawa f:{number}" for number in range(4)]
    assert [example.untranslated for example in read] == [(str(one.text),) for one in ORIGINALS]


def test_labels_are_renamed_and_caps_drawn_of_the_translation(made: Made) -> None:
    read = list(read_source("x", made(labels={"baik": "positive"}, cap=2), 1))
    assert [example.label for example in read] == ["positive"] * 2


def test_a_texts_translation_is_left_out_with_it(made: Made) -> None:
    overlap = Overlap(["KALIMAT nomor 2, itu!"])
    plain = PlannedSource(original(made().config))
    for source, names in ((made(), "jawa f:{}"), (plain, "kalimat nomor {} itu")):
        read = [example.text for example in read_source("x", source, 1, overlap)]
        assert names.format(2) not in read
    assert list(read_source("x", made(), 1, Overlap(["lain sama sekali"])))


def test_the_original_source_is_in_the_other_language_and_whole(made: Made) -> None:
    settings = TranslationConfig(**SETTINGS | {"cap": 3})
    source = original(made(translation=settings, cap=2, upsample=5, labels={"a": "b"}).config)
    assert (source.language, source.cap, source.upsample, source.labels) == ("ind", 3, 1, {})
    assert source.origin == "gold" and source.translation is None
    assert len(list(read_source("x", source, 1))) == 3


def test_a_source_is_another_where_its_translation_is(made: Made) -> None:
    source, elsewhere = made(), Path("elsewhere")
    assert source.made is not None
    other = dataclasses.replace(source, made=MadeFile("abd", source.made.path))
    moved = dataclasses.replace(source, made=MadeFile("abc", elsewhere))
    whole = dataclasses.replace(source, keeps_all=True)
    assert source_identity(source) == source_identity(moved)
    assert source_identity(source) != source_identity(other)
    assert source_identity(source) != source_identity(whole)


def test_only_a_run_that_is_planned_knows_the_translation(made: Made) -> None:
    source = made()
    with pytest.raises(UsageError, match=r"translation: only a run that is planned can use it"):
        list(read_source("x", source.config, 1))
    nowhere = dataclasses.replace(source, made=MadeFile("abc", Path("/nowhere")))
    with pytest.raises(UsageError, match=r"no such file; the run that translates leaves it"):
        list(read_source("x", nowhere, 1))


@pytest.fixture
def data() -> Callable[..., DataConfig]:
    """`data(sources={...})`: data of these parts alone; only its sources count here."""

    def make(**parts: dict[str, SourceConfig]) -> DataConfig:
        empty: dict[str, Any] = {item.name: {} for item in dataclasses.fields(DataConfig)}
        return DataConfig(**empty | parts)

    return make


def test_rows_are_chosen_where_the_originals_reader_can(made: Made, data: Callable[..., DataConfig]) -> None:
    corpus = dataclasses.replace(made(where={"a": "b"}).config, reader="locale_expressions", path=None)
    translation = TranslationConfig(**SETTINGS | {"source_language": "deu"})
    translated = dataclasses.replace(corpus, translation=translation)
    assert source_faults(data(sources={"x": translated})) == []
    with pytest.raises(UsageError, match=r"no column 'a' \(where\); there are text, label, words, field"):
        list(read_source("x", original(translated), 1))


def test_the_translation_of_a_split_is_not_evaluated_on_by_a_run_that_learns_it(
    made: Made, data: Callable[..., DataConfig]
) -> None:
    source = made().config
    again = dataclasses.replace(source, cap=1, labels={"baik": "buruk"})
    (line,) = source_faults(data(sources={"x": source}, evaluation={"y": again}))
    assert line.startswith("data.evaluation.y: the same split is in data.sources")
    other = dataclasses.replace(source, language="mad")
    assert source_faults(data(sources={"x": source}, evaluation={"y": other})) == []
