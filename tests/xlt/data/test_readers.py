from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from tests.source_configs import source_config
from xlt.config import SourceConfig
from xlt.data.examples import Example
from xlt.data.readers import conllu, locale_expressions, text
from xlt.errors import UsageError

LINE = "{}\t{}\t_\t{}\t_\t_\t_\t_\t_\t_"


def source(path: Path | None, reader: str = "conllu", split: str = "train", **changes: object) -> SourceConfig:
    language = str(changes.pop("language", "fao"))
    return source_config(reader, language, None if path is None else str(path), split=split, **changes)


def read(reader: ModuleType, source: SourceConfig) -> list[Example]:
    return list(reader.read(source))


@pytest.fixture
def treebank(tmp_path: Path) -> Callable[..., SourceConfig]:
    """A CoNLL-U file of these lines."""

    def make(*lines: str, ending: str = "\n", last: str = "\n\n") -> SourceConfig:
        (tmp_path / "x.conllu").write_bytes((ending.join(lines) + last).encode())
        return source(tmp_path / "x.conllu")

    return make


def test_sentences_have_words_and_their_upos_and_know_where_they_stand(treebank: Callable[..., SourceConfig]) -> None:
    made = treebank(
        "# sent_id = 1",
        LINE.format(1, "Hon", "PRON"),
        LINE.format(2, "sang", "VERB"),
        "",
        "# text = Ja",
        LINE.format(1, "Ja", "INTJ"),
    )
    first, second = read(conllu, made)
    assert (first.words, first.columns["upos"]) == (("Hon", "sang"), ("PRON", "VERB"))
    assert (second.words, second.text) == (("Ja",), "Ja")
    assert [example.place.rpartition(":")[2] for example in (first, second)] == ["2", "6"]


def test_heads_and_relations_are_as_they_stand_in_the_file(treebank: Callable[..., SourceConfig]) -> None:
    row = "{}\t{}\t_\tX\t_\t_\t{}\t{}\t_\t_"
    (example,) = read(conllu, treebank(row.format(1, "Hon", 2, "nsubj"), row.format(2, "sang", 0, "root:sub")))
    assert (example.columns["head"], example.columns["deprel"]) == (("2", "0"), ("nsubj", "root:sub"))


def test_multi_word_tokens_and_empty_nodes_are_no_words(treebank: Callable[..., SourceConfig]) -> None:
    made = treebank(
        LINE.format("1-2", "della", "_"),
        LINE.format(1, "di", "ADP"),
        LINE.format(2, "la", "DET"),
        LINE.format("2.1", "ghost", "VERB"),
        LINE.format(3, "casa", "NOUN"),
    )
    assert [example.words for example in read(conllu, made)] == [("di", "la", "casa")]


GLUED = "{}\t{}\t_\tX\t_\t_\t_\t_\t_\tA=1|SpaceAfter=No"


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        (("# text =  Ja,  tak ", LINE.format(1, "Ja", "X"), LINE.format(2, ",", "X")), "Ja,  tak"),
        (("#text=Ja", "# text_en = Yes", LINE.format(1, "Ja", "X")), "Ja"),
        ((GLUED.format(1, "Ja"), LINE.format(2, ",", "X"), LINE.format(3, "tak", "X")), "Ja, tak"),
        ((GLUED.format(1, "今天"), GLUED.format(2, "好")), "今天好"),
        # The words of a multi-word token are not in the text, whose spaces are those of the token.
        ((LINE.format("1-2", "della", "_"), GLUED.format(1, "di"), LINE.format(2, "la", "X"), GLUED.format(3, "x"),
          LINE.format(4, "y", "X")), "della xy"),
        ((GLUED.format("1-2", "im", "_"), LINE.format(1, "in", "X"), LINE.format(2, "dem", "X"),
          LINE.format("2.1", "ghost", "X"), LINE.format(3, ".", "X")), "im."),
        ((LINE.format("1-2", "cannot", "_"), LINE.format(1, "can", "X"), LINE.format(2, "not", "X"),
          LINE.format(3, "go", "X")), "cannot go"),
        # If nothing in the file says where there are spaces, the text is unknown.
        ((LINE.format(1, "Ja", "X"), LINE.format(2, ",", "X")), None),
        (("# text =", LINE.format(1, "Ja", "X")), None),
    ],
)  # fmt: skip
def test_the_running_text_is_that_of_the_comment_or_is_made_up_of_the_tokens(
    lines: tuple[str, ...], text: str | None, treebank: Callable[..., SourceConfig]
) -> None:
    first, second = read(conllu, treebank(*lines, "", LINE.format(1, "b", "X")))
    assert (first.text, second.text) == (text, None)


@pytest.mark.parametrize(("ending", "last"), [("\n", ""), ("\n", "\n"), ("\r\n", "\r\n\r\n"), ("\r\n", "")])
def test_line_endings_and_a_missing_final_blank_line_do_not_matter(
    ending: str, last: str, treebank: Callable[..., SourceConfig]
) -> None:
    made = treebank(LINE.format(1, "a", "X"), "", "", LINE.format(1, "b", "X"), ending=ending, last=last)
    assert [example.words for example in read(conllu, made)] == [("a",), ("b",)]


