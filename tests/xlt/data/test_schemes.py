"""The same entities, written in every scheme, are the same IOB2 tags."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.source_configs import source_config
from xlt.data.examples import Example
from xlt.data.schemes import in_iob2, recognised_scheme
from xlt.data.sources import read_source
from xlt.errors import UsageError

# (type, first word, number of words), in sentences of seven words; the second has two PER side by side.
ENTITIES = [[("PER", 0, 2), ("LOC", 2, 1), ("ORG", 4, 3)], [("PER", 1, 2), ("PER", 3, 1), ("PER", 5, 1)], []]
LENGTH = 7


def tags(scheme: str) -> list[list[str]]:
    """The tags of ENTITIES, by the definition of the scheme."""
    inner, last, alone = {"IOBES": "IES", "BILOU": "ILU", "BMES": "MES"}.get(scheme, "III")
    sentences = []
    for entities in ENTITIES:
        row = ["O"] * LENGTH
        for kind, start, count in entities:
            letters = "B" + inner * (count - 2) + last if count > 1 else alone
            if scheme == "IOB2" or (scheme == "IOB1" and start and row[start - 1] == f"I-{kind}"):
                letters = "B" + "I" * (count - 1)
            elif scheme in ("IOB1", "IO"):
                letters = "I" * count
            row[start : start + count] = [f"{letter}-{kind}" for letter in letters]
        sentences.append(row)
    return sentences


def examples(rows: list[list[str]]) -> Iterator[Example]:
    for number, row in enumerate(rows, start=1):
        words = tuple(f"w{at}" for at in range(len(row)))
        yield Example(f"f:{number}", words=words, columns={"ner": tuple(row)})


def converted(rows: list[list[str]], scheme: str | None = None) -> list[list[str]]:
    found = scheme or recognised_scheme(examples(rows), "ner", "data.sources.x")
    return [list(in_iob2(example, "ner", found)) for example in examples(rows)] if found else rows


@pytest.mark.parametrize("scheme", ["IOB1", "IOB2", "IOBES", "BILOU", "BMES"])
def test_each_scheme_is_recognised_and_converted(scheme: str) -> None:
    assert recognised_scheme(examples(tags(scheme)), "ner", "x") == scheme
    assert converted(tags(scheme)) == converted(tags(scheme), scheme) == tags("IOB2")


def test_io_has_no_border_between_entities_of_one_type() -> None:
    wanted = tags("IOB2")
    wanted[1][3] = "I-PER"  # the second PER begins right after the first
    assert recognised_scheme(examples(tags("IO")), "ner", "x") == "IO"
    assert converted(tags("IO")) == wanted
    plain = [[tag.removeprefix("I-") for tag in row] for row in tags("IO")]
    assert recognised_scheme(examples(plain), "ner", "x") is None  # plain types have to be declared
    assert converted(plain, "IO") == wanted


def test_conll_2003_as_it_is_distributed() -> None:
    rows = [["I-ORG", "O", "I-MISC", "O"], ["I-LOC", "B-LOC", "I-LOC"], ["I-PER", "I-ORG"]]
    assert converted(rows) == [["B-ORG", "O", "B-MISC", "O"], ["B-LOC", "B-LOC", "I-LOC"], ["B-PER", "B-ORG"]]


def test_no_entities_are_of_no_scheme() -> None:
    assert recognised_scheme(examples([["O", "O"], []]), "ner", "x") is None
    assert recognised_scheme(examples([["NOUN", "X"]]), "ner", "x") is None


@pytest.mark.parametrize(
    ("rows", "facts"),
    [
        (
            [["O", "I-PER"], ["O", "B-PER"]],
            ["I-PER (f:1 word 2 'w1')", "IOB1", "B-PER (f:2 word 2 'w1')", "scheme=IOB"],
        ),
        ([["B-PER", "I-LOC"]], ["I-LOC (f:1 word 2 'w1')", "B-PER (f:1 word 1 'w0')"]),
        ([["B-PER", "E-PER"], ["U-LOC"]], ["E-PER (f:1 word 2", "U-LOC (f:2 word 1"]),
        ([["B-PER", "M-PER", "L-PER"]], ["M-PER", "L-PER"]),
    ],
)
def test_a_source_in_two_schemes_is_refused_with_two_places(rows: list[list[str]], facts: list[str]) -> None:
    with pytest.raises(UsageError) as refused:
        converted(rows)
    (line,) = refused.value.lines
    assert line.startswith("data.sources.x: column ner ") and all(fact in line for fact in facts)


@pytest.mark.parametrize(
    ("row", "scheme", "place"),
    [
        (["O", "I-PER"], "IOB2", "f:1 word 2: tag 'I-PER'"),
        (["B-PER", "I-LOC"], "IOB2", "f:1 word 2: tag 'I-LOC'"),
        (["O", "B-PER"], "IOB1", "f:1 word 2: tag 'B-PER'"),
        (["B-PER"], "IO", "f:1 word 1: tag 'B-PER'"),
        (["B-PER", "O"], "IOBES", "f:1 word 2: tag 'O'"),
        (["B-PER", "I-PER"], "IOBES", "f:1 word 2: tag 'I-PER'"),
        (["B-PER", "E-LOC"], "IOBES", "f:1 word 2: tag 'E-LOC'"),
        (["I-PER", "E-PER"], "IOBES", "f:1 word 1: tag 'I-PER'"),
        (["B-PER", "S-PER"], "IOBES", "f:1 word 2: tag 'S-PER'"),
        (["U-PER"], "IOBES", "f:1 word 1: tag 'U-PER'"),
        (["B-PER", "U-PER"], "BILOU", "f:1 word 2: tag 'U-PER'"),
    ],
)
def test_tags_that_are_not_valid_in_the_declared_scheme_are_refused(row: list[str], scheme: str, place: str) -> None:
    with pytest.raises(UsageError) as refused:
        converted([row], scheme)
    assert refused.value.lines[0].startswith(place) and scheme in refused.value.lines[0]


def test_a_mixture_that_is_declared_is_read_as_conlleval_reads_it() -> None:
    assert converted([["O", "I-PER", "I-PER"], ["B-PER", "I-LOC"]], "IOB") == [
        ["O", "B-PER", "I-PER"],
        ["B-PER", "B-LOC"],
    ]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    rows = [["I-PER", "I-GPE", "I-LOC", "O"], ["I-MISC", "B-MISC", "I-MISC"]]
    text = "\n\n".join("\n".join(f"w{at}\t{tag}" for at, tag in enumerate(row)) for row in rows)
    (tmp_path / "x.txt").write_text(text + "\n", encoding="utf-8")
    return tmp_path / "x.txt"


def test_types_are_renamed_after_the_conversion_so_that_neighbours_stay_apart(file: Path) -> None:
    labels = {"B-GPE": "B-LOC", "I-GPE": "I-LOC", "B-MISC": "O", "I-MISC": "O"}
    source = source_config("conll", "eng", str(file), fields={"words": "0", "ner": "1"}, labels=labels)
    first, second = read_source("s", source, 1, entity_column="ner")
    assert first.columns["ner"] == ("B-PER", "B-LOC", "B-LOC", "O")
    assert second.columns["ner"] == ("O", "O", "O")


def test_a_column_that_the_task_does_not_read_is_left_alone(file: Path) -> None:
    source = source_config("conll", "eng", str(file), fields={"words": "0", "ner": "1"})
    first, _ = read_source("s", source, 1, entity_column="other")
    assert first.columns["ner"] == ("I-PER", "I-GPE", "I-LOC", "O")


def test_labels_that_get_the_form_of_tags_by_their_names_are_converted(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("a 1\nb 1\n\nc 0\nd 2\n", encoding="utf-8")
    labels = {"0": "O", "1": "I-PER", "2": "I-LOC"}
    source = source_config("conll", "eng", str(tmp_path / "x.txt"), fields={"words": "0", "ner": "1"}, labels=labels)
    first, second = read_source("s", source, 1, entity_column="ner")
    assert (first.columns["ner"], second.columns["ner"]) == (("B-PER", "I-PER"), ("O", "B-LOC"))
