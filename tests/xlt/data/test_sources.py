from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.source_configs import source_config
from xlt.config import DataConfig, SamplingConfig, SourceConfig
from xlt.data.examples import Example
from xlt.data.sources import read_source, source_faults, source_identity
from xlt.errors import UsageError


def text_of(file: Path, **changes: object) -> SourceConfig:
    return source_config(**{"reader": "text", "language": "fao", "path": str(file), "split": "text", **changes})  # type: ignore[arg-type]


def list_source(name: str, source: SourceConfig, seed: int) -> list[Example]:
    return list(read_source(name, source, seed))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "a.txt").write_text("".join(f"line {n}\n" for n in range(50)), encoding="utf-8")
    return tmp_path / "a.txt"


def test_a_cap_draws_that_many_in_their_order_the_same_for_the_same_seed(file: Path) -> None:
    drawn = list_source("s", text_of(file, cap=10), seed=1)
    places = [int(example.place.rpartition(":")[2]) for example in drawn]
    assert len(drawn) == 10 and places == sorted(places)
    assert drawn == list_source("another name", text_of(file, cap=10), seed=1)
    assert drawn != list_source("s", text_of(file, cap=10), seed=2)
    assert places != list(range(1, 11))


def test_a_larger_cap_holds_the_examples_of_a_smaller_one(file: Path) -> None:
    few, more = ({example.place for example in list_source("s", text_of(file, cap=cap), seed=1)} for cap in (5, 20))
    assert few < more


def test_a_cap_above_the_number_of_examples_takes_all(file: Path) -> None:
    assert len(list_source("s", text_of(file, cap=99), seed=1)) == 50


def test_an_empty_source_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "void.txt").write_text("\n \n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"data.sources.x: split text of .*void.txt has no examples"):
        list_source("data.sources.x", text_of(tmp_path / "void.txt"), seed=1)


def test_an_unknown_reader_is_refused_with_those_there_are(file: Path) -> None:
    with pytest.raises(UsageError, match=r"reader=xml: no such reader; there are .*conllu, .*text"):
        list_source("s", text_of(file, reader="xml"), seed=1)


def test_the_identity_of_a_source_is_its_content_and_how_it_is_used(file: Path, tmp_path: Path) -> None:
    before = source_identity(text_of(file))
    shutil.copy(file, tmp_path / "b.txt")
    assert source_identity(text_of(tmp_path / "b.txt")) == before
    assert source_identity(text_of(file, origin="translated")) == before  # a label for people
    for change in ({"cap": 3}, {"upsample": 2}, {"language": "isl"}):
        assert source_identity(text_of(file, **change)) != before
    file.write_text("other\n", encoding="utf-8")
    assert source_identity(text_of(file)) != before


def test_faults_of_all_sources_of_all_parts_are_found_without_reading_any(file: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.txt"
    broken.write_bytes(b"\xff\n")
    data = DataConfig(
        sources={"a": text_of(file), "b": text_of(tmp_path / "absent"), "c": text_of(file, reader="xml")},
        validation={"d": text_of(file, path=None)},
        evaluation={"e": text_of(file, reader="locale_expressions", language="ace"), "f": text_of(broken)},
        excluded={},
        sampling=SamplingConfig("concatenation", 1.0, None),
        held_out_fraction=0.0,
        held_out_fractions={},
        select_on_targets=False,
    )
    starts = ("data.sources.b: ", "data.sources.c.reader=", "data.validation.d.path=", "data.evaluation.e.language=")
    found = source_faults(data)
    assert len(found) == 4
    assert all(line.startswith(start) for line, start in zip(found, starts, strict=True))


def test_a_cap_of_words_takes_just_enough_examples_and_a_larger_one_the_same_and_more(file: Path) -> None:
    file.write_text("".join(f"{'word ' * (n % 7 + 1)}{n}\n" for n in range(50)), encoding="utf-8")

    def taken(**changes: object) -> dict[str, int]:
        examples = list_source("s", text_of(file, **changes), seed=1)
        return {example.place: len((example.text or "").split()) for example in examples}

    everything, few, more = taken(), taken(cap_words=20), taken(cap_words=60)
    for words, found in ((20, few), (60, more)):
        assert sum(found.values()) >= words > sum(found.values()) - max(found.values())
    assert few.keys() < more.keys() < everything.keys()
    assert taken(cap_words=3, cap=2).keys() < taken(cap=2).keys()
    assert taken(cap_words=10**6) == everything
    assert source_identity(text_of(file, cap_words=20)) != source_identity(text_of(file))


def test_rows_that_are_trained_on_are_not_evaluated_on_under_the_name_of_a_script(file: Path) -> None:
    def data(evaluated: str) -> DataConfig:
        return DataConfig(
            sources={"a": text_of(file, language="fao")},
            validation={},
            evaluation={"e": text_of(file, language=evaluated)},
            excluded={},
            sampling=SamplingConfig("concatenation", 1.0, None),
            held_out_fraction=0.0,
            held_out_fractions={},
            select_on_targets=False,
        )

    for language in ("fao", "fao_Latn"):
        (line,) = source_faults(data(language))
        assert line.startswith("data.evaluation.e:") and "data.sources" in line
