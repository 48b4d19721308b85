"""CSV and TSV: what they share is tested with both."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.source_configs import source_config
from xlt.config import SourceConfig
from xlt.data.examples import Example
from xlt.data.readers import csv, tsv
from xlt.errors import UsageError

NAMED = {"text": "text", "label": "label"}
Table = Callable[..., SourceConfig]


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """A file of this text; a comma is a tab where it is TSV."""

    def make(text: str, reader: str = "csv", **changes: object) -> SourceConfig:
        file = tmp_path / f"x.{reader}"
        file.write_bytes((text if reader == "csv" else text.replace(",", "\t")).encode())
        return source_config(reader, "ace", str(file), **({"fields": NAMED} | changes))

    return make


def read(source: SourceConfig) -> list[Example]:
    return list((csv if source.reader == "csv" else tsv).read(source))


both = pytest.mark.parametrize("reader", ["csv", "tsv"])


@both
def test_a_header_names_the_columns_and_others_are_left_alone(reader: str, table: Table) -> None:
    first, second = read(table("\ufeffid,text,more,label\n7,ok,x,positive\r\n\n8,no,,negative\n", reader))
    assert (first.text, first.label, first.id) == ("ok", "positive", None)
    assert (second.text, second.label) == ("no", "negative")
    assert [example.place.rpartition(":")[2] for example in (first, second)] == ["2", "4"]


@both
def test_numbers_mean_that_there_is_no_header(reader: str, table: Table) -> None:
    (example, _) = read(table("ok,x,positive\nno,y,negative\n", reader, fields={"text": "0", "label": "-1"}))
    assert (example.text, example.label) == ("ok", "positive")
    assert example.place.endswith(":1")


@both
def test_a_cell_can_be_a_long_document(reader: str, table: Table) -> None:
    (example,) = read(table("text,label\n" + "long " * 40_000 + ",negative\n", reader))
    assert (len(example.text or ""), example.label) == (200_000, "negative")


@both
def test_the_code_of_the_language_can_name_a_column(reader: str, table: Table) -> None:
    fields, codes = {"text": "indonesian", "pair": "{code}"}, {"ace": "acehnese"}
    (example,) = read(table("indonesian,acehnese\nsatu,sa\n", reader, fields=fields, codes=codes))
    assert (example.text, example.pair) == ("satu", "sa")


@both
@pytest.mark.parametrize(
    ("text", "fields", "fault"),
    [
        ("text,label\na\n", NAMED, r"x\..sv:2: .*\b1 columns.*the header has 2"),
        ("text,label\na,b\na,b,c\n", NAMED, r"x\..sv:3: .*\b3 columns.*the header has 2"),
        ("text,tag\na,b\n", NAMED, r"x\..sv:1: no column 'label' \(fields.label\); the header has text, tag"),
        ("text,label,text\na,b,c\n", NAMED, r"x\..sv:1: the header has 'text' more than once"),
        ("", NAMED, r"x\..sv: .*has no line.*text, label"),
        ("\n\n", {"text": "0"}, r"x\..sv: .*has no line"),
        ("a,b\nc\n", {"text": "0", "label": "1"}, r"x\..sv:2: .*\b1 columns.*the first row has 2"),
        ("a,b\n", {"text": "2"}, r"x\..sv:1: no column 2 \(fields.text\); the first row has columns 0 to 1"),
        ("a,b\n", {"text": "-3"}, r"x\..sv:1: no column -3 \(fields.text\)"),
        ("a,b\n", {}, r"fields=\{\}: reader .sv "),
    ],
)
def test_a_broken_table_is_refused_with_its_place(
    reader: str, text: str, fields: dict[str, str], fault: str, table: Table
) -> None:
    with pytest.raises(UsageError, match=fault):
        read(table(text, reader, fields=fields))


@both
def test_bytes_that_are_not_utf_8_are_refused_with_their_line(reader: str, table: Table) -> None:
    made = table("text,label\na,b\n", reader)
    with Path(str(made.path)).open("ab") as file:
        file.write(b"\xe9,c\n")
    with pytest.raises(UsageError, match=r":3: not UTF-8"):
        read(made)


def test_cells_in_quotes_hold_commas_quotes_and_line_breaks(table: Table) -> None:
    made = table('text,label\n"a, ""b""\r\nc\n\nd",positive\nlast,negative\n')
    first, second = read(made)
    assert first.text == 'a, "b"\nc\n\nd'
    assert [example.place.rpartition(":")[2] for example in (first, second)] == ["2", "6"]


@pytest.mark.parametrize("text", ['text,label\n"a,b\nc,d\n', 'text,label\n"a"x,b\n'])
def test_a_broken_quote_is_refused_where_its_record_begins(text: str, table: Table) -> None:
    with pytest.raises(UsageError, match=r"x.csv:2: not a CSV record: "):
        read(table(text))


def test_quotes_in_tsv_are_letters(table: Table) -> None:
    assert read(table('text,label\n"a,b"\n', "tsv"))[0].text == '"a'


def test_a_folder_gives_the_file_that_the_source_names_for_the_split(tmp_path: Path) -> None:
    (tmp_path / "valid.csv").write_text("text,label\na,b\n", encoding="utf-8")
    made = source_config("csv", "ace", str(tmp_path), fields=NAMED, files={"dev": "valid.csv"}, split="dev")
    assert csv.files(made) == [tmp_path / "valid.csv"]
    made.split = "train"
    with pytest.raises(UsageError, match=r"no files for split train, expected one train.csv; it has valid.csv"):
        csv.files(made)


@pytest.mark.parametrize(
    ("delimiter", "character"), [(";", ";"), ("tab", "\t"), ("\t", "\t"), ("\\t", "\t"), ("|", "|")]
)
def test_another_character_can_separate_the_cells(delimiter: str, character: str, table: Table) -> None:
    made = table(f'text{character}label\n"a, ""b"" {character}"{character}x\n', delimiter=delimiter)
    (example,) = read(made)
    assert (example.text, example.label) == (f'a, "b" {character}', "x")


@pytest.mark.parametrize("fields", [NAMED, {"text": "0", "label": "1"}])
def test_a_file_with_another_separator_is_refused_with_its_name(fields: dict[str, str], table: Table) -> None:
    with pytest.raises(UsageError, match=r"x.csv:1: no column .*reader=csv and delimiter=;"):
        read(table("text;label\na;b\n", fields=fields))


PANDAS = 'text,label\n"say ""a""",x\nplain,y\n'


