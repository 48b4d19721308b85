from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from xlt.compose import checked, compose, hydra_ready
from xlt.data.examples import Example
from xlt.data.leaks import EvaluationTexts, leak_fault
from xlt.data.sources import read_source
from xlt.engine.build import build_task
from xlt.engine.run_data import RunData
from xlt.errors import UsageError

TEXT = "makanan di warung ini enak"


def found(text: str, **more: object) -> list[tuple[str, str]]:
    evaluated = EvaluationTexts({"data.evaluation.ace": [Example("e:9", TEXT)]})
    return list(evaluated.leaks([Example("t:1", text, **more)]))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text", [TEXT, TEXT.upper(), f"« {TEXT} »!", TEXT.replace(" ", ", "), TEXT.replace(" ", "_ "), f"{TEXT}\n"]
)
def test_a_text_is_found_by_its_letters_case_and_punctuation_apart(text: str) -> None:
    assert found(text) == [("t:1", "data.evaluation.ace (e:9)")]


@pytest.mark.parametrize("text", [f"{TEXT} sekali", TEXT[:-1], "sama sekali lain dari itu", ""])
def test_another_text_is_none(text: str) -> None:
    assert found(text) == []


def test_texts_of_fewer_than_four_words_are_said_by_anybody() -> None:
    three, four = "enak sekali sih", "enak sekali sih ya"
    evaluated = EvaluationTexts({"e": [Example("e:1", three), Example("e:2", four)]})
    assert list(evaluated.leaks([Example("t:1", three), Example("t:2", four)])) == [("t:2", "e (e:2)")]


def test_words_are_counted_in_every_script() -> None:
    said = {
        "two words": "धन्यवाद मित्रों",
        "six letters": "谢谢你朋友们",
        "a sentence": "今天天气很好我们去公园",
        "Thai": "วันนี้อากาศดีมาก",
    }
    evaluated = EvaluationTexts({"e": [Example(name, text) for name, text in said.items()]})
    leaks = evaluated.leaks(Example(name, text) for name, text in said.items())
    assert [place for place, _ in leaks] == ["a sentence", "Thai"]


def test_either_side_counts_and_what_was_translated_too() -> None:
    assert found("lain", pair=TEXT) == found("lain", untranslated=(TEXT,)) == [("t:1", "data.evaluation.ace (e:9)")]
    evaluated = EvaluationTexts({"e": [Example("e:1", "kata lain", pair="itu", untranslated=("lain", TEXT))]})
    assert list(evaluated.leaks([Example("t:1", "a b c d", pair=TEXT)])) == [("t:1", "e (e:1)")]


def test_what_a_translator_makes_may_stand_on_the_other_side_by_chance() -> None:
    assert found(TEXT, untranslated=("lain",)) == []
    evaluated = EvaluationTexts({"e": [Example("e:1", TEXT, untranslated=("lain sama sekali dari itu",))]})
    assert list(evaluated.leaks([Example("t:1", TEXT)])) == []


def test_an_example_is_named_once_however_many_of_its_texts_leak() -> None:
    assert len(found(TEXT, pair=TEXT)) == 1


def test_all_leaks_of_a_source_are_one_line() -> None:
    assert leak_fault("data.sources.x", []) is None
    said = leak_fault("data.sources.x", iter([("t:1", "data.evaluation.ace (e:9)")]))
    assert said is not None and "\n" not in said
    assert said.startswith("data.sources.x: t:1: ") and "data.evaluation.ace (e:9)" in said
    assert "2 more" in str(leak_fault("x", [("t:1", "e (e:1)")] * 3))


@pytest.fixture
def run_data(tmp_path: Path, tiny_bert: Path) -> Iterator[Callable[..., RunData]]:
    """Data of a run that learns a text of four lines, and is evaluated on one of them and another."""
    lines = [f"kalimat nomor {n} tentang {n}" for n in ("satu", "dua", "tiga", "empat")]
    (tmp_path / "learned.txt").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "evaluated.txt").write_text(f"yang lain sama sekali\n{lines[2].upper()}.\n", encoding="utf-8")

    def made(*words: str) -> RunData:
        config = checked(
            compose(
                [
                    "experiment=language",
                    "language=ind",
                    "task=mlm_lines",
                    "task.max_length=16",
                    "data.held_out_fraction=0.25",
                    f"data.sources.text.path={tmp_path / 'learned.txt'}",
                    "+source@data.evaluation.x=mono",
                    "data.evaluation.x.split=test",
                    f"data.evaluation.x.path={tmp_path / 'evaluated.txt'}",
                    f"model.path={tiny_bert}",
                    f"output_dir={tmp_path / 'outputs'}",
                    f"data_dir={tmp_path}",
                    *words,
                ]
            )
        )
        return RunData(config, build_task(config.task))

    with hydra_ready():
        yield made


def test_a_run_that_refuses_leaks_names_line_and_place(run_data: Callable[..., RunData]) -> None:
    with pytest.raises(UsageError) as refused:
        run_data("data.leaks=refuse").check()
    (line,) = refused.value.lines
    assert line.startswith("data.sources.text: ") and "learned.txt:3: its text is also in the evaluation data" in line
    assert "in data.evaluation.x (" in line and "evaluated.txt:2)" in line and "data.leaks=allow" in line


def test_a_run_that_allows_them_or_leaves_the_texts_out_does_not(run_data: Callable[..., RunData]) -> None:
    run_data("data.leaks=allow").check()
    out = [
        "+source@data.excluded.x=mono",
        "data.excluded.x.split=test",
        "data.excluded.x.path=${data.evaluation.x.path}",
    ]
    run_data("data.leaks=refuse", *out).check()


def test_another_run_that_learned_such_texts_is_named(run_data: Callable[..., RunData]) -> None:
    data = run_data("data.leaks=allow")
    twice = data.leaks([("one: data.sources", data), ("two: data.sources", data)])
    assert [line.partition(": data.sources.text")[0] for line in twice] == ["one", "two"]


def test_what_has_no_leaks_is_not_read_again_unless_it_or_the_evaluation_changes(
    run_data: Callable[..., RunData], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []

    def counted(name: str, *others: Any) -> Iterator[Example]:
        read.append(name)
        return read_source(name, *others)

    monkeypatch.setattr("xlt.data.selection.read_source", counted)

    def leaks() -> list[str]:
        data = run_data("data.leaks=allow")
        return data.leaks([("data.sources", data)])

    assert len(leaks()) == len(leaks()) == 1  # a fault is said again
    (tmp_path / "evaluated.txt").write_text("yang lain sama sekali\n", encoding="utf-8")
    read.clear()
    assert leaks() == leaks() == [] and read == ["data.sources.text", "data.evaluation.x"]
    (tmp_path / "learned.txt").write_text("juga yang lain sama sekali\nyang lain sama sekali\n", encoding="utf-8")
    assert len(leaks()) == 1
