from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.source_configs import source_config
from xlt.config import SourceConfig
from xlt.data.readers.conll import files, read
from xlt.errors import UsageError

FIELDS = {"words": "0", "ner": "-1"}
Columns = Callable[..., SourceConfig]


@pytest.fixture
def columns(tmp_path: Path) -> Columns:
    """A file of this text."""

    def make(text: str, **changes: object) -> SourceConfig:
        (tmp_path / "x.txt").write_text(text, encoding="utf-8", newline="")
        return source_config("conll", "hau", str(tmp_path / "x.txt"), **({"fields": FIELDS} | changes))

    return make


def test_sentences_have_words_and_tags_and_know_where_they_stand(columns: Columns) -> None:
    first, second = read(columns("Musa B-PER\nya O\n\n\nKano B-LOC\n"))
    assert (first.words, first.columns) == (("Musa", "ya"), {"ner": ("B-PER", "O")})
    assert (second.words, second.columns) == (("Kano",), {"ner": ("B-LOC",)})
    assert [example.place.rpartition(":")[2] for example in (first, second)] == ["1", "5"]


def test_any_columns_can_be_taken_from_either_end_and_documents_end_sentences(columns: Columns) -> None:
    made = columns(
        "-DOCSTART- -X- -X- O\n\nEU NNP B-NP B-ORG\n-DOCSTART- -X- -X- O\nrejects VBZ B-VP O\n",
        fields={"words": "0", "pos": "1", "chunk": "-2", "ner": "3"},
    )
    first, second = read(made)
    assert first.columns == {"pos": ("NNP",), "chunk": ("B-NP",), "ner": ("B-ORG",)}
    assert second.words == ("rejects",)


@pytest.mark.parametrize(
    "text", ["a\tO\nb\tB-LOC\n", "a O \r\nb  B-LOC\r\n\r\n", "\ufeffa O\nb \t B-LOC", "a O\nb B-LOC\n \t\n"]
)
def test_tabs_spaces_line_ends_and_trailing_blanks_do_not_matter(text: str, columns: Columns) -> None:
    (example,) = read(columns(text))
    assert (example.words, example.columns["ner"]) == (("a", "b"), ("O", "B-LOC"))


@pytest.mark.parametrize("word", ["10\u00a0000", "a\u2028b", "\u200b", "\u3000", "c\x85d", "\u1361", "#"])
def test_only_ascii_blanks_part_columns(word: str, columns: Columns) -> None:
    (example,) = read(columns(f"{word} O\nb B-LOC\n"))
    assert example.words == (word, "b")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a O\nb\n", "x.txt:2: 1 columns.* has 2"),
        ("a O\nb x B-LOC\n", "x.txt:2: 3 columns.* has 2"),
        ("a\nb\n", "x.txt:1: 1 columns are too few for fields words=0, ner=-1"),
        ("a O\n\n O\n", "x.txt:3: .*begins with a blank"),
    ],
)
def test_a_broken_line_is_refused_with_its_place(text: str, fault: str, columns: Columns) -> None:
    with pytest.raises(UsageError, match=fault):
        list(read(columns(text)))


def test_bytes_that_are_not_utf_8_are_refused_with_their_line(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_bytes(b"a O\n\n\xe1 O\n")
    with pytest.raises(UsageError, match=r"train.txt:3: not UTF-8"):
        list(read(source_config("conll", "hau", str(tmp_path), fields=FIELDS)))


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({}, r"fields=\{\}: reader conll "),
        ({"ner": "1"}, r"no column of words.*fields.words=0"),
        ({"words": "0", "ner": "ner_tags"}, r"fields.ner=ner_tags: must be the number of a column"),
    ],
)
def test_fields_that_do_not_number_columns_are_refused_before_reading(
    fields: dict[str, str], fault: str, columns: Columns
) -> None:
    with pytest.raises(UsageError, match=fault):
        files(columns("a O\n", fields=fields))


def test_nothing_is_read_before_the_first_example_is_asked_for(columns: Columns) -> None:
    examples = read(columns("a O\n\nb\n"))
    assert next(examples).words == ("a",)
    with pytest.raises(UsageError, match=r":3: 1 columns"):
        next(examples)


@pytest.mark.parametrize("separator", ["\t", " \t "])
def test_where_a_line_has_tabs_a_word_can_have_spaces(separator: str, columns: Columns) -> None:
    (example,) = read(columns(f"New York{separator}B-LOC\nis{separator}O\n"))
    assert (example.words, example.columns["ner"]) == (("New York", "is"), ("B-LOC", "O"))


def test_a_tab_without_a_word_before_it_or_a_label_after_it_is_refused(columns: Columns) -> None:
    for text, fault in (("a\tO\n\tO\n", ":2: .*begins with a blank"), ("a\tO\nb\t\n", ":2: 1 columns.* has 2")):
        with pytest.raises(UsageError, match=fault):
            list(read(columns(text)))


UNER = (
    "# sent_id = weblog-1\n# text = Where in New York?\n1\tWhere\tO\t-\t-\n2\tin\tO\t-\t-\n3\tNew York\tB-LOC\t-\tz\n"
)
MULTICONER = "# id 5239d808-f300\tdomain=en\n\nthe _ _ O\n# _ _ O\ncat _ _ B-ANIM\n\n# id 77\tdomain=en\n# _ _ O\n"


def test_comments_and_number_columns_of_uner(columns: Columns) -> None:
    first, second = read(columns(f"{UNER}\n{UNER}", fields={"words": "1", "ner": "2"}))
    assert first.words == second.words == ("Where", "in", "New York")
    assert first.columns == {"ner": ("O", "O", "B-LOC")}
    assert [example.place.rpartition(":")[2] for example in (first, second)] == ["3", "9"]


def test_comments_and_empty_columns_of_multiconer(columns: Columns) -> None:
    first, second = read(columns(MULTICONER))
    assert (first.words, first.columns["ner"]) == (("the", "#", "cat"), ("O", "O", "B-ANIM"))
    assert second.words == ("#",)


@pytest.mark.parametrize("word", ["#", "#MeToo", "#x=1", "#id"])
def test_a_word_that_begins_with_the_sign_of_comments_is_a_word(word: str, columns: Columns) -> None:
    assert [example.words for example in read(columns(f"a O\n\n{word} O\nb O\n"))] == [("a",), (word, "b")]
    assert [example.words for example in read(columns(f"{word} O\n\nb O\n"))] == [(word,), ("b",)]


def test_numbers_of_lines_are_not_taken_for_words(columns: Columns) -> None:
    with pytest.raises(UsageError, match=r"words in column 0 are 1, 2, 3.* fields.words=1"):
        list(read(columns(UNER, fields={"words": "0", "ner": "2"})))
    assert [example.words for example in read(columns("1 O\n2 O\n\na O\n"))] == [("1", "2"), ("a",)]


def test_sentences_with_an_empty_word_can_be_left_out(columns: Columns) -> None:
    made = columns("a\tO\n\tO\n\nb\tO\n", where={"words": {"not_empty": True}})
    assert [example.words for example in read(made)] == [("b",)]
