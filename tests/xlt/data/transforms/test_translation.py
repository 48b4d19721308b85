from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from xlt.data.examples import Example
from xlt.data.overlap import Overlap
from xlt.data.transforms.translation import TRANSLATED_FILE, DoneTexts, save_translated, translated_examples
from xlt.errors import UsageError

# Whatever a line may be broken at by somebody who reads lines.
STRANGE = "a\nb\rc\u2028d\x85e\x0cf \ud7ff \U0001f600"
EXAMPLES = [
    Example("f:1", "the cat", pair="a cat sat", label="yes", id="7"),
    Example("f:2", "mat", pair="the cat", label="no"),
]
TRANSLATIONS = {"the cat": "kucing", "mat": "tikar", "a cat sat": "seekor kucing duduk"}


def test_what_is_done_is_found_again(tmp_path: Path) -> None:
    done = DoneTexts(tmp_path / "run")
    assert done.translations == {} and not (tmp_path / "run").exists()  # nothing is left before there is something
    done.add(["one", STRANGE], ["satu", "x" + STRANGE])
    done.add([""], [""])
    again = DoneTexts(tmp_path / "run").translations
    assert again == done.translations == {"one": "satu", STRANGE: "x" + STRANGE, "": ""}


@pytest.mark.parametrize("lost", [1, 2, 9])
def test_a_line_torn_off_at_the_end_is_dropped_and_what_follows_is_whole(lost: int, tmp_path: Path) -> None:
    done = DoneTexts(tmp_path)
    done.add(["one", "two", "three"], ["satu", "dua", "tigá"])
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-lost])  # with two bytes lost, in the middle of a letter's
    again = DoneTexts(tmp_path)
    assert again.translations == {"one": "satu", "two": "dua"}
    again.add(["four"], ["empat"])
    assert DoneTexts(tmp_path).translations == {"one": "satu", "two": "dua", "four": "empat"}


@pytest.mark.parametrize("damage", ["bit", "order", "type", "text", "line"])
def test_damaged_lines_are_translated_again_and_a_copy_is_kept(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = DoneTexts(tmp_path)
    done.add(["one", "two", "three"], ["satu", "dua", "tigá"])
    (file,) = tmp_path.iterdir()
    first, second, third = file.read_bytes().splitlines(keepends=True)
    damaged = {
        "bit": second.replace(b"dua", b"eua"),
        "order": second.replace(b'"text"', b'"TEXT"'),
        "type": b"[]\n",
        "text": b"\xff\n",
        "line": b'{"text": "two", "translation": "dua"}\n',
    }[damage]
    file.write_bytes(first + damaged + third)
    assert DoneTexts(tmp_path).translations == {"one": "satu", "three": "tigá"}
    assert (tmp_path / "done.jsonl.damaged").read_bytes() == first + damaged + third
    assert file.read_bytes() == first + third
    (line,) = capsys.readouterr().err.splitlines()
    assert str(file) in line and "1 lines" in line


def test_what_another_run_has_translated_is_not_taken(tmp_path: Path) -> None:
    DoneTexts(tmp_path / "other").add(["one"], ["satu"])
    (tmp_path / "other").rename(tmp_path / "run")
    assert DoneTexts(tmp_path / "run").translations == {}


def test_a_batch_has_a_translation_for_each_text_or_is_not_kept(tmp_path: Path) -> None:
    done = DoneTexts(tmp_path)
    with pytest.raises(ValueError, match="zip"):
        done.add(["one", "two"], ["satu"])
    assert done.translations == {} == DoneTexts(tmp_path).translations


def test_what_was_done_can_be_thrown_away(tmp_path: Path) -> None:
    done = DoneTexts(tmp_path)
    done.add(["one"], ["satu"])
    done.discard()
    done.discard()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        (["text"], [("kucing", "a cat sat", ("the cat", "a cat sat")), ("tikar", "the cat", ("mat", "the cat"))]),
        (["text", "pair"], [("kucing", "seekor kucing duduk", ("the cat", "a cat sat")),
                            ("tikar", "kucing", ("mat", "the cat"))]),
        (["pair"], [("the cat", "seekor kucing duduk", ("the cat", "a cat sat")),
                    ("mat", "kucing", ("mat", "the cat"))]),
    ],
)  # fmt: skip
def test_only_the_fields_are_translated_and_the_rest_is_as_it_was(
    fields: list[str], wanted: list[tuple[str, str, tuple[str, ...]]], tmp_path: Path
) -> None:
    save_translated(tmp_path / TRANSLATED_FILE, EXAMPLES, TRANSLATIONS, fields)
    found = list(translated_examples(tmp_path / TRANSLATED_FILE))
    assert [(str(one.text), str(one.pair), one.untranslated) for one in found] == wanted
    assert [(one.place, one.label, one.id) for one in found] == [
        ("f:1 translated", "yes", "7"),
        ("f:2 translated", "no", None),
    ]


