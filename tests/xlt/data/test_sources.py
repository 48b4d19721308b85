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
        search={},
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
            search={},
            sampling=SamplingConfig("concatenation", 1.0, None),
            held_out_fraction=0.0,
            held_out_fractions={},
            select_on_targets=False,
        )

    for language in ("fao", "fao_Latn"):
        (line,) = source_faults(data(language))
        assert line.startswith("data.evaluation.e:") and "data.sources" in line


def test_a_cap_of_words_counts_the_words_of_a_text_without_spaces(file: Path) -> None:
    thai, chinese = "วันนี้อากาศดีมากเราไปเดินเล่น", "今天天气很好我们去公园"
    for line, words in ((thai, 7), (chinese, 6), (f"{chinese} the cat", 8)):
        file.write_text(f"{line}\n" * 50, encoding="utf-8")
        assert len(list_source("s", text_of(file, cap_words=5 * words), seed=1)) == 5


def test_a_cap_of_words_counts_those_of_a_conversation(tmp_path: Path) -> None:
    record = '{"q": "one two three", "a": "four five"}\n'
    (tmp_path / "x.jsonl").write_text(record * 50, encoding="utf-8")
    fields = {"prompt": "q", "completion": "a"}
    source = source_config("jsonl", "eng", str(tmp_path / "x.jsonl"), cap_words=20, fields=fields)
    assert len(list_source("s", source, seed=1)) == 4


WORD = "{}\t{}\t_\t{}\t_\t_\t{}\tdep\t_\t_"
STRIPPED = "# text = _ _\n" + WORD.format(1, "_", "NOUN", 0) + "\n" + WORD.format(2, "_", "PUNCT", 1) + "\n\n"
WHOLE = WORD.format(1, "Ja", "INTJ", 0) + "\n" + WORD.format(2, "_", "NOUN", 1) + "\n\n"
LONE = WORD.format(1, "_", "NOUN", 0) + "\n\n"
LINE_TO_FILL_IN = WORD.format(1, "____", "SYM", 0) + "\n" + WORD.format(2, "__", "PUNCT", 1) + "\n\n"


@pytest.mark.parametrize(
    ("sentences", "line", "count"),
    [
        ([STRIPPED] * 3, 2, "3 of 3"),
        ([WHOLE, STRIPPED, LONE, STRIPPED, WHOLE], 5, "2 of 5"),  # a document among others
    ],
)
def test_a_treebank_without_its_text_is_refused_with_the_number_of_its_sentences(
    sentences: list[str], line: int, count: str, tmp_path: Path
) -> None:
    file = tmp_path / "x.conllu"
    file.write_text("".join(sentences), encoding="utf-8")
    source = source_config("conllu", "eng", str(file))
    with pytest.raises(UsageError, match=rf"data.sources.x: .*x.conllu:{line}: {count} sentences.*README"):
        list_source("data.sources.x", source, 1)
    with pytest.raises(UsageError, match=count):  # also if few of its sentences are used
        list_source("data.sources.x", source_config("conllu", "eng", str(file), cap=1), 1)


def test_an_underscore_can_be_a_word(tmp_path: Path) -> None:
    file = tmp_path / "x.conllu"
    file.write_text(WHOLE + LONE + LINE_TO_FILL_IN, encoding="utf-8")
    assert len(list_source("x", source_config("conllu", "eng", str(file)), 1)) == 3


@pytest.mark.parametrize(
    ("reader", "text", "is_stripped"),
    [
        ("conll", "_ B-PER\n_ I-PER\n\n", True),
        ("conll", "_ O\n_ O\n\n", False),
        ("conll", "_ _\n_ _\n\n", True),
        ("jsonl", '{"0": ["_", "_"], "1": ["B-LOC", "O"]}\n', True),
        ("jsonl", '{"0": ["_", "a"], "1": ["B-LOC", "O"]}\n', False),
    ],
)
def test_sentences_without_their_text_are_refused_whatever_the_format(
    reader: str, text: str, is_stripped: bool, tmp_path: Path
) -> None:
    file = tmp_path / f"x.{reader}"
    file.write_text(text, encoding="utf-8")
    source = source_config(reader, "eng", str(file), fields={"words": "0", "ner": "1"})
    if not is_stripped:
        assert len(list_source("x", source, 1)) == 1
        return
    with pytest.raises(UsageError, match=r"x.*:1: 1 of 1 sentences"):
        list_source("x", source, 1)


def test_an_empty_source_is_named_by_its_own_file(tmp_path: Path) -> None:
    (tmp_path / "en.jsonl").write_text("\n", encoding="utf-8")
    path = str(tmp_path / "{code}.jsonl")
    source = source_config("jsonl", "eng", path, fields={"text": "t"}, codes={"eng": "en"})
    with pytest.raises(UsageError) as raised:
        list(read_source("s", source, 1))
    assert f"{tmp_path}/en.jsonl has no examples" in str(raised.value)
