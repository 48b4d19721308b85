"""`--composition` of predict, evaluate and export, and in Python: the expressions that tables score, in use."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import xlt
from xlt.errors import UsageError
from xlt.modules import load_module
from xlt.modules.composition.sum import sum_deltas
from xlt.modules.composition.ties import ties
from xlt.use.evaluate import EvaluateSettings, evaluate
from xlt.use.export import ExportSettings, export
from xlt.use.predict import PredictSettings, predict

HALF = "{operator: sum, of: [language, task], weights: [4, 0.25]}"


def tags(paths: list[Path], treebank: Path, composition: str | None = None, language: str = "fao") -> list[str]:
    """The tags that evaluate keeps, after a check that predict writes the same."""
    kept, out = treebank.with_suffix(".kept"), treebank.with_suffix(".out.conllu")
    words = [str(path) for path in paths]
    spoken = language if any("pos" not in path.name and "merged" not in path.name for path in paths) else None
    evaluate(
        EvaluateSettings(words, [str(treebank)], predictions=str(kept), replace=True, device="cpu",
                         composition=composition, language=spoken)
    )  # fmt: skip
    found = [tag for row in map(json.loads, kept.read_text().splitlines()) for tag in row["predicted"]["upos"]]
    predict(
        PredictSettings(words, str(treebank), str(out), quiet=True, replace=True, device="cpu", composition=composition,
                        language=spoken)
    )  # fmt: skip
    assert [line.split("\t")[3] for line in out.read_text().splitlines() if line] == found
    out.unlink()
    return found


def test_a_composition_is_what_its_module_in_a_file_is(
    modules: Mapping[str, Path], treebank: Path, tmp_path: Path
) -> None:
    both = [modules["pos"], modules["fao"], modules["eng"]]
    task, fao, eng = (load_module(path) for path in both)
    for number, (expression, module) in enumerate(
        {
            HALF: sum_deltas([fao, task], [4, 0.25]),
            "{operator: ties, of: [task, language.eng], density: 0.5}": ties([task, eng], 0.5),
        }.items()
    ):
        file = tmp_path / f"merged{number}.safetensors"
        module.save(file)
        composed = tags(both, treebank, expression)
        assert composed == tags([file], treebank)
        assert composed != tags(both, treebank)
    usual = tags(both, treebank)
    assert tags(both, treebank, "task+language") == usual
    assert tags(both, treebank, "task") == tags([modules["pos"]], treebank) != usual


def test_each_language_has_its_own_composition(modules: Mapping[str, Path], treebank: Path) -> None:
    words = [str(modules[name]) for name in ("pos", "eng", "fao")]
    inputs = [f"eng={treebank}", f"fao={treebank}"]
    both = evaluate(EvaluateSettings(words, inputs, device="cpu", composition=HALF))
    alone = [
        evaluate(
            EvaluateSettings(words, [str(treebank)], device="cpu", composition=HALF, language=language)
        )[0].metrics
        for language in ("eng", "fao")
    ]  # fmt: skip
    assert [one.metrics for one in both] == alone
    assert tags([modules["pos"], modules["eng"]], treebank, HALF, "eng") != tags(
        [modules["pos"], modules["fao"]], treebank, HALF
    )


@pytest.mark.parametrize(
    ("composition", "said"),
    [
        ("tie", "no composition/tie in conf/; did you mean ties?"),
        ("{operator: tie, of: [task]}", "--composition: no operator tie; there are average"),
        ("{operator: ties, of: [task", "--composition: not to be read as {operator: NAME, of: [...]}"),
        ("{operator: ties, of: [task, language], densty: 1}", "--composition.densty: no key of ties"),
        ("{operator: sum, of: [language.tur, task]}", "no module of language tur is given"),
        ("{operator: sum, of: [second, task]}", "no module second; there are language, task, and language.CODE"),
        ("{operator: stack, of: [language]}", "language: it has no task module; add task"),
        ("learned", "its weights are found in an evaluation; give sum with the weights that stand in its record"),
    ],
)
def test_what_cannot_be_combined_is_said_before_the_model_is_loaded(
    modules: Mapping[str, Path], treebank: Path, composition: str, said: str
) -> None:
    words = [str(modules[name]) for name in ("pos", "fao")]
    settings = EvaluateSettings(words, [str(treebank)], language="fao", model="nowhere", composition=composition)
    with pytest.raises(UsageError) as fault:
        evaluate(settings)
    assert said in str(fault.value)


def test_two_heads_or_no_language_are_refused(modules: Mapping[str, Path], treebank: Path, tmp_path: Path) -> None:
    sum_deltas([load_module(modules["pos"])], [2]).save(tmp_path / "doubled.safetensors")
    twice = [str(modules["pos"]), str(tmp_path / "doubled.safetensors")]
    for words, composition, said in (
        (twice, "{operator: sum, of: [task, task]}", "takes one module as task, but 2 are given"),
        (twice[:1], HALF, "no module of a language is given"),
    ):
        with pytest.raises(UsageError) as fault:
            evaluate(EvaluateSettings(words, [str(treebank)], composition=composition, model="nowhere"))
        assert said in str(fault.value)


def test_python_and_an_export_use_the_composed_module(
    modules: Mapping[str, Path], tmp_path: Path, bits: Callable[..., dict[str, bytes]]
) -> None:
    both = [str(modules[name]) for name in ("pos", "fao")]
    merged = tmp_path / "merged.safetensors"
    sum_deltas([load_module(modules["fao"]), load_module(modules["pos"])], [4, 0.25]).save(merged)
    words = ["Hetta", "er", "ein", "setningur", "."]

    def scored(*paths: str, language: str | None = "fao", **options: str) -> list[Any]:
        return [
            one.scores
            for one in xlt.predict(xlt.load_model(*paths, device="cpu", **options), [words], language=language)
        ]

    assert scored(*both, composition=HALF) == scored(str(merged), language=None) != scored(*both)
    assert scored(*both, composition="task") == scored(both[0], language=None)
    weights = {}
    for name, settings in {
        "composed": ExportSettings(both, str(tmp_path / "composed"), composition=HALF),
        "merged": ExportSettings([str(merged)], str(tmp_path / "merged")),
        "usual": ExportSettings(both, str(tmp_path / "usual")),
    }.items():
        export(settings)
        weights[name] = bits(load_file(tmp_path / name / "model.safetensors"))
    assert weights["composed"] == weights["merged"] != weights["usual"]


def test_python_and_an_export_refuse_what_predict_does(modules: Mapping[str, Path], tmp_path: Path) -> None:
    both = [str(modules[name]) for name in ("pos", "fao")]
    with pytest.raises(UsageError, match="no module of language tur is given"):
        xlt.load_model(*both, model="nowhere", composition="{operator: sum, of: [language.tur, task]}")
    with pytest.raises(UsageError, match="no module of language tur is given"):
        export(
            ExportSettings(
                both, str(tmp_path / "new"), model="nowhere", composition="{operator: sum, of: [language.tur, task]}"
            )
        )
    for form in ("peft", "plain", "composable-sft", "hub", "card"):
        with pytest.raises(UsageError, match=f"--composition=ties: --to={form} takes a module as it is; .*xlt merge"):
            export(ExportSettings(both[:1], str(tmp_path / "new"), to=form, composition="ties"))
    assert not (tmp_path / "new").exists()