def test_an_example_of_which_nothing_is_left_is_passed_over(tmp_path: Path) -> None:
    save_translated(tmp_path / "t", EXAMPLES, {**TRANSLATIONS, "the cat": ""}, ["text"])
    assert [example.text for example in translated_examples(tmp_path / "t")] == ["tikar"]


def test_a_test_set_keeps_it_untranslated(tmp_path: Path) -> None:
    save_translated(tmp_path / "t", EXAMPLES, {**TRANSLATIONS, "the cat": ""}, ["text", "pair"])
    first, second = translated_examples(tmp_path / "t", keeps_all=True)
    assert (first.text, first.pair, first.label) == ("the cat", "seekor kucing duduk", "yes")
    assert (second.text, second.pair) == ("tikar", "the cat")


def test_strange_characters_come_through(tmp_path: Path) -> None:
    save_translated(tmp_path / "t", [Example("f:1", "x"), Example("f:2", "y")], {"x": STRANGE, "y": "z"}, ["text"])
    assert [example.text for example in translated_examples(tmp_path / "t")] == [STRANGE, "z"]


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / TRANSLATED_FILE
    save_translated(file, EXAMPLES, TRANSLATIONS, ["text"])
    before = file.read_bytes()

    class Torn(dict[str, str]):
        def __getitem__(self, text: str) -> str:
            if text == "mat":
                raise KeyboardInterrupt
            return "new"

    torn: Mapping[str, str] = Torn()
    with pytest.raises(KeyboardInterrupt):
        save_translated(file, EXAMPLES, torn, ["text"])
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [TRANSLATED_FILE]  # no half-written one beside it


@pytest.mark.parametrize(
    "damaged",
    [b'{"text": "a", "pla', b"[1, 2]", b"null", b'{"text": "a", "place": "f:1"}', b'{"untranslated": []}', b"\xff\xfe"],
)
def test_a_damaged_line_is_named(damaged: bytes, tmp_path: Path) -> None:
    file = tmp_path / TRANSLATED_FILE
    save_translated(file, EXAMPLES, TRANSLATIONS, ["text"])
    lines = file.read_bytes().splitlines()
    file.write_bytes(b"\n".join([lines[0], damaged, lines[1]]))
    with pytest.raises(UsageError, match=rf"{re.escape(str(file))}:2: not a translated example") as refused:
        list(translated_examples(file))
    assert len(refused.value.lines) == 1


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"t\.jsonl: no such file; the run that translates leaves it"):
        list(translated_examples(tmp_path / "t.jsonl"))


def test_a_translated_example_is_kept_out_by_its_original_text(tmp_path: Path) -> None:
    """A translation shares no word with the text that must not be learned from; what it was made of does."""
    save_translated(tmp_path / "t", EXAMPLES, TRANSLATIONS, ["text", "pair"])
    overlap = Overlap(["The cat!"])
    assert [overlap.holds(example) for example in translated_examples(tmp_path / "t")] == [True, True]
    assert not Overlap(["a dog"]).holds(next(translated_examples(tmp_path / "t")))
    written = json.loads((tmp_path / "t").read_text(encoding="utf-8").splitlines()[0])
    assert written["untranslated"] == ["the cat", "a cat sat"]
