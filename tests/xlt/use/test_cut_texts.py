"""Texts that are longer than a task reads are counted: by tokens, not by rows that are merely full."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import sentences
from xlt.commands.cut_texts import say_cut_texts
from xlt.data.encoding import Encoder
from xlt.models.loading import load_tokenizer
from xlt.plan.planner import Plan
from xlt.use.evaluate import EvaluateSettings, evaluate
from xlt.use.predict import PredictSettings, predict


@pytest.fixture
def long_texts(tiny_bert: Path, tmp_path: Path) -> Callable[[int], Path]:
    """A table of a short text, one of exactly so many tokens, one of one more, and a far longer one."""
    encoder = Encoder(load_tokenizer(str(tiny_bert)))
    word = next(word for one in sentences("eng", 30) for word in one.words or () if len(encoder.lines([word])[0]) == 1)

    def make(tokens: int) -> Path:
        room = encoder.room(tokens)
        texts = [" ".join([word] * count) for count in (2, room, room + 1, 10 * room)]
        file = tmp_path / "texts.tsv"
        file.write_text("text\tpair\tlabel\n" + "".join(f"{text}\t{word}\tLABEL\n" for text in texts))
        return file

    return make


def test_texts_that_lose_tokens_are_counted_by_evaluate_and_predict(
    modules: Mapping[str, Path], long_texts: Callable[[int], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = long_texts(32)
    file.write_text(file.read_text().replace("LABEL", "a"))
    topic = [str(modules["topic"])]
    (one,) = evaluate(EvaluateSettings(topic, [str(file)], device="cpu"))
    line = f"xlt: 2 of 4 examples have more than task.max_length=32 tokens and lose some, first {file}:4\n"
    assert (one.examples, one.cut) == (4, 2) and line in capsys.readouterr().err
    predict(PredictSettings(topic, str(file), str(tmp_path / "out.tsv"), quiet=True, device="cpu"))
    assert line in capsys.readouterr().err
    (whole,) = evaluate(EvaluateSettings(topic, [str(file)], device="cpu", settings=["max_length=33"]))
    assert whole.cut == 1


def test_the_texts_of_a_pair_count_together_and_what_is_cut_into_windows_loses_nothing(
    modules: Mapping[str, Path], long_texts: Callable[[int], Path], tmp_path: Path
) -> None:
    file = long_texts(38)  # of a pair's 40 tokens, the second text has two with its mark
    file.write_text(file.read_text().replace("LABEL", "yes"))
    (one,) = evaluate(EvaluateSettings([str(modules["nli"])], [str(file)], device="cpu"))
    assert one.cut == 2
    words = [word for one in sentences("eng", 30) for word in one.words or ()]
    long = tmp_path / "long.conllu"
    long.write_text("".join(f"{n}\t{w}\t_\tnoun\t_\t_\t_\t_\t_\t_\n" for n, w in enumerate(words, 1)))
    (tagged,) = evaluate(EvaluateSettings([str(modules["pos"])], [str(long)], device="cpu"))
    assert (tagged.cut, tagged.metrics["words"]) == (0, len(words))


def test_a_run_says_which_of_its_evaluation_texts_lose_tokens(
    words: tuple[str, ...],
    plan: Plan,
    planned: Callable[..., Any],
    long_texts: Callable[[int], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = long_texts(32)
    file.write_text(file.read_text().replace("LABEL", "positive"))
    train = tmp_path / "train.tsv"
    train.write_text(file.read_text().replace("positive", "negative"))
    added = ["data.leaks=allow"]
    for part, path in (("sources", train), ("evaluation", file)):
        own = f"data.{part}.own"
        added += [f"+source@{own}=_gold", f"{own}.reader=tsv", f"{own}.language=eng", f"{own}.path={path}"]
        added += [f"+{own}.fields.text=text", f"+{own}.fields.label=label"]
    model = next(word for word in words if word.startswith("model.path="))
    chosen = ["experiment=sentiment", "data=empty", "method=bitfit", "language_modules=none", "task.max_length=32"]
    run = planned(*chosen, *added, model)
    say_cut_texts(run, {"own"})
    assert f"2 of 4 examples have more than task.max_length=32 tokens and lose some, first {file}:4" in (
        capsys.readouterr().err
    )
    say_cut_texts(run, {"other"})
    assert capsys.readouterr().err == ""