def test_a_byte_order_mark_is_no_part_of_the_first_line(treebank: Callable[..., SourceConfig]) -> None:
    assert read(conllu, treebank("\ufeff# a comment", LINE.format(1, "a", "X")))[0].words == ("a",)


def test_unicode_line_separators_and_spaces_stay_in_words(treebank: Callable[..., SourceConfig]) -> None:
    (example,) = read(conllu, treebank(LINE.format(1, "10 000\u2028x\x85", "NUM")))
    assert example.words == ("10 000\u2028x\x85",)


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        ((LINE.format(1, "a", "X"), LINE.format(3, "b", "X")), r"x.conllu:2: word id '3'.* 2"),
        ((LINE.format(0, "a", "X"),), r"x.conllu:1: word id '0'.* 1"),
        ((LINE.format("one", "a", "X"),), r"x.conllu:1: word id 'one'"),
        ((LINE.format(1, "a", "X"), "# c", "2\tb\tX"), r"x.conllu:3: 3 tab-separated columns.* 10"),
        ((LINE.format(1, "a", "X") + "\tmore",), r"x.conllu:1: 11 tab-separated columns"),
        ((LINE.format(1, "a", "X").replace("\t", " "),), r"x.conllu:1: 1 tab-separated columns"),
        ((LINE.format(1, "", "X"),), r"x.conllu:1: the FORM column is empty"),
        ((LINE.format(1, "a", "X"), LINE.format("1-2", "ab", "_")), r"x.conllu:2: token id '1-2'.* 2-LAST"),
        ((LINE.format("1-x", "ab", "_"),), r"x.conllu:1: token id '1-x'.* 1-LAST"),
    ],
)
def test_a_broken_line_is_refused_with_its_place(
    lines: tuple[str, ...], fault: str, treebank: Callable[..., SourceConfig]
) -> None:
    with pytest.raises(UsageError, match=fault):
        read(conllu, treebank(*lines))


def test_bytes_that_are_not_utf_8_are_refused_with_their_line(tmp_path: Path) -> None:
    (tmp_path / "x.conllu").write_bytes((LINE.format(1, "a", "X") + "\n" + LINE.format(2, "á", "X")).encode("latin-1"))
    with pytest.raises(UsageError, match=r"x.conllu:2: not UTF-8"):
        read(conllu, source(tmp_path / "x.conllu"))


def test_a_folder_gives_the_file_of_the_split(tmp_path: Path) -> None:
    for split in ("train", "dev"):
        (tmp_path / f"fo_farpahc-ud-{split}.conllu").write_text(LINE.format(1, split, "X"), encoding="utf-8")
    assert read(conllu, source(tmp_path, split="dev"))[0].words == ("dev",)
    with pytest.raises(
        UsageError, match=r"no files for split test, expected one \*-ud-test.conllu or test.conllu; .*dev"
    ):
        conllu.files(source(tmp_path, split="test"))
    (tmp_path / "train.conllu").touch()
    with pytest.raises(UsageError, match="2 files for split train"):
        conllu.files(source(tmp_path))
    with pytest.raises(UsageError, match="no such file or folder"):
        conllu.files(source(tmp_path / "absent"))
    with pytest.raises(UsageError, match="path=null: reader conllu needs a file or folder"):
        conllu.files(source(None))


def test_text_has_an_example_a_line_without_empty_ones(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_bytes("\ufeffein\r\n\r\n  zwei drei \n\t\nvier\u2028fünf".encode())
    examples = read(text, source(tmp_path / "t.txt", "text", "text"))
    assert [example.text for example in examples] == ["ein", "zwei drei", "vier\u2028fünf"]
    assert [example.place.rpartition(":")[2] for example in examples] == ["1", "3", "5"]
    assert examples[0].words is None


def test_text_that_is_not_utf_8_or_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_bytes(b"one\ntw\xf6\n")
    with pytest.raises(UsageError, match=r"t.txt:2: not UTF-8"):
        read(text, source(tmp_path / "t.txt", "text"))
    with pytest.raises(UsageError, match=r"no files for split train, expected one fao.txt or train.txt; it has t.txt"):
        read(text, source(tmp_path, "text"))


def test_locale_expressions_have_text_words_and_a_label_for_each_word() -> None:
    examples = read(locale_expressions, source(None, "locale_expressions", "test", cap=20))
    assert len(examples) == 20
    for example in examples:
        assert example.text is not None and example.words is not None
        assert len(example.columns["field"]) == len(example.words) > 0
        assert all(word in example.text for word in example.words)
    assert examples == read(locale_expressions, source(None, "locale_expressions", "test", cap=20))


def test_the_identity_of_locale_expressions_is_what_determines_them() -> None:
    identities = {
        locale_expressions.identity(source(None, "locale_expressions", split, cap=cap, language=language))
        for split, cap, language in (("test", 5, "fao"), ("train", 5, "fao"), ("test", 6, "fao"), ("test", 5, "eng"))
    }
    assert len(identities) == 4
    assert locale_expressions.files(source(None, "locale_expressions")) == []


def test_a_language_that_the_embedded_corpus_lacks_is_refused() -> None:
    with pytest.raises(UsageError, match=r"language=ace: not one of the \d+ languages of the embedded corpus"):
        read(locale_expressions, source(None, "locale_expressions", language="ace"))