def test_tsv_with_doubled_quotes_is_refused_until_it_is_said_what_they_are(table: Table) -> None:
    with pytest.raises(UsageError, match=r"x.tsv:2: cells are in quotes.*quoting=rfc.*quoting=letters"):
        read(table(PANDAS, "tsv"))
    assert [example.text for example in read(table(PANDAS, "tsv", quoting="rfc"))] == ['say "a"', "plain"]
    assert read(table(PANDAS, "tsv", quoting="letters"))[0].text == '"say ""a"""'


def test_tsv_in_which_all_texts_are_in_quotes_is_refused(table: Table) -> None:
    text = '"text","label"\n"a",1\n"b",-2.5\n'
    with pytest.raises(UsageError, match=r"x.tsv:1: cells are in quotes"):
        read(table(text, "tsv"))
    assert [example.text for example in read(table(text, "tsv", quoting="rfc"))] == ["a", "b"]


@pytest.mark.parametrize("cell", ['"a', 'a"', 'say "a"', '"a" and "b"', '"', '"""', '"a"'])
def test_one_cell_with_other_quotes_shows_that_they_are_letters(cell: str, table: Table) -> None:
    assert read(table(f"text,label\n{cell},x\nplain,y\n", "tsv"))[0].text == cell
    doubled = f'text,label\n"say ""a""",x\n"b,y\n{cell},x\n'
    assert read(table(doubled, "tsv"))[2].text == cell


def test_a_quoted_cell_of_two_lines_or_with_a_tab_is_refused_with_the_remedy(table: Table) -> None:
    for text in ('text,label\n"one\ntwo",x\n', 'text,label\n"one,two",x\n'):
        with pytest.raises(UsageError, match=r"x.tsv:2: the row has \d columns.*quoting=rfc"):
            read(table(text, "tsv"))
    assert read(table('text,label\n"one\ntwo",x\n', "tsv", quoting="rfc"))[0].text == "one\ntwo"


@both
@pytest.mark.parametrize("fault", ["twice", "absent", None])
def test_a_header_of_forty_thousand_columns_takes_no_time_and_a_short_line(
    fault: str | None, reader: str, table: Table
) -> None:
    names = ["text", "label", *(f"column {number}" for number in range(40_000))]
    names = [*names, "column 7"] if fault == "twice" else names[2:] if fault == "absent" else names
    source = table(",".join(names) + "\n" + ",".join("x" for _ in names) + "\n", reader)
    began = time.monotonic()
    if fault is None:
        assert len(read(source)) == 1
    else:
        with pytest.raises(UsageError) as refused:
            read(source)
        assert len(str(refused.value)) < 3000 and f"x.{reader}:1" in str(refused.value)
    assert time.monotonic() - began < 5
