"""`xlt evaluate`: scores are those of the task, for files and data sets, and predictions are kept beside them."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import sentences
from xlt.errors import UsageError
from xlt.files import write_sealed
from xlt.modules import load_module
from xlt.modules.composition.sum import sum_deltas
from xlt.use.evaluate import EvaluateSettings, Scores, evaluate
from xlt.use.loading import UsedModule
from xlt.use.predict import PredictSettings, predict


def scores(modules: Mapping[str, Path], names: tuple[str, ...], *inputs: str, **options: Any) -> list[Scores]:
    return evaluate(EvaluateSettings([str(modules[name]) for name in names], inputs, device="cpu", **options))


def test_what_predict_writes_as_json_lines_is_read_back_with_the_texts_in_which_the_words_stand(
    modules: Mapping[str, Path], tmp_path: Path
) -> None:
    texts = "".join(f"{' '.join(e.words or ())}, {(e.words or ('x',))[0]}.\n" for e in sentences("eng", 30))
    (tmp_path / "in.txt").write_text(texts, encoding="utf-8")
    module, tags = [str(modules["pos"])], []
    for name, out in (("in.txt", "a.jsonl"), ("a.jsonl", "b.jsonl")):
        predict(PredictSettings(module, str(tmp_path / name), str(tmp_path / out), quiet=True, device="cpu"))
        rows = [json.loads(line) for line in (tmp_path / out).read_text().splitlines()]
        tags.append([row["upos"] for row in rows])
        assert all("text" in row and "words" in row for row in rows)
    assert tags[0] == tags[1]
    (tmp_path / "packed.jsonl.gz").write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes()))
    named = {"words": "words", "upos": "upos"}
    for name, fields in (("a.jsonl", {}), ("a.jsonl", named), ("packed.jsonl.gz", {})):
        (one,) = scores(modules, ("pos",), str(tmp_path / name), fields=fields)
        assert one.metrics["accuracy"] == 100.0, (name, fields)


def test_scores_agree_with_the_predictions_of_xlt_predict_and_with_the_kept_ones(
    modules: Mapping[str, Path], treebank: Path, tmp_path: Path
) -> None:
    (one,) = scores(modules, ("pos",), str(treebank), predictions=str(tmp_path / "kept.jsonl"))
    out = tmp_path / "out.conllu"
    predict(PredictSettings([str(modules["pos"])], str(treebank), str(out), quiet=True, device="cpu"))
    gold, predicted = (
        [line.split("\t")[3] for line in file.read_text().splitlines() if line] for file in (treebank, out)
    )
    right = sum(a == b for a, b in zip(gold, predicted, strict=True))
    assert one.examples == 40 and one.metrics["accuracy"] == pytest.approx(100 * right / len(gold))
    kept = [json.loads(line) for line in (tmp_path / "kept.jsonl").read_text().splitlines()]
    assert [tag for row in kept for tag in row["gold"]["upos"]] == gold
    assert [tag for row in kept for tag in row["predicted"]["upos"]] == predicted
    assert all(row["right"] == (row["gold"] == row["predicted"]) for row in kept)
    assert kept[0]["place"].endswith("gold.conllu:1")


def test_each_file_is_scored_with_its_languages_module(modules: Mapping[str, Path], treebank: Path) -> None:
    both = scores(modules, ("pos", "eng", "fao"), f"eng={treebank}", f"fao={treebank}")
    alone = [scores(modules, ("pos", language), str(treebank), language=language)[0] for language in ("eng", "fao")]
    assert [one.metrics for one in both] == [one.metrics for one in alone]
    assert both[0].metrics != both[1].metrics
    assert [one.language for one in both] == ["eng", "fao"]


def test_the_examples_of_each_language_of_a_file_are_scored_with_its_module(
    modules: Mapping[str, Path], tmp_path: Path
) -> None:
    """Formats that the readers of data sets read, and one that only `xlt predict` writes."""
    texts: dict[tuple[str, str], str] = {}
    for number, example in enumerate(sentences("eng", 30)):
        words, code = example.words or (), ("eng", "fao")[number % 3 == 0]
        tags = example.columns["upos"]
        pairs = enumerate(zip(words, tags, strict=True), 1)
        rows = [f"{n}\t{word}\t_\t{tag}\t_\t_\t0\t_\t_\t_\n" for n, (word, tag) in pairs]
        added = {
            "conllu": f"# lang = {code}\n{''.join(rows)}\n",
            "jsonl": json.dumps({"words": words, "upos": tags, "lang": code}) + "\n",
            "tsv": f"{' '.join(words)}\t{' '.join(tags)}\t{code}\n",
        }
        for format, text in added.items():
            head = "words\tupos\tlang\n" if format == "tsv" else ""
            for name in ("mixed", code):
                texts[name, format] = texts.get((name, format), head) + text
    for (name, format), text in texts.items():
        (tmp_path / f"{name}.{format}").write_text(text, encoding="utf-8")
    for format in ("conllu", "jsonl", "tsv"):
        mixed = str(tmp_path / f"mixed.{format}")
        found = scores(modules, ("pos", "eng", "fao"), mixed, language_field="lang")
        alone = [
            scores(modules, ("pos", code), str(tmp_path / f"{code}.{format}"), language=code)[0]
            for code in ("fao", "eng")
        ]
        assert [one.metrics for one in found] == [one.metrics for one in alone], format
        described = [(one.source, one.language, one.examples) for one in found]
        assert described == [(f"mixed.{format} fao", "fao", 10), (f"mixed.{format} eng", "eng", 20)]
    assert found[0].metrics != found[1].metrics


def test_tables_and_a_data_set_of_conf_source_are_scored(
    modules: Mapping[str, Path], treebank: Path, tmp_path: Path
) -> None:
    table = tmp_path / "gold.tsv"
    table.write_text("text\tlabel\nban kon\ta\nmos\tb\nmos dat\tc\n")
    (one,) = scores(modules, ("topic",), str(table), predictions=str(tmp_path / "kept.jsonl"))
    kept = [json.loads(line) for line in (tmp_path / "kept.jsonl").read_text().splitlines()]
    assert one.metrics["accuracy"] == pytest.approx(100 * sum(row["right"] for row in kept) / 3)
    folder = tmp_path / "data" / "ud" / "UD_English-EWT"
    folder.mkdir(parents=True)
    (folder / "en_ewt-ud-test.conllu").write_bytes(treebank.read_bytes())
    settings = EvaluateSettings(
        [str(modules["pos"])], sources=["ud_eng"], overrides=[f"data_dir={tmp_path / 'data'}"], device="cpu"
    )
    (named,) = evaluate(settings)
    (direct,) = scores(modules, ("pos",), str(treebank))
    assert named.metrics == direct.metrics and named.language == "eng"


@pytest.mark.parametrize(
    ("inputs", "options", "facts"),
    [
        ((), {}, ["--input", "--source"]),
        (("absent.conllu",), {}, ["absent.conllu", "no such file"]),
        (("{folder}/in.txt",), {}, ["in.txt", "no labels"]),
        (("{folder}/bad.conllu",), {}, ["bad.conllu:1", "NOPE", "verb"]),
        (("{treebank}",), {"predictions": "{folder}"}, ["--predictions", "folder"]),
        (("{treebank}",), {"language": "english"}, ["--language=english"]),
        (("{treebank}",), {"language": "eng", "language_field": "lang"}, ["--language, --language-field"]),
        (("{treebank}",), {"language_field": "lang"}, ["gold.conllu:1", "# lang = CODE"]),
        (("eng={treebank}",), {"language_field": "lang"}, ["--input=eng=", "without eng="]),
        (("{treebank}",), {"language_field": "lang", "input_format": "conll"}, ["conll says no language", "jsonl"]),
    ],
)
def test_wrong_data_are_refused_before_the_model_is_loaded(
    modules: Mapping[str, Path], treebank: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    inputs: tuple[str, ...], options: dict[str, str], facts: list[str],
) -> None:  # fmt: skip
    (tmp_path / "in.txt").write_text("ban\n")
    (tmp_path / "bad.conllu").write_text("1\tban\t_\tNOPE\t_\t_\t0\t_\t_\t_\n\n")
    monkeypatch.setattr("xlt.use.evaluate.load_model", None)
    places = {"folder": str(tmp_path), "treebank": str(treebank)}
    with pytest.raises(UsageError) as refused:
        scores(
            modules,
            ("pos",),
            *(word.format(**places) for word in inputs),
            **{name: value.format(**places) for name, value in options.items()},
        )
    (line,) = refused.value.lines
    assert all(fact in line for fact in facts), line


def test_what_would_have_no_effect_is_refused(
    modules: Mapping[str, Path], treebank: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xlt.use.evaluate.load_model", None)

    def lines(inputs: Sequence[str] = (), **options: object) -> list[str]:
        with pytest.raises(UsageError) as refused:
            scores(modules, ("pos",), *inputs, **options)
        return refused.value.lines

    (line,) = lines([str(treebank)], overrides=["data_dir=x"])
    assert line.startswith("data_dir=x: an override is of a data set of conf/source (--source), and none is given")
    (line,) = lines([f"fao={treebank}"], language="eng")
    assert line == f"--language=eng: nothing that is scored is of this language: {treebank.name} is of fao"
    folder = tmp_path / "data" / "ud" / "UD_English-EWT"
    folder.mkdir(parents=True)
    (folder / "en_ewt-ud-test.conllu").write_bytes(treebank.read_bytes())
    own = f"data_dir={tmp_path / 'data'}"
    words = [own, "data.evaluation.ud_eng.cap=3", "model.path=x", "threads=1", "task.max_length=9", "method=full"]
    found = lines(sources=["ud_eng"], overrides=words, fields={"text": "0"})
    assert [line.partition(": ")[0] for line in found] == ["--field", *words[2:]]
    assert [line.rpartition("; ")[2] for line in found[1:]] == [
        "give --model",
        "give --threads",
        "give --set",
        "leave it out",
    ]
    (line,) = lines(sources=["ud_eng"], overrides=[own], language="fao")
    assert line == "--language=fao: nothing that is scored is of this language: ud_eng is of eng"


def test_two_task_modules_are_added_up_and_a_line_says_so(
    modules: Mapping[str, Path], treebank: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    again = tmp_path / "again.safetensors"
    sum_deltas([load_module(modules["pos"])], [2]).save(again)
    evaluate(EvaluateSettings([str(modules["pos"]), str(again)], (str(treebank),), device="cpu"))
    said = f"xlt: 2 task modules are added up ({modules['pos']}, {again}); the head is that of the last"
    assert said in capfd.readouterr().err


def test_a_score_without_the_language_module_that_a_module_was_trained_with_says_so(
    modules: Mapping[str, Path],
    treebank: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    scores(modules, ("pos",), str(treebank))
    assert "language modules" not in capfd.readouterr().err
    facts = UsedModule.facts.fget  # type: ignore[attr-defined]
    trained = {"depends_on": {"eng": "f" * 64}, "languages": ["eng"]}
    monkeypatch.setattr(UsedModule, "facts", property(lambda one: {**facts(one), **trained}))
    scores(modules, ("pos",), str(treebank))
    said = capfd.readouterr().err
    assert "it was trained with language modules (eng), but none is given, so it is used alone" in said
    assert "xlt evaluate MODULE LANGUAGE_MODULE" in said


def test_a_separator_for_a_file_without_cells_is_refused(modules: Mapping[str, Path], treebank: Path) -> None:
    with pytest.raises(UsageError, match="--separator=;: has no effect, because conllu has no cells"):
        evaluate(EvaluateSettings([str(modules["pos"])], (str(treebank),), separator=";"))


def test_a_run_whose_scores_are_in_another_precision_says_so(
    modules: Mapping[str, Path], treebank: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    module = shutil.copy(modules["pos"], tmp_path / "module.safetensors")
    write_sealed(tmp_path / "manifest.json", {"config": {"train": {"precision": "bf16"}}})
    for precision in ("bf16", "fp32"):
        evaluate(EvaluateSettings([str(module)], (str(treebank),), device="cpu", precision=precision))
        predict(PredictSettings([str(module)], str(treebank), str(tmp_path / precision), quiet=True, device="cpu",
                                precision=precision, output_format="conllu"))  # fmt: skip
        said = "the scores of its run are in bf16, these results in fp32"
        assert capfd.readouterr().err.count(said) == (2 if precision == "fp32" else 0)
